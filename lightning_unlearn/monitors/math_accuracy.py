"""Accuracy of written answers that end in a number."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.data.columns import Row
from lightning_unlearn.errors import InputError
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.numbers import final_number
from lightning_unlearn.monitors.view import ModelView, with_instruction


def right_number(text: str, row: Row) -> bool:
    """Whether a written answer ends in the same number after ``####`` as the row's answer."""
    return final_number(text) is not None and final_number(text) == final_number(row.answer)


class MathAccuracy(Monitor):
    """Share of arithmetic answers that are right, ``accuracy/STAGE``, by generation.

    ``truncated/STAGE`` is the share that reached ``max_new_tokens`` without an end: those can't be
    trusted to be wrong.

    Args:
        stage: stage whose rows are asked; its answers end in ``#### NUMBER``.
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        num_samples: sampled answers per question, which counts by the share that is right.
        greedy: the one answer of the likeliest tokens instead; ``attempts`` then does not count.
        temperature: of sampling.
        max_new_tokens: longest answer.
        instruction: added to the end of each question, for a model that needs to be told the
            format.
        limit: only the first so many rows; null for all.

    Source: arXiv 2510.16629, section 4: 5 sampled attempts.
    """

    def __init__(
        self,
        stage: str = "math",
        every_n_steps: int = 0,
        num_samples: int = 5,
        greedy: bool = False,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        instruction: str = "",
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise InputError(f"MathAccuracy.{name}: found {value}, expected at least 1.")
        if not 0 < temperature < math.inf:
            raise InputError(
                f"MathAccuracy.temperature: found {temperature}, expected > 0, or greedy: true for "
                "the likeliest answer."
            )
        self.stage = stage
        self.num_samples = num_samples
        self.greedy = greedy
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.instruction = instruction
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse a stage that is not on the path, or whose answers end in no number.

        Likewise an instruction with which the prompt can't be encoded.
        """
        if self.stage not in data.path:
            raise InputError(
                f"MathAccuracy.stage: found {self.stage!r}, expected a stage of the path "
                f"{', '.join(data.path)}."
            )
        rows, _ = data.measured(self.stage)
        for row in rows[: self.limit]:
            if final_number(row.answer) is None:
                raise InputError(
                    f"MathAccuracy: {row.where}: the answer has no number after ####, so nothing "
                    "can be right."
                )
        data.format.prompt_ids(with_instruction(rows[0], self.instruction))

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Both measures, one value per question."""
        rows = view.rows(self.stage, self.limit)
        answers = view.written(
            self.stage,
            self.limit,
            instruction=self.instruction,
            attempts=self.num_samples,
            greedy=self.greedy,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        right = {i: [right_number(a.text, rows[i]) for a in own] for i, own in answers.items()}
        capped = {i: [not a.ended for a in own] for i, own in answers.items()}
        return {
            f"{name}/{self.stage}": view.gather(
                {i: sum(own) / len(own) for i, own in counts.items()}, len(rows)
            )
            for name, counts in (("accuracy", right), ("truncated", capped))
        }
