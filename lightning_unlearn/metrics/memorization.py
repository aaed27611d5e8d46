"""Verbatim and knowledge memorization as MUSE measures them, from written texts.

Source: Shi et al. 2024 (MUSE), arXiv 2407.06460; that ROUGE-L is the F1 without a
stemmer, and where knowledge answers end, is from its published evaluation.
"""

from collections.abc import Sequence

from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.metrics.rouge import rouge_l

# A model that is shown questions and answers goes on with questions of its own.
ENDS = ("\n\n", "\nQuestion", "Question:")


def verbatim_memorization(continuations: Sequence[str], written: Sequence[str]) -> Tensor:
    """How much of a text's true continuation a model writes, given its beginning: ROUGE-L F1.

    Args:
        continuations: the true ones; of MUSE, cut to the tokens the model may write, 128.
        written: the model's greedy ones.

    Returns:
        Between 0 and 1, ``[texts]``.
    """
    return rouge_l(continuations, written, stemmer=False).f1


def knowledge_memorization(
    answers: Sequence[str], written: Sequence[str], ends: Sequence[str] = ENDS
) -> Tensor:
    """How well a model answers questions about a text: ROUGE-L F1 of its first answer.

    Args:
        answers: the right answers.
        written: the model's greedy ones.
        ends: what a written answer is cut at.

    Returns:
        Between 0 and 1, ``[questions]``.
    """
    return rouge_l(answers, [_cut(text, ends) for text in written], stemmer=False).f1


class VerbatimMemorization(PerExampleMetric):
    """`verbatim_memorization` of all examples, ``[examples]``."""

    def measure(self, continuations: Sequence[str], written: Sequence[str]) -> Tensor:
        return verbatim_memorization(continuations, written)


class KnowledgeMemorization(PerExampleMetric):
    """`knowledge_memorization` of all examples, ``[examples]``."""

    def measure(self, answers: Sequence[str], written: Sequence[str]) -> Tensor:
        return knowledge_memorization(answers, written)


def _cut(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.split(end, 1)[0]
    return text
