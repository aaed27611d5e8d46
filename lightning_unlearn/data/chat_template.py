"""Chat templates: the text before and after an answer, and the end of its turn.

A template is a program that belongs to a model. It may fail on a chat, write nothing, run for
hours, omit an answer, or write a thinking block only in some cases. Each of these is an error that
names the row, before any training.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any

from lightning_unlearn.data.columns import Row
from lightning_unlearn.errors import InputError

Messages = Sequence[dict[str, str]]

# Llama 3 templates print the current date if they get none. A study whose prompts change at
# midnight is not reproducible, so they always get their own default date.
TEMPLATE_DATE = "26 Jul 2024"
# Other templates (Granite, SmolLM3) always read the clock: replace their function.
_FIXED_DATE = "{% macro strftime_now(format) %}" + TEMPLATE_DATE + "{% endmacro %}"
# Switch thinking off. The keys are those of Qwen3, GLM-4.5 and SmolLM3; of DeepSeek-V3.1 and
# Granite; of Command A Reasoning.
_NO_THINKING = {"enable_thinking": False, "thinking": False, "reasoning": False}
# Replaces an answer or a question, to find the text that a template writes around it.
_MARKER = "MARKERofTHEtext0x7f3a"
# Limit of executed template lines for one chat. Usual templates need some hundreds.
MAX_LINES = 1_000_000
_THINKING = re.compile(r"[<\[](/?)(?:\w+:)?(?:think|thought|reason)\w*[>\]]", re.IGNORECASE)
_TEXTUAL_END = re.compile(r"\s*(?:<[^<>\s]+>|\S+)")
_ADVICE = "name a model with another template (data.chat_template_from)"


class _EndlessError(Exception):
    """A template has executed more lines than any chat needs."""


@dataclass(frozen=True)
class AssistantTurn:
    """The text that a template writes around the answer to one chat.

    Attributes:
        prompt: text before a generated answer: the chat, the assistant header, and an empty
            thinking block if the template has one.
        lead: spaces between prompt and answer, as in Llama 2. They are part of the label, because
            tokenizers merge them with the next word.
        before: text before the answer in a complete conversation.
        after: text after the answer in a complete conversation.
        end: the part of `after` that belongs to the label: up to the end-of-turn token.
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
        name: name of the template's model, for messages.

    Attributes:
        source: text of the template.

    Raises:
        InputError: if there is no template, or it does not compile.
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
                f"{name} has no chat template, and prompts need one. Name a model of the same "
                "family that has one (for Llama-3.2-1B: data.chat_template_from: "
                "meta-llama/Llama-3.2-1B-Instruct)."
            )
        self.source: str = source
        self._tokenizer = tokenizer
        self._dated = (_FIXED_DATE if "strftime_now" in source else "") + source
        # Size of the largest checked chat of each kind; only much larger ones are checked again.
        self._checked: dict[Any, int] = {}
        self._last: tuple[Messages, AssistantTurn] | None = None
        self._ends: dict[str, tuple[str, str | None]] = {}
        # By the roles of a chat: what follows a prompt for generation before and after an answer.
        self._around_answers: dict[tuple[str, ...], tuple[str, str]] = {}
        self._writes_question = False
        self._compile(name)

    def _compile(self, name: str) -> None:
        from jinja2 import TemplateSyntaxError

        try:
            with _limited_lines():
                self._write([{"role": "user", "content": _MARKER}], True)
        except TemplateSyntaxError as error:
            raise InputError(
                f"{name}: found a chat template that does not compile (line {error.lineno}: "
                f"{_words(error)}), expected a Jinja template; correct it, or {_ADVICE}."
            ) from None
        except Exception:
            # The template may fail on this sample chat only. Errors on real rows come later.
            return

    def _write(self, messages: Messages, generation: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._dated,
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
            where: file and line of the row, for messages.

        Returns:
            The text.

        Raises:
            InputError: with the row and the message of the template, if the template fails.
        """
        kind = (frozenset(message["role"] for message in messages), generation)
        size = sum(len(message["content"]) + 100 for message in messages)
        # Counting lines is slower than rendering. If one chat is below the limit, a similar chat is
        # below it too.
        is_checked = size <= 1.5 * self._checked.get(kind, 0)
        try:
            if is_checked:
                return self._write(messages, generation)
            with _limited_lines():
                text = self._write(messages, generation)
        except _EndlessError:
            raise InputError(
                f"{where}: the chat template executes more than {MAX_LINES} lines on this row, "
                f"expected some hundreds; {_ADVICE}."
            ) from None
        # A template calls raise_exception, or raises any other exception.
        except Exception as error:
            raise InputError(
                f"{where}: the chat template fails on this row ({_words(error)}), expected a chat "
                f"that it accepts; change or remove the row, or {_ADVICE}."
            ) from None
        self._checked[kind] = size
        return text

    def turn(self, row: Row) -> AssistantTurn:
        """Return the text that the template writes around an answer to the chat of a row.

        Args:
            row: its messages; the answer is not used.

        Returns:
            The turn.

        Raises:
            InputError: if the template cannot be used for the row.
        """
        if self._last is None or self._last[0] is not row.messages:
            self._last = (row.messages, self._around(row))
        return self._last[1]

    def written(self, row: Row) -> tuple[AssistantTurn, str]:
        """Return the turn of a row, and its answer as the template writes it.

        They are those of `turn` and `content`. If the chat with the answer is the prompt, the
        answer and what surrounded the answer of an earlier row with the same roles, the chat with
        a marker in place of the answer is not written.

        Args:
            row: chat and answer.

        Raises:
            InputError: see `turn` and `content`.
        """
        around = self._around_answers.get(tuple(message["role"] for message in row.messages))
        if around is not None and row.answer.strip():
            prompt = self.render(row.messages, True, row.where)
            answer = {"role": "assistant", "content": row.answer}
            chat = self.render([*row.messages, answer], False, row.where)
            before, after = prompt + around[0], around[1]
            content = chat[len(before) : len(chat) - len(after)]
            same = chat.startswith(before) and chat.endswith(after)
            if same and content.strip() == row.answer.strip():
                prompt, lead = _without_lead(before, around[0])
                turn = AssistantTurn(prompt, lead, before, after, *self._end(after))
                self._last = (row.messages, turn)
                return turn, content
        return self.turn(row), self.content(row)

    def content(self, row: Row) -> str:
        """Return the answer of a row as the template writes it; some templates trim spaces.

        Args:
            row: chat and answer.

        Returns:
            The text.

        Raises:
            InputError: if the template changes anything but spaces at the ends.
        """
        turn = self.turn(row)
        answer = {"role": "assistant", "content": row.answer}
        chat = self.render([*row.messages, answer], False, row.where)
        size = len(chat) - len(turn.before) - len(turn.after)
        content = chat[len(turn.before) : len(turn.before) + size] if size > 0 else ""
        known = chat.startswith(turn.before) and chat.endswith(turn.after)
        if not known or content.strip() != row.answer.strip():
            raise InputError(
                f"{row.where}: the chat template changes the answer of this row (templates "
                "remove thinking blocks, such as <think>...</think>), expected the answer "
                f"unchanged; remove the block from the row, or {_ADVICE}."
            )
        return content

    def _around(self, row: Row) -> AssistantTurn:
        where = row.where
        self._check_prompt(row)
        prompt = self.render(row.messages, True, where)
        marked = {"role": "assistant", "content": _MARKER}
        chat = self.render([*row.messages, marked], False, where)
        before, found, after = chat.rpartition(_MARKER)
        if not found or _MARKER in before:
            fault = "writes the answer twice" if found else "omits the answer"
            raise InputError(f"{where}: the chat template {fault}, expected it once; {_ADVICE}.")
        if before.startswith(prompt):
            roles = tuple(message["role"] for message in row.messages)
            self._around_answers[roles] = before[len(prompt) :], after
        prompt, lead = self._header(row, prompt, before)
        end, token = self._end(after)
        return AssistantTurn(prompt, lead, before, after, end, token)

    def _check_prompt(self, row: Row) -> None:
        """Refuse a template that omits the question; check one row, which is enough for all."""
        if self._writes_question:
            return
        question = {**row.messages[-1], "content": _MARKER}
        if _MARKER not in self.render([*row.messages[:-1], question], True, row.where):
            raise InputError(
                f"{row.where}: the chat template omits the question, expected a prompt with it; "
                f"{_ADVICE}."
            )
        self._writes_question = True

    def _header(self, row: Row, prompt: str, before: str) -> tuple[str, str]:
        """Return the prompt and the spaces after it.

        `prompt` is the prompt for generation, `before` the text before the answer in a complete
        conversation. If `before` continues `prompt`, the continuation belongs to the prompt,
        because the model must not learn text before the answer. If the two differ, take `prompt`,
        except if it ends inside a thinking block, where no answer belongs.
        """
        if before.startswith(prompt):
            return _without_lead(before, before[len(prompt) :])
        chat = self.render(row.messages, False, row.where)
        if not (prompt.startswith(chat) and before.startswith(chat)):
            raise InputError(
                f"{row.where}: the chat template renders the prompt differently if an answer "
                "follows, so the tokens of prompt and answer cannot be separated. Name a model "
                "with another template (data.chat_template_from)."
            )
        closings = _THINKING.findall(prompt[len(chat) :])
        return (before, "") if closings and not closings[-1] else (prompt, "")

    def _end(self, after: str) -> tuple[str, str | None]:
        """Return the text after an answer up to the end of its turn, and the end-of-turn token."""
        if after not in self._ends:
            starts = {token: after.find(token) for token in self._tokens}
            found = [(start, -len(token), token) for token, start in starts.items() if start >= 0]
            if found:
                start, _, token = min(found)
                self._ends[after] = after[: start + len(token)], token
            else:
                # The template is for another tokenizer and has no token of this one. Take the
                # first word.
                textual = _TEXTUAL_END.match(after)
                self._ends[after] = textual.group() if textual else "", None
        return self._ends[after]

    @cached_property
    def _tokens(self) -> list[str]:
        """Return the visible texts that the tokenizer never splits."""
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values()]
        return [text for text in {*added, *self._tokenizer.all_special_tokens} if text.strip()]


def _without_lead(before: str, more: str) -> tuple[str, str]:
    """Divide the text before an answer into prompt and spaces; the spaces are part of `more`."""
    lead = more[len(more.rstrip(" ")) :]
    return before[: len(before) - len(lead)], lead


def _words(error: Exception) -> str:
    """Return the message of a template's exception in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


@contextmanager
def _limited_lines() -> Iterator[None]:
    """Stop a template after `MAX_LINES` lines; the result does not depend on the time it takes."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_LINES:
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
