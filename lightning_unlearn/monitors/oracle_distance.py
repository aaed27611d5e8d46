"""Distance between the model and the oracle, the model retrained without the forget stage."""

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
from lightning_unlearn.monitors.view import ORACLE_MODEL, ModelView, RowRequest

FORGET = "forget"
# Usual names of output projections in lists of adapted modules.
HEADS = ("lm_head", "embed_out", "output", "head")


class OracleDistance(Monitor):
    """Distance to the oracle, the model retrained without the forget stage, on groups of rows.

    Metrics for every group, one value per example: ``log_likelihood/GROUP``, the log-likelihood
    per token of the answer; ``margin/GROUP``, the mean margin of the answer's tokens. With an
    oracle, also: ``distance/GROUP``, the squared difference of the log-likelihoods of both models,
    whose mean is the RE distance; ``overshoot/GROUP``, 1 if the example is below the oracle's
    value; ``kl/GROUP``, KL(oracle || model) of the next-token distribution, mean over the answer's
    tokens.

    The oracle is trained on the same path without the forget stage, with the same seed and base.
    Once in a run, its weights replace those of the module, so no second model is in memory. Or it
    is a model that exists already (``oracle.base``), which is measured before training.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        groups: row sets by name of the group. null gives "forget", the rows that are unlearned;
            "retain", the training rows of the other stages; and "heldout", the held-out rows of all
            stages that have some.
        limit: number of rows of each row set, from the first; null for all.
        kl: compute the KL too; it costs a second projection on the vocabulary.

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
        """Return the row sets of each group."""
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
        """Refuse a path without a forget stage, and groups without rows."""
        if data.forget is None:
            raise InputError(
                "OracleDistance: found data.forget null, expected a forget stage: the oracle is "
                "the model retrained without it; set data.forget, or remove the monitor."
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
                    f"OracleDistance.groups.{name}: found {', '.join(sets)}, which contain some "
                    "rows twice, expected each row set once."
                )

    def data_notes(self, model: CausalLM, data: Any) -> list[str]:
        """Return notes on groups with rows that are unlearned, and on a KL that is not computed."""
        sentences = []
        forgotten = {data.set_name(own) for own in (data.forget, f"{data.forget}:{TRAIN}")}
        for name, sets in self.sets(data).items():
            others = [own for own in sets if data.set_name(own) not in forgotten]
            total = sum(len(data.row_set(own)[0]) for own in others)
            if name != FORGET and (count := data.overlap(others, data.forget)):
                sentences.append(
                    f"OracleDistance: {count} of {total} rows of the group {name!r} are also "
                    "forget rows, so this group does not show utility."
                )
        lora = model.settings.lora
        targets = lora.target_modules if lora is not None else list(HEADS)
        if isinstance(targets, str):
            # PEFT takes any other text as a pattern.
            pattern = targets if targets != "all-linear" else ""
            targets = [head for head in HEADS if re.fullmatch(pattern, head)]
        given, has_own_head = model.pretrained.given, ORACLE_MODEL in model.remembered
        layers = {*targets, *(given.layers if given is not None else ())}
        if self.kl and layers & set(HEADS) and not has_own_head:
            sentences.append(
                "OracleDistance: the KL to the oracle is not computed, because adapters train the "
                "output projection, which then differs between the models (model.lora)."
            )
        return sentences

    def requests(self, data: Any) -> list[RowRequest]:
        """Return all row sets, with the KL."""
        return [
            RowRequest(own, self.limit, self.kl)
            for sets in self.sets(data).values()
            for own in sets
        ]

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return the metrics of every group, with one value per example."""
        metrics: dict[str, Tensor] = {}
        for group, sets in self.sets(view.data).items():
            own = self._likelihoods(view, sets)
            metrics[f"log_likelihood/{group}"] = own
            parts = [view.measure(Margin(), name, self.limit) for name in sets]
            metrics[f"margin/{group}"] = torch.cat(parts)
            if view.oracle is None:
                continue
            target = self._likelihoods(view.oracle, sets)
            metrics[f"distance/{group}"] = re_distance(own, target)
            metrics[f"overshoot/{group}"] = overshoot(own, target)
            if self.kl and view.has_kl:
                parts = [view.measure(KLToOracle(), name, self.limit) for name in sets]
                metrics[f"kl/{group}"] = torch.cat(parts)
        return metrics

    def measure_oracle(self, oracle: ModelView) -> None:
        """Request the log-likelihoods of every group; hidden states follow from `requests`."""
        for sets in self.sets(oracle.data).values():
            self._likelihoods(oracle, sets)

    def _likelihoods(self, view: ModelView, sets: list[str]) -> Tensor:
        return torch.cat([view.log_probs(name, self.limit).mean for name in sets])
