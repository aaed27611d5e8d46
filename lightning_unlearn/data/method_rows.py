"""MethodRows: retain rows and alternates, which are read only for methods that use them."""

from collections.abc import Collection, Mapping, Sequence

from lightning_unlearn.data.alternates import Alternates, check_alternates, read_alternates
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.examples import Example, Examples, data_fingerprint
from lightning_unlearn.data.recipes import EvalSet, RowSource, Stage
from lightning_unlearn.data.retain import KEY, check_retain, read_retain, without_forget_rows
from lightning_unlearn.data.row_sets import RowSets
from lightning_unlearn.data.stage_rows import HELDOUT, TRAIN, truncation


class MethodRows:
    """The rows that an unlearning method uses besides the forget rows.

    Args:
        stages: stages by name.
        eval_sets: evaluation sets by name.
        forget: the forget stage.
        retain: ``data.retain``.
        alternates: ``data.alternates``.

    Attributes:
        retain: retain rows as tokens, without those that are also forget rows; () before `load`.
        alternates: alternates to the forget answers; None before `load`.

    Raises:
        InputError: if names or settings cannot be used.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        eval_sets: Mapping[str, EvalSet],
        forget: str | None,
        retain: list[str] | RowSource | None,
        alternates: str | RowSource | None,
    ) -> None:
        check_retain(retain, stages, eval_sets, forget)
        check_alternates(alternates)
        self._stages = stages
        self._eval_sets = eval_sets
        self._forget = forget
        self._settings = retain, alternates
        self.retain: Sequence[Example] = ()
        self.alternates: Alternates | None = None
        self._retain_notes: list[str] = []
        self._stage_notes: dict[str, list[str]] = {}
        self._fingerprint = ""

    @property
    def forget_columns(self) -> dict[str, list[str]]:
        """Columns that alternates use, by the stage that has them."""
        column = self._settings[1]
        has_column = isinstance(column, str) and self._forget is not None
        return {str(self._forget): [str(column)]} if has_column else {}

    def clear(self) -> None:
        """Forget all rows: the tokens of an earlier model are not valid."""
        self.retain, self.alternates = (), None

    def adopt(self, other: "MethodRows") -> None:
        """Copy the rows of an object with equal settings."""
        mine, theirs = (
            (
                rows._forget,
                rows._settings,
                rows._eval_sets,
                {name: stage.reading() for name, stage in rows._stages.items()},
            )
            for rows in (self, other)
        )
        if mine == theirs and other.retain:
            self.retain = other.retain
            self._retain_notes, self._fingerprint = other._retain_notes, other._fingerprint
            self._stage_notes = other._stage_notes
        if mine == theirs and other.alternates is not None:
            self.alternates = other.alternates

    def load(self, sets: RowSets, form: ChatFormat, retain: bool, alternates: bool) -> None:
        """Read and tokenize what is not known yet.

        Args:
            sets: the rows that have been read, those of the forget stage among them.
            form: tokenizer and chat template.
            retain: whether retain rows are used.
            alternates: whether alternates are used.

        Raises:
            InputError: if rows cannot be used.
        """
        assert self._forget is not None
        of_retain, of_alternates = self._settings
        if retain and of_retain is not None and not self.retain:
            self._load_retain(of_retain, sets, form)
        if alternates and of_alternates is not None and self.alternates is None:
            name = self._forget
            self.alternates = read_alternates(
                of_alternates, name, self._stages[name], sets.rows[name], form
            )

    def _load_retain(self, wanted: list[str] | RowSource, sets: RowSets, form: ChatFormat) -> None:
        self._retain_notes, self._stage_notes = [], {}
        if isinstance(wanted, RowSource):
            found = read_retain(wanted, form)
            examples: Sequence[Example] = found.examples
            self._retain_notes += [*found.remarks, *truncation(KEY, examples, form)]
        else:
            names = [name.partition(":")[0] for name in wanted]
            stages = {name: self._stages[name] for name in names if name in self._stages}
            # They may be missing in the path.
            sets.load(stages, {}, form)
            examples = [example for name in wanted for example in self._named(name, sets)]
            self._retain_notes += self._evaluated(wanted)
            self._stage_notes = {name: list(sets.remarks[name]) for name in stages}
            for name in wanted:
                if (stage := name.partition(":")[0]) in stages:
                    cut = truncation(name, self._named(name, sets), form)
                    self._stage_notes[stage] += cut
        kept, notes = without_forget_rows(examples, sets.examples[str(self._forget)])
        self.retain = Examples.of(kept)
        self._retain_notes += notes
        self._fingerprint = data_fingerprint(self.retain)

    def _named(self, name: str, sets: RowSets) -> Sequence[Example]:
        """Return the rows of a name: of a stage without suffix, the training rows."""
        if name in self._eval_sets or name.endswith(f":{HELDOUT}"):
            return sets.select(name, self._forget)[1]
        return sets.examples[name.removesuffix(f":{TRAIN}")]

    def _evaluated(self, names: list[str]) -> list[str]:
        """Return a list of one note if retain rows are rows of evaluation, else []."""
        held = [n for n in names if n in self._eval_sets or n.endswith(f":{HELDOUT}")]
        if not held:
            return []
        listed = ", ".join(held)
        return [
            f"{KEY}: {listed} {'is' if len(held) == 1 else 'are'} evaluated and trained on by the "
            "retain term, so the scores there do not show what generalizes."
        ]

    def fingerprints(self, retain: bool, alternates: bool) -> dict[str, str]:
        """Return hashes of the rows that are used, for the key of the stage store.

        Args:
            retain: whether retain rows are used.
            alternates: whether alternates are used.
        """
        found = {"retain": self._fingerprint} if retain else {}
        if alternates and self.alternates is not None:
            found["alternates"] = self.alternates.fingerprint()
        return found

    def notes(self, retain: bool, alternates: bool, path: Collection[str] = ()) -> list[str]:
        """Return notes on the rows that are used.

        Args:
            retain: whether retain rows are used.
            alternates: whether alternates are used.
            path: stages whose own notes are given elsewhere.
        """
        found = []
        if retain:
            others = [notes for stage, notes in self._stage_notes.items() if stage not in path]
            found = [note for notes in (*others, self._retain_notes) for note in notes]
        if alternates and self.alternates is not None:
            found += self.alternates.notes
        return found
