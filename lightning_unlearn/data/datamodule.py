"""StagedDataModule: the stages, the path through them, and the rows of each as token ids."""

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_unlearn.data.batches import BatchPlan, GlobalBatch, derive_seed, micro_batch
from lightning_unlearn.data.chat import ChatFormat, Example, data_fingerprint
from lightning_unlearn.data.paths import all_paths, check_order, choose_path
from lightning_unlearn.data.recipes import EvalSet, Recipe, Stage, check_row_sets
from lightning_unlearn.data.rows import Row
from lightning_unlearn.data.stage_rows import (
    HELDOUT,
    TRAIN,
    one_name,
    read_eval_set,
    read_stage,
    truncation,
)
from lightning_unlearn.errors import InputError

UNLEARN, ORACLE = "unlearn", "oracle"


class StagedDataModule(LightningDataModule):
    """Training stages in a chosen order, and the stage to be unlearned.

    The path is given by one of ``order``, ``position`` and ``permutation``; by none of them it is
    the order in which the stages are written.

    Args:
        stages: the stages by name.
        forget: the stage to unlearn after the path has been walked; null to train only.
        order: the path as a list of stage names; it may leave stages out.
        position: place of the forget stage in the path, from 1, the others in written order.
        permutation: number of the order among all orders of the stages, from 1, counted
            lexicographically from the written order.
        oracle: leave the forget stage out of training and unlearn nothing: the model that
            unlearning is to be compared with. It is measured like the others.
        unlearn: recipe of unlearning.
        eval_sets: further rows to measure, by name; monitors name them as they name stages.
        max_length: longest sequence in tokens; null for the model's context.
        chat_template_from: model whose chat template is used, for a base model that has none.
        micro_batch_size: sequences of one forward in training, per process; null chooses. Changes
            speed, memory and rounding.
        eval_batch_size: sequences of one forward in measuring, per process.

    Raises:
        InputError: for a path that can't be walked or a recipe that can't train.
    """

    def __init__(
        self,
        stages: dict[str, Stage],
        forget: str | None = None,
        order: list[str] | None = None,
        position: int | None = None,
        permutation: int | None = None,
        oracle: bool = False,
        unlearn: Recipe = Recipe(),  # noqa: B008  (never changed; its values are the documentation)
        eval_sets: dict[str, EvalSet] | None = None,
        max_length: int | None = None,
        chat_template_from: str | None = None,
        micro_batch_size: int | None = None,
        eval_batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.stages = dict(stages)
        self.forget = forget
        self.oracle = oracle
        self.unlearn = unlearn
        self.eval_sets = dict(eval_sets or {})
        self.max_length = max_length
        self.chat_template_from = chat_template_from
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self._check()
        self._path = choose_path([*self.stages], forget, order, position, permutation)
        self.format: ChatFormat | None = None
        self.context: int | None = None
        self.rows: dict[str, list[Row]] = {}
        self.examples: dict[str, list[Example]] = {}
        self.heldout_rows: dict[str, list[Row]] = {}
        self.heldout_examples: dict[str, list[Example]] = {}
        self.eval_set_rows: dict[str, list[Row]] = {}
        self.eval_set_examples: dict[str, list[Example]] = {}
        self._found: dict[str, list[str]] = {}
        self._fingerprints: dict[str, str] = {}
        self._plan: BatchPlan | None = None

    def _check(self) -> None:
        check_row_sets(self.stages, self.eval_sets, (UNLEARN, ORACLE))
        self.unlearn.check("data.unlearn")
        if self.forget is not None and self.forget not in self.stages:
            raise InputError(
                f"data.forget: found {self.forget!r}, expected one of the stages "
                f"{', '.join(self.stages)}."
            )
        if self.oracle and self.forget is None:
            raise InputError(
                "data.oracle: it leaves out the forget stage, but data.forget is null."
            )
        lengths = (("max_length", self.max_length, 2), ("eval_batch_size", self.eval_batch_size, 1))
        for name, found, least in lengths:
            if found is not None and found < least:
                raise InputError(f"data.{name}: found {found}, expected at least {least}.")

    def check_order(self, order: Sequence[str], key: str = "data.order") -> tuple[str, ...]:
        """A path, if it can be walked; see `lightning_unlearn.data.paths.check_order`.

        Args:
            order: names of stages.
            key: YAML key of the order, for messages.

        Raises:
            InputError: if it can't.
        """
        return check_order([*self.stages], self.forget, order, key)

    def paths(self, kind: Literal["positions", "permutations"]) -> list[tuple[str, ...]]:
        """Many paths through the stages; see `lightning_unlearn.data.paths.all_paths`.

        Args:
            kind: "positions" or "permutations".

        Raises:
            InputError: "positions" without a forget stage.
        """
        return all_paths([*self.stages], self.forget, kind)

    @property
    def path(self) -> tuple[str, ...]:
        """The stages in the order they are trained.

        Of an oracle the forget stage is among them, for it is measured, and is not trained.
        """
        return self._path

    @path.setter
    def path(self, order: Sequence[str]) -> None:
        self._path = self.check_order(order)

    @property
    def position(self) -> int | None:
        """Place of the forget stage in the path, from 1."""
        if self.forget is None or self.oracle:
            return None
        return self.path.index(self.forget) + 1

    @property
    def training_stages(self) -> tuple[str, ...]:
        """The stages that are trained, in order."""
        left_out = self.forget if self.oracle else None
        return tuple(name for name in self.path if name != left_out)

    def encodes_with(self, tokenizer: Any) -> bool:
        """Whether rows are encoded with a tokenizer already; its template is then known."""
        return self.format is not None and self.format.tokenizer is tokenizer

    def load_rows(
        self,
        tokenizer: Any,
        context: int,
        template: Any = None,
        name: str = "",
        vocabulary: int | None = None,
    ) -> None:
        """Read and tokenize the rows of every stage on the path; once is enough.

        Args:
            tokenizer: the model's tokenizer.
            context: longest sequence the model takes, in tokens.
            template: tokenizer of the sibling named by ``chat_template_from``.
            name: the model's name, for messages.
            vocabulary: rows of the model's embedding; None leaves token ids unchecked.

        Raises:
            InputError: for files and rows that can't be used.
        """
        self.context = context
        if not self.encodes_with(tokenizer):
            if self.max_length is not None and self.max_length > context:
                raise InputError(
                    f"data.max_length: found {self.max_length}, but {name or 'the model'} takes "
                    f"at most {context} tokens."
                )
            form = ChatFormat(
                tokenizer,
                self.max_length or context,
                template,
                name or "the tokenizer",
                vocabulary,
                self.chat_template_from if template is not None else None,
            )
            if self.format is None or not form.same(self.format):
                # Another model: what was encoded for the one before does not hold.
                for known in self._read():
                    known.clear()
                self._fingerprints.clear()
            self.format = form
        assert self.format is not None, "made above, or before"
        for stage in self.path:
            if stage not in self.examples:
                found = read_stage(stage, self.stages[stage], self.format)
                self.rows[stage], self.examples[stage] = found.rows, found.examples
                if found.heldout_rows is not None and found.heldout_examples is not None:
                    self.heldout_rows[stage] = found.heldout_rows
                    self.heldout_examples[stage] = found.heldout_examples
                self._found[stage] = found.remarks
        for eval_set in self.eval_sets:
            if eval_set not in self.eval_set_examples:
                found = read_eval_set(eval_set, self.eval_sets[eval_set], self.format)
                self.eval_set_rows[eval_set] = found.rows
                self.eval_set_examples[eval_set] = found.examples
                self._found[eval_set] = found.remarks

    def _read(self) -> list[dict[str, Any]]:
        """What was read: tables by name of the stage or evaluation set."""
        known: list[Any] = [self.rows, self.examples, self.heldout_rows, self.heldout_examples]
        return [*known, self.eval_set_rows, self.eval_set_examples, self._found]

    def adopt(self, other: "StagedDataModule") -> None:
        """Take over what another has read of the stages that are read in the same way.

        Args:
            other: of the same model; `load_rows` then reads only what is missing.
        """
        own, its = ((data.chat_template_from, data.max_length) for data in (self, other))
        if own != its:
            return
        alike = {
            name
            for name, stage in self.stages.items()
            if name in other.examples and other.stages[name].reading() == stage.reading()
        }
        alike |= {
            name for name, rows in self.eval_sets.items() if other.eval_sets.get(name) == rows
        }
        for mine, theirs in zip(self._read(), other._read(), strict=True):
            mine.update({name: theirs[name] for name in alike & set(theirs)})
        self.format = other.format

    def check_batches(self, world_size: int) -> None:
        """Refuse global batches that can't be cut over the processes, before anything runs.

        Args:
            world_size: number of processes.

        Raises:
            InputError: naming the recipe.
        """
        for name in self.training_stages:
            batch_size = self.stages[name].batch_size
            micro_batch(batch_size, self.micro_batch_size, world_size, f"data.stages.{name}")
        if self.forget is not None and not self.oracle:
            micro_batch(self.unlearn.batch_size, self.micro_batch_size, world_size, "data.unlearn")

    def eval_rows(self, stage: str) -> tuple[list[Row], list[Example]]:
        """The rows on which a stage is measured.

        The forget stage is measured on the rows that are unlearned; every other stage on its
        held-out rows if it has them, else on its training rows.
        """
        if stage in self.heldout_rows and stage != self.forget:
            return self.heldout_rows[stage], self.heldout_examples[stage]
        return self.rows[stage], self.examples[stage]

    def row_set(self, name: str) -> tuple[list[Row], list[Example]]:
        """The rows that a monitor names.

        Args:
            name: a stage, for the rows on which it is measured; "STAGE:train" or "STAGE:heldout"
                for others of it; or an evaluation set.

        Returns:
            The rows and their tokens, equally many.

        Raises:
            InputError: if there are no such rows.
        """
        stage, _, which = self.set_name(name).partition(":")
        if stage in self.eval_sets:
            return self.eval_set_rows[stage], self.eval_set_examples[stage]
        if which == TRAIN:
            return self.rows[stage], self.examples[stage]
        if which == HELDOUT:
            return self.heldout_rows[stage], self.heldout_examples[stage]
        return self.eval_rows(stage)

    def set_name(self, name: str) -> str:
        """The one name of a row set that may have two: "tofu" where "tofu:heldout" is the same.

        Raises:
            InputError: if there are no such rows.
        """
        if name in self.eval_sets:
            return name
        heldout = {s: self.stages[s].heldout is not None for s in self.stages if s in self.path}
        return one_name(name, heldout, self.forget, [*self.eval_sets])

    def overlap(self, names: Sequence[str], forgotten: str) -> int:
        """How many rows of some sets are in another one, prompt and answer alike.

        Args:
            names: of row sets.
            forgotten: name of the other.
        """
        known = {(e.prompt, e.answer) for e in self.row_set(forgotten)[1]}
        rows = (e for name in names for e in self.row_set(name)[1])
        return sum((e.prompt, e.answer) in known for e in rows)

    def notes(self) -> list[str]:
        """What a user should know of the rows: columns not used, answers cut or without an end."""
        assert self.format is not None, "load_rows() comes first"
        found = [line for name in (*self.path, *self.eval_sets) for line in self._found[name]]
        endless = self.format.remark(self.rows[self.path[0]][0])
        return [*found, *([endless] if endless is not None else []), *self.truncations()]

    def truncations(self) -> list[str]:
        """One sentence per row set of which answers lost their end."""
        assert self.format is not None, "load_rows() comes first"
        sets = {stage: self.examples[stage] for stage in self.path}
        for stage in self.path:
            if stage in self.heldout_examples:
                sets[f"{stage}:{HELDOUT}"] = self.heldout_examples[stage]
        sets |= self.eval_set_examples
        return [line for name, rows in sets.items() for line in truncation(name, rows, self.format)]

    def recipe(self, stage: str) -> Recipe:
        """The recipe of a stage of the path, or of "unlearn"."""
        return self.unlearn if stage == UNLEARN else self.stages[stage]

    def training_examples(self, stage: str) -> list[Example]:
        """The rows trained on in a stage of the path, or in "unlearn": the forget stage's."""
        return self.examples[self.forget if stage == UNLEARN and self.forget else stage]

    def fingerprint(self, stage: str) -> str:
        """Hash of what is trained on in a stage of the path, or in "unlearn"."""
        trained = self.forget if stage == UNLEARN and self.forget else stage
        return self._fingerprint(trained, self.training_examples(stage))

    def measured_fingerprints(self) -> dict[str, str]:
        """Hashes of all rows that may be measured and are not trained on, by name of the set."""
        sets = [stage for stage in self.path if stage != self.forget]
        if self.forget in self.heldout_rows:
            sets.append(f"{self.forget}:{HELDOUT}")
        return {name: self._measured_fingerprint(name) for name in [*sets, *self.eval_sets]}

    def _measured_fingerprint(self, name: str) -> str:
        rows, examples = self.row_set(name)
        # Written answers are compared with the text, of which truncation may have cut the end.
        texts = [(row.answer, row.paraphrase, row.alternatives) for row in rows]
        plain = all(text[1:] == (None, ()) for text in texts)
        answers = derive_seed(*((text[0] for text in texts) if plain else texts))
        return f"{self._fingerprint(f'{name} measured', examples)} {answers}"

    def _fingerprint(self, name: str, examples: Sequence[Example]) -> str:
        """Remembered: rows do not change once they are read."""
        if name not in self._fingerprints:
            self._fingerprints[name] = data_fingerprint(examples)
        return self._fingerprints[name]

    def start_stage(self, stage: str, seed: int, rank: int, world_size: int) -> BatchPlan:
        """Make a stage the one that `train_dataloader` yields.

        Args:
            stage: a stage of the path, or "unlearn".
            seed: seed of the run.
            rank: number of this process.
            world_size: number of processes.

        Returns:
            The plan of its optimizer steps.
        """
        assert self.format is not None, "load_rows() comes first"
        self._plan = BatchPlan(
            self.training_examples(stage),
            self.recipe(stage),
            seed,
            stage,
            self.pad_id,
            self.micro_batch_size,
            rank,
            world_size,
            key="data.unlearn" if stage == UNLEARN else f"data.stages.{stage}",
        )
        return self._plan

    @property
    def pad_id(self) -> int:
        """Padding token id; what it is has no effect on results."""
        assert self.format is not None, "load_rows() comes first"
        return self.format.pad_id

    def train_dataloader(self) -> DataLoader[GlobalBatch]:
        """The optimizer steps of the stage that was begun last."""
        assert self._plan is not None, "start_stage() comes first"
        return self._plan.loader()
