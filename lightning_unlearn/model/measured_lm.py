"""Forwards of a language model outside its training steps, shared out over processes."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.chat import Example
from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.distributed.strategy import data_share
from lightning_unlearn.distributed.tensors import full_tensor
from lightning_unlearn.model import adapters
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.log_probs import LogProbs, at_least_fp32
from lightning_unlearn.model.network import Wanted
from lightning_unlearn.model.stored_lm import StoredLM


class MeasuredLM(StoredLM):
    """The part of `CausalLM` that computes what is asked of it, and leaves it as it was."""

    @property
    def kept_dtype(self) -> torch.dtype:
        """The type of what is computed of the model and kept; see `at_least_fp32`."""
        return at_least_fp32(self.lm.dtype)

    def log_probs(self, batch: Batch) -> LogProbs:
        """Log-probabilities of a batch's label tokens, with gradient where it is enabled."""
        assert self.net is not None, "configure_model() comes first"
        flat = self.net(batch.input_ids, batch.source, batch.target)
        return LogProbs.scatter(flat, batch.mask)

    def score(self, examples: Sequence[Example], batch_size: int) -> LogProbs:
        """Log-probabilities of the answers of a whole data set.

        Spread over the processes, each example once, in eval mode without gradient.

        Args:
            examples: the data set.
            batch_size: sequences of one forward.

        Returns:
            ``[examples, longest answer]``, on this process's device, the same on every process.
        """
        longest = max(len(example.answer) for example in examples)
        values = PerExampleMetric(len(examples)).to(self.device)
        values.update(
            torch.empty(0, dtype=torch.long, device=self.device),
            torch.empty(0, longest, dtype=self.kept_dtype, device=self.device),
        )
        for batch, flat in self.passes(examples, batch_size):
            per_token = LogProbs.scatter(flat, batch.mask).per_token
            wide = per_token.new_zeros(len(per_token), longest)
            wide[:, : per_token.shape[1]] = per_token
            values.update(batch.index, wide)
        lengths = torch.tensor([len(example.answer) for example in examples])
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        return LogProbs(values.compute(), mask.to(self.device))

    def passes(
        self,
        examples: Sequence[Example],
        batch_size: int,
        wanted: Wanted = "log_probs",
        oracle: Sequence[Tensor] | None = None,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """This process's share of one pass over a data set, batch by batch.

        In eval mode without gradient. The cut is the same in every pass.

        Args:
            examples: the data set.
            batch_size: sequences of one forward.
            wanted: what is computed of the label tokens, as of `LogProbModel.forward`.
            oracle: hidden states of the oracle, batch by batch, as another pass gave them.

        Yields:
            A batch on this process's device, and a value or a row of values per label token.
        """
        assert self.net is not None, "configure_model() comes first"
        order = sorted(range(len(examples)), key=lambda i: (len(examples[i]), i))
        mine = self.own_share(order)
        with self.measuring():
            for number, start in enumerate(range(0, len(mine), batch_size)):
                rows = mine[start : start + batch_size]
                batch: Batch = self.to_device(collate(examples, rows, pad_id=0))
                aim = None if oracle is None else oracle[number]
                flat = self.net(
                    batch.input_ids, batch.source, batch.target, wanted=wanted, oracle=aim
                )
                yield batch, flat
            most = -(-len(order) // self.data_share[1])
            self.fill_up(-(-most // batch_size) - -(-len(mine) // batch_size))

    def most(self, count: int) -> int:
        """The highest of a model's processes' counts, where it is cut up; else this count."""
        if not self.is_sharded:
            return count
        counts = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
        return int(counts.item())

    def fill_up(self, count: int) -> None:
        """Forwards that only keep this process in step with the others.

        A model that is cut up is put together anew in every forward, in which all take part.

        Args:
            count: so many are missing here.
        """
        assert self.net is not None, "configure_model() comes first"
        if self.is_sharded:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            for _ in range(count):
                self.net(token, token[0], token[0])

    def gradient_norms(self, examples: Sequence[Example]) -> dict[int, float]:
        """Norm of the gradient of each example's loss, its negative log-likelihood per token.

        With respect to the adapter that goes through all stages, or to all weights where there are
        no adapters. One backward pass per example; gradients of training are left alone.

        Args:
            examples: the data set.

        Returns:
            Norms by example number, for this process's share.
        """
        if self.peft is None:
            parameters = list(self.lm.parameters())
        else:
            parameters = list(adapters.adapter_parameters(self.peft, LEARN).values())
        wanted = [parameter.requires_grad for parameter in parameters]
        numbers = range(len(examples))
        mine = self.own_share(numbers)
        norms = {}
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with self.measuring(), torch.enable_grad():
                # Of a model that is cut up every process computes all.
                for number in numbers if self.is_sharded else mine:
                    batch = self.to_device(collate(examples, [number], pad_id=0))
                    loss = -self.log_probs(batch).mean.sum()
                    squares = self._squared_gradients(loss, parameters)
                    if number in mine:
                        norms[number] = squares**0.5
        finally:
            for parameter, value in zip(parameters, wanted, strict=True):
                parameter.requires_grad_(value)
        return norms

    def _squared_gradients(self, loss: Tensor, parameters: list[Tensor]) -> float:
        """Sum of the squares of a loss's gradient, the same example on all processes if sharded."""
        if self.is_sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            found = [p.grad for p in parameters if p.grad is not None]
            total = sum(full_tensor(_squares(part)).item() for part in found)
            for parameter in parameters:
                parameter.grad = None
            return float(total)
        # Not by backward(): that would reach the gradients of training, and their exchange between
        # processes.
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        squares = [_squares(part) for part in grads if part is not None]
        return torch.stack(squares).sum().item()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Eval mode, no gradient, the Trainer's precision; afterwards all is as it was.

        Random numbers drawn inside (sampled answers) do not move those of training.
        """
        modes = {module: module.training for module in self.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        self.eval()
        try:
            with torch.random.fork_rng(devices=devices), self.precision_context(), torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            if self.is_sharded and self.net is not None:
                # What a forward without a backward put together would stay so; whoever lists
                # parameters wants the parts.
                self.net.reshard()  # type: ignore[operator]  # a method that FSDP2 adds

    def precision_context(self) -> AbstractContextManager[Any]:
        """The Trainer's precision, for a forward outside its steps."""
        return self._trainer.precision_plugin.forward_context() if self._trainer else nullcontext()

    @property
    def product_dtype(self) -> torch.dtype:
        """What matrix products are rounded to: in `precision_context`, the type of autocast."""
        device = self.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        dtype: torch.dtype = self.lm.dtype
        return dtype

    def to_device(self, batch: Any) -> Any:
        """A batch on this module's device."""
        return self.transfer_batch_to_device(batch, self.device, 0)

    @property
    def data_share(self) -> tuple[int, int]:
        """Number of this process's share of the data, from 0, and how many shares there are."""
        return data_share(self._trainer) if self._trainer is not None else (0, 1)

    def own_share(self, numbers: Sequence[int]) -> Sequence[int]:
        """Those of some numbers that are this process's to work on."""
        share, shares = self.data_share
        return numbers[share::shares]


def _squares(values: Tensor) -> Tensor:
    return values.to(at_least_fp32(values.dtype)).square().sum()
