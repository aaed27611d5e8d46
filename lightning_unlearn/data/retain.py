"""Retain rows: their sources, and their pairing with the forget rows of each optimizer step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from lightning_unlearn.data.batches import Batch, Counts, collate, derive_seed
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.examples import Example
from lightning_unlearn.data.recipes import EvalSet, RowSource, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.data.stage_rows import HELDOUT, TRAIN, StageRows, encode_rows
from lightning_unlearn.errors import InputError

KEY = "data.retain"


class RetainBatches:
    """The retain rows of each optimizer step, one for each forget row.

    The forget rows of all steps, one after the other, meet the retain rows in a random order that
    is drawn again whenever all retain rows were used. Within a step, the shortest forget row is
    paired with the shortest retain row, and so on, so that sequences of one forward are of similar
    length. So the pair of a forget row is a function of seed, step and row alone.

    Args:
        examples: the retain rows.
        seed: seed of the run.
        sizes: forget rows of each step.
    """

    def __init__(self, examples: Sequence[Example], seed: int, sizes: Sequence[int]) -> None:
        self.examples = examples
        self._seed = seed
        self._sizes = sizes
        self._starts = [0]
        for size in sizes:
            self._starts.append(self._starts[-1] + size)
        self._orders: dict[int, list[int]] = {}

    def rows(self, step: int) -> list[int]:
        """Return the numbers of the retain rows of a step, the shortest row first.

        Args:
            step: number of the step, from 0.
        """
        count = len(self.examples)
        places = range(self._starts[step], self._starts[step + 1])
        found = [self._order(place // count)[place % count] for place in places]
        return sorted(found, key=lambda i: (len(self.examples[i]), i))

    def _order(self, epoch: int) -> list[int]:
        """Return the order of the retain rows in a pass over them."""
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "retain", epoch))
            order = torch.randperm(len(self.examples), generator=generator).tolist()
            # A step may end in the pass after the one in which it began.
            self._orders = {n: kept for n, kept in self._orders.items() if n == epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]

    def batch(self, rows: Sequence[int], pad_id: int, filler: bool) -> Batch:
        """Return retain rows as a batch, in the order of their numbers in ``rows``.

        Args:
            rows: numbers of retain rows.
            pad_id: padding token.
            filler: give the sequences weight 0.
        """
        return collate(self.examples, rows, pad_id, filler)

    def counts(self, step: int) -> Counts:
        """Return the label tokens and sequences of all retain rows of a step."""
        rows = self.rows(step)
        return Counts(sum(len(self.examples[i].answer) for i in rows), len(rows))


def check_retain(
    retain: Sequence[str] | RowSource | None,
    stages: Mapping[str, Stage],
    eval_sets: Mapping[str, EvalSet],
    forget: str | None,
) -> None:
    """Refuse retain rows that cannot be used, before anything is read.

    Args:
        retain: names of row sets, or a source; None for no retain rows.
        stages: stages by name.
        eval_sets: evaluation sets by name.
        forget: the forget stage.

    Raises:
        InputError: if a name is unknown, stands there twice or means the forget rows.
    """
    if isinstance(retain, RowSource):
        retain.check(KEY)
        return
    names = [] if retain is None else list(retain)
    own = [n for name, s in stages.items() for n in _names(name, s) if name != forget]
    known = [*own, *eval_sets]
    expected = f"stages, evaluation sets ({', '.join(known) or 'there are none'}), or a source"
    if retain is not None and not names:
        raise InputError(f"{KEY}: found an empty list, expected {expected}; or set it to null.")
    for name in names:
        if forget is not None and name in (forget, f"{forget}:{TRAIN}"):
            raise InputError(
                f"{KEY}: found {name!r}, the forget stage (data.forget), expected other rows: "
                f"{expected}."
            )
        stage, _, which = name.partition(":")
        if which == HELDOUT and stage in stages and stages[stage].heldout is None:
            raise InputError(
                f"{KEY}: found {name!r}, but the stage has no held-out rows; set "
                f"data.stages.{stage}.heldout, or name other rows."
            )
        if name not in known and name != f"{forget}:{HELDOUT}":
            raise InputError(f"{KEY}: found {name!r}, expected {expected}.")
    unique = [name.removesuffix(f":{TRAIN}") for name in names]
    if twice := sorted({name for name in unique if unique.count(name) > 1}):
        raise InputError(f"{KEY}: found {twice[0]!r} twice, expected each row set once.")


def _names(name: str, stage: Stage) -> list[str]:
    """Return the names by which retain rows may mean rows of a stage."""
    return [name, f"{name}:{TRAIN}", *([f"{name}:{HELDOUT}"] if stage.heldout is not None else [])]


def read_retain(source: RowSource, form: ChatFormat) -> StageRows:
    """Read and tokenize retain rows that have a source of their own.

    Args:
        source: source and columns.
        form: tokenizer and chat template.

    Raises:
        InputError: if a file or a row cannot be used.
    """
    remarks: list[str] = []
    key = f"{KEY}.source"
    rows = read_rows(**asdict(source), key=key, remark=remarks.append)
    found = encode_rows(rows, form, f"{key}: {source.source}", remark=remarks.append)
    return StageRows(*found, remarks=remarks)


def without_forget_rows(
    examples: Sequence[Example], forgotten: Sequence[Example]
) -> tuple[list[Example], list[str]]:
    """Leave out the retain rows that are also forget rows, with prompt and answer.

    Args:
        examples: retain rows.
        forgotten: forget rows.

    Returns:
        The other retain rows, and a list of one note if some were left out, else [].

    Raises:
        InputError: if no row is left.
    """
    known = {(e.prompt, e.answer) for e in forgotten}
    kept = [e for e in examples if (e.prompt, e.answer) not in known]
    same = len(examples) - len(kept)
    if not kept:
        raise InputError(
            f"{KEY}: found {same} rows, all of which are also forget rows (data.forget), expected "
            "other rows; name other stages, evaluation sets, or a source."
        )
    found = f"{KEY}: {same} of {len(examples)} rows are also forget rows; they are left out."
    return kept, [found] if same else []
