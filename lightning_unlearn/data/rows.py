"""Read the rows of a file or of a data set of the Hugging Face hub as prompts and answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lightning_unlearn.data.file_formats import Table, describe, read_file
from lightning_unlearn.data.hub import read_hub, read_saved, refused_option
from lightning_unlearn.data.places import local_path
from lightning_unlearn.errors import InputError

_ROLES = ("system", "user", "assistant")
# Column names of published data sets, most specific first. Messages propose them.
_USUAL_PROMPTS = ("question", "instruction", "prompt", "query", "problem", "input")
_USUAL_ANSWERS = ("answer", "output", "response", "completion", "solution", "target")
_USUAL_MESSAGES = ("messages", "conversations", "conversation", "chat")


@dataclass(frozen=True)
class Row:
    """One example: a chat and the assistant's answer.

    Attributes:
        turns: messages before the answer, each with the keys "role" and "content"; the last one is
            the user's.
        answer: the assistant's answer.
        where: source and line of the row, for messages.
        paraphrase: paraphrase of the answer; None if no column was requested.
        alternatives: wrong answers; empty if no columns were requested.
    """

    turns: tuple[dict[str, str], ...]
    answer: str
    where: str
    paraphrase: str | None = None
    alternatives: tuple[str, ...] = ()


def read_rows(
    source: str,
    *,
    prompt: str = "question",
    answer: str = "answer",
    messages: str | None = None,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    paraphrase: str | None = None,
    alternatives: str | Sequence[str] | None = None,
    key: str = "source",
    beside: str | None = None,
    remark: Callable[[str], None] = lambda sentence: None,
) -> list[Row]:
    """Read the rows of a source, with text as it is written.

    Numbers become text with as few digits as the type of their column needs.

    Args:
        source: a .json, .jsonl, .csv or .parquet file, a folder of ``datasets.save_to_disk``,
            ``demo:NAME``, or the name of a data set on the Hugging Face hub.
        prompt: column of the prompt.
        answer: column of the answer.
        messages: column of a chat that ends in user, assistant; instead of `prompt` and `answer`.
        split: split of a hub data set, or of a saved folder with several splits.
        subset: configuration name of a hub data set.
        limit: number of rows to read, from the first; None for all. Further rows must parse, but
            are not checked otherwise.
        paraphrase: column of text; rows that repeat the answer there are skipped.
        alternatives: a column of lists of texts, or several columns of text. Texts that repeat the
            answer are skipped.
        key: YAML key of the source, with which every message starts.
        beside: for held-out rows, the source of the training rows, which has the same columns.
        remark: called with notes for the user: unused columns, skipped rows.

    Raises:
        InputError: if the source or a row cannot be used.
    """
    place = f"{key}: {source}"
    if limit is not None and limit < 1:
        raise InputError(
            f"{place}: found limit {limit}, expected 1 or more; set it to null for all rows"
        )
    spread = alternatives is not None and not isinstance(alternatives, str)
    others = [alternatives] if isinstance(alternatives, str) else list(alternatives or [])
    mapping = _Mapping(prompt, answer, messages, paraphrase, tuple(others), spread, beside)
    table = _table(source, place, mapping.wanted, split, subset, limit)
    _check_columns(table, mapping, place)
    rows = _rows(table, mapping, source, place, limit, remark)
    if messages is None and prompt == answer:
        remark(f"{place}: the column '{prompt}' is both prompt and answer, so both are equal.")
    if unused := _unused(table, mapping.wanted, limit):
        remark(
            f"{place}: {_names(unused)} {'is' if len(unused) == 1 else 'are'} not used "
            f"({mapping}). If a prompt needs this text, write it into the column that is used."
        )
    return rows


def _check_columns(table: Table, mapping: "_Mapping", place: str) -> None:
    if not table.rows:
        raise InputError(
            f"{place}: found no rows, expected at least one; check the program that wrote the data"
        )
    for name in mapping.wanted:
        if name not in table.columns:
            raise InputError(
                f"{place}: found {_names(table.columns)} in the rows, expected the column "
                f"'{name}'; {mapping.advice(name, table.columns)}"
            )


def _rows(
    table: Table,
    mapping: "_Mapping",
    source: str,
    place: str,
    limit: int | None,
    remark: Callable[[str], None],
) -> list[Row]:
    """Return the rows, except those whose paraphrase repeats the answer."""
    read = []
    for index, record in enumerate(table.rows[:limit]):
        where = f", row {index + 1}" + (f", line {table.lines[index]}" if table.lines else "")
        read.append(mapping.row(record, source, place, where))
    rows = [row for row in read if row is not None]
    if repeated := len(read) - len(rows):
        column = mapping.paraphrase
        found = f"{place}: in {repeated} of {len(read)} rows '{column}' repeats the answer"
        if not rows:
            raise InputError(
                f"{found}, expected a paraphrase; name another column (paraphrase), or remove the "
                "monitors that compare with paraphrases"
            )
        remark(f"{found}; these rows are skipped in the evaluation.")
    return rows


def _table(
    source: str,
    place: str,
    wanted: Sequence[str],
    split: str,
    subset: str | None,
    limit: int | None,
) -> Table:
    path = local_path(source, place)
    if path is None:
        return read_hub(source, place, wanted, split, subset, limit)
    if subset is not None:
        raise refused_option("subset", subset, place)
    if path.is_dir():
        return read_saved(path, place, wanted, split, limit)
    if split != "train":
        raise refused_option("split", split, place)
    return read_file(path, place, wanted)


def _unused(table: Table, wanted: Sequence[str], limit: int | None) -> list[str]:
    """Return the columns that are not used and not empty (columns that were not loaded count)."""

    def has_values(name: str) -> bool:
        values = [record[name] for record in table.rows[:limit] if name in record]
        return not values or any(value not in (None, "", [], {}) for value in values)

    return [name for name in table.columns if name not in wanted and name and has_values(name)]


@dataclass(frozen=True)
class _Mapping:
    """The columns that make a row."""

    prompt: str
    answer: str
    messages: str | None
    paraphrase: str | None
    alternatives: tuple[str, ...]
    spread: bool  # True: several columns of one answer each; False: a column of lists.
    beside: str | None

    def __str__(self) -> str:
        if self.messages is not None:
            return f"messages: {self.messages}"
        return f"prompt: {self.prompt}, answer: {self.answer}"

    @property
    def main(self) -> list[str]:
        return [self.prompt, self.answer] if self.messages is None else [self.messages]

    @property
    def wanted(self) -> list[str]:
        return list(
            dict.fromkeys([*self.main, *self.alternatives])
            | ({self.paraphrase: None} if self.paraphrase is not None else {})
        )

    def advice(self, name: str, columns: Sequence[str]) -> str:
        """Return advice on what to set if a column is missing."""
        if name not in self.main:
            kind = "paraphrase" if name == self.paraphrase else "alternatives"
            return f"set {kind} to another column, or to null"
        if self.beside is not None:
            return (
                f"held-out rows need the same columns as the training rows of the stage, here "
                f"those of {self.beside}; set heldout to a source with these columns, or to null"
            )
        return _proposal(columns, self.main, self.messages)

    def row(self, record: dict[str, Any], source: str, place: str, where: str) -> Row | None:
        """Return the row of a record; None if its paraphrase repeats the answer."""
        for name in self.wanted:
            if name not in record:
                raise InputError(
                    f"{place}{where}: found {_names(list(record))}, expected the column '{name}'; "
                    f"add it to this row, or {self.advice(name, list(record))}"
                )

        def spot(name: str) -> str:
            return f"{place}{where}, column '{name}'"

        if self.messages is None:
            turns = [("user", _content(record[self.prompt], spot(self.prompt)))]
            reply = _content(record[self.answer], spot(self.answer))
        else:
            *turns, (_, reply) = _chat(record[self.messages], spot(self.messages))
        paraphrase = None
        if self.paraphrase is not None:
            paraphrase = _content(record[self.paraphrase], spot(self.paraphrase))
            if paraphrase.strip() == reply.strip():
                return None
        wrong: list[str] = []
        for name in self.alternatives:
            values = [record[name]] if self.spread else _list(record[name], spot(name))
            wrong += [_content(value, spot(name)) for value in values]
        wrong = [text for text in wrong if text.strip() != reply.strip()]
        if self.alternatives and not wrong:
            raise InputError(
                f"{place}{where}: found no alternative to the answer, expected at least one wrong "
                "answer; remove the row or name columns with wrong answers (alternatives)"
            )
        chat = tuple({"role": role, "content": content} for role, content in turns)
        return Row(chat, reply, source + where, paraphrase, tuple(wrong))


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else describe(value)
        raise InputError(
            f"{place}: found {found}, expected a list of wrong answers; fill it or remove the row"
        )
    return value


def _content(value: Any, place: str) -> str:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    if not isinstance(value, str):
        raise InputError(
            f"{place}: found {describe(value)}, expected text; fill in text or remove the row"
        )
    if not value.strip():
        found = "only white space" if value else "an empty text"
        raise InputError(f"{place}: found {found}, expected text; fill in text or remove the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: found half a surrogate pair ({value[error.start]!a}), expected complete "
            "characters; replace or remove it"
        ) from error
    return value


def _chat(value: Any, place: str) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise InputError(
            f"{place}: found {describe(value)}, expected a list of messages with role and content; "
            "for columns of plain text set prompt and answer instead of messages"
        )
    chat = []
    for number, message in enumerate(value, start=1):
        spot = f"{place}, message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            found = _names(list(message)) if isinstance(message, dict) else describe(message)
            raise InputError(
                f"{spot}: found {found}, expected an object with role and content; "
                "rename its keys (in some data sets they are from and value)"
            )
        if message["role"] not in _ROLES:
            raise InputError(
                f"{spot}: found the role {message['role']!r}, expected {', '.join(_ROLES)}; "
                "rename the role or remove the row"
            )
        chat.append((message["role"], _content(message["content"], spot)))
    roles = [role for role, _ in chat]
    if roles[-2:] != ["user", "assistant"]:
        raise InputError(
            f"{place}: found the roles {', '.join(roles) or 'of no message'}, expected a chat that "
            "ends in user, assistant; the last message is the answer that the model learns"
        )
    return chat


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in columns) or "no columns"


def _proposal(columns: Sequence[str], wanted: Sequence[str], messages: str | None) -> str:
    """Return advice on what to set if the configured columns are missing."""

    def first(*candidates: str) -> str | None:
        return next((name for name in candidates if name in columns), None)

    if messages is None:
        prompt = first(wanted[0], *_USUAL_PROMPTS)
        answer = first(wanted[1], *_USUAL_ANSWERS)
    else:
        prompt, answer = first(*_USUAL_PROMPTS), first(*_USUAL_ANSWERS)
    chat = first(*_USUAL_MESSAGES)
    if chat and (messages is not None or not (prompt and answer)):
        return f"set messages: {chat}"
    if prompt and answer:
        # A later configuration file cannot remove the key messages, only set it to null.
        none = "" if messages is None else "messages: null, "
        # Alpaca's column input is the context of an instruction, which may change its meaning.
        lost = "input" in columns and "input" not in (prompt, answer)
        more = "; 'input' is not used then, so write it into that prompt first" if lost else ""
        return f"set {none}prompt: {prompt}, answer: {answer}{more}"
    if len(columns) == 1:
        return (
            "these rows have one column, but a stage needs prompts and answers: write the rows "
            "with one column for each, then set prompt and answer to these columns"
        )
    return "set prompt and answer to two of the columns, or messages to a column of chats"
