"""Verbatim and knowledge memorization, as defined by MUSE."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.metrics import knowledge_memorization, verbatim_memorization
from lightning_unlearn.monitors.answer_statistics import check_sets
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.view import ModelView


class Memorization(Monitor):
    """How much of the text of a row set a model still reproduces, by greedy decoding.

    Metrics, one value per row: ``verbatim/SET``, ROUGE-L F1 of the generated continuation of an
    answer's beginning against the true continuation; ``knowledge/SET``, ROUGE-L F1 of the generated
    answer against the true answer; ``knowledge_truncated/SET``, 1 for a generated answer without
    an end within ``max_new_tokens``.

    Args:
        set: the row set: a stage, "STAGE:train", "STAGE:heldout" or an evaluation set.
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        begun: share of an answer's tokens that the model gets as its beginning.
        max_new_tokens: longest generated text in tokens.
        limit: number of rows, from the first; null for all.

    Source: Shi et al. 2024 (MUSE), arXiv 2407.06460, section 3.1; there the beginnings have a fixed
    length.
    """

    def __init__(
        self,
        set: str,
        every_n_steps: int = 0,
        begun: float = 0.5,
        max_new_tokens: int = 128,
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        if not 0 <= begun < 1:
            raise InputError(f"Memorization.begun: found {begun}, expected a share in [0, 1).")
        if max_new_tokens < 1:
            raise InputError(
                f"Memorization.max_new_tokens: found {max_new_tokens}, expected at least 1."
            )
        self.set = set
        self.begun = begun
        self.max_new_tokens = max_new_tokens
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse an unknown row set."""
        check_sets(self, "set", [self.set], data, prompts=True)

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return the three metrics, with one value per row."""
        rows = view.rows(self.set, self.limit)
        examples = view.data.row_set(self.set)[1][: self.limit]
        # The last token ends the turn and is not part of the text.
        cuts = [int(self.begun * (len(example.answer) - 1)) for example in examples]
        begun = tuple(example.answer[:cut] for example, cut in zip(examples, cuts, strict=True))
        rest = [
            view.format.tokenizer.decode(
                example.answer[cut : cut + self.max_new_tokens], skip_special_tokens=True
            )
            for example, cut in zip(examples, cuts, strict=True)
        ]
        size = self.max_new_tokens
        further = view.generate(self.set, self.limit, begun=begun, greedy=True, max_new_tokens=size)
        answers = view.generate(self.set, self.limit, greedy=True, max_new_tokens=size)
        verbatim = {
            i: verbatim_memorization([rest[i]], [texts[0].text]).item()
            for i, texts in further.items()
        }
        knowledge = {
            i: knowledge_memorization([rows[i].answer], [texts[0].text]).item()
            for i, texts in answers.items()
        }
        truncated = {i: float(not texts[0].ended) for i, texts in answers.items()}
        name = self.set.replace(":", "-")
        return {
            f"verbatim/{name}": view.gather(verbatim, len(rows)),
            f"knowledge/{name}": view.gather(knowledge, len(rows)),
            f"knowledge_truncated/{name}": view.gather(truncated, len(rows)),
        }
