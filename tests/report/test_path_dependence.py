"""The share of the path in the variance over runs."""

import io
import itertools

import pandas as pd
import pytest

from lightning_unlearn.statistics import icc1, mean_interval


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
        "(paper's label) (95 % 1.00 to 1.00; F(3, 8) = "
    )
