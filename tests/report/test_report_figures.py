"""Figures: the numbers that are drawn against naive ones, files, and words for them."""

import itertools
import math
import re
import struct

import numpy as np
import pandas as pd
import pytest
from figure_tables import EXAMPLES, PATHS, SEEDS, STEPS, by_seed, drawn, study, value
from scipy import stats

from lightning_unlearn.analysis.curves import band_of, log_band_of
from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.analysis.tradeoff import tradeoffs
from lightning_unlearn.errors import InputError
from lightning_unlearn.report.figures.catalogue import FIGURES, build_figures
from lightning_unlearn.report.figures.files import save_figures
from lightning_unlearn.report.figures.matplotlib_renderer import places_of, written
from lightning_unlearn.report.figures.spec import (
    Mark,
    Panel,
    level,
    thick_line,
    y_limits,
    y_span,
)
from lightning_unlearn.report.figures.style import styles_of_stages
from lightning_unlearn.report.paper import save_paper


def lines_of(axis, marker=None):
    return [line for line in axis.lines if marker is None or line.get_marker() == marker]


def test_a_band_is_students_interval():
    values = np.random.default_rng(0).normal(size=(4, 6))
    band = band_of(range(6), values)
    for step in range(6):
        own = values[:, step]
        low, high = stats.t.interval(0.95, 3, own.mean(), own.std(ddof=1) / 2)
        assert band.mean[step] == pytest.approx(own.mean())
        assert (band.low[step], band.high[step]) == pytest.approx((low, high))
    assert band.seeds == 4


def test_a_band_leaves_out_what_is_missing():
    values = np.array([[1.0, math.nan, 3.0], [2.0, math.nan, math.inf]])
    band = band_of([0, 5, 10], values)
    assert band.x.tolist() == [0, 10] and band.mean.tolist() == [1.5, 3.0]
    assert np.isfinite(band.low).tolist() == [True, False]
    assert band_of([0, 5], np.full((2, 2), math.nan)).seeds == 0
    assert band_of([0, 5], np.empty((0, 2))).x.tolist() == []


def test_a_logarithmic_band_is_of_the_logarithms():
    values = np.exp(np.random.default_rng(1).normal(size=(3, 4)))
    plain, logs = log_band_of(range(4), values), band_of(range(4), np.log(values))
    assert plain.mean == pytest.approx(np.exp(logs.mean))
    assert plain.low == pytest.approx(np.exp(logs.low))
    assert log_band_of([0, 1], np.array([[0.0, 2.0]])).mean.tolist() == pytest.approx([2.0])


def panel(*marks, log=False, share="s"):
    return Panel(marks, "t", "", "y", share, log=log)


def test_wide_bands_do_not_dwarf_the_curves():
    style = styles_of_stages(["a"], []).styles["a"]
    curve = thick_line(band_of([0, 1], [[0.0, 1.0], [0.2, 1.0]]), style, "a")
    assert y_span(panel(curve)) == pytest.approx((0.1 - 0.9 / 4, 1.0 + 0.9 / 4))
    levels = [level(y, "oracle", "") for y in (math.nan, 100.0, 0.0)]
    assert y_span(panel(levels[0])) is None
    assert y_span(panel(*levels[1:], log=True)) == (2.0, 2.0)


def test_axes_have_room_for_what_marks_show():
    x = np.arange(3.0)
    assert y_span(panel(Mark(x, x + 1, "path", ""))) == (1, 3)
    assert y_span(panel(Mark(x, x, "best", ""))) == (0, 2)
    assert y_span(panel(Mark(np.empty(0), np.array([1.0, 2.0]), "strip", ""))) == (1, 2)
    assert y_span(panel(Mark(np.array([1.0, 2.0]), np.empty(0), "range", ""))) is None


def test_axes_are_shared_where_curves_can_be_read():
    def of(*values, share="s"):
        return panel(Mark(np.arange(2.0), np.array(values), "path", ""), share=share)

    alike = [of(0.0, 1.0), of(1.0, 3.0)]
    limits, differ = y_limits([[own] for own in alike])
    assert not differ and limits[alike[0]] == limits[alike[1]]
    assert limits[alike[0]][0] < 0 and limits[alike[0]][1] > 3
    unlike = [of(0.0, 1.0), of(0.0, 100.0), of(0.0, 90.0)]
    limits, differ = y_limits([unlike[:1], unlike[1:]])
    assert differ and limits[unlike[0]] != limits[unlike[1]] == limits[unlike[2]]
    apart = [of(0.0, 1.0), of(0.0, 100.0, share="other")]
    assert not y_limits([apart])[1]


@pytest.mark.parametrize(
    ("low", "high", "options", "places", "texts"),
    [
        (-0.5, 10.5, {}, [0, 2, 4, 6, 8, 10], ["0", "2", "4", "6", "8", "10"]),
        (-1.1, 0.1, {}, [-1, -0.5, 0], None),
        (0, 1, {"whole": True}, [0, 1], ["0", "1"]),
        (0.09, 11, {"log": True}, [0.1, 0.3, 1, 3, 10], None),
        (0.5, 3, {"log": True}, [0.5, 1, 2], None),
    ],
)
def test_ticks_are_round(low, high, options, places, texts):
    found = places_of(low, high, **options)
    assert found == pytest.approx(places)
    assert texts is None or written(found) == texts


def test_numbers_at_ticks_have_the_digits_they_need():
    assert written([-1.0, -0.5, 0.0]) == ["\u22121.0", "\u22120.5", "0.0"]
    assert written([0.0, 0.05]) == ["0.00", "0.05"]
    assert written([2e6, 4e6]) == ["2e+06", "4e+06"]
    assert written([]) == []


@pytest.mark.slow
def test_every_figure_is_written_as_png_and_pdf_of_one_size_with_the_same_bytes(tmp_path):
    records, examples = study(("GA",))
    made = [save_figures(records, tmp_path / name, examples, ("png", "pdf")) for name in ("a", "b")]
    names = ["forget", "utility", "oracle", "divergence", "trajectories", "tradeoff"]
    assert [path.name for path in made[0]] == [f"{n}.{f}" for n in names for f in ("png", "pdf")]
    for one, two in zip(*made, strict=True):
        data = one.read_bytes()
        assert data == two.read_bytes() and len(data) > 8_000
        assert data.startswith(b"\x89PNG" if one.suffix == ".png" else b"%PDF")
        for word in (b"CreationDate", b"Producer", b"Software"):
            assert word not in data
    for png, pdf in zip(made[0][::2], made[0][1::2], strict=True):
        size = struct.unpack(">II", png.read_bytes()[16:24])
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf.read_bytes())
        points = [float(part) for part in box.groups()]
        assert [p / 72 * 160 for p in points] == pytest.approx(size, abs=1)


def test_unknown_formats_are_refused_before_anything_is_written(tmp_path):
    for formats, found in ((("svg",), "svg"), ((), "none")):
        with pytest.raises(InputError, match=rf"formats: found {found}, expected .* png, pdf"):
            save_figures(study()[0], tmp_path / "new", formats=formats)
    assert not (tmp_path / "new").exists()


def test_no_label_is_cut():
    long = study(("a method with quite a long name", "NPO"))
    for name, figure in ((n, drawn(n, *long)) for n in FIGURES if n != "answers"):
        for axis in figure.axes:
            for text in [axis.title, *axis.texts]:
                box = text.get_window_extent()
                assert not text.get_text() or (box.x0 >= 0 and box.x1 <= figure.bbox.width), name
                assert not text.get_text() or (box.y0 >= 0 and box.y1 <= figure.bbox.height), name


def test_forget_draws_the_means_over_seeds():
    records, _ = study()
    figure = drawn("forget", records)
    assert [axis.get_title() for axis in figure.axes] == ["GA", "NPO"]
    for axis, method in zip(figure.axes, ("GA", "NPO"), strict=True):
        curves = [line for line in lines_of(axis) if len(line.get_xdata()) == len(STEPS)]
        for line, (path, _) in zip(curves, PATHS, strict=True):
            wanted = by_seed(records, "forget/label", path, method).mean(axis=0)
            assert line.get_xdata().tolist() == list(STEPS)
            assert line.get_ydata() == pytest.approx(wanted)


@pytest.mark.slow
def test_names_are_not_read_as_formulas(tmp_path):
    records, examples = study(("a$b", "NPO_$"), (0, 1))
    for table in (records, examples):
        table["path"] = table["path"].str.replace("b", "x$_y{")
        table["metric"] = table["metric"].str.replace("answers/b", "answers/x$_y{")
    assert len(save_figures(records, tmp_path, examples, ("pdf",))) == 6
    assert len(save_paper(records, tmp_path).written) == 5


def test_the_oracle_figure_rings_the_best_steps_and_shows_the_floor():
    records, examples = study(("GA",))
    (axis,) = drawn("oracle", records, examples).axes
    assert axis.get_yscale() == "log"
    rings = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
    for line, (path, _) in zip(rings, PATHS, strict=True):
        means = by_seed(records, "distance/forget", path).mean(axis=0)
        best = int(means.argmin())
        assert (line.get_xdata()[0], line.get_ydata()[0]) == pytest.approx(
            (STEPS[best], means[best])
        )
    oracles = examples[examples["stage"] == "oracle"]
    pairs = []
    for path, _ in PATHS:
        wide = oracles[oracles["path"] == path].pivot(
            index="seed", columns="example", values="value"
        )
        pairs += [
            ((wide.loc[a] - wide.loc[b]) ** 2).mean() for a, b in itertools.combinations(SEEDS, 2)
        ]
    (floor,) = [
        line
        for line in axis.lines
        if len(set(np.ravel(line.get_ydata()))) == 1 and line not in rings
    ]
    assert floor.get_ydata()[0] == pytest.approx(np.mean(pairs))
    assert len(drawn("oracle", records).axes[0].lines) == len(axis.lines) - 1


def test_divergence_draws_geometric_means_of_each_pair():
    _, examples = study(("GA",), oracle=False)
    records, _ = study(("GA",), oracle=False)
    (axis,) = drawn("divergence", records, examples).axes
    curves = [line for line in axis.lines if line.get_marker() not in ("None", None, "")]
    pairs = list(itertools.combinations([path for path, _ in PATHS], 2))
    for line, (one, other) in zip(curves, pairs, strict=True):
        for place, step in enumerate(STEPS):
            logs = []
            for seed in SEEDS:
                at = examples[(examples["step"] == step) & (examples["seed"] == seed)]
                a, b = (
                    at[at["path"] == path].sort_values("example")["value"].to_numpy()
                    for path in (one, other)
                )
                logs.append(math.log(np.mean((a - b) ** 2)))
            assert line.get_ydata()[place] == pytest.approx(math.exp(np.mean(logs)))


def growing(rate):
    """Examples of two paths whose distance grows by `rate` per step, of three seeds."""
    rows = []
    for seed, (path, sign) in itertools.product(SEEDS, (("f-a", -1), ("a-f", 1))):
        for step, example in itertools.product(STEPS, EXAMPLES):
            gap = math.exp(rate * step / 2) * (1 + 0.1 * seed)
            rows.append(
                {
                    **{"path": path, "position": 1 if path == "f-a" else 2, "method": "GA"},
                    **{"seed": seed, "stage": "unlearn", "step": step, "example": example},
                    **{"metric": "log_likelihood/forget", "value": -3 - example + sign * gap},
                }
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rate", "words"), [(0.1, "doubles in 6.9 steps"), (-0.2, "halves in 3.5")]
)
def test_divergence_draws_the_fitted_growth(rate, words):
    examples = growing(rate)
    (axis,) = drawn(
        "divergence", examples.drop(columns="example").head(0).pipe(_one_row), examples
    ).axes
    (fit,) = [line for line in axis.lines if line.get_color() == "#000000"]
    x, y = fit.get_xdata(), fit.get_ydata()
    assert x.tolist() == [STEPS[0], STEPS[-1]]
    assert np.diff(np.log(y))[0] / 20 == pytest.approx(rate)
    curve = next(line for line in axis.lines if line.get_marker() == "o")
    assert y == pytest.approx(curve.get_ydata()[[0, -1]])
    assert any(words in text.get_text().replace("\n", " ") for text in axis.texts)
    (panel,) = build_figures(_one_row(None), examples, ["divergence"])["divergence"].panels
    said = panel.describe()
    assert words in said and "p = 1 and p = 2 from" in said


def _one_row(_):
    """Records of a study of which only the examples matter."""
    return study(("GA",), (0,), oracle=False)[0].assign(path="f-a", position=1).head(1)


def test_trajectories_are_examples_less_their_oracles():
    records, examples = study(("GA",))
    figure = drawn("trajectories", records, examples)
    assert [axis.get_title() for axis in figure.axes] == ["p = 1", "p = 2", "p = 3"]
    for axis, (path, _) in zip(figure.axes, PATHS, strict=True):
        own = examples[examples["path"] == path]
        runs = own[own["stage"] == "unlearn"].groupby(["example", "step"])["value"].mean().unstack()
        target = own[own["stage"] == "oracle"].groupby("example")["value"].mean()
        gaps = runs.sub(target, axis=0).to_numpy()
        thin = [line for line in axis.lines if line.get_linewidth() == 0.8]
        assert np.array([line.get_ydata() for line in thin]) == pytest.approx(gaps)
        (mean,) = [line for line in axis.lines if line.get_linewidth() == 2.0]
        assert mean.get_ydata() == pytest.approx(gaps.mean(axis=0))
        crossings = []
        for series in gaps:
            for place in range(len(STEPS) - 1):
                if series[place] > 0 >= series[place + 1]:
                    share = series[place] / (series[place] - series[place + 1])
                    crossings.append(STEPS[place] + 5 * share)
                    break
        (ticks,) = [line for line in axis.lines if line.get_marker() == "|"]
        assert sorted(ticks.get_xdata()) == pytest.approx(sorted(crossings))
        shares = by_seed(records, "overshoot/forget", path)[:, -1].mean()
        assert f"{100 * shares:.0f} % overshot at the end" in [
            text.get_text() for text in axis.texts
        ]


def test_trajectories_need_oracles():
    records, examples = study(("GA",), oracle=False)
    assert "trajectories" not in build_figures(records, examples)


def test_tradeoffs_end_at_the_scores():
    records, _ = study()
    found = tradeoffs(read_records(records))
    assert len(found) == 2 * len(PATHS) * len(SEEDS) * len(STEPS)
    assert found.loc[
        found["step"] == 0, ["score", "utility"]
    ].drop_duplicates().to_numpy().tolist() == [[0, 1]]
    last = found[found["step"] == STEPS[-1]].set_index(["method", "path", "seed"])
    for row in scores(records).to_dict("records"):
        own = last.loc[(row["method"], row["path"], row["seed"])]
        assert own["score"] == pytest.approx(row["forget_score"])
        assert own["utility"] == pytest.approx((row["tofu utility"] + row["b utility"]) / 2)


def test_tradeoffs_leave_out_runs_own_stages_and_incomplete_steps():
    records, _ = study(("GA",), (0,), oracle=False)
    own = records[(records["path"] == "f-tofu-b") & (records["metric"] == "answers/b")]
    forgets = own.assign(metric="answers/f", value=-100.0 * own["step"])
    found = tradeoffs(read_records(pd.concat([records, forgets])))
    pd.testing.assert_frame_equal(found, tradeoffs(read_records(records)))
    lost = records[~((records["step"] == 5) & (records["metric"] == "answers/b"))]
    assert 5 not in set(tradeoffs(read_records(lost))["step"])
    for measure in ("forget/mean", "answers/"):
        less = records[~records["metric"].str.startswith(measure)]
        assert tradeoffs(read_records(less)).empty


def test_many_paths_are_drawn_by_position():
    orders = list(itertools.permutations(("f", "a", "b", "c")))
    rows, examples = [], []
    for order in orders:
        head = {"path": "-".join(order), "position": order.index("f") + 1, "method": "NPO"}
        for seed, step in itertools.product((0, 1), STEPS):
            at = {**head, "seed": seed, "stage": "unlearn", "step": step}
            for measure in ("forget/label", "forget/mean", "answers/a", "distance/forget"):
                number = value(order, seed, step, measure)
                number = -number if measure == "distance/forget" else number
                rows.append({**at, "metric": measure, "value": number})
            for example in EXAMPLES:
                number = value(order, seed, step, example)
                examples.append(
                    {**at, "metric": "log_likelihood/forget", "example": example, "value": number}
                )
        oracle = {**head, "method": "oracle", "seed": 0, "stage": "oracle", "step": 0}
        examples += [
            {**oracle, "metric": "log_likelihood/forget", "example": e, "value": value(order, e)}
            for e in EXAMPLES
        ]
    records, examples = pd.DataFrame(rows), pd.DataFrame(examples)
    for name in ("forget", "oracle", "tradeoff", "divergence"):
        assert len(drawn(name, records, examples).axes) == 1
    assert len(drawn("trajectories", records, examples).axes) == 4
    (axis,) = drawn("forget", records).axes
    thick = [line for line in axis.lines if line.get_linewidth() == 2.0]
    for line, position in zip(thick, (1, 2, 3, 4), strict=True):
        own = records[(records["metric"] == "forget/label") & (records["position"] == position)]
        assert line.get_ydata() == pytest.approx(own.groupby("step")["value"].mean().to_numpy())


def test_figures_are_described_in_words():
    records, examples = study()
    found = build_figures(records, examples)
    assert list(found) == [name for name in FIGURES if name != "answers"]
    said = {name: " ".join(p.describe() for p in own.panels) for name, own in found.items()}
    for path, position in PATHS:
        first, *_, last = by_seed(records, "forget/label", path).mean(axis=0)
        assert f"p = {position} from {first:.3g} to {last:.3g}" in said["forget"]
        means = by_seed(records, "distance/forget", path).mean(axis=0)
        assert f"best step of p = {position} at {STEPS[means.argmin()]}" in said["oracle"]
        share = by_seed(records, "overshoot/forget", path)[:, -1].mean()
        assert f"{100 * share:.0f} % overshot at the end" in said["trajectories"]
    assert (
        "RE distance between paths (nats per token)² by unlearning step, logarithmic"
        in (said["divergence"])
    )
    assert build_figures(records.head(0)) == {}
