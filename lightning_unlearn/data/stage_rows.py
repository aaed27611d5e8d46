"""The rows of a stage, or of a set that is only measured, with their tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from lightning_unlearn.data.chat import ChatFormat, Example
from lightning_unlearn.data.recipes import EvalSet, Stage
from lightning_unlearn.data.rows import Row, read_rows
from lightning_unlearn.errors import InputError

# Endings of the names of row sets: which rows of a stage are meant.
TRAIN, HELDOUT = "train", "heldout"


@dataclass
class StageRows:
    """What was read.

    Attributes:
        rows: those to train on, or to measure.
        examples: their tokens, equally many.
        heldout_rows: those of the stage that are never trained on; None where none are named.
        heldout_examples: their tokens.
        remarks: what the user should know of them.
    """

    rows: list[Row]
    examples: list[Example]
    heldout_rows: list[Row] | None = None
    heldout_examples: list[Example] | None = None
    remarks: list[str] = field(default_factory=list)


def read_stage(name: str, stage: Stage, form: ChatFormat) -> StageRows:
    """Read and tokenize the rows of a stage.

    Args:
        name: of the stage.
        stage: names the files.
        form: makes tokens.

    Raises:
        InputError: for files and rows that can't be used.
    """
    key = f"data.stages.{name}"
    read = partial(
        read_rows,
        prompt=stage.prompt,
        answer=stage.answer,
        messages=stage.messages,
        subset=stage.subset,
    )
    remarks: list[str] = []
    rows = read(
        stage.source,
        split=stage.split,
        limit=stage.limit,
        key=f"{key}.source",
        remark=remarks.append,
    )
    found = StageRows(rows, [form.encode(row) for row in rows], remarks=remarks)
    if stage.heldout is not None:
        found.heldout_rows = read(
            stage.heldout,
            split=stage.heldout_split,
            limit=stage.heldout_limit,
            key=f"{key}.heldout",
            beside=stage.source,
        )
        found.heldout_examples = [form.encode(row) for row in found.heldout_rows]
    return found


def read_eval_set(name: str, eval_set: EvalSet, form: ChatFormat) -> StageRows:
    """Read and tokenize rows that are only measured.

    Args:
        name: of the set.
        eval_set: names the file.
        form: makes tokens.

    Raises:
        InputError: for files and rows that can't be used.
    """
    remarks: list[str] = []
    key = f"data.eval_sets.{name}.source"
    rows = read_rows(**asdict(eval_set), key=key, remark=remarks.append)
    examples = [form.encode(row) for row in rows]
    # Encoded when they are measured; what can't be is to be known before.
    others = [
        form.encode(Row(row.turns, text, row.where))
        for row in rows
        for text in (row.paraphrase, *row.alternatives)
        if text is not None
    ]
    remarks += truncation(f"{name}, paraphrases and alternatives", others, form)
    return StageRows(rows, examples, remarks=remarks)


def truncation(name: str, examples: Sequence[Example], form: ChatFormat) -> list[str]:
    """A sentence if some answers of a row set lost their end.

    Args:
        name: of the set.
        examples: its tokens.
        form: that made them.
    """
    cut = sum(example.truncated for example in examples)
    size = f"{cut} of {len(examples)} answers"
    end = f"{form.max_length} tokens (data.max_length)"
    return [f"{name}: {size} lost their end at {end}."] if cut else []


def one_name(
    name: str, heldout: Mapping[str, bool], forget: str | None, eval_sets: Sequence[str]
) -> str:
    """The one name of a row set of a stage that may have two.

    Args:
        name: a stage, "STAGE:train" or "STAGE:heldout".
        heldout: whether rows are held out, by stage of the path.
        forget: the forget stage, which is measured on its training rows.
        eval_sets: names of the other sets, for the message.

    Raises:
        InputError: if there are no such rows.
    """
    if name in heldout:
        return name
    stage, colon, which = name.partition(":")
    sets = [*heldout, *(f"{s}:{TRAIN}" for s in heldout)]
    sets += [f"{s}:{HELDOUT}" for s, has in heldout.items() if has]
    if not colon or name not in sets:
        raise InputError(
            f"found the rows {name!r}, expected one of {', '.join([*sets, *eval_sets])}."
        )
    held = heldout[stage] and stage != forget
    return stage if which == (HELDOUT if held else TRAIN) else name
