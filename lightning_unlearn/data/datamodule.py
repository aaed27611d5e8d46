"""StagedDataModule: the stages, the path through them, and their rows as token ids."""

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_unlearn.data.batches import BatchPlan, GlobalBatch, micro_batch
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Examples
from lightning_unlearn.data.method_rows import MethodRows
from lightning_unlearn.data.paired_batches import PairedPlan
from lightning_unlearn.data.paths import (
    all_paths,
    check_forget,
    check_learned,
    check_order,
    choose_path,
)
from lightning_unlearn.data.recipes import EvalSet, Recipe, RowSource, Stage, check_row_sets
from lightning_unlearn.data.row_sets import RowSets
from lightning_unlearn.data.stage_rows import HELDOUT, one_name
from lightning_unlearn.errors import InputError

UNLEARN, ORACLE = "unlearn", "oracle"


class StagedDataModule(LightningDataModule):
    """Training stages in a chosen order, and the stage to be unlearned.

    One of ``order``, ``position`` and ``permutation`` gives the path. Without them, the path is the
    order in which the stages are written. Stages in ``learned`` begin every path.

    Args:
        stages: the stages by name.
        forget: the stage to unlearn at the end of the path; null to train only.
        learned: stages that model.base has learned already, in that order; they are evaluated and
            not trained. If the forget stage is among them, unlearning can start at once.
        order: the stages to train as a list of names; it may omit stages.
        position: position of the forget stage in the path, from 1; the other stages keep their
            written order.
        permutation: number of the order among all orders of the stages to train, from 1, counted
            lexicographically from the written order.
        oracle: train an oracle: omit the forget stage from training and unlearn nothing. The
            oracle is evaluated like the other models.
        unlearn: recipe of unlearning.
        eval_sets: further rows to evaluate, by name; monitors refer to them as to stages.
        retain: rows of methods with a retain term (``retain_weight``): names of stages, of
            "STAGE:heldout" and of evaluation sets, such as ``[inst, math]``; or a source with
            columns, as of a stage. Each forget row of an optimizer step is paired with one of
            them. Rows that are also forget rows are left out.
        alternates: answers to prefer to the forget answers, for methods that use them: a column
            of the forget stage with a text or a list of texts in each row; or a source whose rows
            are joined to the forget rows by prompt.
        max_length: longest sequence in tokens; null for the model's context.
        chat_template_from: model whose chat template is used, for a base model that has none.
        micro_batch_size: sequences of one forward in training, per process; null for automatic. It
            changes speed, memory and rounding.
        eval_batch_size: sequences of one forward in evaluation, per process.

    Raises:
        InputError: if the path is not valid or a recipe cannot train.
    """

    def __init__(
        self,
        stages: dict[str, Stage],
        forget: str | None = None,
        learned: list[str] | None = None,
        order: list[str] | None = None,
        position: int | None = None,
        permutation: int | None = None,
        oracle: bool = False,
        unlearn: Recipe = Recipe(),  # noqa: B008  (never modified; documents the defaults)
        eval_sets: dict[str, EvalSet] | None = None,
        retain: list[str] | RowSource | None = None,
        alternates: str | RowSource | None = None,
        max_length: int | None = None,
        chat_template_from: str | None = None,
        micro_batch_size: int | None = None,
        eval_batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.stages = dict(stages)
        self.forget = forget
        self.learned = tuple(learned or ())
        self.oracle = oracle
        self.unlearn = unlearn
        self.eval_sets = dict(eval_sets or {})
        self.retain = retain
        self.alternates = alternates
        self.max_length = max_length
        self.chat_template_from = chat_template_from
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self._check()
        given = order, position, permutation, self.learned
        self._path = choose_path([*self.stages], forget, *given)
        self.format: ChatFormat | None = None
        self.context: int | None = None
        sets = self.row_sets = RowSets()
        self.rows, self.examples = sets.rows, sets.examples
        self.heldout_rows, self.heldout_examples = sets.heldout_rows, sets.heldout_examples
        self.eval_set_rows, self.eval_set_examples = sets.eval_set_rows, sets.eval_set_examples
        self.method_rows = MethodRows(self.stages, self.eval_sets, forget, retain, alternates)
        self._plan: BatchPlan | None = None

    def _check(self) -> None:
        check_row_sets(self.stages, self.eval_sets, (UNLEARN, ORACLE))
        self.unlearn.check("data.unlearn")
        check_forget([*self.stages], self.forget, self.oracle)
        check_learned([*self.stages], self.forget, self.learned, self.oracle)
        lengths = (("max_length", self.max_length, 2), ("eval_batch_size", self.eval_batch_size, 1))
        for name, found, least in lengths:
            if found is not None and found < least:
                raise InputError(f"data.{name}: found {found}, expected at least {least}.")

    def check_order(self, order: Sequence[str], key: str = "data.order") -> tuple[str, ...]:
        """Return the path that trains some stages; see `lightning_unlearn.data.paths.check_order`.

        Args:
            order: names of the stages to train.
            key: YAML key of the order, for messages.

        Raises:
            InputError: if the path is not valid.
        """
        return check_order([*self.stages], self.forget, order, key, self.learned)

    def paths(self, kind: Literal["positions", "permutations"]) -> list[tuple[str, ...]]:
        """Return all paths of a kind; see `lightning_unlearn.data.paths.all_paths`.

        Args:
            kind: "positions" or "permutations".

        Raises:
            InputError: if the kind is "positions" and there is no forget stage.
        """
        return all_paths([*self.stages], self.forget, kind, self.learned)

    @property
    def path(self) -> tuple[str, ...]:
        """The stages in the order of training, the learned ones first.

        The path of an oracle includes the forget stage, which is evaluated but not trained.
        """
        return self._path

    @path.setter
    def path(self, order: Sequence[str]) -> None:
        begin = len(self.learned)
        if tuple(order[:begin]) != self.learned:
            raise InputError(
                f"paths: found {'-'.join(order)}, expected a path that begins with data.learned, "
                f"{'-'.join(self.learned)}."
            )
        self._path = self.check_order(order[begin:])

    @property
    def position(self) -> int | None:
        """Position of the forget stage in the path, from 1; None without one or for an oracle."""
        if self.forget is None or self.oracle:
            return None
        return self.path.index(self.forget) + 1

    @property
    def training_stages(self) -> tuple[str, ...]:
        """The stages that are trained, in order."""
        return self.prefix[len(self.learned) :]

    @property
    def prefix(self) -> tuple[str, ...]:
        """The stages that the model has learned before unlearning starts, in order."""
        left_out = self.forget if self.oracle else None
        return tuple(name for name in self.path if name != left_out)

    def encodes_with(self, tokenizer: Any) -> bool:
        """Return whether the rows are already encoded with this tokenizer and its template."""
        return self.format is not None and self.format.tokenizer is tokenizer

    def load_rows(
        self,
        tokenizer: Any,
        context: int,
        template: Any = None,
        name: str = "",
        vocabulary: int | None = None,
    ) -> None:
        """Read and tokenize the rows of every stage of the path; further calls read nothing again.

        Args:
            tokenizer: tokenizer of the model.
            context: longest sequence that the model accepts, in tokens.
            template: tokenizer of the model ``chat_template_from``.
            name: name of the model, for messages.
            vocabulary: number of rows of the model's embedding; None leaves token ids unchecked.

        Raises:
            InputError: if a file or a row cannot be used.
        """
        self.context = context
        if not self.encodes_with(tokenizer):
            if self.max_length is not None and self.max_length > context:
                raise InputError(
                    f"data.max_length: found {self.max_length}, expected at most {context}, the "
                    f"context of {name or 'the model'} in tokens."
                )
            form = ChatFormat(
                tokenizer,
                self.max_length or context,
                template,
                name or "the tokenizer",
                vocabulary,
                self.chat_template_from if template is not None else None,
                chats=self._has_chats(),
            )
            if self.format is None or not form.same(self.format):
                # The model has changed: tokens of the earlier model are not valid.
                self.row_sets.clear()
                self.method_rows.clear()
            self.format = form
        assert self.format is not None, "set above or by an earlier call"
        stages = {stage: self.stages[stage] for stage in self.path}
        used = self.method_rows.forget_columns
        self.row_sets.load(stages, self.eval_sets, self.format, used)

    def load_method_rows(self, retain: bool, alternates: bool) -> None:
        """Read and tokenize the further rows that a method uses; `load_rows` comes first.

        Args:
            retain: whether it uses retain rows.
            alternates: whether it uses alternates.

        Raises:
            InputError: if rows cannot be used.
        """
        assert self.format is not None, "load_rows() comes first"
        self.method_rows.load(self.row_sets, self.format, retain, alternates)

    def _has_chats(self) -> bool:
        plain = [self.stages[name].text is not None for name in self.path]
        return not all([*plain, *(rows.text is not None for rows in self.eval_sets.values())])

    def adopt(self, other: "StagedDataModule") -> None:
        """Copy the rows of stages and evaluation sets that another data module has read.

        Only stages with equal sources and columns are copied. `load_rows` then reads the others.
        `other` must be of the same model.
        """
        own, its = ((data.chat_template_from, data.max_length) for data in (self, other))
        if own != its:
            return
        shared = {
            name
            for name, stage in self.stages.items()
            if name in other.examples and other.stages[name].reading() == stage.reading()
        }
        shared |= {
            name for name, rows in self.eval_sets.items() if other.eval_sets.get(name) == rows
        }
        self.row_sets.adopt(other.row_sets, shared)
        self.method_rows.adopt(other.method_rows)
        self.format = other.format

    def check_batches(self, world_size: int) -> None:
        """Refuse global batches that cannot be distributed over the processes, before training.

        Raises:
            InputError: with the key of the recipe.
        """
        for name in self.training_stages:
            batch_size = self.stages[name].batch_size
            micro_batch(batch_size, self.micro_batch_size, world_size, f"data.stages.{name}")
        if self.forget is not None and not self.oracle:
            micro_batch(self.unlearn.batch_size, self.micro_batch_size, world_size, "data.unlearn")

    def eval_rows(self, stage: str) -> tuple[list[Row], Examples]:
        """Return the rows on which a stage is evaluated, and their tokens.

        The forget stage is evaluated on its training rows, which are unlearned. Every other stage
        is evaluated on its held-out rows, or on its training rows if it has no held-out rows.
        """
        return self.row_sets.select(stage, self.forget)

    def row_set(self, name: str) -> tuple[list[Row], Examples]:
        """Return the rows of a row set.

        Args:
            name: a stage, for the rows on which it is evaluated; "STAGE:train" or "STAGE:heldout"
                for its training or held-out rows; or an evaluation set.

        Returns:
            The rows, and their tokens in the same order.

        Raises:
            InputError: if there is no such row set.
        """
        return self.row_sets.select(self.set_name(name), self.forget)

    def set_name(self, name: str) -> str:
        """Return the unique name of a row set: "tofu" for "tofu:heldout" if both are the same.

        Raises:
            InputError: if there is no such row set.
        """
        if name in self.eval_sets:
            return name
        heldout = {s: self.stages[s].heldout is not None for s in self.stages if s in self.path}
        return one_name(name, heldout, self.forget, [*self.eval_sets])

    def overlap(self, names: Sequence[str], forgotten: str) -> int:
        """Count the rows of some row sets that are also in another one, with prompt and answer.

        Args:
            names: names of the row sets.
            forgotten: name of the other row set.
        """
        known = {(e.prompt, e.answer) for e in self.row_set(forgotten)[1]}
        rows = (e for name in names for e in self.row_set(name)[1])
        return sum((e.prompt, e.answer) in known for e in rows)

    def notes(self) -> list[str]:
        """Return notes on the rows: unused columns, and answers that are cut or have no end."""
        assert self.format is not None, "load_rows() comes first"
        remarks = self.row_sets.remarks
        found = [line for name in (*self.path, *self.eval_sets) for line in remarks[name]]
        endless = self.format.remark(self.rows[self.path[0]][0])
        truncated = self.row_sets.truncations(self.path, self.format)
        return [*found, *([endless] if endless is not None else []), *truncated]

    def recipe(self, stage: str) -> Recipe:
        """Return the recipe of a stage of the path, or of "unlearn"."""
        return self.unlearn if stage == UNLEARN else self.stages[stage]

    def training_examples(self, stage: str) -> Examples:
        """Return the training rows of a stage; "unlearn" has those of the forget stage."""
        return self.examples[self.forget if stage == UNLEARN and self.forget else stage]

    def fingerprint(self, stage: str) -> str:
        """Return the hash of the training rows of a stage of the path, or of "unlearn"."""
        trained = self.forget if stage == UNLEARN and self.forget else stage
        return self.row_sets.fingerprint(trained, self.training_examples(stage))

    def measured_fingerprints(self) -> dict[str, str]:
        """Return the hashes of all row sets that may be evaluated but are not trained, by name."""
        sets = [stage for stage in self.path if stage != self.forget]
        if self.forget in self.heldout_rows:
            sets.append(f"{self.forget}:{HELDOUT}")
        names = [*sets, *self.eval_sets]
        return {name: self.row_sets.measured_fingerprint(name, self.forget) for name in names}

    def start_stage(
        self,
        stage: str,
        seed: int,
        rank: int,
        world_size: int,
        retain: bool = False,
        alternates: bool = False,
        recipe: Recipe | None = None,
    ) -> BatchPlan:
        """Select the stage whose steps `train_dataloader` yields, and return their plan.

        Args:
            stage: a stage of the path, or "unlearn".
            seed: seed of the run.
            rank: number of this process.
            world_size: number of processes.
            retain: pair the rows with retain rows; `load_method_rows` comes first.
            alternates: pair the rows with alternates; `load_method_rows` comes first.
            recipe: another recipe than the stage's own; None for its own.
        """
        key = "data.unlearn" if stage == UNLEARN else f"data.stages.{stage}"
        recipe = self.recipe(stage) if recipe is None else recipe
        shared = self.training_examples(stage), recipe, seed, stage, self.pad_id
        options: dict[str, Any] = {"rank": rank, "world_size": world_size, "key": key}
        options["micro_batch_size"] = self.micro_batch_size
        if retain or alternates:
            rows = self.method_rows
            options["retain"] = rows.retain if retain else None
            options["alternates"] = rows.alternates if alternates else None
            self._plan = PairedPlan(*shared, **options)
        else:
            self._plan = BatchPlan(*shared, **options)
        return self._plan

    @property
    def pad_id(self) -> int:
        """Padding token id; its value has no effect on results."""
        assert self.format is not None, "load_rows() comes first"
        return self.format.pad_id

    def train_dataloader(self) -> DataLoader[GlobalBatch]:
        """Return the loader of the optimizer steps of the selected stage."""
        assert self._plan is not None, "start_stage() comes first"
        return self._plan.loader()
