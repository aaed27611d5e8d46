"""One look at the model: what monitors ask is computed once and shared among them."""

from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.reading import Row
from lightning_unlearn.gathering import ByExample
from lightning_unlearn.logprobs import LogProbs
from lightning_unlearn.module import CausalLM
from lightning_unlearn.monitors.generation import generate
from lightning_unlearn.monitors.phrases import phrase_log_likelihoods


class Measurement:
    """The model at one step, for monitors to ask questions of.

    Every answer covers all examples, whichever process computed them, and is remembered: two
    monitors that ask the same cost one forward.

    Args:
        module: the model.
        data: its stages.
        prompts: encoded prompts and phrases remembered from step to step; they do not change.
    """

    def __init__(
        self, module: CausalLM, data: StagedDataModule, prompts: dict[Any, Any] | None = None
    ) -> None:
        self.module = module
        self.data = data
        self._prompts: dict[Any, Any] = prompts if prompts is not None else {}
        self._known: dict[Any, Any] = {}

    @property
    def format(self) -> ChatFormat:
        """The tokenizer with its chat template."""
        assert self.data.format is not None
        return self.data.format

    def rows(self, stage: str, limit: int | None = None) -> list[Row]:
        """The rows on which a stage is measured; see `StagedDataModule.measured`.

        Args:
            stage: its name.
            limit: only the first so many.

        Returns:
            The rows.
        """
        return self.data.measured(stage)[0][:limit]

    def log_probs(self, stage: str, limit: int | None = None) -> LogProbs:
        """Log-probabilities of a stage's answers, ``[rows, longest answer]``.

        Args:
            stage: its name.
            limit: only the first so many rows.

        Returns:
            The same on every process.
        """
        key = ("log_probs", stage, limit)
        if key not in self._known:
            _, examples = self.data.measured(stage)
            self._known[key] = self.module.score(examples[:limit], self.data.measure_batch_size)
        known: LogProbs = self._known[key]
        return known

    def phrases(self, stage: str, phrases: tuple[str, ...], limit: int | None = None) -> Tensor:
        """Mean log-likelihood per token of phrases as the start of the answer.

        Args:
            stage: its prompts are used.
            phrases: the texts.
            limit: only the first so many rows.

        Returns:
            ``[rows, phrases]``, nats per token.
        """
        key = ("phrases", stage, phrases, limit)
        if key not in self._known:
            if key not in self._prompts:
                rows = self.rows(stage, limit)
                self._prompts[key] = (
                    [self.format.prompt_ids(row) for row in rows],
                    [[self.format.phrase_ids(row, phrase) for phrase in phrases] for row in rows],
                )
            prompts, texts = self._prompts[key]
            self._known[key] = phrase_log_likelihoods(
                self.module, prompts, texts, self.data.measure_batch_size
            )
        known: Tensor = self._known[key]
        return known

    def share_right(
        self,
        stage: str,
        judge: Any,
        *,
        instruction: str = "",
        limit: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Share of right answers among those the model writes.

        Args:
            stage: its prompts are used.
            judge: ``(text, row) -> bool``.
            instruction: added to the end of each prompt.
            limit: only the first so many rows.
            options: of `lightning_unlearn.monitors.generation.generate`.

        Returns:
            ``[rows]``, between 0 and 1.
        """
        rows = self.rows(stage, limit)
        asked = [_with_instruction(row, instruction) for row in rows]
        prompts = [self.format.prompt_ids(row) for row in asked]
        ends = self.format.end_ids(asked[0])
        texts = generate(self.module, self.format.tokenizer, prompts, ends, **options)
        shares = [
            sum(judge(text, rows[i]) for text in texts[i]) / len(texts[i]) for i in sorted(texts)
        ]
        table = ByExample(len(rows)).to(self.module.device)
        table.update(
            torch.tensor(sorted(texts), dtype=torch.long, device=self.module.device),
            torch.tensor(shares, dtype=torch.float32, device=self.module.device),
        )
        return table.compute()


def _with_instruction(row: Row, instruction: str) -> Row:
    if not instruction:
        return row
    *before, last = row.turns
    asked = {**last, "content": f"{last['content']}\n\n{instruction}"}
    return Row((*before, asked), row.answer, row.where)
