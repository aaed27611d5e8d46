"""The rows of a stage or of an evaluation set, with their tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from lightning_unlearn.data.chat import ChatFormat, Example
from lightning_unlearn.data.recipes import EvalSet, Stage
from lightning_unlearn.data.rows import Row, read_rows
from lightning_unlearn.errors import InputError

# Suffixes of row-set names that select the training or the held-out rows of a stage.
TRAIN, HELDOUT = "train", "heldout"


@dataclass
class StageRows:
    """Rows and their tokens.

    Attributes:
        rows: training rows of a stage, or rows of an evaluation set.
        examples: tokens of `rows`, in the same order.
        heldout_rows: held-out rows of the stage; None if it has none.
        heldout_examples: tokens of `heldout_rows`.
        remarks: notes for the user.
    """

    rows: list[Row]
    examples: list[Example]
    heldout_rows: list[Row] | None = None
    heldout_examples: list[Example] | None = None
    remarks: list[str] = field(default_factory=list)


def read_stage(name: str, stage: Stage, form: ChatFormat) -> StageRows:
    """Read and tokenize the rows of a stage.

    Args:
        name: name of the stage.
        stage: sources and columns.
        form: tokenizer and chat template.

    Raises:
        InputError: if a file or a row cannot be used.
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
    """Read and tokenize the rows of an evaluation set.

    Args:
        name: name of the set.
        eval_set: source and columns.
        form: tokenizer and chat template.

    Raises:
        InputError: if a file or a row cannot be used.
    """
    remarks: list[str] = []
    key = f"data.eval_sets.{name}.source"
    rows = read_rows(**asdict(eval_set), key=key, remark=remarks.append)
    examples = [form.encode(row) for row in rows]
    # Monitors encode these again. Encode them here to find rows that cannot be used.
    others = [
        form.encode(Row(row.turns, text, row.where))
        for row in rows
        for text in (row.paraphrase, *row.alternatives)
        if text is not None
    ]
    remarks += truncation(f"{name}, paraphrases and alternatives", others, form)
    return StageRows(rows, examples, remarks=remarks)


def truncation(name: str, examples: Sequence[Example], form: ChatFormat) -> list[str]:
    """Return a list of one sentence if some answers of a row set are truncated, else [].

    Args:
        name: name of the set.
        examples: tokens of the set.
        form: chat format that encoded them.
    """
    cut = sum(example.truncated for example in examples)
    size = f"{cut} of {len(examples)} answers"
    end = f"{form.max_length} tokens (data.max_length)"
    return [f"{name}: {size} are truncated at {end}."] if cut else []


def one_name(
    name: str, heldout: Mapping[str, bool], forget: str | None, eval_sets: Sequence[str]
) -> str:
    """Return the unique name of a row set of a stage, which may have two names.

    Args:
        name: a stage, "STAGE:train" or "STAGE:heldout".
        heldout: whether a stage of the path has held-out rows, by name.
        forget: the forget stage, which is evaluated on its training rows.
        eval_sets: names of the evaluation sets, for the message.

    Raises:
        InputError: if there is no such row set.
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
