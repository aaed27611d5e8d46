import io
import math
import subprocess
import sys

import pandas as pd
import pytest
from rich.console import Console

from lightning_unlearn.errors import InputError
from lightning_unlearn.report import csv, markdown, recency, render, save_figures, scores
from lightning_unlearn.report.panels import apart

FOUR = {
    1: "safety-inst-tofu-math",
    2: "inst-safety-tofu-math",
    3: "inst-tofu-safety-math",
    4: "inst-tofu-math-safety",
}


def run(method, path, position, values, seed=0, steps=(0, 5, 10)):
    """Records of one run; `values` maps a measure to its values at `steps` (None: not measured)."""
    return [
        {
            "study": "demo",
            "path": path,
            "position": position,
            "method": method,
            "seed": seed,
            "stage": "unlearn",
            "step": step,
            "metric": measure,
            "value": value,
        }
        for measure, series in values.items()
        for step, value in zip(steps, series, strict=True)
        if value is not None
    ]


def table(rows):
    return pd.DataFrame(rows)


def forgetting(method, drops, seed=0):
    """One run per position of FOUR, whose forget/mean falls by drops[position]."""
    rows = []
    for position, drop in drops.items():
        rows += run(method, FOUR[position], position, {"forget/mean": (0, -drop / 2, -drop)}, seed)
    return rows


def curves(paths, methods=("GA",), seeds=(0,), scale=1.0):
    rows = []
    for number, method in enumerate(methods):
        for path, position in paths:
            for seed in seeds:
                slope = (5 - position + 0.1 * seed) * scale**number / 10
                label = [-0.3 - slope * step for step in (0, 5, 10)]
                values = {"forget/label": label, "forget/mean": label, "grad_norm": [1, 2, 3]}
                for stage in path.split("-"):
                    values[f"answers/{stage}"] = [-1.0, -1.0 - slope, -1.0 - 2 * slope]
                rows += run(method, path, position, values, seed)
    return table(rows)


def standard(**options):
    return curves([(path, position) for position, path in FOUR.items()], **options)


@pytest.fixture
def example():
    first = {
        "forget/label": (-0.1, -0.5, -9.0),
        "forget/mean": (-0.5, -1.0, -8.25),
        "answers/safety": (-0.5, -1.0, -8.0),
        "answers/tofu": (-1.0, -1.0, -1.25),
        "answers/math": (-2.0, -1.0, -1.5),
        "accuracy/math": (0.75, None, 0.5),
        "loss": (1.0, 2.0, 3.0),
    }
    second = {
        "forget/mean": (-0.5, -0.5, -0.75),
        "answers/tofu": (-1.0, -1.0, -3.5),
        "answers/math": (-2.0, -2.0, None),
        "accuracy/math": (0.5, None, 0.625),
    }
    rows = run("NPO", "safety-tofu-math", 1, first) + run("NPO", "tofu-math-safety", 3, second)
    return table(rows + run("GA|x", "tofu-math-safety", 3, {"forget/mean": (0.0, 0.0, 0.0)}, 7))


def test_scores_equal_the_numbers_worked_out_by_hand(example):
    found = scores(example)
    assert list(found.columns) == [
        "method",
        "path",
        "position",
        "seed",
        "forget_score",
        "tofu utility",
        "math utility",
        "math accuracy change",
    ]
    assert found.iloc[0].tolist() == ["NPO", "safety-tofu-math", 1, 0, 7.75, 0.75, 0.5, -0.25]
    assert found.iloc[1].drop("math utility").tolist() == [
        *["NPO", "tofu-math-safety", 3, 0],
        *[0.25, -1.5, 0.125],
    ]
    assert math.isnan(found.iloc[1]["math utility"])
    assert found.iloc[2, :5].tolist() == ["GA|x", "tofu-math-safety", 3, 7, 0.0]
    assert math.copysign(1, found.iloc[2]["forget_score"]) == 1
    assert found.iloc[2, 5:].isna().all()


def test_scores_do_not_depend_on_row_order_repeats_or_foreign_rows(example):
    training = example.assign(stage="tofu", value=99.0)
    mixed = pd.concat([example, example.sample(frac=1.0, random_state=1), training])
    pd.testing.assert_frame_equal(scores(mixed), scores(example))


def test_scores_without_any_known_measure_are_empty(example):
    empty = scores(example[example["metric"] == "loss"])
    assert len(empty) == 0
    assert list(empty.columns) == ["method", "path", "position", "seed", "forget_score"]
    assert recency(empty) == []
    assert markdown(empty).count("\n") == 2


def test_one_measured_step_shows_no_change(example):
    found = scores(example[example["step"] == 0])
    assert len(found) == 3
    assert found.iloc[:, 4:].isna().all(axis=None)
    assert recency(found)[0] == (
        "NPO: no forget score was measured, so positions cannot be compared."
    )


def test_the_forget_stage_of_one_path_is_another_stage_of_the_next():
    values = {"answers/a": (0, 0, -0.25), "answers/b": (0, 0, -0.5)}
    found = scores(table(run("GA", "a-b", 1, values) + run("GA", "a-b", 2, values)))
    assert found["position"].tolist() == [1, 2]
    assert found["b utility"].isna().tolist() == [False, True]
    assert found.loc[0, "b utility"] == 0.5
    assert found.loc[1, "a utility"] == 0.75


@pytest.mark.parametrize("measure", [scores, lambda records: save_figures(records, "unused")])
def test_wrong_records_are_refused(example, measure):
    with pytest.raises(InputError, match=r"expected also path, seed; pass the records"):
        measure(example.drop(columns=["path", "seed"]))
    with pytest.raises(InputError, match=r"path 'tofu-math-safety': found position 4, .*1 to 3"):
        measure(example.assign(position=example["position"].replace(3, 4)))
    with pytest.raises(InputError, match=r"step 0: found different values of 'forget/label'"):
        measure(pd.concat([example, example.assign(study="other", value=example["value"] + 1)]))
    with pytest.raises(InputError, match=r"not a number .*expected whole numbers in position"):
        measure(example.assign(seed=math.nan))


def test_recency_when_the_last_position_is_slowest():
    found = recency(scores(table(forgetting("GA", {1: 7.89, 2: 3.5, 3: 1.25, 4: 0.18}))))
    assert found == [
        "GA: position 4 forgot slowest, with forget scores of 7.890 (p = 1), 3.500 (p = 2), "
        "1.250 (p = 3) and 0.180 (p = 4) nats per token; this is the last position (p = n = 4); "
        "of one seed, so chance is not excluded."
    ]


def test_recency_when_another_position_is_slowest():
    rows = forgetting("NPO", {4: 1.0, 2: -0.5}) + forgetting("GA", {1: 1, 2: 2})
    assert recency(scores(table(rows))) == [
        "NPO: position 2 forgot slowest, with forget scores of -0.500 (p = 2) and 1.000 (p = 4) "
        "nats per token; this is not the last position (p = n = 4); of one seed, so chance is not "
        "excluded.",
        "GA: position 1 forgot slowest, with forget scores of 1.000 (p = 1) and 2.000 (p = 2) "
        "nats per token; the last position (p = n = 4) has no forget score; of one seed, so chance "
        "is not excluded.",
    ]


@pytest.mark.parametrize(
    ("drops", "start", "end"),
    [
        ({1: 2, 3: 1, 4: 1.0004}, "positions 3 and 4 tie as the slowest,", "is one of them."),
        ({1: 1, 3: 1, 4: 2}, "positions 1 and 3 tie as the slowest,", "is not one of them."),
        ({1: 1, 3: 1, 4: 1}, "no position forgot slower than another,", "is no exception."),
    ],
)
def test_recency_of_ties(drops, start, end):
    (sentence,) = recency(scores(table(forgetting("GA", drops))))
    assert sentence.startswith(f"GA: {start}")
    assert sentence.endswith(f"; the last position (p = n = 4) {end}")


def test_recency_over_seeds_counts_the_seeds_that_agree():
    rows = [
        *forgetting("GA", {1: 2, 4: 1}, seed=0),
        *forgetting("GA", {1: 4, 4: 5}, seed=1),
        *forgetting("GA", {1: 6, 4: 1.5}, seed=2),
        *forgetting("GA", {1: math.nan}, seed=3),
    ]
    assert recency(scores(table(rows))) == [
        "GA: position 4 forgot slowest, with forget scores of 4.000 (p = 1) and 2.500 (p = 4) nats "
        "per token; this is the last position (p = n = 4); it is the slowest in 2 of 3 seeds; the "
        "last less the mean of the others is -1.500 (95 % -8.416 to +5.416 over 3 seeds); scores "
        "are means over 3 seeds per path; 1 run without a forget score is left out.",
        "In all, the last position is the slowest in 2 of 3 trials, each of one method, setting "
        "and seed.",
    ]


def test_recency_over_seeds_without_two_that_are_complete():
    rows = [*forgetting("GA", {1: 2, 4: 1}, seed=0), *forgetting("GA", {1: 4}, seed=1)]
    (sentence, *_) = recency(scores(table(rows)))
    assert "; no two seeds have a score at every position, so chance is not excluded" in sentence


def test_recency_averages_paths_that_share_a_position():
    rows = []
    drops = [("f-a-b", 1, 1), ("f-b-a", 1, 2), ("a-b-f", 3, 4), ("b-a-f", 3, 1)]
    for path, position, drop in drops:
        rows += run("GA", path, position, {"forget/mean": (0, 0, -drop)})
    assert recency(scores(table(rows))) == [
        "GA: position 1 forgot slowest, with forget scores of 1.500 (p = 1) and 2.500 (p = 3) nats "
        "per token; this is not the last position (p = n = 3); of one seed, so chance is not "
        "excluded; scores are means over 2 paths per position."
    ]


def test_recency_with_nothing_to_compare():
    one = table(run("GA", "a-f", 2, {"forget/mean": (0, 0, -1.5)}))
    assert recency(scores(one)) == [
        "GA: only the path a-f has a forget score, 1.500 nats per token at p = 2, so positions "
        "cannot be compared."
    ]
    two = [*one.to_dict("records"), *run("GA", "b-f", 2, {"forget/mean": (0, 0, -0.5)})]
    assert recency(scores(table(two))) == [
        "GA: only position 2 has a forget score, 1.000 nats per token, so positions cannot be "
        "compared; scores are means over 2 paths per position."
    ]
    three = [*two, *run("GA", "a-b-f", 3, {"forget/mean": (0, 0, 0)})]
    assert (
        "; the paths have 2 to 3 stages, so no one position is the last;"
        in (recency(scores(table(three)))[0])
    )


def test_markdown_golden(example):
    assert markdown(scores(example)).splitlines() == [
        "| method | p | path | forget score | tofu utility | math utility | math accuracy change |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
        "| NPO | 1 | **safety**-tofu-math | 7.750 | 0.750 | 0.500 | -0.250 |",
        "|  | 3 | tofu-math-**safety** | **0.250** | -1.500 | n/a | +0.125 |",
        r"| GA\|x | 3 | tofu-math-**safety** | 0.000 | n/a | n/a | n/a |",
        "",
        "Bold: the lowest forget score of a method, where forgetting was slowest.",
    ]


def test_markdown_of_several_seeds_and_escaped_names():
    rows = []
    for seed, drop in enumerate((1.0, 2.0, math.nan)):
        rows += run("<b>*x*", "a_b-f", 2, {"forget/mean": (0, 0, -drop)}, seed)
    assert markdown(scores(table(rows))).splitlines()[2:] == [
        r"| &lt;b&gt;\*x\* | 2 | a\_b-**f** | 3 | 1.500 (1.000 to 2.000, 2 of 3 seeds) |",
        "",
        "Several seeds: mean (lowest to highest).",
    ]


def test_csv_returns_what_went_in(example):
    found = scores(example)
    text = csv(found)
    assert text.splitlines()[0] == ",".join(found.columns)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), found)


def test_render_prints_names_as_they_are(example):
    found = scores(example.assign(method=example["method"].replace("GA|x", "[red]GA")))
    out = io.StringIO()
    Console(file=out, width=140).print(render(found))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["NPO", "1", "safety-tofu-math", "7.750", "0.750", "0.500", "-0.250"] in lines
    assert ["[red]GA", "3", "tofu-math-safety", "0.000", "n/a", "n/a", "n/a"] in lines


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


def test_importing_the_report_loads_no_heavy_package():
    code = (
        "import sys, lightning_unlearn.report; "
        "print(sorted({'torch', 'lightning', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'rich'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
