"""ROUGE-L of generated answers."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.errors import InputError

Score = Literal["recall", "precision", "f1"]


class RougeScores(NamedTuple):
    """ROUGE-L of texts, each ``[texts]``, between 0 and 1.

    Attributes:
        recall: longest common subsequence over the words of the answer.
        precision: the same over the words of the generated text.
        f1: harmonic mean of both.
    """

    recall: Tensor
    precision: Tensor
    f1: Tensor


def rouge_l(answers: Sequence[str], written: Sequence[str], stemmer: bool = True) -> RougeScores:
    """Compute ROUGE-L: the longest common subsequence of words of two texts.

    Words are sequences of a-z and 0-9 after conversion to lower case. An empty text, or a text in
    another script, has no words. If one of the two texts has no words, the scores are 1 or 0: 1 if
    both are equal except for white space at the ends.

    Args:
        answers: correct answers.
        written: generated texts, one per answer.
        stemmer: reduce words to their stems: TOFU does, MUSE does not.

    Returns:
        Recall (TOFU's score), precision and F1 (MUSE's).

    Source: Lin 2004, ROUGE; computed by Google's rouge-score.
    """
    if len(answers) != len(written):
        raise InputError(
            f"ROUGE-L: found {len(answers)} answers and {len(written)} written texts, expected one "
            "text per answer"
        )
    scorer = _scorer(stemmer)
    rows = []
    for answer, text in zip(answers, written, strict=True):
        found = scorer.score(answer, text)["rougeL"]
        row = (found.recall, found.precision, found.fmeasure)
        if not any(row) and answer.strip() == text.strip():
            row = (1.0, 1.0, 1.0)
        rows.append(row)
    return RougeScores(*torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(-1))


class RougeL(PerExampleMetric):
    """`rouge_l` of all examples, ``[examples]``; update with numbers, answers, generated texts.

    Args:
        count: number of examples; None for the highest number plus one.
        score: "recall", "precision" or "f1".
        stemmer: reduce words to their stems.
    """

    def __init__(
        self, count: int | None = None, score: Score = "recall", stemmer: bool = True
    ) -> None:
        super().__init__(count)
        if score not in get_args(Score):
            raise InputError(
                f"ROUGE-L: found score {score!r}, expected one of {', '.join(get_args(Score))}"
            )
        self.score = score
        self.stemmer = stemmer

    def measure(self, answers: Sequence[str], written: Sequence[str]) -> Tensor:
        values: Tensor = getattr(rouge_l(answers, written, self.stemmer), self.score)
        return values


@functools.lru_cache(maxsize=2)
def _scorer(stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stemmer)
