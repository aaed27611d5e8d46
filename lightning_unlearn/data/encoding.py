"""Tokenize many rows: text is written row by row, tokens are made in batches beside it.

The tokens are those of `ChatFormat.encode`, row by row.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.data.chat import ChatFormat, Written
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import ExampleCollector, Examples
from lightning_unlearn.data.row_errors import each_row
from lightning_unlearn.errors import InputError

# A batch of the tokenizer: its tables take much more memory than the ids. 256 rows of 200 tokens
# keep both cores busy for a tenth of a second.
MOST_ROWS, MOST_CHARACTERS = 256, 1_000_000
# Text that a tokenizer would split differently if it looked beyond a token of the template.
_SPECIMENS = ("", "a", " b", "\n\nC", "'s 12", "\u00e9\u4e2d", "  <d>")
# How often the end of a prompt is examined, for templates whose prompts end in many ways.
MOST_SEAMS = 16


@dataclass(frozen=True)
class _Seam:
    """The end of prompts, from their last token that the tokenizer never splits.

    Text before and after such a token is tokenized independently. So the beginning of a prompt is
    tokenized once, not with and without the answer.

    Attributes:
        text: text of the token and what follows it in a prompt.
        after: what follows the token.
        first: id of the token.
        ids: tokens of `after`.
    """

    text: str
    after: str
    first: int
    ids: list[int]


@dataclass(frozen=True)
class _Texts:
    """A row and the texts to tokenize for it.

    Attributes:
        row: the row.
        written: what the template writes; the error of a row that cannot be used.
        parts: the prompt, and prompt and rest in one; or what is before and after a seam.
        seam: where the parts meet; None if there is no seam.
    """

    row: Row
    written: Written | InputError
    parts: tuple[str, ...] = ()
    seam: _Seam | None = None


def encode_chats(rows: Sequence[Row], form: ChatFormat, place: str) -> Examples:
    """Tokenize rows with prompts and answers.

    Args:
        rows: the rows.
        form: tokenizer and chat template.
        place: begin of messages about several rows: key and source.

    Raises:
        InputError: if rows cannot be used; it lists the first.
    """
    collected = ExampleCollector(fingerprint=True)
    seams = _Seams(form)

    def write(row: Row) -> _Texts:
        try:
            written = form.write(row)
        except InputError as error:
            return _Texts(row, error)
        seam = seams.find(written.prompt)
        if seam is None:
            return _Texts(row, written, (written.prompt, written.prompt + written.rest))
        head = written.prompt[: len(written.prompt) - len(seam.after)]
        return _Texts(row, written, (head, seam.text + written.rest), seam)

    def collect(item: tuple[_Texts, list[list[int]]]) -> None:
        texts, ids = item
        if isinstance(texts.written, InputError):
            raise texts.written
        prompt, together = _joined(form, texts.written, texts.seam, ids)
        collected.add(*form.fit(texts.row, texts.written, prompt, together))

    each_row(_tokenized(map(write, rows), form), collect, place)
    return collected.examples()


def encode_texts(rows: Sequence[Row], form: ChatFormat, place: str) -> Examples:
    """Tokenize rows of plain text.

    Args:
        rows: the rows.
        form: tokenizer.
        place: begin of messages about several rows: key and source.

    Returns:
        The token ids of each text, as `ChatFormat.text_ids` returns them, as a prompt without
        answer.

    Raises:
        InputError: if rows cannot be used; it lists the first.
    """
    collected = ExampleCollector()

    def collect(item: tuple[_Texts, list[list[int]]]) -> None:
        texts, (ids,) = item
        collected.add(form.text_ids(texts.row, ids), (), False)

    empty = Written("", "", False)
    parts = (_Texts(row, empty, (row.answer,)) for row in rows)
    each_row(_tokenized(parts, form), collect, place)
    return collected.examples()


class _Seams:
    """Finds where prompts can be divided, and remembers the end of the latest one."""

    def __init__(self, form: ChatFormat) -> None:
        self.form = form
        tokenizer = form.tokenizer
        self._added = tokenizer.added_tokens_decoder if tokenizer.is_fast else {}
        self._latest: _Seam | None = None
        self._tries = MOST_SEAMS

    def find(self, prompt: str) -> _Seam | None:
        """Return where a prompt can be divided; None if it cannot."""
        if self._latest is not None and prompt.endswith(self._latest.text):
            return self._latest
        if not self._tries:
            return None
        self._tries -= 1
        ends = {number: prompt.rfind(token.content) for number, token in self._added.items()}
        found = [
            (start + len(self._added[number].content), -start, number)
            for number, start in ends.items()
            if start >= 0 and self._added[number].content
        ]
        if not found:
            return None
        end, _, number = max(found)
        token = self._added[number]
        loose = token.lstrip or token.rstrip or token.single_word or token.normalized
        if loose or not token.special:
            return None
        seam = self._made(prompt[:end], token.content, number, prompt[end:])
        self._latest = seam or self._latest
        return seam

    def _made(self, head: str, token: str, number: int, after: str) -> _Seam | None:
        """Return a seam if the tokenizer really divides text there."""
        before, *ends = self.form.batch_ids([head, *(token + after + s for s in _SPECIMENS)])
        whole = self.form.batch_ids([head + after + specimen for specimen in _SPECIMENS])
        if any(end[:1] != [number] for end in ends):
            return None
        if whole != [before + end[1:] for end in ends]:
            return None
        return _Seam(token + after, after, number, ends[0][1:])


def _joined(
    form: ChatFormat, written: Written, seam: _Seam | None, ids: list[list[int]]
) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt, and of prompt and rest in one."""
    if seam is None:
        prompt, together = ids
        return prompt, together
    head, end = ids
    if end[:1] != [seam.first]:
        prompt, together = form.batch_ids([written.prompt, written.prompt + written.rest])
        return prompt, together
    return head + seam.ids, head + end[1:]


def _tokenized(
    items: Iterable[_Texts], form: ChatFormat
) -> Iterator[tuple[_Texts, list[list[int]]]]:
    """Yield rows with the tokens of their parts, in order.

    While the tokenizer works on a batch, which needs no Python, the next one is written.
    """

    def tokens(batch: list[_Texts]) -> list[tuple[_Texts, list[list[int]]]]:
        ids = iter(form.batch_ids([part for texts in batch for part in texts.parts]))
        return [(texts, [next(ids) for _ in texts.parts]) for texts in batch]

    with ThreadPoolExecutor(1, "tokenizer") as pool:
        waiting: Future[Any] | None = None
        for batch in _batches(items):
            ahead = pool.submit(tokens, batch)
            if waiting is not None:
                yield from waiting.result()
            waiting = ahead
        if waiting is not None:
            yield from waiting.result()


def _batches(items: Iterable[_Texts]) -> Iterator[list[_Texts]]:
    batch: list[_Texts] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(map(len, item.parts))
        if len(batch) == MOST_ROWS or size >= MOST_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
