"""The metrics of TOFU, from evaluation sets with paraphrased and wrong answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_unlearn.data.columns import Row
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
from lightning_unlearn.monitors.results import Results, SomeRows
from lightning_unlearn.monitors.view import ModelView

# These sets have no paraphrase, so the right answer replaces it. Their probabilities are those of a
# choice among all answers.
CHOICES = ("real_authors", "world_facts")


class TOFU(Monitor):
    """The metrics of TOFU: probability, ROUGE-L recall, truth ratio, utility, forget quality.

    ROLE is forget, retain, real_authors or world_facts. Metrics with one value per row:
    ``tofu_probability/ROLE``, exp of the log-likelihood per token of the right answer, for authors
    and facts relative to all their answers; ``tofu_rouge/ROLE``, of the greedy answer;
    ``tofu_truth_ratio/ROLE``; ``tofu_truncated/ROLE``, 1 for a generated answer without an end
    within ``max_new_tokens``. Scalars: ``tofu/model_utility``, the harmonic mean of probability,
    ROUGE and max(0, 1 - truth ratio) on all sets except forget; and, with an oracle,
    ``tofu/forget_quality``, the p-value of a Kolmogorov-Smirnov test of the oracle's truth ratios
    on forget against those of the model.

    Rows without a wrong answer, or of forget and retain without a paraphrase, are left out of the
    truth ratio, and rows of authors and facts without a wrong answer of the probability too.

    Args:
        forget: evaluation set of the forget rows, with paraphrase and alternatives.
        retain: evaluation set of retain rows, with paraphrase and alternatives.
        real_authors: evaluation set with alternatives; null for none.
        world_facts: evaluation set with alternatives; null for none.
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        variant: mean of the wrong answers' probabilities in the truth ratio: "arithmetic" is the
            paper's, "geometric" that of much published code.
        max_new_tokens: longest generated answer in tokens.
        limit: number of rows of each set, from the first; null for all.

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
        """Refuse unknown evaluation sets, and sets without the answers that are compared."""
        for role, name in self._roles().items():
            check_sets(self, role, [name], data, prompts=True)
            rows = data.row_set(name)[0][: self.limit]
            bare = {
                "paraphrase": role not in CHOICES and all(r.paraphrase is None for r in rows),
                "alternatives": not any(row.alternatives for row in rows),
            }
            for missing in (kind for kind, found in bare.items() if found):
                raise InputError(
                    f"TOFU.{role}: {rows[0].where} has no {missing}, expected a column of them in "
                    f"some of the {len(rows)} rows: name it in data.eval_sets.{name}.{missing}."
                )
            if not _usable(rows, role):
                raise InputError(
                    f"TOFU.{role}: found no row with both paraphrase and alternatives in {name!r}, "
                    "expected at least one for the truth ratio; complete the rows, or name other "
                    f"columns in data.eval_sets.{name}."
                )

    def data_notes(self, model: Any, data: Any) -> list[str]:
        """Return notes on rows of the other sets that are also forget rows."""
        sentences = []
        for role, name in self._roles().items():
            count = data.overlap([name], self.forget) if role != "forget" else 0
            if count:
                total = len(data.row_set(name)[0])
                sentences.append(
                    f"TOFU: {count} of {total} rows of {role} ({name}) are also rows of forget "
                    f"({self.forget}), so they do not show utility."
                )
        return sentences

    def measure(self, view: ModelView) -> Mapping[str, Results]:
        """Return all metrics."""
        metrics: dict[str, Results] = {}
        parts: list[Tensor] = []
        for role, name in self._roles().items():
            right, ratio = self._answers(view, role, name)
            rouge, truncated = self._written(view, name)
            metrics[f"tofu_probability/{role}"] = right
            metrics[f"tofu_rouge/{role}"] = rouge
            metrics[f"tofu_truth_ratio/{role}"] = ratio
            metrics[f"tofu_truncated/{role}"] = truncated
            if role != "forget":
                parts += [_values(right), rouge, truth_ratio_utility(_values(ratio))]
        if not all(torch.isfinite(_values(found)).all() for found in metrics.values()):
            return metrics  # The model has diverged, which the training step reports.
        means = [part.double().mean().item() for part in parts]
        utility = model_utility(means)
        metrics["tofu/model_utility"] = torch.tensor(utility, dtype=torch.float64)
        if view.oracle is not None:
            _, retrained = self._answers(view.oracle, "forget", self.forget)
            own = _values(metrics["tofu_truth_ratio/forget"])
            quality = forget_quality(own, _values(retrained))
            metrics["tofu/forget_quality"] = torch.tensor(quality, dtype=torch.float64)
        return metrics

    def measure_oracle(self, oracle: ModelView) -> None:
        """Request the answers of the forget set, for the forget quality."""
        self._answers(oracle, "forget", self.forget)

    def _answers(self, view: ModelView, role: str, name: str) -> tuple[Results, Results]:
        """Compute the probability of the right answer and the truth ratio of the usable rows."""
        rows = view.rows(name, self.limit)
        usable = _usable(rows, role)
        texts = [[row.answer, row.paraphrase or row.answer, *row.alternatives] for row in rows]
        scores = view.candidate_scores(name, texts, self.limit)
        right, paraphrase, wrong = scores.mean[:, 0], scores.mean[:, 1], scores.mean[:, 2:]
        mask = scores.mask[:, 2:]
        if len(usable) == len(rows):
            ratio = truth_ratio(wrong, paraphrase, mask, self.variant)
            if role in CHOICES:
                return choice_probability(right, wrong, mask), ratio
            return right.exp(), ratio
        some = torch.tensor(usable, device=right.device)
        of_some = wrong[some], mask[some]
        ratios = SomeRows(some, truth_ratio(of_some[0], paraphrase[some], of_some[1], self.variant))
        if role in CHOICES:
            return SomeRows(some, choice_probability(right[some], *of_some)), ratios
        return right.exp(), ratios

    def _written(self, view: ModelView, name: str) -> tuple[Tensor, Tensor]:
        """Compute ROUGE-L recall of greedy answers, and 1 for those cut off, ``[rows]`` each."""
        rows = view.rows(name, self.limit)
        written = view.generate(name, self.limit, greedy=True, max_new_tokens=self.max_new_tokens)
        recall = {
            i: rouge_l([rows[i].answer], [texts[0].text]).recall.item()
            for i, texts in written.items()
        }
        truncated = {i: float(not texts[0].ended) for i, texts in written.items()}
        return view.gather(recall, len(rows)), view.gather(truncated, len(rows))


def _usable(rows: Sequence[Row], role: str) -> list[int]:
    """Return the numbers of the rows that have a truth ratio."""
    return [
        number
        for number, row in enumerate(rows)
        if row.alternatives and (role in CHOICES or row.paraphrase is not None)
    ]


def _values(found: Results) -> Tensor:
    return found.values if isinstance(found, SomeRows) else found
