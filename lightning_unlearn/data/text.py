"""Plain text as training data: windows of tokens, every one of which is a label once."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Example
from lightning_unlearn.errors import InputError


def windows(
    texts: Iterable[Sequence[int]],
    rows: Sequence[Row],
    form: ChatFormat,
    stride: int | None = None,
    packing: bool = False,
) -> Iterator[tuple[Row, Example]]:
    """Cut tokenized texts into windows of at most ``form.max_length`` tokens.

    A window is a context, which is given, and labels. Every token of a text but the first one of
    its sequence is the label of exactly one window. Tokenizers that begin texts with a token of
    their own put that one first, so that all tokens of the text are labels.

    Args:
        texts: token ids of each text.
        rows: the texts.
        form: tokenizer and longest sequence.
        stride: labels of each window after the first; the rest of the window is context. None for
            as many as fit beside one token of context.
        packing: join all texts to one sequence, with the end-of-text token behind each.

    Yields:
        Row and example of each window, in order. The answer of the row is the window's text.

    Raises:
        InputError: if the stride does not fit into a window, or a tokenizer without end-of-text
            token should pack.
    """
    longest = form.max_length - 1
    if stride is not None and stride > longest:
        raise InputError(
            f"{rows[0].where}: found the stride {stride}, expected at most {longest}: a window of "
            f"{form.max_length} tokens (data.max_length) has at least one token of context."
        )
    if packing:
        end = form.tokenizer.eos_token_id
        if end is None:
            raise InputError(
                f"{rows[0].where}: found packing with the tokenizer of {form.name}, which has no "
                "end-of-text token; set packing: false."
            )
        joined = array("i", (token for ids in texts for token in (*ids, end)))
        texts, rows = [joined], [rows[0]]
    for row, ids in zip(rows, texts, strict=True):
        for number, example in enumerate(_cut(ids, form.max_length, stride or longest), start=1):
            yield _row(row, number, example, form), example


def _cut(ids: Sequence[int], length: int, stride: int) -> Iterator[Example]:
    """Yield the windows of one sequence of at least two tokens."""
    first, end = 0, min(length, len(ids))
    label = 1
    while label < len(ids):
        yield Example(tuple(ids[first:label]), tuple(ids[label:end]))
        label, end = end, min(end + stride, len(ids))
        first = max(0, end - length)


def _row(row: Row, number: int, example: Example, form: ChatFormat) -> Row:
    text = form.tokenizer.decode(example.answer, clean_up_tokenization_spaces=False)
    return replace(row, answer=text, where=f"{row.where}, window {number}")
