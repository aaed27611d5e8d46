"""The model at one step: values that several monitors need are computed once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.model.candidates import CandidateScores
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.generation import GeneratedAnswer, generate_answers
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.model.network import Output
from lightning_unlearn.model.oracle_states import OracleStates
from lightning_unlearn.model.token_statistics import COLUMNS, TokenStatistics

# Stands for the weights of the base model, before any stage.
BASE = "base"
# An oracle that is a model of its own. A module remembers its values and the model by these names.
EXTERNAL, ORACLE_MODEL = "external", "oracle model"


@dataclass(frozen=True)
class RowRequest:
    """Token statistics of a row set that a monitor will use; one forward serves all requests.

    Attributes:
        name: name of the row set; see `StagedDataModule.row_set`.
        limit: number of rows, from the first; None for all.
        kl: also compute the KL to the oracle, if there is one.
    """

    name: str
    limit: int | None = None
    kl: bool = False


class ModelView:
    """The model at one step, for monitors.

    Unless a method says otherwise, its result covers all examples of all processes. Results are
    stored, so two monitors that need the same values cost one forward.

    Args:
        module: the model.
        data: stages and evaluation sets.
        prompts: store of encoded prompts and phrases, which do not change from step to step.
        requests: requests of all monitors for `token_statistics`.
        oracle: view of the oracle (the model retrained without the forget stage).
        base: view of the base model, before any stage.
        weights: weights of a stored model, a folder or `BASE`, which the module has only during
            the computation; None for the module's own weights.

    Attributes:
        oracle: view of the oracle, with the same methods; None if there is no oracle. Its results
            are computed once in a run.
        base: view of the base model, before any stage; None in views of stored models. Its
            results are computed once in a run.
        requests: requests of all monitors for `token_statistics`.
        weights: the argument `weights`.
        head: in the view of an oracle that is a model of its own, what gives its logits for its
            hidden states; None for the projection of the module.
    """

    head: nn.Module | None = None

    def __init__(
        self,
        module: CausalLM,
        data: StagedDataModule,
        prompts: dict[Any, Any] | None = None,
        requests: Sequence[RowRequest] = (),
        oracle: "ModelView | None" = None,
        base: "ModelView | None" = None,
        weights: Path | str | None = None,
    ) -> None:
        self.module = module
        self.data = data
        self.oracle = oracle
        self.base = base
        self.requests = tuple(requests)
        self.weights = weights
        self._prompts: dict[Any, Any] = prompts if prompts is not None else {}
        self._known: dict[Any, Any] = {}

    def _with_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the module has the weights of this view."""
        if self.weights is None:
            return nullcontext()
        folder = None if self.weights == BASE else Path(self.weights)
        return self.module.weights.swapped(folder, self.module.seed)

    @property
    def has_kl(self) -> bool:
        """Whether there is an oracle whose next-token distributions are known.

        They are not if training changes the output projection that oracle and model share.
        """
        own_head = self.oracle is not None and self.oracle.head is not None
        return self.oracle is not None and (own_head or self.module.weights.has_frozen_head)

    @property
    def format(self) -> ChatFormat:
        """The tokenizer with its chat template."""
        assert self.data.format is not None
        return self.data.format

    def rows(self, name: str, limit: int | None = None) -> list[Row]:
        """Return the rows of a row set.

        Args:
            name: a stage, for the rows on which it is evaluated; "STAGE:train", "STAGE:heldout", or
                an evaluation set. See `StagedDataModule.row_set`.
            limit: number of rows, from the first; None for all.
        """
        return self.data.row_set(name)[0][:limit]

    def log_probs(self, name: str, limit: int | None = None) -> LogProbs:
        """Compute the log-probabilities of the answers of a row set.

        Args:
            name: row set; see `rows`.
            limit: number of rows, from the first; None for all.

        Returns:
            Log-probabilities, ``[rows, longest answer]``, the same on every process.
        """
        name = self.data.set_name(name)
        key = ("log_probs", name, limit)
        if key not in self._known:
            examples = self.data.row_set(name)[1][:limit]
            requests = [r for r in self.requests if self.data.set_name(r.name) == name]
            if any(_covers(request.limit, limit) for request in requests):
                self._known[key] = self._gathered(name, limit)
            else:
                with self._with_weights():
                    batch_size = self.data.eval_batch_size
                    self._known[key] = self.module.evaluator.score(examples, batch_size)
        known: LogProbs = self._known[key]
        return known

    def _gathered(self, name: str, limit: int | None) -> LogProbs:
        """Gather the log-probabilities of all processes from the token statistics."""
        index, statistics = self.token_statistics(name, limit)
        lengths = torch.tensor([len(e.answer) for e in self.data.row_set(name)[1][:limit]])
        longest = int(lengths.max())
        table = PerExampleMetric(len(lengths)).to(self.module.device)
        table.update(index, statistics.log_prob[:, :longest])
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        return LogProbs(table.compute(), mask.to(self.module.device))

    def token_statistics(
        self, name: str, limit: int | None = None
    ) -> tuple[Tensor, TokenStatistics]:
        """Compute this process's share of the statistics of the label tokens of a row set.

        A monitor that uses it returns a request from `Monitor.requests`, so that one pass serves
        all monitors.

        Args:
            name: row set; see `rows`.
            limit: number of rows, from the first; None for all.

        Returns:
            Row numbers from 0, ``[share]``, and the statistics, ``[share, longest answer]``. Every
            row is in the share of exactly one process.
        """
        name = self.data.set_name(name)
        requests = [r for r in self.requests if self.data.set_name(r.name) == name]
        limits = [limit, *(request.limit for request in requests)]
        largest = None if None in limits else max(n for n in limits if n is not None)
        key = ("statistics", name, largest)
        if key not in self._known:
            kl = any(request.kl for request in requests)
            self._known[key] = self._pass(name, largest, kl=kl)
        index: Tensor
        statistics: TokenStatistics
        index, statistics = self._known[key]
        if limit is None or limit == largest:
            return index, statistics
        mine = index < limit
        return index[mine], statistics.rows(mine)

    def _pass(self, name: str, limit: int | None, kl: bool) -> tuple[Tensor, TokenStatistics]:
        examples = self.data.row_set(name)[1][:limit]
        module, batch_size = self.module, self.data.eval_batch_size
        oracle = self.oracle if kl and self.has_kl else None
        targets = oracle._hidden(name, limit).of if oracle is not None else None
        columns = len(COLUMNS) + (targets is not None)
        numbers = [torch.empty(0, dtype=torch.long, device=module.device)]
        flats = [torch.empty(0, columns, dtype=module.network.result_dtype, device=module.device)]
        longest = max(len(example.answer) for example in examples)
        masks = [torch.empty(0, longest, dtype=torch.bool, device=module.device)]
        # Store hidden states instead of next-token distributions: they have a hundredth of the
        # size.
        hidden = self._states() if kl else None
        output: Output = "statistics" if hidden is None else "statistics and hidden"
        head = oracle.head if oracle is not None else None
        passes = module.evaluator.batches(examples, batch_size, output, targets, head)
        with self._with_weights():
            for batch, flat in passes:
                numbers.append(batch.index)
                flats.append(flat[:, :columns])
                if hidden is not None:
                    hidden.add(batch, flat[:, columns:].to(module.network.hf_model.dtype))
                wide = longest - batch.mask.shape[1]
                masks.append(torch.nn.functional.pad(batch.mask, (0, wide)))
        if hidden is not None:
            self._known["hidden", name, limit] = hidden.close()
        return torch.cat(numbers), TokenStatistics.scatter(torch.cat(flats), torch.cat(masks))

    def _states(self) -> OracleStates | None:
        """Return a place for the hidden states of a pass for the KL; None to keep none."""
        is_stored = self.weights is not None and self.module.weights.has_frozen_head
        return OracleStates() if is_stored else None

    def _hidden(self, name: str, limit: int | None) -> OracleStates:
        """Return the hidden states at the label positions of this process's share of a row set.

        The share is that of a pass over the same number of rows.
        """
        if ("hidden", name, limit) not in self._known:
            self._known["statistics", name, limit] = self._pass(name, limit, kl=True)
        known: OracleStates = self._known["hidden", name, limit]
        return known

    def measure(self, metric: PerExampleMetric, name: str, limit: int | None = None) -> Tensor:
        """Compute a metric of the token statistics for every row.

        Args:
            metric: metric whose ``update`` takes row numbers and `TokenStatistics`.
            name: row set; see `rows`.
            limit: number of rows, from the first; None for all.

        Returns:
            ``[rows]``, the same on every process.
        """
        metric = metric.to(self.module.device)
        metric.update(*self.token_statistics(name, limit))
        values: Tensor = metric.compute()
        return values

    def gradient_norms(self, name: str, limit: int | None = None) -> Tensor:
        """Compute the norm of the gradient of each answer's loss; see `Evaluator.gradient_norms`.

        Args:
            name: row set; see `rows`.
            limit: number of rows, from the first; None for all.

        Returns:
            ``[rows]``, the same on every process.
        """
        key = ("gradient_norms", self.data.set_name(name), limit)
        if key not in self._known:
            examples = self.data.row_set(name)[1][:limit]
            with self._with_weights():
                norms = self.module.evaluator.gradient_norms(examples)
            self._known[key] = self.gather(norms, len(examples))
        known: Tensor = self._known[key]
        return known

    def gather(self, values: Mapping[int, float], count: int) -> Tensor:
        """Gather the values of all processes.

        Args:
            values: values of this process, by row number.
            count: number of rows of all processes.

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

    def phrase_log_probs(
        self, name: str, phrases: tuple[str, ...], limit: int | None = None
    ) -> Tensor:
        """Compute the mean log-likelihood per token of phrases as the start of the answer.

        Args:
            name: row set whose prompts are used; see `rows`.
            phrases: texts of the phrases.
            limit: number of rows, from the first; None for all.

        Returns:
            ``[rows, phrases]``, nats per token.
        """
        rows = self.rows(name, limit)
        key = ("phrases", name, phrases, limit)

        def encode() -> list[list[tuple[int, ...]]]:
            return [[self.format.phrase_ids(row, phrase) for phrase in phrases] for row in rows]

        return self._candidates(key, rows, encode).mean

    def candidate_scores(
        self,
        name: str,
        texts: Sequence[Sequence[str]],
        limit: int | None = None,
        end_of_turn: bool = True,
    ) -> CandidateScores:
        """Compute the log-likelihoods of answers to the prompts of a row set.

        Args:
            name: row set whose prompts are used; see `rows`.
            texts: for each row, one or more answers.
            limit: number of rows, from the first; None for all.
            end_of_turn: count the tokens that end the turn.

        Returns:
            Scores, ``[rows, most answers]``, the same on every process.
        """
        rows = self.rows(name, limit)
        key = ("candidates", name, tuple(map(tuple, texts)), limit, end_of_turn)

        def ids(row: Row, text: str) -> tuple[int, ...]:
            example = self.format.encode(Row(row.messages, text, row.where))
            return example.answer if end_of_turn else example.answer_without_end

        def encode() -> list[list[tuple[int, ...]]]:
            return [[ids(row, text) for text in own] for row, own in zip(rows, texts, strict=True)]

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
            with self._with_weights():
                self._known[key] = self.module.candidates.score(
                    prompts, texts, self.data.eval_batch_size
                )
        known: CandidateScores = self._known[key]
        return known

    def generate(
        self,
        name: str,
        limit: int | None = None,
        *,
        instruction: str = "",
        begun: tuple[tuple[int, ...], ...] | None = None,
        **options: Any,
    ) -> dict[int, list[GeneratedAnswer]]:
        """Generate answers to the prompts of a row set.

        Args:
            name: row set whose prompts are used; see `rows`.
            limit: number of rows, from the first; None for all.
            instruction: text added to the end of each prompt.
            begun: for each row, tokens with which the answer begins.
            options: arguments of `lightning_unlearn.model.generation.generate_answers`.

        Returns:
            Answers by row number, for the share of this process only; see `gather`.
        """
        key = ("written", name, limit, instruction, begun, tuple(sorted(options.items())))
        if key not in self._known:
            rows = [row.with_instruction(instruction) for row in self.rows(name, limit)]
            prompts = [self.format.prompt_ids(row) for row in rows]
            if begun is not None:
                prompts = [prompt + own for prompt, own in zip(prompts, begun, strict=True)]
            options = {"batch_size": self.data.eval_batch_size, **options}
            with self._with_weights():
                self._known[key] = generate_answers(
                    self.module.evaluator,
                    self.format.tokenizer,
                    prompts,
                    self.format.end_ids(rows[0]),
                    **options,
                )
        known: dict[int, list[GeneratedAnswer]] = self._known[key]
        return known


def _covers(requested: int | None, limit: int | None) -> bool:
    return requested is None or (limit is not None and limit <= requested)
