"""Accuracy of generated answers that end in a number."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.data.columns import Row
from lightning_unlearn.errors import InputError
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.numbers import final_number
from lightning_unlearn.monitors.view import ModelView


def right_number(text: str, row: Row) -> bool:
    """Return whether a generated answer has the same number after ``####`` as the row's answer."""
    return final_number(text) is not None and final_number(text) == final_number(row.answer)


class MathAccuracy(Monitor):
    """Share of generated arithmetic answers that are correct, ``accuracy/STAGE``.

    ``truncated/STAGE`` is the share of answers that reached ``max_new_tokens`` without an end. A
    longer answer could have been correct.

    Args:
        stage: stage whose questions are used; its answers end in ``#### NUMBER``.
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        num_samples: sampled answers per question; the value of a question is the share of them
            that is correct.
        greedy: generate one answer of the most likely tokens instead; ``num_samples`` is ignored.
        temperature: temperature of sampling.
        max_new_tokens: longest answer in tokens.
        instruction: text added to each question, for a model that needs a description of the
            format.
        limit: number of rows, from the first; null for all.

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
                "the most likely answer."
            )
        self.stage = stage
        self.num_samples = num_samples
        self.greedy = greedy
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.instruction = instruction
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse a stage that is not on the path, and answers without a number.

        Also refuse an instruction with which the prompt cannot be encoded.
        """
        if self.stage not in data.path:
            raise InputError(
                f"MathAccuracy.stage: found {self.stage!r}, expected a stage of the path "
                f"{', '.join(data.path)}."
            )
        rows, _ = data.eval_rows(self.stage)
        for row in rows[: self.limit]:
            if final_number(row.answer) is None:
                raise InputError(
                    f"MathAccuracy: {row.where}: found an answer without a number after ####, "
                    "expected #### NUMBER at its end; correct or remove the row."
                )
        data.format.prompt_ids(rows[0].with_instruction(self.instruction))

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return both metrics, with one value per question."""
        rows = view.rows(self.stage, self.limit)
        answers = view.generate(
            self.stage,
            self.limit,
            instruction=self.instruction,
            num_samples=self.num_samples,
            greedy=self.greedy,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        right = {i: [right_number(a.text, rows[i]) for a in own] for i, own in answers.items()}
        truncated = {i: [not a.ended for a in own] for i, own in answers.items()}
        return {
            f"{name}/{self.stage}": view.gather(
                {i: sum(own) / len(own) for i, own in counts.items()}, len(rows)
            )
            for name, counts in (("accuracy", right), ("truncated", truncated))
        }
