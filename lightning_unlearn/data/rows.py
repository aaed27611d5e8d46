"""Read the rows of a file or of a data set of the Hugging Face hub as prompts and answers."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from typing_extensions import Unpack

from lightning_unlearn.data.columns import ColumnNames, Columns, Row, as_yaml, names
from lightning_unlearn.data.file_formats import read_file
from lightning_unlearn.data.hub import read_hub, read_saved, refused_option
from lightning_unlearn.data.places import local_files
from lightning_unlearn.data.row_errors import each_row
from lightning_unlearn.data.tables import Table
from lightning_unlearn.errors import InputError


def read_rows(
    source: str,
    *,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    key: str = "source",
    remark: Callable[[str], None] = lambda sentence: None,
    also_used: Sequence[str] = (),
    **names_of_columns: Unpack[ColumnNames],
) -> list[Row]:
    """Read the rows of a source, with text as it is written.

    Numbers become text with as few digits as the type of their column needs.

    Args:
        source: a .json, .jsonl, .csv or .parquet file (the text formats also as .gz or .zst), a
            pattern of files such as ``part-*.jsonl``, a folder of ``datasets.save_to_disk``,
            ``demo:NAME``, or the name of a data set on the Hugging Face hub.
        split: split of a hub data set, or of a saved folder with several splits.
        subset: configuration name of a hub data set.
        limit: number of rows to read, from the first; None for all. Further rows must parse, but
            are not checked otherwise.
        key: YAML key of the source, with which every message starts.
        remark: called with notes for the user on columns.
        also_used: columns that are read elsewhere, and so are no unused ones.
        names_of_columns: see `ColumnNames`; "question" and "answer" by default.

    Raises:
        InputError: if the source or rows cannot be used; it lists the first wrong rows.
    """
    columns = Columns.of(names_of_columns)
    tables = _tables(source, key, columns, split, subset, limit)
    rows = _rows(tables, columns, key, limit)
    _remark_columns(tables, columns, f"{key}: {source}", limit, remark, also_used)
    return rows


def read_usable_rows(
    source: str,
    *,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    key: str = "source",
    remark: Callable[[str], None] = lambda sentence: None,
    check: Callable[[Row], None] = lambda row: None,
    **names_of_columns: Unpack[ColumnNames],
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Read the rows of a source as `read_rows` does, but leave out rows that cannot be used.

    Args:
        source: as of `read_rows`.
        split: as of `read_rows`.
        subset: as of `read_rows`.
        limit: number of rows to read, from the first, with those that are left out.
        key: as of `read_rows`.
        remark: as of `read_rows`.
        check: raises InputError for further rows to leave out.
        names_of_columns: as of `read_rows`.

    Returns:
        The rows in order; and place (as "row 3, line 3") and fault of each one that is left out.

    Raises:
        InputError: if the source cannot be read, or lacks a column in all rows.
    """
    columns = Columns.of(names_of_columns)
    tables = _tables(source, key, columns, split, subset, limit)
    rows: list[Row] = []
    left_out: list[tuple[str, str]] = []
    for name, record, where in _records(tables, limit):
        try:
            row = columns.row(record, name, "", where)
            check(row)
        except InputError as error:
            fault = str(error).removeprefix(where).lstrip(",: ")
            place = where.lstrip(", ")
            left_out.append((place if len(tables) == 1 else f"{name}, {place}", fault))
        else:
            rows.append(row)
    _remark_columns(tables, columns, f"{key}: {source}", limit, remark)
    return rows, left_out


def _tables(
    source: str, key: str, columns: Columns, split: str, subset: str | None, limit: int | None
) -> list[tuple[str, Table]]:
    """Return the tables of a source, all of which have the columns."""
    place = f"{key}: {source}"
    if limit is not None and limit < 1:
        raise InputError(
            f"{place}: found limit {limit}, expected 1 or more; set it to null for all rows"
        )
    tables = read_tables(source, place, columns.wanted, split, subset, limit)
    for name, table in tables:
        check_columns(table, columns, place if len(tables) == 1 else f"{key}: {name}")
    return tables


def _remark_columns(
    tables: Sequence[tuple[str, Table]],
    columns: Columns,
    place: str,
    limit: int | None,
    remark: Callable[[str], None],
    also_used: Sequence[str] = (),
) -> None:
    """Name columns that are used twice or not at all."""
    if columns.main == [columns.answer, columns.answer]:
        both = columns.answer
        remark(f"{place}: the column '{both}' is both prompt and answer, so both are equal.")
    read = [*columns.wanted, *also_used]
    if unused := _unused([table for _, table in tables], read, limit):
        remark(
            f"{place}: {names(unused)} {'is' if len(unused) == 1 else 'are'} not used "
            f"({columns}).{_use_them(columns, unused)}"
        )


def _use_them(columns: Columns, unused: Sequence[str]) -> str:
    """Return how the prompt would use the first unused column."""
    if columns.messages is not None or columns.text is not None:
        return ""
    if columns.prompt_template is not None:
        return f" If a prompt needs '{unused[0]}', name it in prompt_template."
    joined = ", ".join(map(as_yaml, [*columns.asked, unused[0]]))
    return f" If a prompt needs '{unused[0]}', set prompt: [{joined}]."


def check_columns(table: Table, columns: Columns, place: str) -> None:
    """Refuse a table without rows, or without a column that is needed.

    Args:
        table: the table.
        columns: the columns that make a row.
        place: begin of messages: key and source.

    Raises:
        InputError: naming the column.
    """
    if not table.rows:
        raise InputError(
            f"{place}: found no rows, expected at least one; check the program that wrote the data"
        )
    for name in columns.wanted:
        if name not in table.columns:
            raise InputError(
                f"{place}: found {names(table.columns)} in the rows, expected the column "
                f"'{name}'; {columns.advice(name, table.columns)}"
            )


def _records(
    tables: Sequence[tuple[str, Table]], limit: int | None
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield source, values and place (", row 3, line 3") of the first records."""
    left = limit
    for name, table in tables:
        lines = table.lines or [0] * len(table.rows)
        records = list(zip(table.rows, lines, strict=True))[:left]
        left = None if left is None else left - len(records)
        for number, (record, line) in enumerate(records, start=1):
            yield name, record, f", row {number}" + (f", line {line}" if line else "")


def _rows(
    tables: Sequence[tuple[str, Table]],
    columns: Columns,
    key: str,
    limit: int | None,
) -> list[Row]:
    """Return the rows."""
    rows: list[Row] = []
    for source, records in groupby(_records(tables, limit), key=itemgetter(0)):

        def make(item: tuple[str, dict[str, Any], str]) -> Row:
            name, record, where = item
            return columns.row(record, name, f"{key}: {name}", where)

        rows += each_row(records, make, f"{key}: {source}")
    return rows


def read_tables(
    source: str,
    place: str,
    wanted: Sequence[str],
    split: str,
    subset: str | None,
    limit: int | None,
) -> list[tuple[str, Table]]:
    """Read the tables of a source: one, or one for each file of a pattern, with their names.

    Args:
        source: as of `read_rows`.
        place: begin of messages: key and source.
        wanted: columns to load, where a format loads single columns.
        split: as of `read_rows`.
        subset: as of `read_rows`.
        limit: number of rows that are needed; files are read whole.

    Raises:
        InputError: if the source cannot be read.
    """
    paths = local_files(source, place)
    if paths is None:
        return [(source, read_hub(source, place, wanted, split, subset, limit))]
    if subset is not None:
        raise refused_option("subset", subset, place)
    if len(paths) == 1 and paths[0].is_dir():
        return [(source, read_saved(paths[0], place, wanted, split, limit))]
    if split != "train":
        raise refused_option("split", split, place)
    if len(paths) == 1:
        return [(source, read_file(paths[0], place, wanted))]
    key = place.removesuffix(source)
    return [(str(path), read_file(path, f"{key}{path}", wanted)) for path in paths]


def _unused(tables: Sequence[Table], wanted: Sequence[str], limit: int | None) -> list[str]:
    """Return the columns that are not used and not empty (columns that were not loaded count)."""

    def has_values(name: str) -> bool:
        rows = (record for table in tables for record in table.rows[:limit])
        values = [record[name] for record in rows if name in record]
        return not values or any(value not in (None, "", [], {}) for value in values)

    columns = dict.fromkeys(name for table in tables for name in table.columns)
    return [name for name in columns if name not in wanted and name and has_values(name)]
