"""Rows to token ids: the chat template, the label mask, the truncation policy.

Truncation: a sequence longer than ``max_length`` tokens loses the end of its answer (the
end-of-turn token with it), and is counted. A prompt that leaves no room for an answer is an error.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_unlearn.data.reading import Row
from lightning_unlearn.errors import InputError

# Llama 3 templates print today's date unless they are given one. A study whose prompts change at
# midnight is not reproducible, so they get the date that is their own fallback.
TEMPLATE_DATE = "26 Jul 2024"
# Other templates (Granite, SmolLM3) ask the clock whatever they are given: theirs stands still.
_STOPPED_CLOCK = "{% macro strftime_now(format) %}" + TEMPLATE_DATE + "{% endmacro %}"


@dataclass(frozen=True)
class Example:
    """One row as token ids.

    Attributes:
        prompt: tokens up to and including the assistant header.
        answer: label tokens: the answer and what ends the turn.
        truncated: the answer's end was cut off.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class ChatFormat:
    """A tokenizer with its chat template.

    Where the answer starts is known by length, never by token id: where padding and end-of-turn
    are the same id, a mask by id would hide real labels.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: longest sequence in tokens.
        template: another tokenizer whose chat template is used, for base models without one.
        name: how to call the tokenizer in messages.

    Raises:
        InputError: if there is no chat template.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, template: Any = None, name: str = "the tokenizer"
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.template = (template or tokenizer).chat_template
        if not self.template:
            raise InputError(
                f"{name} has no chat template, and prompts need one. Name a sibling model that has "
                "one (for Llama-3.2-1B: data.template: meta-llama/Llama-3.2-1B-Instruct)."
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of vocabulary and template."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(repr((vocabulary, self.template)).encode()).hexdigest()

    def same(self, other: "ChatFormat") -> bool:
        """Whether both encode every row alike."""
        mine = self.fingerprint, self.max_length
        return mine == (other.fingerprint, other.max_length)

    def _render(self, turns: Sequence[dict[str, str]], generation: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(turns),
            chat_template=(_STOPPED_CLOCK if "strftime_now" in self.template else "")
            + self.template,
            tokenize=False,
            add_generation_prompt=generation,
            date_string=TEMPLATE_DATE,
        )
        return text

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _split(self, row: Row) -> tuple[str, str]:
        """The prompt's text, and the rest: the answer and what ends the turn."""
        prompt = self._render(row.turns, generation=True)
        answer = {"role": "assistant", "content": row.answer}
        whole = self._render([*row.turns, answer], generation=False)
        if not whole.startswith(prompt):
            raise InputError(
                f"{row.where}: the chat template renders the prompt differently once an answer "
                "follows, so the answer's tokens can't be told from the prompt's. Name another "
                "template (data.template)."
            )
        return prompt, whole[len(prompt) :]

    def _after(self, prompt: str, prompt_ids: list[int], rest: str) -> list[int]:
        """Tokens of ``rest`` as they follow the prompt.

        Tokenised with the prompt, as in text; apart only where the tokenizer would merge the two
        at the seam, which at generation time it can't do either.
        """
        together = self._tokens(prompt + rest)
        if together[: len(prompt_ids)] == prompt_ids:
            return together[len(prompt_ids) :]
        return self._tokens(rest)

    def encode(self, row: Row) -> Example:
        """Tokenise a row.

        Args:
            row: prompt turns and answer.

        Returns:
            The example, its answer cut if the sequence would exceed ``max_length``.

        Raises:
            InputError: if the prompt alone fills ``max_length``, or the template can't be split.
        """
        prompt, rest = self._split(row)
        prompt_ids = self._tokens(prompt)
        room = self.max_length - len(prompt_ids)
        if room < 1:
            raise InputError(
                f"{row.where}: the prompt alone has {len(prompt_ids)} tokens and leaves no room "
                f"for an answer within {self.max_length} (data.max_length or the model's "
                "context). Shorten or drop the row, or raise data.max_length."
            )
        answer_ids = self._after(prompt, prompt_ids, rest)
        return Example(tuple(prompt_ids), tuple(answer_ids[:room]), len(answer_ids) > room)

    def prompt_ids(self, row: Row) -> tuple[int, ...]:
        """Tokens of the prompt up to and including the assistant header."""
        return tuple(self._tokens(self._render(row.turns, generation=True)))

    def phrase_ids(self, row: Row, phrase: str) -> tuple[int, ...]:
        """Tokens of a phrase as the start of the assistant's turn, without header and end.

        Args:
            row: its prompt turns count; its answer does not.
            phrase: the text; white space around it does not count, as some templates drop it.

        Returns:
            The phrase's tokens.
        """
        phrase = phrase.strip()
        prompt, rest = self._split(Row(row.turns, phrase, row.where))
        text = rest[: rest.index(phrase) + len(phrase)]
        return tuple(self._after(prompt, self._tokens(prompt), text))

    def end_ids(self, row: Row) -> tuple[int, ...]:
        """Tokens at which a generated answer is complete: end of turn and end of text."""
        marker = "x"
        _, rest = self._split(Row(row.turns, marker, row.where))
        after = self._tokens(rest[rest.index(marker) + len(marker) :])
        # Llama 2 writes a space before its end token; a bare space ends no answer.
        visible = [i for i in after if self.tokenizer.decode([i]).strip()]
        ends = [*visible[:1], self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(i for i in ends if i is not None))


def data_fingerprint(examples: Iterable[Example]) -> str:
    """Hash of the token ids of a data set: what was trained on, however it was written down."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.prompt, example.answer)).encode())
    return digest.hexdigest()
