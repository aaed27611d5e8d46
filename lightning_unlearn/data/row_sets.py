"""RowSets: the rows of stages and evaluation sets that have been read, with their tokens."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Example, Examples, data_fingerprint
from lightning_unlearn.data.recipes import EvalSet, Stage
from lightning_unlearn.data.stage_rows import (
    HELDOUT,
    TRAIN,
    StageRows,
    read_eval_set,
    read_stage,
    truncation,
)


class RowSets:
    """Rows by name of their stage or evaluation set; each is read once.

    Attributes:
        rows: training rows of stages.
        examples: tokens of ``rows``, in the same order.
        heldout_rows: held-out rows of the stages that have some.
        heldout_examples: tokens of ``heldout_rows``.
        eval_set_rows: rows of evaluation sets.
        eval_set_examples: tokens of ``eval_set_rows``.
        remarks: notes for the user.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.examples: dict[str, Examples] = {}
        self.heldout_rows: dict[str, list[Row]] = {}
        self.heldout_examples: dict[str, Examples] = {}
        self.eval_set_rows: dict[str, list[Row]] = {}
        self.eval_set_examples: dict[str, Examples] = {}
        self.remarks: dict[str, list[str]] = {}
        self._fingerprints: dict[str, str] = {}

    def _tables(self) -> list[dict[str, Any]]:
        """Return all tables, each by name of the stage or evaluation set."""
        known: list[Any] = [self.rows, self.examples, self.heldout_rows, self.heldout_examples]
        return [*known, self.eval_set_rows, self.eval_set_examples, self.remarks]

    def clear(self) -> None:
        """Forget all rows: the tokens of an earlier model are not valid."""
        for table in self._tables():
            table.clear()
        self._fingerprints.clear()

    def load(
        self,
        stages: Mapping[str, Stage],
        eval_sets: Mapping[str, EvalSet],
        form: ChatFormat,
        also_used: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Read and tokenize the rows that are not known yet.

        Args:
            stages: stages by name.
            eval_sets: evaluation sets by name.
            form: tokenizer and chat template.
            also_used: columns of a stage that are read elsewhere, by name of the stage.

        Raises:
            InputError: if a file or a row cannot be used.
        """
        others = also_used or {}
        for name, stage in stages.items():
            if name not in self.examples:
                self._add_stage(name, read_stage(name, stage, form, others.get(name, ())))
        for name, eval_set in eval_sets.items():
            if name not in self.eval_set_examples:
                found = read_eval_set(name, eval_set, form)
                self.eval_set_rows[name] = found.rows
                self.eval_set_examples[name] = found.examples
                self.remarks[name] = found.remarks

    def _add_stage(self, name: str, found: StageRows) -> None:
        self.rows[name], self.examples[name] = found.rows, found.examples
        if found.heldout_rows is not None and found.heldout_examples is not None:
            self.heldout_rows[name] = found.heldout_rows
            self.heldout_examples[name] = found.heldout_examples
        self.remarks[name] = found.remarks

    def adopt(self, other: "RowSets", names: Iterable[str]) -> None:
        """Copy the named row sets of another object, as far as it has them."""
        wanted = set(names)
        for mine, theirs in zip(self._tables(), other._tables(), strict=True):
            mine.update({name: theirs[name] for name in wanted & set(theirs)})

    def select(self, name: str, forget: str | None) -> tuple[list[Row], Examples]:
        """Return the rows of a row set, and their tokens in the same order.

        Args:
            name: its unique name, see `lightning_unlearn.data.stage_rows.one_name`, or an
                evaluation set.
            forget: the forget stage, which is evaluated on its training rows.
        """
        if name in self.eval_set_rows:
            return self.eval_set_rows[name], self.eval_set_examples[name]
        stage, _, which = name.partition(":")
        evaluates_heldout = stage in self.heldout_rows and stage != forget
        if which == HELDOUT or (which != TRAIN and evaluates_heldout):
            return self.heldout_rows[stage], self.heldout_examples[stage]
        return self.rows[stage], self.examples[stage]

    def fingerprint(self, name: str, examples: Sequence[Example]) -> str:
        """Hash token ids, and keep the hash: rows do not change after they are read.

        Args:
            name: name under which the hash is kept.
            examples: the tokens.
        """
        if name not in self._fingerprints:
            self._fingerprints[name] = data_fingerprint(examples)
        return self._fingerprints[name]

    def measured_fingerprint(self, name: str, forget: str | None) -> str:
        """Hash what an evaluation of a row set uses: tokens and texts.

        Args:
            name: as of `select`.
            forget: as of `select`.
        """
        rows, examples = self.select(name, forget)
        # Generated answers are compared with the full text, not with truncated tokens.
        texts = [(row.answer, row.paraphrase, row.alternatives) for row in rows]
        plain = all(text[1:] == (None, ()) for text in texts)
        answers = derive_seed(*((text[0] for text in texts) if plain else texts))
        return f"{self.fingerprint(f'{name} measured', examples)} {answers}"

    def truncations(self, path: Sequence[str], form: ChatFormat) -> list[str]:
        """Return one sentence for each row set with truncated answers.

        Args:
            path: the stages that are used.
            form: chat format that encoded the rows.
        """
        sets = {stage: self.examples[stage] for stage in path}
        for stage in path:
            if stage in self.heldout_examples:
                sets[f"{stage}:{HELDOUT}"] = self.heldout_examples[stage]
        sets |= self.eval_set_examples
        return [line for name, rows in sets.items() for line in truncation(name, rows, form)]
