"""Accuracy of written answers that end in a number."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.data.reading import Row
from lightning_unlearn.errors import InputError
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.generation import final_number
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.measurement import Measurement


def right_number(text: str, row: Row) -> bool:
    """Whether a written answer ends in the same number after ``####`` as the row's answer."""
    return final_number(text) is not None and final_number(text) == final_number(row.answer)


class MathAccuracy(Monitor):
    """Share of arithmetic answers that are right, ``accuracy/STAGE``, by generation.

    Args:
        stage: stage whose rows are asked; its answers end in ``#### NUMBER``.
        every: optimizer steps between looks; 0 looks at the first and last step only.
        attempts: answers per question; 1 is greedy, more are sampled, and a question counts by
            the share that is right (the paper takes 5).
        temperature: of sampling.
        max_new_tokens: longest answer.
        instruction: added to the end of each question, for a model that needs to be told the
            format.
        limit: only the first so many rows; null for all.
    """

    def __init__(
        self,
        stage: str = "math",
        every: int = 0,
        attempts: int = 1,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        instruction: str = "",
        limit: int | None = None,
    ) -> None:
        super().__init__(every)
        check_limit(self, limit)
        for name, value in (("attempts", attempts), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise InputError(f"MathAccuracy.{name}: found {value}, expected at least 1.")
        if temperature <= 0:
            raise InputError(f"MathAccuracy.temperature: found {temperature}, expected > 0.")
        self.stage = stage
        self.attempts = attempts
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.instruction = instruction
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse a stage that is not on the path, or whose answers end in no number."""
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

    def measure(self, view: Measurement) -> Mapping[str, Tensor]:
        """One value per question."""
        shares = view.share_right(
            self.stage,
            right_number,
            instruction=self.instruction,
            limit=self.limit,
            max_new_tokens=self.max_new_tokens,
            attempts=self.attempts,
            temperature=self.temperature,
            batch_size=view.data.measure_batch_size,
        )
        return {f"accuracy/{self.stage}": shares}
