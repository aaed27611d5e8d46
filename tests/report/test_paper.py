"""The paper's figures and tables, and tables as LaTeX."""

import itertools
import re

import pandas as pd
import pytest
from figure_tables import PATHS, STEPS, by_seed, study, value
from scipy import stats

from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.report.figures.matplotlib_renderer import draw, drawing_style
from lightning_unlearn.report.paper import paper_figures, save_paper
from lightning_unlearn.report.paper.figures import ORDERS
from lightning_unlearn.report.paper.table import table_one

LR = "data.unlearn.lr"


SCHEDULE = "data.unlearn.schedule"


def sweep():
    settings = [{LR: lr, SCHEDULE: s} for lr in (1e-6, 5e-6, 1e-5, 5e-5) for s in ("wsd", "cosine")]
    return study(("GA", "NPO"), (0,), settings, oracle=False)[0]


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def paper(records):
    with drawing_style():
        return {name: draw(figure) for name, figure in paper_figures(records)[0].items()}


def test_the_paper_of_a_study_with_seeds():
    records, _ = study(("GA", "NPO", "SimNPO"))
    found = paper(records)
    assert list(found) == ["figure-1", "figure-3", "figure-5"]
    assert titles(found["figure-1"]) == ["NPO"]
    assert titles(found["figure-3"]) == ["paper's label", "tofu", "", ""]
    assert titles(found["figure-5"]) == ["GA", "NPO", "SimNPO", "", "", ""]
    axis = found["figure-3"].axes[3]
    wanted = by_seed(records, "answers/tofu", PATHS[0][0], "SimNPO")
    assert axis.lines[0].get_ydata() == pytest.approx(wanted.mean(axis=0))
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    half = stats.t.ppf(0.975, 2) * wanted.std(axis=0, ddof=1) / 3**0.5
    assert band.min() == pytest.approx((wanted.mean(axis=0) - half).min())


def test_the_paper_of_a_sweep():
    found = paper(sweep())
    assert list(found) == ["figure-1", "figure-3", "figure-6", "figure-7", "figure-8"]
    assert titles(found["figure-6"]) == ["NPO"] * 4
    words = [axis.texts[0].get_text() for axis in found["figure-6"].axes]
    assert [re.sub(r"\s+", " ", text) for text in words] == [
        f"lr = {lr}, schedule = wsd" for lr in ("1e-6", "5e-6", "1e-5", "5e-5")
    ]
    assert "lr\u00a0=\u00a05e-5" in found["figure-7"].axes[0].texts[0].get_text()
    assert titles(found["figure-8"])[:2] == ["wsd", "cosine"] and len(found["figure-8"].axes) == 4
    # The paper's main rate, where a figure shows one.
    assert "lr\u00a0=\u00a01e-5" in found["figure-1"].axes[0].texts[0].get_text()


def test_the_paper_of_several_base_models():
    settings = [{"model.base": f"meta/Llama-{size}"} for size in ("1B", "8B")]
    found = paper(study(("NPO",), (0,), settings, oracle=False)[0])
    assert titles(found["figure-1"]) == ["Llama-1B", "Llama-8B"]
    assert titles(found["figure-3"]) == [
        f"Llama-{size}: {what}" for size in ("1B", "8B") for what in ("paper's label", "tofu")
    ]


def test_the_paper_of_orders():
    rows = []
    for order in itertools.permutations("RCU"):
        head = {"path": "-".join(order), "position": order.index("U") + 1, "method": "GA"}
        for seed, step, stage in itertools.product((0, 1), STEPS, "RCU"):
            at = {**head, "seed": seed, "stage": "unlearn", "step": step}
            rows.append(
                {**at, "metric": f"answers/{stage}", "value": value(order, seed, step, stage)}
            )
    found = paper(pd.DataFrame(rows))
    assert list(found) == ["figure-4"]
    assert [
        re.sub(r"\W+", "-", t.partition(":")[2]).strip("-") for t in titles(found["figure-4"])
    ] == list(ORDERS)


def test_what_the_paper_lacks_is_said(tmp_path):
    records, _ = study(("GA",), (0,), oracle=False)
    done = save_paper(records, tmp_path / "paper", ("pdf", "png"))
    assert [path.name for path in done.written] == [
        "figure-1.pdf",
        "figure-1.png",
        "figure-3.pdf",
        "figure-3.png",
        "table-1.md",
        "table-1.tex",
    ]
    assert set(done.missing) == {f"figure-{number}" for number in (4, 5, 6, 7, 8)}
    assert done.missing["figure-6"] == (
        "figure-6 is left out: the study has fewer than two learning rates under GA; sweep over "
        "data.unlearn.lr."
    )
    empty = save_paper(records.head(0), tmp_path / "none")
    assert empty.written == [] and len(empty.missing) == 8


def test_table_one_is_of_the_scores():
    records, _ = study(("GA", "NPO"))
    table = table_one(records)
    found = scores(records)
    own = found[(found["method"] == "NPO") & (found["position"] == 2)]["forget_score"]
    half = stats.t.ppf(0.975, 2) * own.std() / 3**0.5
    assert list(dict.fromkeys(row.of.method for row in table.rows)) == [
        "Forget score \u2191",
        "Utility score (tofu) \u2191",
    ]
    assert table.rows[1].path[1] == 2
    assert table.columns[3].text(table.rows[1]) == f"{own.mean():.3f}\u00b1{half:.3f}"
    assert [list(row.bold) for row in table.rows[:3]] == [[], [], ["GA", "NPO"]]
    assert not any(row.bold for row in table.rows[3:])
    lines = table.markdown().splitlines()
    assert lines[0] == "| score | p | GA | NPO |" and lines[2].startswith(
        "| Forget score \u2191 | 1 |"
    )
    text = table.latex()
    assert (
        text.count(r"\\") == 1 + 2 * 4
        and r"\multicolumn{3}{c}{\emph{Forget score $\uparrow$}}" in text
    )
    several = study(
        ("NPO",), (0,), [{"model.base": "a/M_1"}, {"model.base": "a/M_2"}], oracle=False
    )
    assert table_one(several[0]).latex().count(r"\multicolumn{1}{c}{M\_") == 2
    assert "M\\_1: NPO" in table_one(several[0]).markdown()
