"""Sections of a summary: statistics over seeds, oracles, divergence between paths and KLoM."""

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from study_tables import FOUR, STEPS, drawn, values

from lightning_unlearn.report import summarize
from lightning_unlearn.statistics import icc1, mean_interval
from lightning_unlearn.statistics.klom import klom, noise_floor, standardized_difference

LR = "data.unlearn.lr"


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
    assert again.page == study.summary.page and again.tables == study.summary.tables


def test_sections_fit_a_terminal(study):
    out = io.StringIO()
    console = Console(file=out, width=120)
    for section in study.summary.sections:
        if section.renderable is not None:
            console.print(section.renderable)
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 120
    for path, _ in FOUR:
        assert text.count(path) == 2 * 2


def test_means_over_seeds_equal_those_of_a_loop(study):
    table = study.tables["seeds.csv"]
    keys = ["method", "path", "position", "stage", "step", "metric"]
    assert len(table) == len(study.records.drop_duplicates(keys))
    for row in table.sample(40, random_state=0).to_dict("records"):
        found = mean_interval(values(study.records, **{key: row[key] for key in keys}))
        ends = (row["mean"], row["low"], row["high"])
        assert ends == pytest.approx((found.mean, found.low, found.high))
        assert (row["seeds"], row["missing"]) == (3, 0)


def test_path_dependence_equals_the_index_of_scores(study):
    table = study.tables["path_dependence.csv"].set_index(["method", "outcome"])
    scores = pd.read_csv(io.StringIO(study.summary.csv))
    assert set(table.index) == set(
        itertools.product(
            ("GA", "NPO"), ("forget_score", "label_drop", "tofu utility", "forget_distance")
        )
    )
    for method, outcome in itertools.product(("GA", "NPO"), ("forget_score", "tofu utility")):
        own = scores[scores["method"] == method].sort_values("seed")
        groups = [own[outcome][own["position"] == p].to_numpy() for p in range(1, 5)]
        found, row = icc1(groups), table.loc[method, outcome]
        assert found is not None
        assert row[["icc1", "icc1_low", "icc1_high", "F", "p"]].tolist() == pytest.approx(
            [found.index, found.low, found.high, found.f, found.p]
        )
        effect = mean_interval(groups[3] - sum(groups[:3]) / 3)
        assert row[["recency", "recency_low", "recency_high"]].tolist() == pytest.approx(
            [effect.mean, effect.low, effect.high]
        )
        assert (row["paths"], row["runs"], row["df_between"], row["df_within"]) == (4, 12, 3, 8)
    own = study.records[(study.records["metric"] == "distance/forget")]
    last = own[(own["step"] == 25) & (own["method"] == "NPO")]
    found = icc1([part["value"].to_numpy() for _, part in last.groupby("path")])
    assert table.loc[("NPO", "forget_distance"), "F"] == pytest.approx(found.f)
    (first, _) = study.summary.sections[0].findings
    assert first.startswith(
        "GA: share of the variance over runs that lies between paths: 1.00 for the forget score "
        "(95 % 1.00 to 1.00; F(3, 8) = "
    )


def test_distances_to_the_oracle_equal_those_of_loops(study):
    table = study.tables["oracle_distance.csv"]
    assert len(table) == 2 * 4 * 2 * 4
    own = study.records[study.records["metric"] == "distance/forget"]
    for method in ("GA", "NPO"):
        means = {
            path: [values(own, method=method, path=path, step=step).mean() for step in STEPS]
            for path, _ in FOUR
        }
        totals = [sum(curve[place] for curve in means.values()) for place in range(len(STEPS))]
        common = totals.index(min(totals))
        for path, curve in means.items():
            rows = table[(table["method"] == method) & (table["path"] == path)]
            rows = rows[rows["probe"] == "forget"].set_index("point")
            best = curve.index(min(curve))
            at = [0, best, common, 5]
            assert rows["step"].tolist() == [STEPS[place] for place in at]
            assert rows["distance"].tolist() == pytest.approx([curve[place] for place in at])
            for point, place in zip(rows.index, at, strict=True):
                for measure in ("overshoot", "kl"):
                    keys = {"method": method, "path": path, "step": STEPS[place]}
                    found = mean_interval(values(study.records, metric=f"{measure}/forget", **keys))
                    ends = [found.mean, found.low, found.high]
                    columns = [measure, f"{measure}_low", f"{measure}_high"]
                    assert rows.loc[point, columns].tolist() == pytest.approx(ends)
            assert rows["regret"].isna().tolist() == [True, True, False, True]
            assert rows.loc["common", "regret"] == pytest.approx(curve[common] - curve[best])
            pairs = itertools.combinations(range(3), 2)
            oracle = study.examples[study.examples["metric"] == "log_likelihood/forget"]
            each = [
                np.mean(
                    np.subtract(*(values(oracle, stage="oracle", path=path, seed=s) for s in pair))
                    ** 2
                )
                for pair in pairs
            ]
            assert rows["oracle_noise_floor"].tolist() == pytest.approx([np.mean(each)] * 4)


def test_sentences_on_the_oracle():
    records, examples = drawn(seeds=2, methods=("GA",))
    section = summarize(records, examples).sections[1]
    first, floor = section.findings
    assert first.startswith("GA: the distance to the oracle is least at step ")
    assert "; the best common step is " in first and " (95 % " in first and "over 2 seeds" in first
    assert "% of the forget examples are below their oracle." in first
    assert floor.startswith("Two oracles of different seeds differ by 0.")
    assert "on the mean of 4 pairs" in floor
    assert "cannot be told from the spread of retrained models in this measure" in floor
    assert floor.endswith("a run's distance is to the oracle of its own seed.")
    one, examples = drawn(seeds=1, methods=("GA",), paths=FOUR[:1])
    (sentence,) = summarize(one, examples).sections[0].findings
    assert "common step" not in sentence and "±" not in summarize(one, examples).page


def test_divergence_equals_that_of_loops(study):
    table = study.tables["divergence.csv"]
    paths, seeds = 6 * 3 * len(STEPS), 3 * 4 * len(STEPS)
    assert table.groupby(["method", "between"]).size().tolist() == [paths, seeds] * 2
    own = study.runs[study.runs["metric"] == "log_likelihood/forget"]
    for row in table.sample(30, random_state=1).to_dict("records"):
        keys = {"method": row["method"], "step": row["step"]}
        one = values(own, path=row["path"], seed=row["seed"], **keys)
        other = values(own, path=row["other_path"], seed=row["other_seed"], **keys)
        assert row["distance"] == pytest.approx(np.mean(np.subtract(one, other) ** 2))
        same = row["path"] == row["other_path"]
        assert row["between"] == ("seeds" if same else "paths")
        assert same != (row["seed"] == row["other_seed"])
    growth = study.tables["divergence_growth.csv"]
    assert len(growth) == 2 * 6 * 3
    fitted = growth["rate"].notna()
    assert (fitted == growth["reason"].isna()).all()
    for method in ("GA", "NPO"):
        rows = growth[fitted & (growth["method"] == method)]
        each = mean_interval(rows.groupby("seed")["rate"].mean())
        (line,) = [
            line for line in study.summary.sections[2].findings if line.startswith(f"{method}:")
        ]
        if rows.empty:
            assert "neither grows nor shrinks exponentially in any of 18 pairs of paths" in line
        else:
            assert f"grows exponentially in {len(rows)} of 18 pairs of paths and seeds" in line
            assert f"is {each.mean:.3g} per step (95 % {each.low:.3g} to {each.high:.3g}" in line
        assert "seeds of one path" in line


def test_answers_stand_in_where_no_probe_was_measured():
    records, examples = drawn(oracles=False, methods=("GA",))
    found = summarize(records, examples)
    assert [section.title for section in found.sections] == [
        *("Path dependence", "Divergence between paths", "Means over seeds")
    ]
    assert "of each answer of the forget stage" in found.page
    assert found.findings[-1] == (
        "The distance to the oracle (found no measure distance/GROUP) and KLoM (found no "
        "margin/GROUP per example of runs and their oracles) are left out; they take the "
        "monitor OracleDistance, and oracle: true in the study with its oracles made (--only may "
        "leave them out)."
    )
    table = pd.read_csv(io.StringIO(found.tables["divergence.csv"]))
    own = examples[(examples["metric"] == "answers/safety") & (examples["step"] == 5)]
    one, other = (values(own, path=path, seed=2) for path, _ in FOUR[:2])
    keys = {"path": FOUR[0][0], "other_path": FOUR[1][0], "seed": 2, "step": 5}
    for name, value in keys.items():
        table = table[table[name] == value]
    assert table["distance"].tolist() == pytest.approx([np.mean(np.subtract(one, other) ** 2)])
    assert [section.title for section in summarize(records).sections] == [
        *("Path dependence", "Means over seeds")
    ]


def test_few_models_are_compared_without_klom(study):
    table = study.tables["klom.csv"]
    assert len(table) == 2 * 2 * 4 and table["klom"].isna().all()
    assert set(table["metric"]) == {"margin/forget", "margin/retain"}
    assert set(table["step"]) == {25} and set(table["models"]) == set(table["oracles"]) == {3}
    row = table[(table["probe"] == "forget") & (table["method"] == "NPO")].iloc[2]
    path = FOUR[2][0]
    margins = study.examples[study.examples["metric"] == "margin/forget"]
    own = values(margins, path=path, method="NPO", step=25).reshape(3, -1)
    aim = values(margins, path=path, stage="oracle").reshape(3, -1)
    found = standardized_difference(own, aim)
    names = ["difference", "difference_low", "difference_high", "absolute", "absolute_floor"]
    wanted = [found.mean, found.low, found.high, found.absolute, found.absolute_floor]
    assert row[names].tolist() == pytest.approx(wanted)
    assert row["wasserstein"] == pytest.approx(np.abs(np.sort(own, 0) - np.sort(aim, 0)).mean())
    line = study.summary.sections[3].findings[1]
    assert line.startswith(
        "NPO: KLoM needs 10 models of each kind and there are N = 3 unlearned models and 3 oracles;"
    )


def test_klom_of_ten_models_stands_beside_its_noise_floor():
    records, examples = drawn(paths=FOUR[2:], seeds=10, methods=("GA",))
    # Log-likelihoods take the place of margins that were not measured.
    examples = examples[examples["metric"] != "margin/retain"]
    found = summarize(records, examples)
    table = pd.read_csv(io.StringIO(found.tables["klom.csv"]))
    assert table["metric"].tolist() == ["margin/forget"] * 2 + ["log_likelihood/retain"] * 2
    row = table.iloc[1]
    margins = examples[examples["metric"] == "margin/forget"]
    path = row["path"]
    own = values(margins, path=path, method="GA", step=25).reshape(10, -1)
    aim = values(margins, path=path, stage="oracle").reshape(10, -1)
    each, floor = klom(own, aim), noise_floor(10)
    assert row[["klom", "klom_p95", "floor", "floor_p95"]].tolist() == pytest.approx(
        [each.mean(), np.percentile(each, 95), floor.mean, floor.percentile95]
    )
    section = found.sections[3]
    assert f"would have {floor.percentile95:.2f}." in section.findings[0]
    assert "N = 10 unlearned models and 10 oracles" in section.findings[0]
    assert f"have {floor.percentile95:.2f} ({floor.mean:.2f}) with N = 10, 10." in section.markdown


def test_one_oracle_leaves_the_wasserstein_distance():
    records, examples = drawn(seeds=2, methods=("GA",))
    examples = examples[(examples["stage"] != "oracle") | (examples["seed"] == 0)]
    found = summarize(records, examples)
    (line,) = found.sections[3].findings
    assert "only the Wasserstein-1 distance of margins on forget is given" in line
    assert pd.read_csv(io.StringIO(found.tables["klom.csv"]))["difference"].isna().all()
    assert not any("Two oracles" in line for line in found.sections[1].findings)


def test_settings_and_oracles_that_name_none_of_them():
    settings = [{LR: 1e-4}, {LR: 3e-4}]
    records, examples = drawn(seeds=2, methods=("GA",), settings=settings)
    found = summarize(records, examples)
    for name in ("path_dependence", "oracle_distance", "divergence", "klom", "seeds"):
        table = pd.read_csv(io.StringIO(found.tables[f"{name}.csv"]))
        assert table.columns[:2].tolist() == ["method", LR]
        assert set(table[LR].dropna()) == {1e-4, 3e-4}
        assert table[LR].isna().any() == (name == "seeds")
    assert "| method | setting | N | forget |" not in found.page
    assert all("(lr = " in line for line in found.sections[0].findings)
    assert "in 4 of 4 trials" in found.findings[2 + 1]


def test_oracles_of_a_setting_are_those_of_its_runs():
    records, examples = drawn(seeds=2, methods=("GA",), settings=[{LR: 1e-4}, {LR: 3e-4}])
    oracle = examples["stage"] == "oracle"
    parts = [examples[~oracle]]
    for lr, scale in ((1e-4, 1.0), (3e-4, 2.0)):
        own = examples[oracle].assign(value=scale * examples["value"][oracle])
        parts.append(own.assign(**{LR: lr}))
    found = summarize(records, pd.concat(parts))
    table = pd.read_csv(io.StringIO(found.tables["oracle_distance.csv"]))
    one, other = (table[table[LR] == lr]["oracle_noise_floor"].to_numpy() for lr in (1e-4, 3e-4))
    assert other == pytest.approx(4 * one)
    assert "on the mean of 8 pairs" in found.page


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
    means = pd.read_csv(io.StringIO(found.tables["seeds.csv"]))
    assert means["missing"].sum() == (~np.isfinite(records["value"])).sum()
    klom = pd.read_csv(io.StringIO(found.tables["klom.csv"]))
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
        "Path dependence is left out: with one seed the spread of paths cannot be told from that "
        "of seeds; give the study several seeds."
    )
    assert "path_dependence.csv" not in found.tables and "over 1 seed" not in found.page
    divergence = next(part for part in found.sections if part.title.startswith("Divergence"))
    assert "of 6 pairs of paths;" in divergence.findings[0]
    (line,) = found.sections[2].findings
    assert "N = 1 unlearned model and 1 oracle, so only the Wasserstein-1 distance" in line
    assert "1 unlearned models" not in found.page and "1 oracles" not in found.page
    records, examples = drawn(paths=FOUR[:1], methods=("GA",))
    found = summarize(records, examples)
    assert "Path dependence is left out: there is only one path." in found.findings
    assert (
        "Divergence between paths: GA is left out, for it has only one path, "
        "safety-inst-tofu-math." in found.findings
    )
    assert [section.title for section in found.sections] == [
        *("Distance to the oracle", "Distribution over models", "Means over seeds")
    ]
