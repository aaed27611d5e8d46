"""KLoM, and what takes its place with few models."""

import io

import numpy as np
import pandas as pd
import pytest
from study_tables import FOUR, drawn, values

from lightning_unlearn.report.summary import summarize
from lightning_unlearn.statistics.klom import klom, noise_floor, standardized_difference


def test_few_models_are_compared_without_klom(study):
    table = study.tables["klom.csv"]
    assert len(table) == 2 * 2 * 4 and table["klom"].isna().all()
    assert set(table["metric"]) == {"margin/forget", "margin/retain"}
    assert set(table["step"]) == {25} and set(table["models"]) == set(table["oracles"]) == {3}
    row = table[(table["group"] == "forget") & (table["method"] == "NPO")].iloc[2]
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
    table = pd.read_csv(io.StringIO(found.files["klom.csv"]))
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
    assert pd.read_csv(io.StringIO(found.files["klom.csv"]))["difference"].isna().all()
    assert not any("Two oracles" in line for line in found.sections[1].findings)
