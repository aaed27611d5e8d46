"""Fixtures of these tests."""

import io
from types import SimpleNamespace

import pandas as pd
import pytest
from study_tables import drawn

from lightning_unlearn.report.summary import summarize


@pytest.fixture(scope="module")
def study():
    records, examples = drawn()
    summary = summarize(records, examples)
    tables = {name: pd.read_csv(io.StringIO(text)) for name, text in summary.tables.items()}
    runs = examples[examples["stage"] == "unlearn"]
    return SimpleNamespace(
        records=records, examples=examples, runs=runs, summary=summary, tables=tables
    )
