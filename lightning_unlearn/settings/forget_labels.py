"""What a forget score is of: names of the metrics of `LabelLikelihood`, and words for them.

A label is a text whose log-likelihood on the forget prompts measures forgetting. Its kind is part
of the names of its metrics, so that records say what was measured:

- "paper": the unlearn label of arXiv 2510.16629 and its 19 paraphrases; ``forget/label``,
  ``forget/paraphrases``, ``forget/mean``,
- "own": the answer of each forget row, and its paraphrase where there is one; ``forget/own_label``
  and so on,
- "phrases": a given phrase and its paraphrases; ``forget/phrases_label`` and so on.

"end" before the part says that end-of-turn tokens are counted: ``forget/own_end_label``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

LabelKind = Literal["own", "paper", "phrases"]
PREFIX = "forget/"
# Metrics of a label: its log-likelihood; that of its paraphrases; the mean over both, whose drop is
# the forget score; and that of the label under the base model, at step 0.
LABEL, PARAPHRASES, MEAN, BASE = PARTS = ("label", "paraphrases", "mean", "base")
_WORDS = {"own": "own answers", "paper": "paper's label", "phrases": "given phrases"}
_SENTENCES = {
    "own": "the forget rows' own answers, and of their paraphrases where rows have one",
    "paper": "the paper's unlearn label and its 19 paraphrases",
    "phrases": "the given phrases",
}


@dataclass(frozen=True)
class ForgetLabel:
    """A kind of label.

    Attributes:
        kind: "own", "paper" or "phrases".
        end_of_turn: whether end-of-turn tokens are counted.
    """

    kind: LabelKind
    end_of_turn: bool = False

    @property
    def name(self) -> str:
        """Name in tables: the kind, with "_end" where end-of-turn tokens are counted."""
        return f"{self.kind}_end" if self.end_of_turn else self.kind

    @property
    def words(self) -> str:
        """The label in a few words, such as "own answers"."""
        return _WORDS[self.kind] + (" with end of turn" if self.end_of_turn else "")

    @property
    def noun(self) -> str:
        """The label for a sentence or title, such as "the forget rows' own answers"."""
        return ("the forget rows' " if self.kind == "own" else "the ") + self.words

    @property
    def sentence(self) -> str:
        """What the log-likelihood is of, with the end-of-turn token, for a note."""
        counted = "counted" if self.end_of_turn else "not counted"
        return f"{_SENTENCES[self.kind]}, end of turn {counted}"

    def metric(self, part: str) -> str:
        """Return the name of a metric of this label.

        Args:
            part: one of `PARTS`.
        """
        kind = "" if self.kind == "paper" else f"{self.kind}_"
        return f"{PREFIX}{kind}{'end_' if self.end_of_turn else ''}{part}"


ALL_LABELS = [ForgetLabel(kind, end) for kind in get_args(LabelKind) for end in (False, True)]
_BY_METRIC = {label.metric(part): (label, part) for label in ALL_LABELS for part in PARTS}
_BY_NAME = {label.name: label for label in ALL_LABELS}


def label_of(metric: str) -> tuple[ForgetLabel, str] | None:
    """Return the label and the part that a metric is of; None for another metric."""
    return _BY_METRIC.get(metric)


def labels_in(metrics: Iterable[str]) -> list[ForgetLabel]:
    """Return the labels of which there are metrics, each once, in order of first appearance."""
    found = (label_of(metric) for metric in metrics)
    return list(dict.fromkeys(own[0] for own in found if own is not None))


def label_named(name: str) -> ForgetLabel:
    """Return the label with a name of `ForgetLabel.name`."""
    return _BY_NAME[name]
