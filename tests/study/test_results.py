"""The tables of a study: every row of its finished runs, with the columns of its trial."""

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
from lightning_unlearn.study.results import collect_records, finished

RATE = "data.unlearn.lr"


def fill(plan: StudyPlan, trial: Trial, value: float) -> Path:
    """Write the store entry of a run, with two steps of one metric."""
    entry = Path(plan.store) / trial.keys[-1]
    shared = {"step": [0, 3], "metric": ["forget/label"] * 2}
    steps = {**shared, "value": [value, value + 0.5]}
    examples = {**shared, "example": [4, 5], "value": [value, value + 0.25]}
    write_entry(entry, {STEPS: pd.DataFrame(steps), EXAMPLES: pd.DataFrame(examples)})
    return entry


def made(folder: Path, **changes: Any) -> StudyPlan:
    """Return the plan of a finished study; the values of its runs are 0, 1, 2, ..."""
    plan = hand_plan(folder, **changes)
    for number, trial in enumerate(plan.runs()):
        fill(plan, trial, float(number))
    return plan


def collected(plan: StudyPlan) -> pd.DataFrame:
    rows = collect_records(plan, finished(plan))
    table = pd.read_parquet(Path(plan.folder) / STEPS)
    assert rows == len(table)
    return table


def test_every_row_names_its_trial(tmp_path: Path) -> None:
    plan = made(tmp_path, methods=["GA", "NPO"], seeds=[0, 7], sweep={RATE: [1e-3, 1]})
    table = collected(plan)
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


def test_the_rows_of_an_oracle_appear_under_every_trial_it_is_the_oracle_of(tmp_path: Path) -> None:
    paths = [("b", "a", "c"), ("a", "b", "c"), ("a", "c", "b")]
    plan = made(tmp_path, paths=paths, methods=["GA", "oracle"], sweep={RATE: [1, 2]})
    assert len(plan.runs()) == 7
    table = collected(plan)
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
    collect_records(plan, finished(plan))
    for file in (STEPS, EXAMPLES):
        column = pq.read_table(tmp_path / file).column(RATE)
        assert str(column.type) == kind
        assert column.to_pylist() == [value for value in expected for _ in range(2)]


def test_several_swept_keys_are_in_the_order_of_the_study(tmp_path: Path) -> None:
    sweep = {"z.last": [1], "a.first": ["x", "y"]}
    table = collected(made(tmp_path, paths=[("a", "b")], sweep=sweep))
    assert list(table.columns[4:8]) == ["seed", "z.last", "a.first", "stage"]
    assert table["a.first"].tolist() == ["x", "x", "y", "y"]


def test_only_finished_runs_are_in_the_tables(tmp_path: Path) -> None:
    plan = hand_plan(tmp_path, methods=["GA", "NPO", "SimNPO"])
    done, going, also, *_ = plan.runs()
    entries = [fill(plan, trial, number) for number, trial in enumerate((done, going, also))]
    (entries[1] / "entry.json").unlink()
    assert finished(plan) == {done.keys[-1]: entries[0], also.keys[-1]: entries[2]}
    table = collected(plan)
    assert table["value"].tolist() == [0, 0.5, 2, 2.5]
    assert table["method"].unique().tolist() == ["GA", "SimNPO"]


def test_the_draft_of_a_killed_process_is_deleted_after_an_hour(tmp_path: Path) -> None:
    plan = made(tmp_path)
    old, new = tmp_path / ".0123abcd-records.parquet", tmp_path / ".4567abcd-records.parquet"
    for draft in (old, new):
        draft.write_text("half")
    os.utime(old, (0, 0))
    collected(plan)
    assert new.exists() and not old.exists()


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    """The bytes depend neither on the process that made the runs nor on the time."""
    tables = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        plan = made(folder, methods=["NPO", "oracle"], sweep={RATE: [None, 0.5]})
        for _ in range(2):
            collect_records(plan, finished(plan))
            tables.append([(folder / file).read_bytes() for file in (STEPS, EXAMPLES)])
    assert tables.count(tables[0]) == len(tables) == 4
    assert not list(tmp_path.glob("*/.*"))


def test_runs_without_results_have_no_rows(tmp_path: Path) -> None:
    plan = made(tmp_path)
    (first, second) = plan.runs()
    store = Path(plan.store)
    for file in (STEPS, EXAMPLES):
        columns = pd.read_parquet(store / first.keys[-1] / file).columns
        write_table(store / first.keys[-1] / file, {name: [] for name in columns})
    assert collected(plan)["path"].tolist() == ["-".join(second.path)] * 2
    write_table(store / second.keys[-1] / STEPS, {name: [] for name in columns})
    assert len(collected(plan)) == 0


def test_two_lines_of_pandas_read_it(tmp_path: Path) -> None:
    collected(made(tmp_path, sweep={RATE: [1e-3, 1e-2]}))
    table = pd.read_parquet(tmp_path / records.STEPS)
    last = table.groupby(["path", RATE])["value"].last()
    assert last["b-a", 1e-2] == 3.5
