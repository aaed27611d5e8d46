"""Fixtures of these tests."""

import io
from types import SimpleNamespace

import pandas as pd
import pytest
from score_tables import run, table
from study_tables import drawn

from lightning_unlearn.report.summary import summarize


@pytest.fixture(scope="module")
def study():
    records, examples = drawn()
    summary = summarize(records, examples)
    tables = {name: pd.read_csv(io.StringIO(text)) for name, text in summary.files.items()}
    runs = examples[examples["stage"] == "unlearn"]
    return SimpleNamespace(
        records=records, examples=examples, runs=runs, summary=summary, tables=tables
    )


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
