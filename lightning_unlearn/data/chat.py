"""Tokenize rows: prompt, label, truncation, and the tokens that end a generated answer.

The label is the answer and the end-of-turn token. Text that a template writes after that token is
not part of the label: a newline, or the next assistant header in the first template of Llama 3. A
thinking block before the answer is not part of it either.

Truncation: if a sequence is longer than ``max_length`` tokens, the end of its answer is cut off,
including the end-of-turn token. Truncated answers are counted. A prompt that leaves no room for an
answer is an error.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_unlearn.data.chat_template import AssistantTurn, ChatTemplate
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Example
from lightning_unlearn.errors import InputError

# Text that two tokenizers with one vocabulary split differently if their rules differ.
_SPECIMEN = (
    " It's 1234567.89 o'clock -- don't GO\tback,\r\n\n   I said: \u00c9t\u00e9 e\u0301 "
    "\uff21\u4e2d\u6587 \u0394\u03b4 x_y=f(a)[0]; https://a.b/c?d=e&f  "
)


@dataclass(frozen=True)
class Written:
    """One row as the chat template writes it.

    Attributes:
        prompt: text up to and including the assistant header.
        rest: text from there to the end of the turn, cut where no sequence can reach.
        cut: whether `rest` is cut.
        end: text that ends the turn, the last of `rest` if that is not cut.
    """

    prompt: str
    rest: str
    cut: bool
    end: str = ""


class ChatFormat:
    """A tokenizer with its chat template.

    The start of the answer is found by length, never by token id. If padding and end-of-turn have
    the same id, a mask by id would hide real labels.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: longest sequence in tokens.
        template: another tokenizer whose chat template is used, for base models without one.
        name: name of the model in messages.
        vocabulary: number of rows of the model's embedding; None leaves token ids unchecked.
        template_name: name of the template's model in messages.
        chats: whether rows have prompts and answers; plain texts need no chat template.

    Raises:
        InputError: if there is no chat template that `chats` need, or it does not compile.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        template: Any = None,
        name: str = "the tokenizer",
        vocabulary: int | None = None,
        template_name: str | None = None,
        chats: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.name = name
        self.vocabulary = vocabulary
        self._source = (template or tokenizer).chat_template
        self._ends: dict[str, int] = {}
        self._template_name = template_name or name
        if chats:
            self.template  # noqa: B018  (compiles it)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            InputError: if there is none, or it does not compile.
        """
        return ChatTemplate(self.tokenizer, self._source, self._template_name)

    @property
    def template_source(self) -> str | None:
        """Text of the chat template; None if there is none."""
        return self.template.source if self._source else None

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of tokenizer and template."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        # No table describes the splitting rules in the same way in all versions of the library, so
        # hash the tokens of a sample text.
        rules = self._tokens(_SPECIMEN)
        values = (vocabulary, rules, self.tokenizer.eos_token_id, self.template_source or "")
        return hashlib.sha256(repr(values).encode()).hexdigest()

    def same(self, other: "ChatFormat") -> bool:
        """Return whether both encode all rows in the same way and refuse the same rows."""
        mine = self.fingerprint, self.max_length, self.vocabulary
        return mine == (other.fingerprint, other.max_length, other.vocabulary)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def batch_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize many texts, each as if it were alone; fast tokenizers do it in parallel."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids

    def text_ids(self, row: Row, ids: list[int] | None = None) -> list[int]:
        """Tokenize a plain text, with the tokens that the tokenizer puts around texts before it.

        Args:
            row: a row without messages.
            ids: tokens of the text alone; None to compute them.

        Raises:
            InputError: if the text has fewer than two tokens, or the model has no embedding for
                one of them.
        """
        if ids is None:
            ids = self._tokens(row.answer)
        self._check_ids(ids, row.where, "text")
        if self._first is not None:
            ids = [self._first, *ids]
        if len(ids) < 2:
            raise InputError(
                f"{row.where}: the text is a single token, expected at least two: the first one "
                "is predicted from nothing. Remove the row."
            )
        return ids

    @cached_property
    def _first(self) -> int | None:
        """Return the token that the tokenizer puts before every text; None if there is none."""
        plain = self._tokens("a")
        ids: list[int] = self.tokenizer("a", verbose=False)["input_ids"]
        return ids[0] if len(ids) > len(plain) and ids[0] != plain[0] else None

    def _after(self, prompt: str, prompt_ids: list[int], rest: str) -> list[int]:
        """Tokenize ``rest`` as a continuation of the prompt; see `continuation`."""
        return self.continuation(prompt_ids, self._tokens(prompt + rest), rest)

    def continuation(self, prompt_ids: list[int], together: list[int], rest: str) -> list[int]:
        """Return the tokens of a text after a prompt.

        Args:
            prompt_ids: tokens of the prompt.
            together: tokens of the prompt and the text in one.
            rest: the text.

        Returns:
            What follows the prompt in `together`. If the tokenizer merges characters of the two
            into one token, the text is tokenized separately, because generation cannot merge them
            either.
        """
        if together[: len(prompt_ids)] == prompt_ids:
            return together[len(prompt_ids) :]
        # Put a token before it that merges with nothing: SentencePiece adds a space at the start of
        # a text.
        end, end_id = self.tokenizer.eos_token, self.tokenizer.eos_token_id
        if end is not None and not rest[:1].isspace():
            first, *others = self._tokens(end + rest)
            if first == end_id:
                return others
        return self._tokens(rest)

    def encode(self, row: Row) -> Example:
        """Tokenize a row.

        Args:
            row: messages and answer.

        Returns:
            The example; its answer is truncated if the sequence would exceed ``max_length``.

        Raises:
            InputError: if the template cannot be used for the row, the prompt alone fills
                ``max_length``, or the model has no embedding for a token.
        """
        written = self.write(row)
        prompt_ids = self._tokens(written.prompt)
        prompt, answer, cut, end = self.fit(row, written, prompt_ids, None)
        return Example(tuple(prompt), tuple(answer), cut, end)

    def write(self, row: Row) -> Written:
        """Write a row by the chat template.

        Args:
            row: messages and answer.

        Raises:
            InputError: if the template cannot be used for the row, or its prompt is longer than any
                prompt that leaves room for an answer.
        """
        self._check_chat(row)
        turn, content = self.template.written(row)
        if len(turn.prompt) > self._max_characters:
            raise self._no_room(row, f"{len(turn.prompt)} characters")
        text = turn.lead + content + turn.end
        longest = self._max_characters
        return Written(turn.prompt, text[:longest], len(text) > longest, turn.end)

    def fit(
        self, row: Row, written: Written, prompt_ids: list[int], together: list[int] | None
    ) -> tuple[list[int], list[int], bool, int]:
        """Check and cut the tokens of a row.

        Args:
            row: the row.
            written: the row as the template writes it.
            prompt_ids: tokens of its prompt.
            together: tokens of prompt and rest in one; None to compute them where they are needed.

        Returns:
            Tokens of the prompt, tokens of the answer, whether the end of the answer is cut, and
            how many of its last tokens end the turn.

        Raises:
            InputError: see `encode`.
        """
        self._check_ids(prompt_ids, row.where, "prompt")
        room = self.max_length - len(prompt_ids)
        if room < 1:
            raise self._no_room(row, f"{len(prompt_ids)} tokens")
        if together is None:
            together = self._tokens(written.prompt + written.rest)
        answer_ids = self.continuation(prompt_ids, together, written.rest)
        self._check_ids(answer_ids, row.where, "answer")
        cut = len(answer_ids) > room or written.cut
        if written.end not in self._ends:
            self._ends[written.end] = len(self._tokens(written.end))
        end = 0 if cut else min(self._ends[written.end], len(answer_ids) - 1)
        return prompt_ids, answer_ids[:room], cut, end

    @cached_property
    def _max_characters(self) -> int:
        """Return more characters than any text of ``max_length`` tokens has.

        Longer text is not tokenized: a gigabyte would take hours.
        """
        longest = max(map(len, self.tokenizer.get_vocab()), default=0)
        return self.max_length * 4 * max(256, longest)

    def _no_room(self, row: Row, size: str) -> InputError:
        return InputError(
            f"{row.where}: the prompt alone has {size} and leaves no room for an answer within "
            f"{self.max_length} tokens (data.max_length or the model's context). Shorten or remove "
            "the row, or increase data.max_length."
        )

    def _check_ids(self, ids: Sequence[int], where: str, part: str) -> None:
        """Refuse tokens that the model has no embedding for, and text that has no token."""
        if not ids:
            raise InputError(
                f"{where}: the {part} has no tokens, expected at least one: the tokenizer of "
                f"{self.name} has no token for its characters. Remove the row."
            )
        if self.vocabulary is not None and (largest := max(ids)) >= self.vocabulary:
            text = self.tokenizer.convert_ids_to_tokens(largest)
            raise InputError(
                f"{where}: the {part} has the token {text!r} with id {largest}, expected ids below "
                f"{self.vocabulary}, the number of rows of the embedding of {self.name}. Remove "
                "that text, or use a model whose embedding has a row for every token."
            )

    def _turn(self, row: Row) -> AssistantTurn:
        """Return what the template writes around the answer of a row."""
        self._check_chat(row)
        return self.template.turn(row)

    def _check_chat(self, row: Row) -> None:
        """Refuse plain texts."""
        if not row.messages:
            raise InputError(
                f"{row.where}: the row is plain text, which has no prompt, expected a prompt and "
                "an answer. Name other rows, or remove what needs prompts: the phrases of "
                "LabelLikelihood (set label: own), MathAccuracy and generated answers do."
            )

    def _prompt(self, row: Row) -> list[int]:
        ids = self._tokens(self._turn(row).prompt)
        self._check_ids(ids, row.where, "prompt")
        return ids

    def prompt_ids(self, row: Row) -> tuple[int, ...]:
        """Tokenize the prompt up to and including the assistant header.

        Args:
            row: its messages; the answer is not used.

        Returns:
            The same tokens as those of `encode`.

        Raises:
            InputError: if the template cannot be used for the row.
        """
        return tuple(self._prompt(row))

    def phrase_ids(self, row: Row, phrase: str) -> tuple[int, ...]:
        """Tokenize a phrase as the start of the assistant's turn, without header and end.

        Args:
            row: its messages; the answer is not used.
            phrase: the text; white space around it does not count, as some templates drop it.

        Returns:
            Tokens of the phrase.

        Raises:
            InputError: if the template cannot be used for the row, or the model has no embedding
                for a token.
        """
        turn = self._turn(row)
        text = turn.lead + phrase.strip()
        ids = self._after(turn.prompt, self._prompt(row), text)
        self._check_ids(ids, f"{row.where}, phrase {phrase!r}", "phrase")
        return tuple(ids)

    def end_ids(self, row: Row) -> tuple[int, ...]:
        """Return the tokens that end a generated answer: end of turn and end of text."""
        token = self._turn(row).end_token
        # It is one token, because the tokenizer never splits it.
        turn_end = [] if token is None else self._tokens(token)[:1]
        ends = [*turn_end, self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(i for i in ends if i is not None))

    @property
    def pad_id(self) -> int:
        """Return a padding token id of the model; its value has no effect on results."""
        pad: int | None = self.tokenizer.pad_token_id
        if pad is None or (self.vocabulary is not None and pad >= self.vocabulary):
            return 0
        return pad

    def remark(self, row: Row) -> str | None:
        """Return a warning if the template has no end-of-turn token, else None."""
        if not row.messages:
            return None
        turn = self._turn(row)
        if turn.end_token is not None:
            return None
        found = f"{turn.end.strip()!r}, which is not a single token" if turn.end else "nothing"
        return (
            f"data.chat_template_from: after an answer the chat template writes {found}, expected "
            "an end-of-turn token. Generated answers will end only at the end-of-text token. "
            "Choose a template for this tokenizer."
        )
