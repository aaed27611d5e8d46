"""The records of a study: two tidy tables, written run by run."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage import records
from lightning_unlearn.storage.run_folders import MANIFEST
from lightning_unlearn.storage.seals import Damage, read_json
from lightning_unlearn.study.plan import StudyPlan, Trial

if TYPE_CHECKING:
    import pyarrow as pa

# Seconds after which a draft counts as abandoned.
ABANDONED = 3600.0
VALUES = {
    records.STEPS: ("stage", "step", "metric", "value"),
    records.EXAMPLES: ("stage", "step", "metric", "example", "value"),
}


def finished(plan: StudyPlan) -> dict[str, Path]:
    """Find the store entries with the results of the finished runs of a study.

    The results are read from the store, because another process may be filling a run's folder.

    Args:
        plan: the study.

    Returns:
        Folders by key of the run, in the order of the trials.
    """
    entries = {trial.keys[-1]: Path(plan.store) / trial.keys[-1] for trial in plan.runs()}
    return {key: entry for key, entry in entries.items() if (entry / MANIFEST).is_file()}


def undamaged(entries: dict[str, Path], plan: StudyPlan) -> tuple[dict[str, Path], list[str]]:
    """Separate the entries with unchanged tables from damaged ones.

    Args:
        entries: folders by key, from `finished`.
        plan: the study.

    Returns:
        The undamaged entries, and a sentence about each damaged one.
    """
    kept, damaged = {}, []
    for key, entry in entries.items():
        try:
            _check(entry)
        except (OSError, InputError, Damage) as error:
            text = str(getattr(error, "strerror", None) or error)
            # Remove the remedy for a single run.
            reason = re.split(r"[;.] run the same", text, maxsplit=1, flags=re.IGNORECASE)[0]
            label = plan.label(plan.task[key])
            damaged.append(
                f"{label} is left out: its entry in the stage store, {entry}, is damaged "
                f"({reason}). Make it again by running the whole study again."
            )
        else:
            kept[key] = entry
    return kept, damaged


def _check(entry: Path) -> None:
    """Check that the tables of an entry are unchanged.

    Raises:
        Damage: if a table is missing from the manifest or does not match its checksum.
    """
    files = read_json(entry / MANIFEST).get("files")
    for name in VALUES:
        about = files.get(name) if isinstance(files, dict) else None
        if not isinstance(about, dict):
            raise Damage(f"{MANIFEST} does not name {name}")
        data = records.checked_bytes(entry / name)
        if hashlib.sha256(data).hexdigest() != about.get("sha256"):
            raise Damage(f"{name} does not match its checksum")


def collect_records(plan: StudyPlan, entries: dict[str, Path]) -> int:
    """Write records.parquet and examples.parquet of a study from the results of its runs.

    Columns: study, path, position, method, seed, one per swept key, stage, step, metric, example
    (examples.parquet only), value. The rows of an oracle appear under every path and setting that
    it is the oracle of. Equal runs give equal bytes.

    Args:
        plan: the study.
        entries: folders by key, from `finished`.

    Returns:
        Number of rows of records.parquet.

    Raises:
        DamagedTable: if a table of an entry was changed; `undamaged` finds these entries.
        OSError: if the tables cannot be written.
    """
    folder = Path(plan.folder)
    for draft in folder.glob(".*.parquet"):
        # A process that was killed while writing leaves its draft.
        if time.time() - draft.stat().st_mtime > ABANDONED:
            draft.unlink(missing_ok=True)
    trials = [trial for trial in plan.trials if trial.keys[-1] in entries]
    counts = [_write(folder / file, plan, trials, entries, file) for file in reversed(VALUES)]
    return counts[-1]


def _write(
    target: Path, plan: StudyPlan, trials: Sequence[Trial], entries: dict[str, Path], file: str
) -> int:
    """Write one of the tables, the rows of one run at a time; return the number of rows."""
    import pyarrow as pa

    swept = [key for key, _ in plan.trials[0].sweep]
    kinds = {key: _kind([dict(trial.sweep)[key] for trial in plan.trials]) for key in swept}
    kinds = {
        "study": pa.string(),
        "path": pa.string(),
        "position": pa.int64(),
        "method": pa.string(),
        "seed": pa.int64(),
        **kinds,
        "stage": pa.string(),
        "step": pa.int64(),
        "metric": pa.string(),
        "example": pa.int64(),
        "value": pa.float64(),
    }
    names = ["study", "path", "position", "method", "seed", *swept, *VALUES[file]]
    schema = pa.schema([(name, kinds[name]) for name in names])
    rows = 0

    def write(draft: Path) -> None:
        nonlocal rows
        with records.table_writer(draft, schema, list(entries)) as writer:
            for trial in trials:
                table = records.read_arrow(entries[trial.keys[-1]] / file, VALUES[file][1:])
                if len(table):
                    rows += len(table)
                    writer.write_table(_with_trial(table, plan, trial, schema))

    records.replace(target, write)
    return rows


def _with_trial(
    table: "pa.Table", plan: StudyPlan, trial: Trial, schema: "pa.Schema"
) -> "pa.Table":
    """Add the columns that identify the trial to the table of a run."""
    import pyarrow as pa

    own: dict[str, Any] = {
        "study": plan.name,
        "path": "-".join(trial.path),
        "position": trial.position,
        "method": trial.method,
        "seed": trial.seed,
        **dict(trial.sweep),
        "stage": plan.task[trial.keys[-1]].stage,
    }
    columns = []
    for column in schema:
        if column.name in own:
            value = own[column.name]
            if pa.types.is_string(column.type) and not isinstance(value, str):
                value = json.dumps(value)
            columns.append(pa.repeat(pa.scalar(value, column.type), len(table)))
        else:
            columns.append(table[column.name].cast(column.type))
    return pa.table(columns, schema=schema)


def _kind(values: Sequence[Any]) -> Any:
    """Return the column type for the values of a swept key."""
    import pyarrow as pa

    if all(isinstance(value, bool) for value in values):
        return pa.bool_()
    # Write a swept null as the text "null": an empty field would mean that nothing was set.
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return pa.string()
    return pa.float64() if any(isinstance(value, float) for value in values) else pa.int64()
