"""Alternates: answers that a method prefers to the forget answers, one or several for each row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_unlearn.data.batches import Batch, collate, derive_seed
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Columns, Row, is_blank, read_content
from lightning_unlearn.data.encoding import encode_chats
from lightning_unlearn.data.examples import Example, data_fingerprint
from lightning_unlearn.data.recipes import RowSource, Stage
from lightning_unlearn.data.row_errors import MOST_LISTED, each_row
from lightning_unlearn.data.rows import check_columns, read_tables
from lightning_unlearn.data.stage_rows import columns_of, truncation
from lightning_unlearn.errors import InputError

KEY = "data.alternates"


@dataclass
class Alternates:
    """The alternates of all forget rows, as tokens.

    Attributes:
        examples: all alternates, row after row; each has the prompt of its forget row.
        counts: number of alternates of each forget row, at least 1.
        notes: notes for the user.
    """

    examples: Sequence[Example]
    counts: list[int]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._firsts = [0]
        for count in self.counts:
            self._firsts.append(self._firsts[-1] + count)

    def number(self, seed: int, epoch: int, row: int) -> int:
        """Return which alternate a forget row has in an epoch.

        The alternates of a row take turns, beginning with a random one.

        Args:
            seed: seed of the run.
            epoch: pass over the forget rows, from 0.
            row: number of the forget row.

        Returns:
            Number of the alternate in ``examples``.
        """
        count = self.counts[row]
        turn = 0 if count == 1 else (derive_seed(seed, "alternate", row) + epoch) % count
        return self._firsts[row] + turn

    def batch(self, seed: int, epoch: int, rows: Sequence[int], pad_id: int, filler: bool) -> Batch:
        """Return alternates of forget rows as a batch, in the order of the rows.

        Args:
            seed: seed of the run.
            epoch: pass over the forget rows, from 0.
            rows: numbers of forget rows.
            pad_id: padding token.
            filler: give the sequences weight 0.
        """
        numbers = [self.number(seed, epoch, row) for row in rows]
        return collate(self.examples, numbers, pad_id, filler)

    def fingerprint(self) -> str:
        """Return a hash of all alternates and of the number of them for each row."""
        return f"{data_fingerprint(self.examples)} {derive_seed(*self.counts)}"


def check_alternates(alternates: str | RowSource | None) -> None:
    """Refuse alternates that cannot be used, before anything is read.

    Args:
        alternates: a column of the forget stage, or a source; None for no alternates.

    Raises:
        InputError: naming the key.
    """
    if isinstance(alternates, RowSource):
        alternates.check(KEY)
        if alternates.text is not None:
            raise InputError(
                f"{KEY}.text: found {alternates.text!r}, expected null: alternates answer prompts."
            )
    elif alternates is not None and not alternates.strip():
        raise InputError(
            f"{KEY}: found an empty text, expected a column of the forget stage, or a source with "
            "prompts and answers; or set it to null."
        )


def read_alternates(
    alternates: str | RowSource, name: str, stage: Stage, rows: Sequence[Row], form: ChatFormat
) -> Alternates:
    """Read and tokenize the alternates of the forget rows.

    Args:
        alternates: a column of the forget stage, with one text or a list of texts in each row; or
            a source whose rows belong to the forget rows with the same prompt.
        name: name of the forget stage.
        stage: the forget stage.
        rows: its rows.
        form: tokenizer and chat template.

    Raises:
        InputError: if a row has no alternate, or the alternates cannot be read or joined.
    """
    if stage.text is not None:
        raise InputError(
            f"{KEY}: found it with the forget stage {name!r}, which is plain text, expected a "
            "stage with prompts (prompt, or messages); set data.alternates to null."
        )
    notes: list[str] = []
    if isinstance(alternates, RowSource):
        place = f"{KEY}.source: {alternates.source}"
        texts = _joined(alternates, rows, place, notes)
    else:
        place = f"{KEY}: {alternates}"
        texts = _of_column(alternates, name, stage)
    others = [
        list(dict.fromkeys(text for text in own if text.strip() != row.answer.strip()))
        for row, own in zip(rows, texts, strict=True)
    ]
    if repeated := sum(map(len, texts)) - sum(map(len, others)):
        verb = "alternate repeats" if repeated == 1 else "alternates repeat"
        notes.append(f"{place}: {repeated} {verb} the forget answer or another one; left out.")
    _check_complete(rows, others, place)
    encoded = encode_chats(
        [
            Row(row.messages, text, f"{row.where}, alternate {number}")
            for row, own in zip(rows, others, strict=True)
            for number, text in enumerate(own, start=1)
        ],
        form,
        place,
    )
    notes += truncation(KEY, encoded, form)
    return Alternates(encoded, [len(own) for own in others], notes)


def _check_complete(rows: Sequence[Row], texts: Sequence[list[str]], place: str) -> None:
    """Refuse forget rows without an alternate, and name them."""
    bare = [row.where for row, own in zip(rows, texts, strict=True) if not own]
    if bare:
        listed = "; ".join(bare[:MOST_LISTED]) + ("; ..." if len(bare) > MOST_LISTED else "")
        raise InputError(
            f"{place}: found no alternate for {len(bare)} of {len(rows)} forget rows, expected at "
            f"least one that differs from the answer, for every row; add it, or remove these rows: "
            f"{listed}."
        )


def _of_column(column: str, name: str, stage: Stage) -> list[list[str]]:
    """Return the texts of a column of the forget stage, row by row."""
    place = f"data.stages.{name}.source: {stage.source}"
    own = Columns.of(columns_of(stage))
    tables = read_tables(
        stage.source, place, [*own.wanted, column], stage.split, stage.subset, stage.limit
    )
    found: list[list[str]] = []
    for source, table in tables:
        if column not in table.columns:
            listed = ", ".join(f"'{other}'" for other in table.columns)
            raise InputError(
                f"{KEY}: found the columns {listed} in {source} (data.stages.{name}.source), "
                f"expected the column '{column}'; name another column, or give a source with "
                "prompts and answers."
            )
        records = _records(table, source, None if stage.limit is None else stage.limit - len(found))
        found += each_row(records, lambda item: _texts(item, column), place)
    return found


def _records(table: Any, source: str, limit: int | None) -> list[tuple[dict[str, Any], str]]:
    """Return the records of a table, each with its place for messages."""
    lines = table.lines or [0] * len(table.rows)
    return [
        (record, f"{KEY}: {source}, row {number}" + (f", line {line}" if line else ""))
        for number, (record, line) in enumerate(zip(table.rows, lines, strict=True), start=1)
    ][:limit]


def _texts(item: tuple[dict[str, Any], str], column: str) -> list[str]:
    """Return the texts in a column of a record: one, or a list of texts; [] for nothing."""
    record, where = item
    value = record.get(column)
    values = value if isinstance(value, list) else [] if is_blank(value) else [value]
    return [read_content(one, f"{where}, column '{column}'") for one in values]


def _joined(
    source: RowSource, rows: Sequence[Row], place: str, notes: list[str]
) -> list[list[str]]:
    """Return the texts of a source for each forget row with the same prompt."""
    prompts: dict[tuple[tuple[str, str], ...], Row] = {}
    for row in rows:
        known = prompts.setdefault(_prompt(row), row)
        if known.answer != row.answer:
            raise InputError(
                f"{place}: found two forget rows with one prompt and different answers, "
                f"{known.where} and {row.where}, expected different prompts: a prompt must name "
                "the row that its alternates belong to. Give the alternates as a column of the "
                "forget stage, or remove one of the rows."
            )
    given: dict[tuple[tuple[str, str], ...], list[str]] = {}
    foreign = total = 0
    first: Row | None = None
    for row in _source_rows(source):
        total += 1
        first = first or row
        if _prompt(row) in prompts:
            given.setdefault(_prompt(row), []).append(row.answer)
        else:
            foreign += 1
    if not given:
        shown = "" if first is None else f"the first one has {_last(first)}, "
        raise InputError(
            f"{place}: found {total} alternates, none of which has the prompt of a forget row, "
            f"expected the same prompts: {shown}the first forget row has {_last(rows[0])}. Name "
            "the columns of the prompt (prompt, prompt_template, system) as in the forget stage."
        )
    if foreign:
        notes.append(f"{place}: {foreign} of {total} alternates belong to no forget row; left out.")
    return [given.get(_prompt(row), []) for row in rows]


def _source_rows(source: RowSource) -> list[Row]:
    """Return a row for each alternate of a source; an answer may be a list of texts."""
    place = f"{KEY}.source: {source.source}"
    columns = Columns.of(columns_of(source))
    tables = read_tables(
        source.source, place, columns.wanted, source.split, source.subset, source.limit
    )

    def make(item: tuple[dict[str, Any], str]) -> list[Row]:
        record, where = item
        texts: list[str | None] = [None]
        if source.messages is None:
            texts = list(_texts(item, source.answer))
        changed = [record if text is None else {**record, source.answer: text} for text in texts]
        return [columns.row(one, "", "", where) for one in changed]

    records: list[tuple[dict[str, Any], str]] = []
    for name, table in tables:
        check_columns(table, columns, f"{KEY}.source: {name}")
        left = None if source.limit is None else source.limit - len(records)
        records += _records(table, name, left)
    return [row for own in each_row(records, make, place) for row in own]


def _prompt(row: Row) -> tuple[tuple[str, str], ...]:
    """Return what rows of one prompt have in common; white space around a message is ignored."""
    return tuple((message["role"], message["content"].strip()) for message in row.messages)


def _last(row: Row) -> str:
    """Return the begin of the last question of a row, for messages."""
    text = row.messages[-1]["content"]
    return repr(text if len(text) <= 60 else text[:57] + "...")
