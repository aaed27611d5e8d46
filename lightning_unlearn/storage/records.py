"""Tables of metric values on disk: tidy Parquet, one row per value."""

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


# Metadata of the tables of a study: keys of the runs whose rows they contain, as JSON.
RUNS = "lightning_unlearn.runs"


class DamagedTable(InputError):
    """A table cannot be read, or has changed since it was written."""


@contextmanager
def table_writer(
    file: Path, schema: "pa.Schema", runs: Sequence[str] | None = None
) -> "Iterator[pq.ParquetWriter]":
    """Write a table in several parts; on exit, write its checksum.

    Args:
        file: path of the table.
        schema: schema of the table.
        runs: keys of the runs whose rows the table contains, for `runs_of`; None for one run.
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

    Each page has a checksum. The file has another checksum that covers every byte, which
    `read_table` verifies.

    Args:
        file: path of the table.
        columns: columns by name, all of one length.
    """
    import pyarrow as pa

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with table_writer(file, table.schema) as writer:
        writer.write_table(table)


def read_table(file: Path, needed: Sequence[str] = ()) -> "pd.DataFrame":
    """Read a table of `write_table` or `table_writer` and verify its checksum.

    Args:
        file: the table.
        needed: columns that the table must have.

    Returns:
        The table as a data frame.

    Raises:
        DamagedTable: if the table cannot be read, has changed, or lacks a column.
    """
    import pandas as pd

    with _reading(file):
        data = BytesIO(checked_bytes(file))
        table = pd.read_parquet(data, page_checksum_verification=True)
        _check_columns(needed, list(map(str, table.columns)))
        return table


def read_arrow(file: Path, needed: Sequence[str] = (), **options: Any) -> "pa.Table":
    """Read a table as `read_table` does, but return a table of pyarrow.

    Args:
        file: the table.
        needed: columns that the table must have.
        options: arguments of `pyarrow.parquet.read_table`.

    Raises:
        DamagedTable: see `read_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(file):
        source = pa.BufferReader(checked_bytes(file))
        _check_columns(needed, pq.read_schema(source).names)
        source.seek(0)
        return pq.read_table(source, page_checksum_verification=True, **options)


def runs_of(file: Path) -> list[str]:
    """Read the keys of the runs whose rows a table of a study contains.

    Raises:
        DamagedTable: see `read_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(file):
        source = pa.BufferReader(checked_bytes(file))
        text = (pq.read_metadata(source).metadata or {}).get(RUNS.encode())
        if text is None:
            raise Damage("it does not list the runs of its rows; another version wrote it")
        keys: list[str] = json.loads(text)
        return keys


def checked_bytes(file: Path) -> bytes:
    """Read the bytes of a table and verify its checksum.

    Raises:
        OSError: if the table cannot be read.
        Damage: if the table has changed since it was written.
    """
    # Reading a pipe would block.
    if file.exists() and not file.is_file():
        raise Damage("it is not a regular file")
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
            f"{file} can't be read: {reason}; run the same command again to rewrite it."
        ) from error


def _check_columns(needed: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise Damage(
            f"found the columns {', '.join(found) or '(none)'}, expected also "
            f"{', '.join(missing)}; another version of lightning-unlearn wrote it"
        )


def replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically: it has either the complete new content or its old content.

    Args:
        file: the file.
        write: function that writes the content to the path it receives.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid.uuid4().hex[:8]}-{file.name}")
    try:
        write(draft)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write text atomically; see `replace`."""

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    replace(file, write)
