"""Tables of measures on disk: tidy Parquet, one row per value."""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.seals import EMPTY, TABLE_KEY, Damage, check_table, seal_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

STEPS, EXAMPLES, TRAINING = "records.parquet", "examples.parquet", "training.parquet"


# In the metadata of a study's tables: keys of the runs whose rows they hold, as JSON.
RUNS = "lightning_unlearn.runs"


class DamagedTable(InputError):
    """A table can't be read, or is not as it was written."""


@contextmanager
def table_writer(
    file: Path, schema: "pa.Schema", runs: Sequence[str] | None = None
) -> "Iterator[pq.ParquetWriter]":
    """Write a table part by part; it is sealed when all of it is there.

    Args:
        file: where to.
        schema: of the table.
        runs: keys of the runs whose rows it holds, for `runs_of`; None for a table of one run.
    """
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        yield writer
        if runs is not None:
            writer.add_key_value_metadata({RUNS: json.dumps(list(runs))})
        writer.add_key_value_metadata({TABLE_KEY: EMPTY})
    seal_table(file)


def write_table(file: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns as Parquet; equal values give equal bytes.

    Pages have checksums, and the file one of its own that covers every byte; see `read_table`.

    Args:
        file: where to.
        columns: by name, equally long.
    """
    import pyarrow as pa

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with table_writer(file, table.schema) as writer:
        writer.write_table(table)


def read_table(file: Path, needed: Sequence[str] = ()) -> "pd.DataFrame":
    """Read what `write_table` or `table_writer` wrote, unless a byte of it has changed since.

    Args:
        file: the table.
        needed: columns that it must have.

    Raises:
        DamagedTable: it can't be read, is not as it was written, or lacks a column.
    """
    import pandas as pd

    with _reading(file):
        data = BytesIO(checked_bytes(file))
        table = pd.read_parquet(data, page_checksum_verification=True)
        _need(needed, list(map(str, table.columns)))
        return table


def read_arrow(file: Path, needed: Sequence[str] = (), **options: Any) -> "pa.Table":
    """`read_table` as a table of pyarrow.

    Args:
        file: the table.
        needed: columns that it must have.
        options: of `pyarrow.parquet.read_table`.

    Raises:
        DamagedTable: as of `read_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(file):
        source = pa.BufferReader(checked_bytes(file))
        _need(needed, pq.read_schema(source).names)
        source.seek(0)
        return pq.read_table(source, page_checksum_verification=True, **options)


def runs_of(file: Path) -> list[str]:
    """Keys of the runs whose rows a table of a study holds.

    Raises:
        DamagedTable: as of `read_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(file):
        source = pa.BufferReader(checked_bytes(file))
        told = (pq.read_metadata(source).metadata or {}).get(RUNS.encode())
        if told is None:
            raise Damage("it does not say whose rows it holds; it is of another version")
        keys: list[str] = json.loads(told)
        return keys


def checked_bytes(file: Path) -> bytes:
    """The bytes of a table.

    Raises:
        OSError: it can't be read.
        Damage: it is not as it was written.
    """
    # A pipe would be waited for.
    if file.exists() and not file.is_file():
        raise Damage("it is no file")
    data = file.read_bytes()
    check_table(data)
    return data


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, Damage, ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise DamagedTable(
            f"{file} can't be read: {reason}; run the same command again to have it written anew."
        ) from error


def _need(wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise Damage(
            f"found the columns {', '.join(found) or '(none)'}, expected also "
            f"{', '.join(missing)}; it is of another version of lightning-unlearn"
        )


def replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or as it was.

    Args:
        file: the file.
        write: writes to the path it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid.uuid4().hex[:8]}-{file.name}")
    try:
        write(draft)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write text so that it is there whole or as it was."""

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    replace(file, write)
