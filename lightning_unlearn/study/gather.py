"""The records of a whole study: two tidy tables, written run by run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn import records
from lightning_unlearn.runs import find_run
from lightning_unlearn.study.plan import Cell, StudyPlan

if TYPE_CHECKING:
    import pyarrow as pa

VALUES = {
    records.STEPS: ("stage", "step", "measure", "value"),
    records.EXAMPLES: ("stage", "step", "measure", "example", "value"),
}


def finished(plan: StudyPlan) -> dict[str, Path]:
    """The folders of the finished runs of a study, by key of the run."""
    found = {}
    for cell in plan.runs():
        folder = find_run(Path(plan.folder) / cell.run, cell.walk[-1])
        if folder is not None:
            found[cell.walk[-1]] = folder
    return found


def gather(plan: StudyPlan, runs: dict[str, Path]) -> int:
    """Write records.parquet and examples.parquet of a study, from those of its runs.

    Columns: study, path, position, method, seed, one per swept key, then those of a run. An oracle
    has its rows under every path and setting that it is the oracle of. Equal runs give equal bytes.

    Args:
        plan: the study.
        runs: folders by key, from `finished`.

    Returns:
        Rows of records.parquet.
    """
    cells = [cell for cell in plan.cells if cell.walk[-1] in runs]
    counts = [
        _write(Path(plan.folder) / file, plan, cells, runs, file) for file in reversed(VALUES)
    ]
    return counts[-1]


def _write(
    target: Path, plan: StudyPlan, cells: Sequence[Cell], runs: dict[str, Path], file: str
) -> int:
    """One of the tables; as many rows at a time as one run has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    swept = [key for key, _ in plan.cells[0].sweep]
    kinds = {key: _kind([dict(cell.sweep)[key] for cell in plan.cells]) for key in swept}
    kinds = {
        "study": pa.string(),
        "path": pa.string(),
        "position": pa.int64(),
        "method": pa.string(),
        "seed": pa.int64(),
        **kinds,
        "stage": pa.string(),
        "step": pa.int64(),
        "measure": pa.string(),
        "example": pa.int64(),
        "value": pa.float64(),
    }
    names = ["study", "path", "position", "method", "seed", *swept, *VALUES[file]]
    schema = pa.schema([(name, kinds[name]) for name in names])
    rows = 0

    def write(draft: Path) -> None:
        nonlocal rows
        with pq.ParquetWriter(draft, schema) as writer:
            for cell in cells:
                table = pq.read_table(runs[cell.walk[-1]] / file)
                if len(table):
                    rows += len(table)
                    writer.write_table(_of_cell(table, plan.name, cell, schema))

    records.replace(target, write)
    return rows


def _of_cell(table: "pa.Table", study: str, cell: Cell, schema: "pa.Schema") -> "pa.Table":
    """A run's table with the columns that say which cell it is."""
    import pyarrow as pa

    own: dict[str, Any] = {
        "study": study,
        "path": "-".join(cell.path),
        "position": cell.position,
        "method": cell.method,
        "seed": cell.seed,
        **dict(cell.sweep),
    }
    columns = []
    for column in schema:
        if column.name in own:
            value = own[column.name]
            if pa.types.is_string(column.type) and not isinstance(value, (str, type(None))):
                value = json.dumps(value)
            columns.append(pa.repeat(pa.scalar(value, column.type), len(table)))
        else:
            columns.append(table[column.name].cast(column.type))
    return pa.table(columns, schema=schema)


def _kind(values: Sequence[Any]) -> Any:
    """The type of a column that holds the values of a swept key."""
    import pyarrow as pa

    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pa.bool_() if known else pa.string()
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in known):
        return pa.string()
    return pa.float64() if any(isinstance(value, float) for value in known) else pa.int64()
