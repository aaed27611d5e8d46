"""Which sections and sentences a study has, and what it lacks for the others."""

import io
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from study_tables import FOUR, changed, drawn, values
from sweep_tables import FIRST, LR, oracle, swept

from lightning_unlearn.analysis.depth import depth
from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.errors import InputError
from lightning_unlearn.report.figures.files import save_figures
from lightning_unlearn.report.sections.depth import depth_findings
from lightning_unlearn.report.sections.recency import recency
from lightning_unlearn.report.sections.scores import scores_table
from lightning_unlearn.report.summary import summarize
from lightning_unlearn.report.tables import csv


def test_importing_the_report_loads_no_heavy_package():
    code = (
        "import sys, lightning_unlearn.report.summary, lightning_unlearn.report.figures; "
        "print(sorted({'torch', 'lightning', 'pandas', 'pyarrow', 'matplotlib', 'rich'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_summary_holds_scores_and_findings():
    records = swept()
    found = summarize(records, notes=["GA a-f failed: broken"])
    table = scores(records)
    assert found.findings[: len(recency(table))] == recency(table)
    assert found.findings[len(recency(table)) :] == [
        "Path dependence is left out: nothing separates the spread of paths from that of one "
        "seed; give the study several seeds.",
        "The distance to the oracle (found no metric distance/GROUP) and KLoM (found no "
        "margin/GROUP per example of runs and their oracles) are left out; they take the "
        "monitor OracleDistance, and oracle: true in the study with its oracles made (--only may "
        "leave them out); with oracle.base, which is one model, there is no KLoM.",
        "GA a-f failed: broken",
    ]
    assert found.csv == csv(table)
    bullets = "".join(f"- {line}\n" for line in found.findings)
    assert found.markdown == f"{scores_table(table).markdown()}\n{bullets}"


@pytest.mark.parametrize(
    "records",
    [pd.DataFrame(), swept().head(0), swept().assign(metric="grad_norm")],
    ids=["no columns", "no rows", "unknown measures"],
)
def test_nothing_measured_is_said(records, tmp_path):
    found = summarize(records, pd.DataFrame(), ["GA a-f failed: broken"])
    assert found.markdown == (
        "Nothing was measured, so there is no table.\n\n- GA a-f failed: broken\n"
    )
    assert found.csv == "" and str(found.renderable) == found.markdown.splitlines()[0]
    assert found.findings == ["GA a-f failed: broken"]
    assert save_figures(records, tmp_path) == []


def test_oracles_alone_are_said_to_be_alone(tmp_path):
    records = pd.DataFrame(oracle(FIRST, {"forget/mean": -4.0, "answers/a": -1.0}))
    assert summarize(records).markdown.startswith("Only oracles were measured")
    assert summarize(records).findings == []
    assert scores(records).empty and recency(scores(records)) == []
    assert save_figures(records, tmp_path) == []


def test_a_study_has_a_section_for_all_it_measured(study):
    assert [section.title for section in study.summary.sections] == [
        "Path dependence",
        "Distance to the oracle",
        "Divergence between paths",
        "Distribution over models",
        "Means over seeds",
    ]
    assert list(study.tables) == [
        *("path_dependence.csv", "oracle_distance.csv", "divergence.csv"),
        *("divergence_growth.csv", "klom.csv", "seeds.csv"),
    ]
    assert not any("left out" in line for line in study.summary.findings)
    page = study.summary.page
    assert page.startswith(study.summary.markdown)
    for section in study.summary.sections[:-1]:
        assert f"\n## {section.title}\n\n| method |" in page
        assert all(f"- {line}\n" in page for line in section.findings)
    assert "nan" not in page.lower() and "## Means over seeds" not in page


def test_the_order_of_rows_and_rows_of_others_have_no_bearing(study):
    records, examples = (
        pd.concat(
            [
                table,
                table.sample(frac=1, random_state=0),
                table.head(50).assign(stage="tofu", value=9.0),
            ]
        )
        for table in (study.records, study.examples)
    )
    again = summarize(records, examples)
    assert again.page == study.summary.page and again.files == study.summary.files


def test_answers_stand_in_where_no_probe_was_measured():
    records, examples = drawn(oracles=False, methods=("GA",))
    found = summarize(records, examples)
    assert [section.title for section in found.sections] == [
        *("Path dependence", "Divergence between paths", "Means over seeds")
    ]
    assert "of each answer of the forget stage" in found.page
    assert found.findings[-1] == (
        "The distance to the oracle (found no metric distance/GROUP) and KLoM (found no "
        "margin/GROUP per example of runs and their oracles) are left out; they take the "
        "monitor OracleDistance, and oracle: true in the study with its oracles made (--only may "
        "leave them out); with oracle.base, which is one model, there is no KLoM."
    )
    table = pd.read_csv(io.StringIO(found.files["divergence.csv"]))
    own = examples[(examples["metric"] == "answers/safety") & (examples["step"] == 5)]
    one, other = (values(own, path=path, seed=2) for path, _ in FOUR[:2])
    keys = {"path": FOUR[0][0], "other_path": FOUR[1][0], "seed": 2, "step": 5}
    for name, value in keys.items():
        table = table[table[name] == value]
    assert table["distance"].tolist() == pytest.approx([np.mean(np.subtract(one, other) ** 2)])
    assert [section.title for section in summarize(records).sections] == [
        *("Path dependence", "Means over seeds")
    ]


def test_settings_and_oracles_that_name_none_of_them():
    settings = [{LR: 1e-4}, {LR: 3e-4}]
    records, examples = drawn(seeds=2, methods=("GA",), settings=settings)
    found = summarize(records, examples)
    for name in ("path_dependence", "oracle_distance", "divergence", "klom", "seeds"):
        table = pd.read_csv(io.StringIO(found.files[f"{name}.csv"]))
        assert table.columns[:2].tolist() == ["method", LR]
        assert set(table[LR].dropna()) == {1e-4, 3e-4}
        assert table[LR].isna().any() == (name == "seeds")
    assert "| method | setting | N | forget |" not in found.page
    assert all("(lr = " in line for line in found.sections[0].findings)
    assert "in 4 of 4 trials" in found.findings[2 + 1]


def test_values_that_are_not_finite_are_left_out_and_counted():
    records, examples = drawn(seeds=4, methods=("GA",))
    draw = np.random.default_rng(0)
    for table in (records, examples):
        hit = draw.random(len(table)) < 0.05
        table.loc[hit, "value"] = draw.choice([math.nan, math.inf, -math.inf], hit.sum())
    found = summarize(records, examples)
    assert len(found.sections) == 5
    bad = records["value"][records["stage"] == "unlearn"]
    count = (~np.isfinite(bad)).sum()
    assert f"{count} of {len(bad)} values in the records are not finite numbers" in found.page
    for section in found.sections:
        assert "nan" not in section.markdown and "inf " not in section.markdown
    means = pd.read_csv(io.StringIO(found.files["seeds.csv"]))
    assert means["missing"].sum() == (~np.isfinite(records["value"])).sum()
    klom = pd.read_csv(io.StringIO(found.files["klom.csv"]))
    assert klom["missing"].sum() > 0 and np.isfinite(klom["wasserstein"]).all()
    for kind in ("distance/", "log_likelihood/", "margin/"):
        mine = examples["metric"].str.startswith(kind)
        nothing = examples.assign(value=examples["value"].mask(mine))
        without = records.assign(
            value=records["value"].mask(records["metric"].str.startswith(kind))
        )
        assert summarize(without, nothing).sections[-1].title == "Means over seeds"


def test_one_seed_or_one_path_is_said_to_show_nothing():
    records, examples = drawn(seeds=1, methods=("GA",))
    found = summarize(records, examples)
    assert found.findings[-1] == (
        "Path dependence is left out: nothing separates the spread of paths from that of one "
        "seed; give the study several seeds."
    )
    assert "path_dependence.csv" not in found.files and "over 1 seed" not in found.page
    divergence = next(part for part in found.sections if part.title.startswith("Divergence"))
    assert "of 6 pairs of paths;" in divergence.findings[0]
    (line,) = found.sections[2].findings
    assert "N = 1 unlearned model and 1 oracle, so only the Wasserstein-1 distance" in line
    assert "1 unlearned models" not in found.page and "1 oracles" not in found.page
    records, examples = drawn(paths=FOUR[:1], methods=("GA",))
    found = summarize(records, examples)
    assert "Path dependence is left out: there is only one path." in found.findings
    assert (
        "Divergence between paths: GA is left out, because it has only one path, "
        "safety-inst-tofu-math." in found.findings
    )
    assert [section.title for section in found.sections] == [
        *("Distance to the oracle", "Distribution over models", "Means over seeds")
    ]


@pytest.mark.parametrize("kind", ["log_likelihood/", "margin/", "distance/"])
def test_nothing_vanishes_where_the_last_step_has_no_value(kind):
    tables = changed(*drawn(methods=("GA",)), stage="unlearn", step=25, metric=kind)
    found = summarize(*tables)
    assert "are n/a" not in found.page
    said = {
        "margin/": "Distribution over models: GA is left out on forget, because no run has a "
        "finite value at the last step, 25.",
        "log_likelihood/": "; at the last step, 25, no distance between paths is finite.",
        "distance/": "; at step 25 no distance is finite on p = 1, p = 2, p = 3 and p = 4, whose "
        "last step is an earlier one.",
    }
    assert said[kind] in found.page


def test_studies_of_depths_have_no_sections_on_oracles():
    records, examples = drawn(methods=("GA",), oracles=False)
    records, examples = (
        table[table["metric"].str.startswith("answers/")] for table in (records, examples)
    )
    found = summarize(records, examples)
    assert found.findings == depth_findings(depth(records, examples))
    assert [section.title for section in found.sections] == [
        *("Divergence between paths", "Means over seeds")
    ]


def test_examples_of_something_else_are_refused():
    records, _ = drawn(seeds=1, methods=("GA",))
    with pytest.raises(InputError, match=r"examples: found the columns a, expected also path,"):
        summarize(records, pd.DataFrame({"a": [1]}))
