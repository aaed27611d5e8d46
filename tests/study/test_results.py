"""The tables of a study: every row of its finished runs, with the trial that it belongs to."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from study_folders import write_entry
from study_plans import hand_plan

from lightning_unlearn.storage import records
from lightning_unlearn.storage.records import EXAMPLES, STEPS, write_table
from lightning_unlearn.study.plan import StudyPlan, Trial
from lightning_unlearn.study.results import finished, gather

RATE = "data.unlearn.lr"


def fill(plan: StudyPlan, trial: Trial, value: float) -> Path:
    """What a run leaves in the store, with two steps of one measure."""
    entry = Path(plan.store) / trial.walk[-1]
    shared = {"step": [0, 3], "metric": ["forget/label"] * 2}
    steps = {**shared, "value": [value, value + 0.5]}
    examples = {**shared, "example": [4, 5], "value": [value, value + 0.25]}
    write_entry(entry, {STEPS: pd.DataFrame(steps), EXAMPLES: pd.DataFrame(examples)})
    return entry


def made(folder: Path, **changes: Any) -> StudyPlan:
    """A study of which all is finished; runs measure 0, 1, 2, ..."""
    plan = hand_plan(folder, **changes)
    for number, trial in enumerate(plan.runs()):
        fill(plan, trial, float(number))
    return plan


def gathered(plan: StudyPlan) -> pd.DataFrame:
    rows = gather(plan, finished(plan))
    table = pd.read_parquet(Path(plan.folder) / STEPS)
    assert rows == len(table)
    return table


def test_every_row_says_which_cell_it_is_of(tmp_path: Path) -> None:
    plan = made(tmp_path, methods=["GA", "NPO"], seeds=[0, 7], sweep={RATE: [1e-3, 1]})
    table = gathered(plan)
    expected = []
    for number, trial in enumerate(plan.trials):
        for step, value in ((0, number), (3, number + 0.5)):
            path = "-".join(trial.path)
            own = ("small", path, trial.position, trial.method, trial.seed, trial.sweep[0][1])
            expected.append((*own, "unlearn", step, "forget/label", value))
    names = ["study", "path", "position", "method", "seed", RATE]
    names += ["stage", "step", "metric", "value"]
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected, columns=names))
    examples = pd.read_parquet(tmp_path / EXAMPLES)
    assert list(examples.columns) == [*names[:-1], "example", "value"]
    assert examples["value"].tolist() == [n + extra for n in range(16) for extra in (0, 0.25)]
    assert examples["example"].tolist() == [4, 5] * 16
    assert examples[names[:8]].equals(table[names[:8]])


def test_an_oracle_has_its_rows_under_every_cell_it_is_the_oracle_of(tmp_path: Path) -> None:
    paths = [("b", "a", "c"), ("a", "b", "c"), ("a", "c", "b")]
    plan = made(tmp_path, paths=paths, methods=["GA", "oracle"], sweep={RATE: [1, 2]})
    assert len(plan.runs()) == 7
    table = gathered(plan)
    assert len(table) == 2 * 12
    oracle = table[(table["method"] == "oracle") & (table["step"] == 0)]
    assert list(zip(oracle["path"], oracle["position"], oracle[RATE], strict=True)) == [
        ("b-a-c", 1, 1),
        ("b-a-c", 1, 2),
        ("a-b-c", 2, 1),
        ("a-b-c", 2, 2),
        ("a-c-b", 3, 1),
        ("a-c-b", 3, 2),
    ]
    assert set(oracle["value"]) == {2.0} and set(oracle["stage"]) == {"oracle"}


KINDS: list[tuple[list[Any], str, list[Any]]] = [
    ([1, 2], "int64", [1, 2]),
    ([1e-5, 0.5], "double", [1e-5, 0.5]),
    ([1, 0.5], "double", [1.0, 0.5]),
    (["wsd", "cosine"], "string", ["wsd", "cosine"]),
    ([True, False], "bool", [True, False]),
    ([None, 2], "string", ["null", "2"]),
    ([None, "wsd"], "string", ["null", "wsd"]),
    ([None], "string", ["null"]),
    ([True, 2], "string", ["true", "2"]),
    (["auto", 2, 0.5, None], "string", ["auto", "2", "0.5", "null"]),
    ([[0.9, 0.99], None], "string", ["[0.9, 0.99]", "null"]),
    ([{"rank": 4}, [1]], "string", ['{"rank": 4}', "[1]"]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), KINDS, ids=lambda value: str(value))
def test_a_swept_column_has_one_type(
    tmp_path: Path, values: list[Any], kind: str, expected: list[Any]
) -> None:
    plan = made(tmp_path, paths=[("a", "b")], sweep={RATE: values})
    gather(plan, finished(plan))
    for file in (STEPS, EXAMPLES):
        column = pq.read_table(tmp_path / file).column(RATE)
        assert str(column.type) == kind
        assert column.to_pylist() == [value for value in expected for _ in range(2)]


def test_several_swept_keys_stand_in_the_order_of_the_study(tmp_path: Path) -> None:
    sweep = {"z.last": [1], "a.first": ["x", "y"]}
    table = gathered(made(tmp_path, paths=[("a", "b")], sweep=sweep))
    assert list(table.columns[4:8]) == ["seed", "z.last", "a.first", "stage"]
    assert table["a.first"].tolist() == ["x", "x", "y", "y"]


def test_only_finished_runs_are_there(tmp_path: Path) -> None:
    plan = hand_plan(tmp_path, methods=["GA", "NPO", "SimNPO"])
    done, going, also, *_ = plan.runs()
    entries = [fill(plan, trial, number) for number, trial in enumerate((done, going, also))]
    (entries[1] / "entry.json").unlink()
    assert finished(plan) == {done.walk[-1]: entries[0], also.walk[-1]: entries[2]}
    table = gathered(plan)
    assert table["value"].tolist() == [0, 0.5, 2, 2.5]
    assert table["method"].unique().tolist() == ["GA", "SimNPO"]


def test_what_a_killed_process_was_writing_is_cleared_away_after_a_while(tmp_path: Path) -> None:
    plan = made(tmp_path)
    old, new = tmp_path / ".0123abcd-records.parquet", tmp_path / ".4567abcd-records.parquet"
    for draft in (old, new):
        draft.write_text("half")
    os.utime(old, (0, 0))
    gathered(plan)
    assert new.exists() and not old.exists()


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    """Whoever made them, whenever."""
    tables = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        plan = made(folder, methods=["NPO", "oracle"], sweep={RATE: [None, 0.5]})
        for _ in range(2):
            gather(plan, finished(plan))
            tables.append([(folder / file).read_bytes() for file in (STEPS, EXAMPLES)])
    assert tables.count(tables[0]) == len(tables) == 4
    assert not list(tmp_path.glob("*/.*"))


def test_runs_in_which_nothing_was_measured_have_no_rows(tmp_path: Path) -> None:
    plan = made(tmp_path)
    (first, second) = plan.runs()
    store = Path(plan.store)
    for file in (STEPS, EXAMPLES):
        columns = pd.read_parquet(store / first.walk[-1] / file).columns
        write_table(store / first.walk[-1] / file, {name: [] for name in columns})
    assert gathered(plan)["path"].tolist() == ["-".join(second.path)] * 2
    write_table(store / second.walk[-1] / STEPS, {name: [] for name in columns})
    assert len(gathered(plan)) == 0


def test_two_lines_of_pandas_read_it(tmp_path: Path) -> None:
    gathered(made(tmp_path, sweep={RATE: [1e-3, 1e-2]}))
    table = pd.read_parquet(tmp_path / records.STEPS)
    last = table.groupby(["path", RATE])["value"].last()
    assert last["b-a", 1e-2] == 3.5
