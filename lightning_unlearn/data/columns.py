"""The columns of a source that make a row: prompt, answer, chat or plain text."""

import json
import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, TypedDict

from lightning_unlearn.data.chats import read_chat
from lightning_unlearn.data.tables import describe
from lightning_unlearn.errors import InputError

# Column names of published data sets, most specific first. Messages propose them.
_USUAL_PROMPTS = ("question", "instruction", "prompt", "query", "problem", "input")
_USUAL_ANSWERS = ("answer", "output", "response", "completion", "solution", "target")
_USUAL_MESSAGES = ("messages", "conversations", "conversation", "chat")
_USUAL_TEXTS = ("text", "content", "document", "passage")
BETWEEN = "\n\n"


@dataclass(frozen=True)
class Row:
    """One example: a chat and the assistant's answer, or a plain text.

    Attributes:
        messages: messages before the answer, each with the keys "role" and "content". The last one
            is the user's. Empty for a plain text.
        answer: the assistant's answer, or the plain text.
        where: source and line of the row, for messages.
        paraphrase: paraphrase of the answer; None if no column was requested.
        alternatives: wrong answers; empty if no columns were requested.
    """

    messages: tuple[dict[str, str], ...]
    answer: str
    where: str
    paraphrase: str | None = None
    alternatives: tuple[str, ...] = ()

    def with_instruction(self, instruction: str) -> "Row":
        """Return the prompt and answer with an instruction added to the end of the question."""
        if not instruction:
            return self
        *before, last = self.messages
        question = {**last, "content": f"{last['content']}\n\n{instruction}"}
        return Row((*before, question), self.answer, self.where)


class ColumnNames(TypedDict, total=False):
    """Columns of a source, by role.

    Attributes:
        prompt: column of the prompt, or several columns that a blank line joins; empty values are
            skipped.
        answer: column of the answer.
        prompt_template: text with {COLUMN} for columns, instead of `prompt`.
        system: column of a system message; a row with an empty value has none.
        messages: column of a chat that ends in user, assistant; instead of `prompt` and `answer`.
            Messages have role and content, or from and value.
        text: column of plain text; instead of `prompt` and `answer`.
        paraphrase: column of text; a row has no paraphrase where it is empty or repeats the answer.
        alternatives: a column of lists of texts, or several columns of text. Texts that repeat the
            answer are left out.
        beside: for held-out rows, the source of the training rows, which has the same columns.
    """

    prompt: str | Sequence[str]
    answer: str
    prompt_template: str | None
    system: str | None
    messages: str | None
    text: str | None
    paraphrase: str | None
    alternatives: str | Sequence[str] | None
    beside: str | None


@dataclass(frozen=True)
class Columns:
    """The columns that make a row; see `lightning_unlearn.data.recipes.Stage`.

    Attributes:
        prompt: columns of the prompt, joined by a blank line; empty values are skipped.
        answer: column of the answer.
        prompt_template: text with {COLUMN} for columns, instead of joining `prompt`.
        system: column of a system message; an empty value means none.
        messages: column of a chat, instead of prompt and answer.
        text: column of plain text, instead of prompt and answer.
        paraphrase: column with a paraphrase of the answer.
        alternatives: columns of wrong answers.
        spread: whether each of `alternatives` is one answer; otherwise it is a list of answers.
        beside: source whose columns these rows must have too, for held-out rows.
    """

    prompt: tuple[str, ...] = ("question",)
    answer: str = "answer"
    prompt_template: str | None = None
    system: str | None = None
    messages: str | None = None
    text: str | None = None
    paraphrase: str | None = None
    alternatives: tuple[str, ...] = ()
    spread: bool = False
    beside: str | None = None

    @classmethod
    def of(cls, names: ColumnNames) -> "Columns":
        """Return the columns from their names as they are configured."""
        prompt = names.get("prompt", "question")
        others = names.get("alternatives")
        listed = [others] if isinstance(others, str) else list(others or [])
        return cls(
            (prompt,) if isinstance(prompt, str) else tuple(prompt),
            names.get("answer", "answer"),
            names.get("prompt_template"),
            names.get("system"),
            names.get("messages"),
            names.get("text"),
            names.get("paraphrase"),
            tuple(listed),
            spread=others is not None and not isinstance(others, str),
            beside=names.get("beside"),
        )

    def __str__(self) -> str:
        if self.text is not None:
            return f"text: {self.text}"
        if self.messages is not None:
            return f"messages: {self.messages}"
        prompt = ", ".join(self.prompt)
        if self.prompt_template is not None:
            prompt = self.prompt_template
        elif len(self.prompt) > 1:
            prompt = f"[{prompt}]"
        return f"prompt: {prompt}, answer: {self.answer}"

    @cached_property
    def asked(self) -> list[str]:
        """Columns of the prompt."""
        template = self.prompt_template
        return list(self.prompt if template is None else template_columns(template))

    @property
    def main(self) -> list[str]:
        """Columns without which there is no row."""
        if self.text is not None:
            return [self.text]
        return [*self.asked, self.answer] if self.messages is None else [self.messages]

    @cached_property
    def wanted(self) -> list[str]:
        """All columns to load."""
        further = [self.system, self.paraphrase]
        return list(
            dict.fromkeys([*self.main, *self.alternatives, *(c for c in further if c is not None)])
        )

    def advice(self, name: str, columns: Sequence[str]) -> str:
        """Return advice on what to set if a column is missing."""
        if name not in self.main:
            kinds = {self.paraphrase: "paraphrase", self.system: "system"}
            return f"set {kinds.get(name, 'alternatives')} to another column, or to null"
        if self.beside is not None:
            return (
                f"held-out rows need the same columns as the training rows of the stage, here "
                f"those of {self.beside}; set heldout to a source with these columns, or to null"
            )
        return _proposal(columns, self)

    def row(self, record: dict[str, Any], source: str, place: str, where: str) -> Row:
        """Return the row of a record, without texts that only repeat the answer.

        Args:
            record: values by column.
            source: name of the source.
            place: begin of messages: key and source.
            where: row and line.

        Raises:
            InputError: if the record cannot be used.
        """
        for name in self.wanted:
            if name not in record:
                raise InputError(
                    f"{place}{where}: found {names(list(record))}, expected the column '{name}'; "
                    f"add it to this row, or {self.advice(name, list(record))}"
                )
        at = _Place(record, f"{place}{where}")
        if self.text is not None:
            return Row((), at.content(self.text), source + where)
        turns, reply = self._chat(at)
        paraphrase = None
        if self.paraphrase is not None and not is_blank(record[self.paraphrase]):
            text = at.content(self.paraphrase)
            paraphrase = None if text.strip() == reply.strip() else text
        wrong: list[str] = []
        for name in self.alternatives:
            if is_blank(record[name]):
                continue
            values = [record[name]] if self.spread else _list(record[name], at.spot(name))
            wrong += [read_content(value, at.spot(name)) for value in values]
        wrong = [text for text in wrong if text.strip() != reply.strip()]
        chat = tuple({"role": role, "content": content} for role, content in turns)
        return Row(chat, reply, source + where, paraphrase, tuple(wrong))

    def _chat(self, at: "_Place") -> tuple[list[tuple[str, str]], str]:
        """Return the turns before the answer, and the answer."""
        if self.messages is not None:
            value = at.record[self.messages]
            *turns, (_, reply) = read_chat(value, at.spot(self.messages), read_content)
        else:
            turns = [("user", self._prompt(at))]
            reply = at.content(self.answer)
        if self.system is not None and not is_blank(at.record[self.system]):
            if turns[0][0] == "system":
                raise InputError(
                    f"{at.spot(self.system)}: found a system message beside that of the chat, "
                    "expected one of them; set system: null"
                )
            turns = [("system", at.content(self.system)), *turns]
        return turns, reply

    def _prompt(self, at: "_Place") -> str:
        """Return the prompt: one column, several joined, or the template filled in."""
        columns = self.asked
        if len(columns) == 1 and self.prompt_template is None:
            return at.content(columns[0])
        texts = {name: "" if is_blank(at.record[name]) else at.content(name) for name in columns}
        if not any(texts.values()):
            raise InputError(
                f"{at.where}: found nothing in {names(columns)}, expected text in at least one of "
                "these columns; fill in text or remove the row"
            )
        if self.prompt_template is None:
            return BETWEEN.join(filter(None, texts.values()))
        # An empty last column leaves no blank lines behind.
        return self.prompt_template.format_map(texts).strip()


@dataclass(frozen=True)
class _Place:
    """A record, and where it is."""

    record: dict[str, Any]
    where: str

    def spot(self, name: str) -> str:
        return f"{self.where}, column '{name}'"

    def content(self, name: str) -> str:
        return read_content(self.record[name], self.spot(name))


def template_columns(template: str, key: str = "prompt_template") -> tuple[str, ...]:
    """Return the columns that a prompt template names, in order.

    Args:
        template: text with {COLUMN}; {{ and }} are braces.
        key: YAML key, for the message.

    Raises:
        InputError: if it names no column, or has more than a name between braces.
    """
    found: list[str] = []
    try:
        for _, name, form, conversion in string.Formatter().parse(template):
            if name is None:
                continue
            if form or conversion or not name or any(sign in name for sign in ".[]"):
                raise ValueError("between braces it has more than the name of a column")
            found.append(name)
    except ValueError as error:
        raise InputError(
            f"{key}: found {template!r}, in which {error}; expected the names of columns in "
            "braces, such as '{instruction}\\n\\n{input}'; write {{ and }} for braces"
        ) from None
    if not found:
        raise InputError(
            f"{key}: found {template!r}, which names no column; expected the names of columns in "
            "braces, such as '{instruction}\\n\\n{input}'"
        )
    return tuple(dict.fromkeys(found))


def is_blank(value: Any) -> bool:
    """Return whether a value stands for no text."""
    return value is None or (isinstance(value, str) and not value.strip())


def names(columns: Sequence[str]) -> str:
    """Return the names of columns for a message."""
    return ", ".join(f"'{name}'" for name in columns) or "no columns"


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(
            f"{place}: found {describe(value)}, expected a list of wrong answers; make it a list, "
            "or remove the row"
        )
    return value


def read_content(value: Any, place: str) -> str:
    """Return a value as text; numbers as they are written.

    Raises:
        InputError: for any other value, and for blank text.
    """
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


def _proposal(columns: Sequence[str], found: Columns) -> str:
    """Return advice on what to set if the configured columns are missing."""

    def first(*candidates: str) -> str | None:
        return next((name for name in candidates if name in columns), None)

    plain = found.messages is None and found.text is None
    prompt = first(*(found.asked if plain else []), *_USUAL_PROMPTS)
    answer = first(*([found.answer] if plain else []), *_USUAL_ANSWERS)
    chat, text = first(*_USUAL_MESSAGES), first(*_USUAL_TEXTS)
    if chat and (found.messages is not None or not (prompt and answer)):
        return f"set {_unset(found, 'messages')}messages: {as_yaml(chat)}"
    if prompt and answer:
        # Alpaca's column input is the context of an instruction, which may change its meaning.
        more = "input" in columns and "input" not in (prompt, answer)
        asked = f"[{as_yaml(prompt)}, input]" if more else as_yaml(prompt)
        return f"set {_unset(found, 'prompt')}prompt: {asked}, answer: {as_yaml(answer)}"
    if text or len(columns) == 1:
        column = as_yaml(text or columns[0])
        return (
            f"set {_unset(found, 'text')}text: {column} to train on plain text, without prompts "
            "and answers"
        )
    return "set prompt and answer to two of the columns, or messages to a column of chats"


def _unset(found: Columns, kind: str) -> str:
    """Return the keys to set to null beside new columns: a later file cannot remove a key."""
    others = {
        "messages": ("text", "prompt_template"),
        "prompt": ("messages", "text", "prompt_template"),
        "text": ("messages", "prompt_template", "system"),
    }
    keys = [name for name in others[kind] if getattr(found, name) is not None]
    return "".join(f"{name}: null, " for name in keys)


def as_yaml(name: str) -> str:
    """Return the name of a column as it is written in YAML, also in a list."""
    plain = re.fullmatch(r"[A-Za-z_]+(?:[ ._-]?[A-Za-z0-9_]+)*", name)
    if plain and name.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n"):
        return name
    return json.dumps(name, ensure_ascii=False)
