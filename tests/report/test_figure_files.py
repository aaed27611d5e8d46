"""Figures as files: the same bytes each time, and what is drawn of what."""

import itertools
import math
import sys

import pandas as pd
import pytest
from depth_tables import PATHS, drawn
from score_tables import FOUR, curves, standard
from sweep_tables import FIRST, LAST, LR, oracle, swept
from sweep_tables import run as run_of

from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.errors import InputError
from lightning_unlearn.report.figures.files import save_figures
from lightning_unlearn.report.figures.matplotlib_renderer import apart


@pytest.mark.parametrize(
    "records",
    [
        standard(methods=("GA", "NPO", "SimNPO"), scale=0.2),
        standard(seeds=(0, 1, 2)),
        curves([("inst-safety", 2)]),
        curves([(f"s{n}-" * (p - 1) + "f" + "-x" * (4 - p), p) for p in FOUR for n in range(3)]),
    ],
    ids=["methods", "seeds", "single", "many paths"],
)
def test_figures_are_written_with_the_same_bytes_each_time(records, tmp_path):
    first = save_figures(records, tmp_path / "new" / "first")
    second = save_figures(records, str(tmp_path / "second"))
    assert [path.name for path in first] == ["forget.png", "utility.png", "tradeoff.png"]
    for one, two in zip(first, second, strict=True):
        data = one.read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 10_000
        assert data == two.read_bytes()
        assert b"Software" not in data


def test_figures_ignore_the_users_settings_and_leave_them(tmp_path):
    import matplotlib

    plain = save_figures(standard(), tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        styled = save_figures(standard(), tmp_path / "styled")
        assert matplotlib.rcParams["font.size"] == 30
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in styled]


def test_figures_leave_out_what_was_not_measured(tmp_path):
    records = standard()
    label = records[records["metric"] == "forget/label"]
    assert [path.name for path in save_figures(label, tmp_path)] == ["forget.png"]
    own = records[records["metric"].isin(["answers/safety", "grad_norm"])]
    assert [path.name for path in save_figures(own, tmp_path)] == ["answers.png"]
    others = records[records["metric"].isin(["answers/tofu", "grad_norm"])]
    assert [path.name for path in save_figures(others, tmp_path)] == ["utility.png"]
    assert save_figures(records.assign(value=math.nan), tmp_path) == []
    diverged = records.assign(value=records["value"].where(records["step"] < 10, -math.inf))
    assert len(save_figures(diverged, tmp_path)) == 3
    # A trade-off takes two steps.
    assert len(save_figures(records[records["step"] == 0], tmp_path)) == 2


def test_figures_name_the_extra_where_matplotlib_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r'pip install "lightning-unlearn\[figures\]"'):
        save_figures(standard(), tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_figures_refuse_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken not usable as a folder"):
        save_figures(standard(), tmp_path / "taken")


def test_labels_are_moved_apart_as_little_as_needed():
    assert apart([], 0.1) == []
    assert apart([0.2, 0.8], 0.1) == [0.2, 0.8]
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert apart([0.98, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    assert apart([0.0, 0.01], 0.1) == pytest.approx([0.0, 0.1])


def swept_curves(methods, paths, settings=({},), seeds=(0,), oracles=True):
    rows = []
    for method, path, setting, seed in itertools.product(methods, paths, settings, seeds):
        slope = (path[1] + seed / 4) * setting.get(LR, 1e-4) * 1e3
        values = {f"answers/{stage}": (-1.0, -1.0 - slope) for stage in path[0].split("-")}
        label = (-0.5, -0.5 - 5 * slope)
        values |= {"forget/label": label, "forget/mean": label}
        rows += run_of(method, path, values, setting, seed)
    if oracles:
        null = dict.fromkeys(settings[0])
        for path, seed in itertools.product(paths[1:], seeds):
            values = {"forget/mean": -3.0, "forget/label": -3.0 - path[1], "answers/a": -1.0}
            rows += oracle(path, values, null, seed)
    return pd.DataFrame(rows)


ORDERS = [("-".join(p), p.index("f") + 1) for p in itertools.permutations("abcf")]


@pytest.mark.parametrize(
    "records",
    [
        swept_curves(("GA", "NPO"), (FIRST, LAST), seeds=range(4)),
        swept_curves(
            ("GA",), (FIRST, LAST), [{LR: lr} for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 1)]
        ),
        swept_curves(("GA", "NPO"), (FIRST, LAST), [{LR: 1e-4}, {LR: 3e-4}], seeds=(0, 1)),
        pd.concat([swept().assign(metric="forget/label"), swept().assign(metric="answers/a")]),
        swept_curves(("GA",), ORDERS, seeds=(0, 1)),
    ],
    ids=["oracles", "one method", "grid", "nulls", "24 paths"],
)
def test_figures_repeat_to_the_byte(records, tmp_path):
    first = save_figures(records, tmp_path / "first")
    second = save_figures(records, tmp_path / "second")
    assert [path.name for path in first[:2]] == ["forget.png", "utility.png"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_oracles_change_the_figures_but_no_score(tmp_path):
    records = swept_curves(("GA",), (FIRST, LAST))
    bare = records[records["stage"] == "unlearn"]
    with_oracles = save_figures(records, tmp_path / "with")
    without = save_figures(bare, tmp_path / "without")
    assert [path.name for path in without] == ["forget.png", "utility.png", "tradeoff.png"]
    pairs = zip(with_oracles, without, strict=True)
    differ = [one.read_bytes() != two.read_bytes() for one, two in pairs]
    assert differ == [True, True, False]
    pd.testing.assert_frame_equal(scores(records).drop(columns="oracle_gap"), scores(bare))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("methods", [("GA",), ("GA", "NPO")])
def test_figures_of_answers_repeat_to_the_byte(tmp_path, seeds, methods):
    records, _ = drawn(seeds=seeds, methods=methods)
    first = save_figures(records, tmp_path / "first")
    second = save_figures(records, tmp_path / "second")
    assert [file.name for file in first] == ["utility.png", "answers.png"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_answers_are_drawn_only_without_the_label(tmp_path):
    records, _ = drawn(PATHS[:1])
    label = records[records["metric"] == "answers/U"].assign(metric="forget/label")
    names = [file.name for file in save_figures(pd.concat([records, label]), tmp_path)]
    assert names == ["forget.png", "utility.png"]
