"""The distance to the oracle against loops, and its sentences."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from study_tables import FOUR, STEPS, changed, drawn, part_of, values
from sweep_tables import LR

from lightning_unlearn.analysis.curves import curves_of, oracles_of_paths
from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.report.summary import summarize
from lightning_unlearn.statistics import mean_interval


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
            rows = rows[rows["group"] == "forget"].set_index("point")
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
    assert "is within the spread of retrained models in this metric" in floor
    assert floor.endswith("a run's distance is to the oracle of its own seed.")
    one, examples = drawn(seeds=1, methods=("GA",), paths=FOUR[:1])
    (sentence,) = summarize(one, examples).sections[0].findings
    assert "common step" not in sentence and "±" not in summarize(one, examples).page


def test_oracles_of_a_setting_are_those_of_its_runs():
    records, examples = drawn(seeds=2, methods=("GA",), settings=[{LR: 1e-4}, {LR: 3e-4}])
    oracle = examples["stage"] == "oracle"
    parts = [examples[~oracle]]
    for lr, scale in ((1e-4, 1.0), (3e-4, 2.0)):
        own = examples[oracle].assign(value=scale * examples["value"][oracle])
        parts.append(own.assign(**{LR: lr}))
    found = summarize(records, pd.concat(parts))
    table = pd.read_csv(io.StringIO(found.files["oracle_distance.csv"]))
    one, other = (table[table[LR] == lr]["oracle_noise_floor"].to_numpy() for lr in (1e-4, 3e-4))
    assert other == pytest.approx(4 * one)
    assert "on the mean of 8 pairs" in found.page


def test_a_seed_without_an_oracle_is_named():
    tables = changed(*drawn(methods=("GA",)), drop=True, seed=2, stage="oracle")
    tables = changed(*tables, drop=True, seed=2, metric="distance/", path=FOUR[1][0])
    found = summarize(*tables)
    (line,) = part_of(found, "Distribution over models").findings
    assert "N = 3 unlearned models and 2 oracles" in line
    assert line.endswith("; there is no oracle of seed 2.")
    section = part_of(found, "Distance to the oracle")
    assert section.findings[0].endswith(
        "; left out because the oracle or any distance to it is missing: seed 2 on p = 2."
    )
    table = pd.read_csv(io.StringIO(section.tables["oracle_distance"]))
    rows = table[table["group"] == "forget"].groupby("position")[["seeds", "seeds_excluded"]]
    assert rows.first().to_numpy().tolist() == [[3, 0], [2, 1], [3, 0], [3, 0]]
    assert f"inst-**safety**-tofu-math | {2} |" in section.markdown


def test_means_are_over_the_seeds_with_every_step():
    records, examples = drawn(methods=("GA",))
    tables = changed(records, examples, seed=1, step=25, metric="distance/", path=FOUR[0][0])
    section = part_of(summarize(*tables), "Distance to the oracle")
    assert section.findings[0].endswith(
        "; left out because some step has no finite distance: seed 1 on p = 1."
    )
    without = changed(records, examples, drop=True, seed=1, path=FOUR[0][0], stage="unlearn")
    other = part_of(summarize(*without), "Distance to the oracle")
    one, two = (
        pd.read_csv(io.StringIO(s.tables["oracle_distance"])).drop(columns="seeds_excluded")
        for s in (section, other)
    )
    pd.testing.assert_frame_equal(one, two)


def test_a_best_step_at_the_end_is_marked():
    records, examples = drawn(methods=("GA",))
    section = part_of(summarize(records, examples), "Distance to the oracle")
    table = pd.read_csv(io.StringIO(section.tables["oracle_distance"]))
    best = table[(table["point"] == "best") & (table["group"] == "forget")]
    assert (best["still_falling"] == (best["step"] == 25)).all()
    falling = best[best["step"] == 25]["position"].tolist()
    assert 0 < len(falling) < 4
    for position in range(1, 5):
        assert (f"(p = {position}, still falling)" in section.findings[0]) == (position in falling)
    assert section.markdown.count("(25, still falling) |") == len(falling)
    # At a single step nothing falls.
    once = [table[(table["step"] == 0)] for table in (records, examples)]
    assert "still falling)" not in part_of(summarize(*once), "Distance to the oracle").markdown


def test_a_method_or_a_path_without_distances_is_named():
    tables = drawn(methods=("GA", "NPO"))
    without = changed(*tables, method="NPO", metric="distance/")
    lines = part_of(summarize(*without), "Distance to the oracle").findings
    assert (
        "Distance to the oracle: NPO left out: no seed has a finite distance at every step."
        in lines
    )
    without = changed(*tables, method="NPO", metric="distance/", path=FOUR[2][0])
    lines = part_of(summarize(*without), "Distance to the oracle").findings
    assert lines[1].endswith("; no seed has a finite distance at every step on p = 3, left out.")


def test_many_paths_are_summed_up():
    stages = ("inst", "tofu", "safety")
    paths = [("-".join(p), p.index("safety") + 1) for p in itertools.permutations(stages)]
    paths += [("-".join([*p.split("-"), "x"]), position) for p, position in paths[:2]]
    records, examples = drawn(paths=paths, seeds=2, methods=("GA",))
    line = summarize(records, examples).sections[1].findings[0]
    assert (
        " by path, still falling on 3 of 8; the best common step is " in line
        and "which costs most on " in line
    )


def tables_of(records, examples):
    found = summarize(records, examples)
    return {name: text for own in found.sections for name, text in own.tables.items()}


def test_examples_of_oracles_are_paired_by_number():
    records, examples = drawn(seeds=2)
    known = tables_of(records, examples)
    is_oracle = examples["stage"] == "oracle"
    mixed = examples[is_oracle].sample(frac=1, random_state=0)
    assert tables_of(records, pd.concat([examples[~is_oracle], mixed])) == known
    # An example that the oracles lack is in no comparison with them.
    study = read_records(examples[~is_oracle | (examples["example"] != 0)], "examples")
    curves = curves_of(study, "log_likelihood/forget")[0]
    for oracles in oracles_of_paths(study, "log_likelihood/forget", curves):
        assert np.isnan(oracles[:, 0]).all() and np.isfinite(oracles[:, 1:]).all()
