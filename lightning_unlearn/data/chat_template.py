"""Chat templates: what they write before an answer, around it, and where its turn ends.

A template is a program that came with a model. It may fail on a chat, write nothing, run for hours,
leave an answer out, or write a thinking block in one place and not in another; each of these is an
error that names the row, before anything is trained.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any

from lightning_unlearn.data.rows import Row
from lightning_unlearn.errors import InputError

Messages = Sequence[dict[str, str]]

# Llama 3 templates print today's date unless they are given one. A study whose prompts change at
# midnight is not reproducible, so they get the date that is their own fallback.
TEMPLATE_DATE = "26 Jul 2024"
# Other templates (Granite, SmolLM3) ask the clock whatever they are given: theirs stands still.
_STOPPED_CLOCK = "{% macro strftime_now(format) %}" + TEMPLATE_DATE + "{% endmacro %}"
# Without thinking: Qwen3, GLM-4.5 and SmolLM3; DeepSeek-V3.1 and Granite; Command A Reasoning.
_NO_THINKING = {"enable_thinking": False, "thinking": False, "reasoning": False}
# Stands for an answer, or a question, where it is asked what a template writes around one.
_MARKER = "MARKERofTHEtext0x7f3a"
# Lines of a template that one chat may run through: those in use need some hundreds.
MOST_LINES = 1_000_000
_THINKING = re.compile(r"[<\[](/?)(?:\w+:)?(?:think|thought|reason)\w*[>\]]", re.IGNORECASE)
_TEXTUAL_END = re.compile(r"\s*(?:<[^<>\s]+>|\S+)")
_ADVICE = "name a model with another template (data.chat_template_from)"


class _EndlessError(Exception):
    """A template has run through more lines than any chat needs."""


@dataclass(frozen=True)
class AssistantTurn:
    """What a template writes around the answer to one chat.

    Attributes:
        prompt: everything that generation is given: the chat, the assistant header, and an empty
            thinking block where the template has one.
        lead: blanks between prompt and answer, as Llama 2 writes; they are label, as tokenizers
            merge them with the word that follows.
        before: everything before the answer in a finished conversation.
        after: everything after it.
        end: the beginning of `after` that is label: up to the end-of-turn token.
        end_token: text of that token; None if the template writes no single token there.
    """

    prompt: str
    lead: str
    before: str
    after: str
    end: str
    end_token: str | None


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.
        source: text of the template, or templates by name, of which "default" is used.
        name: of the model the template belongs to, for messages.

    Attributes:
        source: text of the template.

    Raises:
        InputError: if there is none, or it does not compile.
    """

    def __init__(self, tokenizer: Any, source: Any, name: str) -> None:
        if isinstance(source, dict):
            if "default" not in source:
                raise InputError(
                    f"{name}: found the chat templates {', '.join(map(repr, source))}, expected "
                    f"one named 'default'; {_ADVICE}."
                )
            source = source["default"]
        if source is not None and not isinstance(source, str):
            raise InputError(
                f"{name}: found {source!r:.40} as its chat template, expected the text of a Jinja "
                f"template; {_ADVICE}."
            )
        if not source:
            raise InputError(
                f"{name} has no chat template, and prompts need one. Name a sibling model that has "
                "one (for Llama-3.2-1B: data.chat_template_from: meta-llama/Llama-3.2-1B-Instruct)."
            )
        self.source: str = source
        self._tokenizer = tokenizer
        self._clocked = (_STOPPED_CLOCK if "strftime_now" in source else "") + source
        # Largest chat so far by what kind it is: larger ones are watched anew.
        self._watched: dict[Any, int] = {}
        self._last: tuple[Messages, AssistantTurn] | None = None
        self._ends: dict[str, tuple[str, str | None]] = {}
        self._keeps_text = False
        self._compile(name)

    def _compile(self, name: str) -> None:
        from jinja2 import TemplateSyntaxError

        try:
            with _few_lines():
                self._write([{"role": "user", "content": _MARKER}], True)
        except TemplateSyntaxError as error:
            raise InputError(
                f"{name}: found a chat template that does not compile (line {error.lineno}: "
                f"{_words(error)}), expected a Jinja template; mend it, or {_ADVICE}."
            ) from None
        except Exception:
            # Of this chat alone; that of a row says more.
            return

    def _write(self, messages: Messages, generation: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._clocked,
            tokenize=False,
            add_generation_prompt=generation,
            date_string=TEMPLATE_DATE,
            **_NO_THINKING,
        )
        return text

    def render(self, messages: Messages, generation: bool, where: str) -> str:
        """Write a chat as text.

        Args:
            messages: each with role and content.
            generation: end with the assistant header.
            where: place of the row, for messages.

        Returns:
            The text.

        Raises:
            InputError: naming the row, with the template's own words, if it fails.
        """
        kind = (frozenset(message["role"] for message in messages), generation)
        size = sum(len(message["content"]) + 100 for message in messages)
        # Watching takes longer than writing, and what one chat passes a like one does.
        watch = size > 1.5 * self._watched.get(kind, 0)
        try:
            if not watch:
                return self._write(messages, generation)
            with _few_lines():
                text = self._write(messages, generation)
        except _EndlessError:
            raise InputError(
                f"{where}: the chat template runs through more than {MOST_LINES} lines on this "
                f"row, expected some hundreds; {_ADVICE}."
            ) from None
        # A template calls raise_exception, or fails in any way in which a program can.
        except Exception as error:
            raise InputError(
                f"{where}: the chat template fails on this row ({_words(error)}), expected a chat "
                f"that it takes; change or remove the row, or {_ADVICE}."
            ) from None
        self._watched[kind] = size
        return text

    def turn(self, row: Row) -> AssistantTurn:
        """What the template writes around an answer to the chat of a row.

        The answer itself does not count.

        Args:
            row: its turns count.

        Returns:
            The turn.

        Raises:
            InputError: if the template can't be used for the row.
        """
        if self._last is None or self._last[0] is not row.turns:
            self._last = (row.turns, self._around(row))
        return self._last[1]

    def content(self, row: Row) -> str:
        """The answer of a row as the template writes it: some trim it.

        Args:
            row: chat and answer.

        Returns:
            The text.

        Raises:
            InputError: if the template writes something else.
        """
        turn = self.turn(row)
        answer = {"role": "assistant", "content": row.answer}
        whole = self.render([*row.turns, answer], False, row.where)
        size = len(whole) - len(turn.before) - len(turn.after)
        content = whole[len(turn.before) : len(turn.before) + size] if size > 0 else ""
        known = whole.startswith(turn.before) and whole.endswith(turn.after)
        if not known or content.strip() != row.answer.strip():
            raise InputError(
                f"{row.where}: the chat template writes another answer than this row has "
                "(templates take out what looks like thinking, such as <think>...</think>), "
                f"expected the answer as it is; take that out of the row, or {_ADVICE}."
            )
        return content

    def _around(self, row: Row) -> AssistantTurn:
        where = row.where
        self._check_prompt(row)
        prompt = self.render(row.turns, True, where)
        marked = {"role": "assistant", "content": _MARKER}
        before, found, after = self.render([*row.turns, marked], False, where).rpartition(_MARKER)
        if not found or _MARKER in before:
            fault = "writes the answer twice" if found else "leaves the answer out"
            raise InputError(f"{where}: the chat template {fault}, expected it once; {_ADVICE}.")
        prompt, lead = self._header(row, prompt, before)
        end, token = self._end(after)
        return AssistantTurn(prompt, lead, before, after, end, token)

    def _check_prompt(self, row: Row) -> None:
        """Refuse a template that leaves the question out; once, as it concerns all rows."""
        if self._keeps_text:
            return
        question = {**row.turns[-1], "content": _MARKER}
        if _MARKER not in self.render([*row.turns[:-1], question], True, row.where):
            raise InputError(
                f"{row.where}: the chat template writes nothing of the question, expected a prompt "
                f"that holds it; {_ADVICE}."
            )
        self._keeps_text = True

    def _header(self, row: Row, prompt: str, before: str) -> tuple[str, str]:
        """Prompt and blanks after it, from the prompt for generation and a finished conversation.

        Where one says more than the other, the prompt says more: what stands before the answer is
        not the model's to learn. Where they differ, generation decides, unless it leaves a thought
        open, in which no answer belongs.
        """
        if before.startswith(prompt):
            more = before[len(prompt) :]
            lead = more[len(more.rstrip(" ")) :]
            return before[: len(before) - len(lead)], lead
        chat = self.render(row.turns, False, row.where)
        if not (prompt.startswith(chat) and before.startswith(chat)):
            raise InputError(
                f"{row.where}: the chat template renders the prompt differently once an answer "
                "follows, so the answer's tokens can't be told from the prompt's. Name another "
                "template (data.chat_template_from)."
            )
        closings = _THINKING.findall(prompt[len(chat) :])
        return (before, "") if closings and not closings[-1] else (prompt, "")

    def _end(self, after: str) -> tuple[str, str | None]:
        """The part of what follows an answer that ends its turn, and its token."""
        if after not in self._ends:
            places = {token: after.find(token) for token in self._tokens}
            found = [(place, -len(token), token) for token, place in places.items() if place >= 0]
            if found:
                place, _, token = min(found)
                self._ends[after] = after[: place + len(token)], token
            else:
                # No token of its own, as in the template of another tokenizer: the first word.
                textual = _TEXTUAL_END.match(after)
                self._ends[after] = textual.group() if textual else "", None
        return self._ends[after]

    @cached_property
    def _tokens(self) -> list[str]:
        """Texts that the tokenizer never splits and that can be seen."""
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values()]
        return [text for text in {*added, *self._tokenizer.all_special_tokens} if text.strip()]


def _words(error: Exception) -> str:
    """What a template's failure says, in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


@contextmanager
def _few_lines() -> Iterator[None]:
    """Stop a template that runs through too many lines, whatever the clock says."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        if count > MOST_LINES:
            raise _EndlessError
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)
