"""Membership inference: detect whether the forget rows were trained on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.stage_rows import TRAIN
from lightning_unlearn.errors import InputError
from lightning_unlearn.metrics import (
    MinK,
    MinKPlusPlus,
    auc,
    gradient_norm_score,
    loss_score,
    privleak,
    reference_score,
    zlib_score,
)
from lightning_unlearn.monitors.answer_statistics import check_sets
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.view import ModelView, RowRequest

SCORES = ("loss", "zlib_mean", "reference", "min_k", "min_k_plus_plus", "gradient_norm")
# Scores that are evaluated only if they are named.
FURTHER = ("zlib_sum",)


class Membership(Monitor):
    """Membership inference: separate the forget rows from rows that were never trained on.

    Metrics for every score: ``SCORE/members`` and ``SCORE/nonmembers``, one value per row, higher
    for rows that were more likely trained on; ``auc/SCORE``, the share of pairs in which the member
    has the higher score; and, with an oracle, ``privleak/SCORE``, the relative distance of this AUC
    to the oracle's AUC. See `lightning_unlearn.metrics.membership` for sources.

    Args:
        nonmembers: row set that was never trained on, such as "safety:heldout" or an evaluation
            set.
        members: row set that is unlearned; null for the forget stage.
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        scores: names of the scores: loss, zlib_mean (the loss per token / the compressed length of
            the text, as MUSE does), zlib_sum (the loss of the whole text / that length), reference,
            min_k, min_k_plus_plus, gradient_norm (which costs a backward pass per row); null for
            all but zlib_sum. reference compares with model.base, and says little if that has
            learned the members (``data.learned``).
        share: share of an answer's tokens that min_k and min_k_plus_plus use.
        limit: number of rows of each set, from the first; null for all.
    """

    is_single = True
    uses_oracle = True

    def __init__(
        self,
        nonmembers: str,
        members: str | None = None,
        every_n_steps: int = 0,
        scores: list[str] | None = None,
        share: float = 0.2,
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        if not 0 < share <= 1:
            raise InputError(f"Membership.share: found {share}, expected more than 0, at most 1.")
        if scores == []:
            raise InputError(
                "Membership.scores: found an empty list, expected names, or null for all."
            )
        for name in scores or []:
            if name not in SCORES + FURTHER:
                names = ", ".join(SCORES + FURTHER)
                raise InputError(f"Membership.scores: found {name!r}, expected some of {names}.")
        self.nonmembers = nonmembers
        self.members = members
        self.scores = scores
        self.share = share
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse unknown row sets, and members that are also the nonmembers."""
        if self.members is None and data.forget is None:
            raise InputError(
                "Membership.members: found null with data.forget null, expected a row set; set "
                "members or data.forget."
            )
        check_sets(self, "nonmembers", [self.nonmembers], data)
        check_sets(self, "members", [self._members(data)], data)
        if data.set_name(self.nonmembers) == data.set_name(self._members(data)):
            raise InputError(
                f"Membership.nonmembers: found {self.nonmembers!r}, which is also the set of "
                "members, expected rows that were never trained on."
            )

    def data_notes(self, model: Any, data: Any) -> list[str]:
        """Return notes on nonmembers that are also members, and on a base that knows members."""
        members = self._members(data)
        notes = []
        if count := data.overlap([self.nonmembers], members):
            total = len(data.row_set(self.nonmembers)[0])
            notes.append(
                f"Membership: {count} of {total} rows of {self.nonmembers!r} are among the "
                f"members, {members!r}."
            )
        is_learned = members.removesuffix(f":{TRAIN}") in data.learned
        if is_learned and "reference" in (self.scores or SCORES):
            notes.append(
                "Membership: the score reference compares with model.base, which has learned "
                f"{members!r} (data.learned), so it shows what has changed since then, not which "
                "rows were learned. The other scores do not use model.base."
            )
        return notes

    def _members(self, data: Any) -> str:
        return self.members if self.members is not None else str(data.forget)

    def requests(self, data: Any) -> list[RowRequest]:
        """Return both row sets."""
        return [RowRequest(name, self.limit) for name in (self._members(data), self.nonmembers)]

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return the scores of both sets, their AUC, and PrivLeak."""
        metrics: dict[str, Tensor] = {}
        for score in self.scores or SCORES:
            own, others = self._both(view, score)
            metrics[f"{score}/members"], metrics[f"{score}/nonmembers"] = own, others
            if not torch.isfinite(torch.cat([own, others])).all():
                continue  # The model has diverged, which the training step reports.
            area = auc(own, others)
            metrics[f"auc/{score}"] = torch.tensor(area, dtype=torch.float64)
            if view.oracle is not None:
                retrained = auc(*self._both(view.oracle, score, view.base))
                if retrained > 0:
                    relative = privleak(area, retrained)
                    metrics[f"privleak/{score}"] = torch.tensor(relative, dtype=torch.float64)
        return metrics

    def measure_oracle(self, oracle: ModelView) -> None:
        """Request the scores of both sets, for PrivLeak."""
        for score in self.scores or SCORES:
            # The score "reference" needs the base model too, which is measured later.
            self._both(oracle, score, oracle)

    def _both(
        self, view: ModelView, score: str, base: ModelView | None = None
    ) -> tuple[Tensor, Tensor]:
        sets = (self._members(view.data), self.nonmembers)
        members, others = (self._score(view, score, name, base or view.base) for name in sets)
        return members, others

    def _score(self, view: ModelView, score: str, name: str, base: ModelView | None) -> Tensor:
        if score == "gradient_norm":
            return gradient_norm_score(view.gradient_norms(name, self.limit))
        if score == "min_k":
            return view.measure(MinK(share=self.share), name, self.limit)
        if score == "min_k_plus_plus":
            return view.measure(MinKPlusPlus(share=self.share), name, self.limit)
        own = view.log_probs(name, self.limit)
        if score == "zlib_mean" or score == "zlib_sum":
            texts = [row.answer for row in view.rows(name, self.limit)]
            return zlib_score(own, texts, "mean" if score == "zlib_mean" else "sum")
        if score == "reference":
            assert base is not None, "the trainer gives monitors a view with a base"
            return reference_score(own, base.log_probs(name, self.limit))
        return loss_score(own)
