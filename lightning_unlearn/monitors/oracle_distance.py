"""How far the model is from the one retrained without the forget stage."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.stage_rows import HELDOUT, TRAIN
from lightning_unlearn.errors import InputError
from lightning_unlearn.metrics import KLToOracle, Margin, overshoot, re_distance
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.answer_statistics import check_sets
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.view import ModelView, RowRequest

FORGET = "forget"
# Usual names of output projections, which adapters may be put on by name.
HEADS = ("lm_head", "embed_out", "output", "head")


class OracleDistance(Monitor):
    """Distance to the oracle, the model retrained without the forget stage, on groups of rows.

    Measures, for every group, one value per example: ``log_likelihood/GROUP``, the log-likelihood
    per token of its answer; ``margin/GROUP``, the mean margin of the answer's tokens; and, where
    there is an oracle, ``distance/GROUP``, the squared difference of the two models'
    log-likelihoods, whose mean
    is the RE distance; ``overshoot/GROUP``, 1 for an example that is below the oracle's value
    already; ``kl/GROUP``, KL(oracle || model) of the next-token distribution, mean over the
    answer's tokens.

    The oracle is the same path without the forget stage, with the same seed, on the same base: its
    weights take the module's place once in a run, and no second model is in memory.

    Args:
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        groups: row sets by name of the group. null takes "forget", the rows that are unlearned;
            "retain", the training rows of the other stages; and "heldout", the held-out rows of all
            stages, as far as there are some.
        limit: only the first so many rows of each row set; null for all.
        kl: measure the KL too; it costs a second projection on the vocabulary.

    Source: arXiv 2510.16629, definition 2.1, with log-probabilities as outputs; overshoot: the
    missing targets of arXiv 2410.23232.
    """

    uses_oracle = True

    def __init__(
        self,
        every_n_steps: int = 10,
        groups: dict[str, list[str]] | None = None,
        limit: int | None = None,
        kl: bool = True,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        self.groups = groups
        self.limit = limit
        self.kl = kl

    def sets(self, data: Any) -> dict[str, list[str]]:
        """The row sets of each probe."""
        if self.groups is not None:
            return {name: list(sets) for name, sets in self.groups.items()}
        others = [stage for stage in data.stages if stage in data.path and stage != data.forget]
        held = [s for s in data.stages if s in data.path and data.stages[s].heldout is not None]
        sets = {
            FORGET: [data.forget],
            "retain": [f"{stage}:{TRAIN}" for stage in others],
            "heldout": [f"{stage}:{HELDOUT}" for stage in held],
        }
        return {name: own for name, own in sets.items() if own}

    def check(self, data: Any) -> None:
        """Refuse a path without a forget stage, and groups that name no rows."""
        if data.forget is None:
            raise InputError(
                "OracleDistance: the oracle is the model without the forget stage, and data.forget "
                "is null."
            )
        if self.groups is not None and not self.groups:
            raise InputError("OracleDistance.groups: found none, expected at least one, or null.")
        for name, sets in self.sets(data).items():
            if not sets or not all(c.isalnum() or c == "_" for c in name) or not name:
                found = f"found {sets!r} under {name!r}"
                raise InputError(
                    f"OracleDistance.groups: {found}, expected a name of letters, digits and "
                    "underscores, with at least one row set."
                )
            check_sets(self, f"groups.{name}", sets, data)
            if len({data.set_name(own) for own in sets}) < len(sets):
                raise InputError(
                    f"OracleDistance.groups.{name}: found {', '.join(sets)}, which name some rows "
                    "twice; name each row set once."
                )

    def data_notes(self, model: CausalLM, data: Any) -> list[str]:
        """Rows of a probe that are unlearned, and why there is no KL, if there is none."""
        sentences = []
        forgotten = {data.set_name(own) for own in (data.forget, f"{data.forget}:{TRAIN}")}
        for name, sets in self.sets(data).items():
            others = [own for own in sets if data.set_name(own) not in forgotten]
            total = sum(len(data.row_set(own)[0]) for own in others)
            if name != FORGET and (count := data.overlap(others, data.forget)):
                sentences.append(
                    f"OracleDistance: {count} of {total} rows of the probe {name!r} are among the "
                    "rows to forget, so it says little of what is kept."
                )
        lora = model.settings.lora
        targets = lora.target_modules if lora is not None else list(HEADS)
        if isinstance(targets, str):
            # Any other text is a pattern to PEFT.
            pattern = targets if targets != "all-linear" else ""
            targets = [head for head in HEADS if re.fullmatch(pattern, head)]
        if self.kl and set(targets) & set(HEADS):
            sentences.append(
                "OracleDistance: the KL to the oracle is left out, for the output projection is "
                "trained and the two models' differ (model.lora)."
            )
        return sentences

    def requests(self, data: Any) -> list[RowRequest]:
        """All row sets, with the KL."""
        return [
            RowRequest(own, self.limit, self.kl)
            for sets in self.sets(data).values()
            for own in sets
        ]

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """The measures of every probe, one value per example."""
        measures: dict[str, Tensor] = {}
        for probe, sets in self.sets(view.data).items():
            own = self._likelihoods(view, sets)
            measures[f"log_likelihood/{probe}"] = own
            parts = [view.measure(Margin(), name, self.limit) for name in sets]
            measures[f"margin/{probe}"] = torch.cat(parts)
            if view.oracle is None:
                continue
            aim = self._likelihoods(view.oracle, sets)
            measures[f"distance/{probe}"] = re_distance(own, aim)
            measures[f"overshoot/{probe}"] = overshoot(own, aim)
            if self.kl and view.module.weights.has_frozen_head:
                parts = [view.measure(KLToOracle(), name, self.limit) for name in sets]
                measures[f"kl/{probe}"] = torch.cat(parts)
        return measures

    def _likelihoods(self, view: ModelView, sets: list[str]) -> Tensor:
        return torch.cat([view.log_probs(name, self.limit).mean for name in sets])
