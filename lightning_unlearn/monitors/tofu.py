"""The measures of TOFU, from evaluation sets with paraphrased and wrong answers."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.metrics import (
    choice_probability,
    forget_quality,
    model_utility,
    rouge_l,
    truth_ratio,
    truth_ratio_utility,
)
from lightning_unlearn.monitors.answer_statistics import check_sets
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.view import ModelView

# Where there is no paraphrase the right answer stands for it, and probabilities are of a choice.
CHOICES = ("real_authors", "world_facts")


class TOFU(Monitor):
    """Probability, ROUGE-L recall and truth ratio on TOFU's four sets, and what they add up to.

    Measures, ROLE being forget, retain, real_authors or world_facts, one value per row:
    ``tofu_probability/ROLE``, exp of the log-likelihood per token of the right answer, for authors
    and facts relative to all their answers; ``tofu_rouge/ROLE``, of the greedy answer;
    ``tofu_truth_ratio/ROLE``; ``tofu_truncated/ROLE``, 1 for an answer that did not end in time.
    Scalars: ``tofu/model_utility``, the harmonic mean of probability, ROUGE and max(0, 1 - truth
    ratio) on all sets but forget; and where there is an oracle ``tofu/forget_quality``, the p-value
    of a Kolmogorov-Smirnov test of its truth ratios on forget against the model's.

    Args:
        forget: probe of the forget set, with paraphrase and alternatives.
        retain: probe of the retain set, likewise.
        real_authors: probe with alternatives; null leaves it out.
        world_facts: probe with alternatives; null leaves it out.
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        variant: mean of the wrong answers' probabilities in the truth ratio: "arithmetic" is the
            paper's, "geometric" that of much published code.
        max_new_tokens: longest answer that is written.
        limit: only the first so many rows of each probe; null for all.

    Source: Maini et al. 2024, arXiv 2401.06121, section 2.2.
    """

    is_single = True
    uses_oracle = True

    def __init__(
        self,
        forget: str,
        retain: str,
        real_authors: str | None = None,
        world_facts: str | None = None,
        every_n_steps: int = 0,
        variant: Literal["arithmetic", "geometric"] = "arithmetic",
        max_new_tokens: int = 128,
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        if max_new_tokens < 1:
            raise InputError(f"TOFU.max_new_tokens: found {max_new_tokens}, expected at least 1.")
        self.forget = forget
        self.retain = retain
        self.real_authors = real_authors
        self.world_facts = world_facts
        self.variant: Literal["arithmetic", "geometric"] = variant
        self.max_new_tokens = max_new_tokens
        self.limit = limit

    def _roles(self) -> dict[str, str]:
        roles = ("forget", "retain", *CHOICES)
        return {role: name for role in roles if (name := getattr(self, role)) is not None}

    def check(self, data: Any) -> None:
        """Refuse evaluation sets that are not there, or without the answers that are compared."""
        for role, name in self._roles().items():
            check_sets(self, role, [name], data)
            rows = data.row_set(name)[0]
            missing = "alternatives" if not rows[0].alternatives else ""
            if role not in CHOICES and rows[0].paraphrase is None:
                missing = "paraphrase"
            if missing:
                raise InputError(
                    f"TOFU.{role}: {rows[0].where} has no {missing}, expected a column of them in "
                    f"every row: name it in data.eval_sets.{name}.{missing}."
                )

    def data_notes(self, model: Any, data: Any) -> list[str]:
        """Rows of the other sets that are to be forgotten."""
        sentences = []
        for role, name in self._roles().items():
            count = data.overlap([name], self.forget) if role != "forget" else 0
            if count:
                total = len(data.row_set(name)[0])
                sentences.append(
                    f"TOFU: {count} of {total} rows of {role} ({name}) are among those of forget "
                    f"({self.forget}), so they say little of what is kept."
                )
        return sentences

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """All measures."""
        measures: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        for role, name in self._roles().items():
            right, ratio = self._answers(view, role, name)
            rouge, capped = self._written(view, name)
            measures[f"tofu_probability/{role}"] = right
            measures[f"tofu_rouge/{role}"] = rouge
            measures[f"tofu_truth_ratio/{role}"] = ratio
            measures[f"tofu_truncated/{role}"] = capped
            if role != "forget":
                parts += [right, rouge, truth_ratio_utility(ratio)]
        if not all(torch.isfinite(values).all() for values in measures.values()):
            return measures  # a model that has diverged, which is told where it is trained
        means = [part.double().mean().item() for part in parts]
        utility = model_utility(means)
        measures["tofu/model_utility"] = torch.tensor(utility, dtype=torch.float64)
        if view.oracle is not None:
            _, retrained = self._answers(view.oracle, "forget", self.forget)
            quality = forget_quality(measures["tofu_truth_ratio/forget"], retrained)
            measures["tofu/forget_quality"] = torch.tensor(quality, dtype=torch.float64)
        return measures

    def _answers(self, view: ModelView, role: str, name: str) -> tuple[Tensor, Tensor]:
        """Probability of the right answer and truth ratio, ``[rows]`` each."""
        rows = view.rows(name, self.limit)
        texts = [[row.answer, row.paraphrase or row.answer, *row.alternatives] for row in rows]
        scores = view.candidate_scores(name, texts, self.limit)
        right, paraphrase, wrong = scores.mean[:, 0], scores.mean[:, 1], scores.mean[:, 2:]
        mask = scores.mask[:, 2:]
        ratio = truth_ratio(wrong, paraphrase, mask, self.variant)
        if role in CHOICES:
            return choice_probability(right, wrong, mask), ratio
        return right.exp(), ratio

    def _written(self, view: ModelView, name: str) -> tuple[Tensor, Tensor]:
        """ROUGE-L recall of greedy answers, and which did not end, ``[rows]`` each."""
        rows = view.rows(name, self.limit)
        written = view.generate(name, self.limit, greedy=True, max_new_tokens=self.max_new_tokens)
        recall = {
            i: rouge_l([rows[i].answer], [texts[0].text]).recall.item()
            for i, texts in written.items()
        }
        capped = {i: float(not texts[0].ended) for i, texts in written.items()}
        return view.gather(recall, len(rows)), view.gather(capped, len(rows))
