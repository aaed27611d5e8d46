"""Which panel goes where, and which oracles it shows."""

import pandas as pd
import pytest
from sweep_tables import FIRST, LAST, oracle, swept
from sweep_tables import run as run_of

from lightning_unlearn.analysis.curves import curves_by_condition, oracles_of, paths_of
from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.report.figures.labels import arrange, same_for_all
from lightning_unlearn.report.figures.style import styles_of_paths


def test_settings_share_a_row_where_nulls_allow_it():
    study = read_records(swept())
    rows = arrange(study.runs, study)
    named = [[cell and f"{cell.method} {cell.words}" for cell in row] for row in rows]
    assert named == [
        ["GA lr = 0.0001", "NPO lr = 0.0001, beta = 0.5"],
        ["GA lr = 3e-5", None],
        [None, "NPO lr = 0.0001, beta = 1"],
    ]


@pytest.mark.parametrize(
    ("of_last", "same"), [((-4.0, -5.0), True), ((-4.0, -5.5), False), (None, False)]
)
def test_oracles_are_one_line_where_all_paths_have_the_same(of_last, same):
    rows = []
    for path in (FIRST, LAST):
        for seed in (0, 1):
            rows += run_of("GA", path, {"forget/label": (-1.0, -2.0)}, seed=seed)
    for seed, value in enumerate((-4.0, -5.0)):
        rows += oracle(FIRST, {"forget/label": value}, seed=seed)
    for seed, value in enumerate(of_last or ()):
        rows += oracle(LAST, {"forget/label": value}, seed=seed)
    study = read_records(pd.DataFrame(rows))
    (own,) = curves_by_condition(study, "forget/label").values()
    found = oracles_of(study, "forget/label", own)
    assert found[FIRST] == -4.5
    assert same_for_all([(own, found)], styles_of_paths(paths_of(study.runs))) is same
