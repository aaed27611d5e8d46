"""Verbatim and knowledge memorization of MUSE, from generated texts.

Source: Shi et al. 2024 (MUSE), arXiv 2407.06460. Its published evaluation code defines two details:
ROUGE-L is the F1 without a stemmer, and the strings that end a knowledge answer.
"""

from collections.abc import Sequence

from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.metrics.rouge import rouge_l

# After questions and answers in its prompt, a model continues with further questions.
ENDS = ("\n\n", "\nQuestion", "Question:")


def verbatim_memorization(continuations: Sequence[str], written: Sequence[str]) -> Tensor:
    """Compute the ROUGE-L F1 of generated continuations of texts, given the start of each text.

    Args:
        continuations: true continuations; MUSE truncates them to the tokens that the model may
            generate, 128.
        written: continuations that the model generated greedily.

    Returns:
        Between 0 and 1, ``[texts]``.
    """
    return rouge_l(continuations, written, stemmer=False).f1


def knowledge_memorization(
    answers: Sequence[str], written: Sequence[str], ends: Sequence[str] = ENDS
) -> Tensor:
    """Compute the ROUGE-L F1 of generated answers to questions about a text.

    Args:
        answers: correct answers.
        written: answers that the model generated greedily; only the first answer of each counts.
        ends: strings at which a generated answer is cut.

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
