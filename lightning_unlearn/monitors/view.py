"""One look at the model: what monitors ask is computed once and shared among them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.model.candidates import CandidateScores, score_candidates
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.generation import Written, generate_answers
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.model.network import Wanted
from lightning_unlearn.model.token_statistics import COLUMNS, TokenStatistics

# Weights of the untouched base model.
BASE = "base"


@dataclass(frozen=True)
class RowRequest:
    """What a monitor is going to ask of a row set, so that one forward serves all of them.

    Attributes:
        name: of the row set, as of `StagedDataModule.row_set`.
        limit: only its first so many rows; None for all.
        kl: also the KL to the oracle, where there is one.
    """

    name: str
    limit: int | None = None
    kl: bool = False


class ModelView:
    """The model at one step, for monitors to ask questions of.

    Every answer covers all examples, whichever process computed them, and is remembered: two
    monitors that ask the same cost one forward.

    Args:
        module: the model.
        data: its stages and evaluation sets.
        prompts: encoded prompts and phrases remembered from step to step; they do not change.
        asks: what will be asked for with `share`.
        oracle: the model retrained without the forget stage.
        base: the untouched base model.
        weights: those of a stored model, a folder or `BASE`, which the module takes on only to
            answer; None for the module's own.

    Attributes:
        oracle: the model retrained without the forget stage, to ask the same of; None where there
            is none. What it answers is computed once in a run.
        base: the base model before any stage, likewise; None in views of stored models.
        asks: what will be asked for with `share`.
        weights: as given.
    """

    def __init__(
        self,
        module: CausalLM,
        data: StagedDataModule,
        prompts: dict[Any, Any] | None = None,
        asks: Sequence[RowRequest] = (),
        oracle: "ModelView | None" = None,
        base: "ModelView | None" = None,
        weights: Path | str | None = None,
    ) -> None:
        self.module = module
        self.data = data
        self.oracle = oracle
        self.base = base
        self.asks = tuple(asks)
        self.weights = weights
        self._prompts: dict[Any, Any] = prompts if prompts is not None else {}
        self._known: dict[Any, Any] = {}

    def _wear(self) -> AbstractContextManager[None]:
        """The module with the weights of this view."""
        if self.weights is None:
            return nullcontext()
        return self.module.borrowed(None if self.weights == BASE else Path(self.weights))

    @property
    def format(self) -> ChatFormat:
        """The tokenizer with its chat template."""
        assert self.data.format is not None
        return self.data.format

    def rows(self, name: str, limit: int | None = None) -> list[Row]:
        """Rows of a set.

        Args:
            name: a stage, for the rows on which it is measured; "STAGE:train", "STAGE:heldout", or
                a probe. See `StagedDataModule.row_set`.
            limit: only the first so many.

        Returns:
            The rows.
        """
        return self.data.row_set(name)[0][:limit]

    def log_probs(self, name: str, limit: int | None = None) -> LogProbs:
        """Log-probabilities of the answers of a row set, ``[rows, longest answer]``.

        Args:
            name: as of `rows`.
            limit: only the first so many rows.

        Returns:
            The same on every process.
        """
        name = self.data.set_name(name)
        key = ("log_probs", name, limit)
        if key not in self._known:
            examples = self.data.row_set(name)[1][:limit]
            asked = [ask for ask in self.asks if self.data.set_name(ask.name) == name]
            if any(_covers(ask.limit, limit) for ask in asked):
                self._known[key] = self._gathered(name, limit)
            else:
                with self._wear():
                    batch_size = self.data.eval_batch_size
                    self._known[key] = self.module.score(examples, batch_size)
        known: LogProbs = self._known[key]
        return known

    def _gathered(self, name: str, limit: int | None) -> LogProbs:
        """The log-probabilities among the statistics, of all processes."""
        index, statistics = self.share(name, limit)
        lengths = torch.tensor([len(e.answer) for e in self.data.row_set(name)[1][:limit]])
        longest = int(lengths.max())
        table = PerExampleMetric(len(lengths)).to(self.module.device)
        table.update(index, statistics.log_prob[:, :longest])
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        return LogProbs(table.compute(), mask.to(self.module.device))

    def share(self, name: str, limit: int | None = None) -> tuple[Tensor, TokenStatistics]:
        """This process's share of the statistics of a row set's label tokens.

        Monitors that use it say so with `Monitor.asks`; one pass then serves all of them.

        Args:
            name: as of `rows`.
            limit: only the first so many rows.

        Returns:
            Row numbers from 0, ``[share]``, and the statistics, ``[share, longest answer]``; every
            row is in the share of one process.
        """
        name = self.data.set_name(name)
        asks = [ask for ask in self.asks if self.data.set_name(ask.name) == name]
        limits = [limit, *(ask.limit for ask in asks)]
        most = None if None in limits else max(n for n in limits if n is not None)
        key = ("statistics", name, most)
        if key not in self._known:
            self._known[key] = self._pass(name, most, kl=any(ask.kl for ask in asks))
        index: Tensor
        statistics: TokenStatistics
        index, statistics = self._known[key]
        if limit is None or limit == most:
            return index, statistics
        mine = index < limit
        return index[mine], statistics.rows(mine)

    def _pass(self, name: str, limit: int | None, kl: bool) -> tuple[Tensor, TokenStatistics]:
        examples = self.data.row_set(name)[1][:limit]
        module, batch_size = self.module, self.data.eval_batch_size
        kl = kl and module.shares_head
        aims = self.oracle._hidden(name, limit) if kl and self.oracle is not None else None
        columns = len(COLUMNS) + (aims is not None)
        numbers = [torch.empty(0, dtype=torch.long, device=module.device)]
        flats = [torch.empty(0, columns, dtype=module.kept_dtype, device=module.device)]
        longest = max(len(example.answer) for example in examples)
        masks = [torch.empty(0, longest, dtype=torch.bool, device=module.device)]
        # Hidden states stand for the next-token distributions, at a hundredth of their size.
        hidden: list[Tensor] = []
        keeps = kl and self.weights is not None
        wanted: Wanted = "statistics and hidden" if keeps else "statistics"
        with self._wear():
            for batch, flat in module.passes(examples, batch_size, wanted, aims):
                numbers.append(batch.index)
                flats.append(flat[:, :columns])
                if keeps:
                    hidden.append(flat[:, columns:].to("cpu", module.lm.dtype))
                wide = longest - batch.mask.shape[1]
                masks.append(torch.nn.functional.pad(batch.mask, (0, wide)))
        if keeps:
            self._known["hidden", name, limit] = hidden
        return torch.cat(numbers), TokenStatistics.scatter(torch.cat(flats), torch.cat(masks))

    def _hidden(self, name: str, limit: int | None) -> list[Tensor]:
        """Hidden states at the label positions, batch by batch, in the computer's own memory.

        Of this very cut: they are paired with another pass batch by batch.
        """
        if ("hidden", name, limit) not in self._known:
            self._known["statistics", name, limit] = self._pass(name, limit, kl=True)
        known: list[Tensor] = self._known["hidden", name, limit]
        return known

    def measure(self, metric: PerExampleMetric, name: str, limit: int | None = None) -> Tensor:
        """A measure of the label tokens' statistics, for every row.

        Args:
            metric: takes row numbers and `TokenStatistics`.
            name: as of `rows`.
            limit: only the first so many rows.

        Returns:
            ``[rows]``, the same on every process.
        """
        metric = metric.to(self.module.device)
        metric.update(*self.share(name, limit))
        values: Tensor = metric.compute()
        return values

    def gradient_norms(self, name: str, limit: int | None = None) -> Tensor:
        """Norm of the gradient of each answer's loss; see `CausalLM.gradient_norms`.

        Args:
            name: as of `rows`.
            limit: only the first so many rows.

        Returns:
            ``[rows]``, the same on every process.
        """
        key = ("gradient_norms", self.data.set_name(name), limit)
        if key not in self._known:
            examples = self.data.row_set(name)[1][:limit]
            with self._wear():
                norms = self.module.gradient_norms(examples)
            self._known[key] = self.gather(norms, len(examples))
        known: Tensor = self._known[key]
        return known

    def gather(self, values: Mapping[int, float], count: int) -> Tensor:
        """Values that this process has of some rows, put together with those of the others.

        Args:
            values: by row number.
            count: rows of all processes.

        Returns:
            ``[count]``, float64, the same on every process.
        """
        device = self.module.device
        table = PerExampleMetric(count).to(device)
        table.update(
            torch.tensor(sorted(values), dtype=torch.long, device=device),
            torch.tensor([values[i] for i in sorted(values)], dtype=torch.float64, device=device),
        )
        return table.compute()

    def phrases(self, name: str, phrases: tuple[str, ...], limit: int | None = None) -> Tensor:
        """Mean log-likelihood per token of phrases as the start of the answer.

        Args:
            name: as of `rows`; its prompts are used.
            phrases: the texts.
            limit: only the first so many rows.

        Returns:
            ``[rows, phrases]``, nats per token.
        """
        rows = self.rows(name, limit)
        key = ("phrases", name, phrases, limit)

        def encode() -> list[list[tuple[int, ...]]]:
            return [[self.format.phrase_ids(row, phrase) for phrase in phrases] for row in rows]

        return self._candidates(key, rows, encode).mean

    def candidates(
        self, name: str, texts: Sequence[Sequence[str]], limit: int | None = None
    ) -> CandidateScores:
        """Log-likelihoods of whole answers to the prompts of a row set, end of turn included.

        Args:
            name: as of `rows`; its prompts are used.
            texts: of each row, one or more answers.
            limit: only the first so many rows.

        Returns:
            Scores, ``[rows, most answers]``, the same on every process.
        """
        rows = self.rows(name, limit)
        key = ("candidates", name, tuple(map(tuple, texts)), limit)

        def encode() -> list[list[tuple[int, ...]]]:
            return [
                [self.format.encode(Row(row.turns, text, row.where)).answer for text in own]
                for row, own in zip(rows, texts, strict=True)
            ]

        return self._candidates(key, rows, encode)

    def _candidates(
        self,
        key: tuple[Any, ...],
        rows: list[Row],
        encode: Callable[[], list[list[tuple[int, ...]]]],
    ) -> CandidateScores:
        if key not in self._known:
            if key not in self._prompts:
                self._prompts[key] = ([self.format.prompt_ids(row) for row in rows], encode())
            prompts, texts = self._prompts[key]
            with self._wear():
                self._known[key] = score_candidates(
                    self.module, prompts, texts, self.data.eval_batch_size
                )
        known: CandidateScores = self._known[key]
        return known

    def written(
        self,
        name: str,
        limit: int | None = None,
        *,
        instruction: str = "",
        begun: tuple[tuple[int, ...], ...] | None = None,
        **options: Any,
    ) -> dict[int, list[Written]]:
        """Answers that the model writes to the prompts of a row set.

        Args:
            name: as of `rows`.
            limit: only the first so many rows.
            instruction: added to the end of each prompt.
            begun: tokens with which each answer begins already.
            options: of `lightning_unlearn.model.generation.generate_answers`.

        Returns:
            Answers by row number, for this process's share; see `gather`.
        """
        key = ("written", name, limit, instruction, begun, tuple(sorted(options.items())))
        if key not in self._known:
            asked = [with_instruction(row, instruction) for row in self.rows(name, limit)]
            prompts = [self.format.prompt_ids(row) for row in asked]
            if begun is not None:
                prompts = [prompt + own for prompt, own in zip(prompts, begun, strict=True)]
            options = {"batch_size": self.data.eval_batch_size, **options}
            with self._wear():
                self._known[key] = generate_answers(
                    self.module,
                    self.format.tokenizer,
                    prompts,
                    self.format.end_ids(asked[0]),
                    **options,
                )
        known: dict[int, list[Written]] = self._known[key]
        return known


def _covers(asked: int | None, limit: int | None) -> bool:
    return asked is None or (limit is not None and limit <= asked)


def with_instruction(row: Row, instruction: str) -> Row:
    """A row with an instruction added to the end of its last question."""
    if not instruction:
        return row
    *before, last = row.turns
    asked = {**last, "content": f"{last['content']}\n\n{instruction}"}
    return Row((*before, asked), row.answer, row.where)
