"""The rows of a stage or of an evaluation set, with their tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import ColumnNames, Row, names
from lightning_unlearn.data.encoding import encode_chats, encode_texts
from lightning_unlearn.data.examples import Example, ExampleCollector, Examples
from lightning_unlearn.data.recipes import EvalSet, RowSource, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.data.text import windows
from lightning_unlearn.data.token_cache import cached
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
    examples: Examples
    heldout_rows: list[Row] | None = None
    heldout_examples: Examples | None = None
    remarks: list[str] = field(default_factory=list)


def read_stage(
    name: str, stage: Stage, form: ChatFormat, also_used: Sequence[str] = ()
) -> StageRows:
    """Read and tokenize the rows of a stage.

    Args:
        name: name of the stage.
        stage: sources and columns.
        form: tokenizer and chat template.
        also_used: columns of its source that are read elsewhere.

    Raises:
        InputError: if a file or a row cannot be used.
    """
    key = f"data.stages.{name}"
    columns = columns_of(stage)
    remarks: list[str] = []
    place = f"{key}.source: {stage.source}"
    # Every row is trained on, with a paraphrase or without one.
    own_columns: ColumnNames = {**columns, "paraphrase": stage.paraphrase}
    rows = read_rows(
        stage.source,
        split=stage.split,
        subset=stage.subset,
        limit=stage.limit,
        key=f"{key}.source",
        remark=remarks.append,
        also_used=also_used,
        **own_columns,
    )
    if stage.paraphrase is not None:
        remarks += _paraphrases(rows, form, place, name, stage.paraphrase)
    found = StageRows(*encode_rows(rows, form, place, stage, remarks.append), remarks=remarks)
    if stage.heldout is not None:
        columns["beside"] = stage.source
        heldout_rows = read_rows(
            stage.heldout,
            split=stage.heldout_split,
            subset=stage.subset,
            limit=stage.heldout_limit,
            key=f"{key}.heldout",
            **columns,
        )
        place = f"{key}.heldout: {stage.heldout}"
        own = encode_rows(heldout_rows, form, place, stage, remarks.append)
        found.heldout_rows, found.heldout_examples = own
    return found


def _paraphrases(
    rows: Sequence[Row], form: ChatFormat, place: str, name: str, column: str
) -> list[str]:
    """Check the paraphrases of a stage, and return notes on those that cannot be evaluated.

    Raises:
        InputError: if no row has one, or paraphrases cannot be tokenized; it lists the first.
    """
    own = [Row(r.messages, r.paraphrase, r.where) for r in rows if r.paraphrase is not None]
    missing = len(rows) - len(own)
    found = f"{place}: in {missing} of {len(rows)} rows '{column}' is empty or repeats the answer"
    if not own:
        raise InputError(
            f"{found}, expected paraphrases; name another column (paraphrase), or set it to null"
        )
    examples = encode_chats(own, form, place)
    notes = [f"{found}; these rows have no paraphrase to evaluate."] if missing else []
    return [*notes, *truncation(f"{name}, paraphrases", examples, form)]


def columns_of(rows: Stage | EvalSet | RowSource) -> ColumnNames:
    """Return the columns of a stage, of an evaluation set or of another source."""
    return {
        "prompt": rows.prompt,
        "answer": rows.answer,
        "prompt_template": rows.prompt_template,
        "system": rows.system,
        "messages": rows.messages,
        "text": rows.text,
    }


def encode_rows(
    rows: Sequence[Row],
    form: ChatFormat,
    place: str,
    stage: Stage | None = None,
    remark: Callable[[str], None] = lambda sentence: None,
) -> tuple[list[Row], Examples]:
    """Tokenize rows; plain texts become one row for each of their windows.

    Args:
        rows: the rows.
        form: tokenizer and chat template.
        place: begin of messages: key and source.
        stage: how plain texts are cut; None cuts each text into windows without overlap.
        remark: called with notes on the cache of tokens.

    Raises:
        InputError: if rows cannot be used; it lists the first.
    """
    if not rows or rows[0].messages:
        made = cached(rows, form, lambda: encode_chats(rows, form, place), remark)
        return list(rows), made
    stride, packing = (None, False) if stage is None else (stage.stride, stage.packing)
    collected, parts = ExampleCollector(), []
    texts = cached(rows, form, lambda: encode_texts(rows, form, place), remark)
    ids = (text.prompt for text in texts)
    for row, example in windows(ids, rows, form, stride, packing):
        parts.append(row)
        collected.add(example.prompt, example.answer, example.truncated)
    return parts, collected.examples()


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
    read = read_rows(**asdict(eval_set), key=key, remark=remarks.append)
    place = f"{key}: {eval_set.source}"
    remarks += _unusable(read, eval_set, place)
    rows, examples = encode_rows(read, form, place, remark=remarks.append)
    # Monitors encode these again. Encode them here to find rows that cannot be used.
    texts = [
        Row(row.messages, text, row.where)
        for row in rows
        for text in (row.paraphrase, *row.alternatives)
        if text is not None
    ]
    others = encode_chats(texts, form, place)
    remarks += truncation(f"{name}, paraphrases and alternatives", others, form)
    return StageRows(rows, examples, remarks=remarks)


def _unusable(rows: Sequence[Row], eval_set: EvalSet, place: str) -> list[str]:
    """Return notes on rows that some metrics leave out.

    Raises:
        InputError: if no row can be used for them.
    """
    notes = []
    kinds = (
        (
            "paraphrase",
            eval_set.paraphrase,
            sum(row.paraphrase is None for row in rows),
            "{} is empty or repeats the answer",
        ),
        (
            "alternatives",
            eval_set.alternatives,
            sum(not row.alternatives for row in rows),
            "{} has no wrong answer",
        ),
    )
    for name, column, count, fault in kinds:
        if column is None or not count:
            continue
        listed = [column] if isinstance(column, str) else column
        found = f"{place}: in {count} of {len(rows)} rows {fault.format(names(listed))}"
        if count == len(rows):
            raise InputError(
                f"{found}, expected one in some rows; name another column ({name}), or set it to "
                "null"
            )
        notes.append(f"{found}; metrics that need one leave these rows out.")
    return notes


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
