"""Evaluator: forwards of a model outside its training steps, distributed over the processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.distributed.tensors import full_tensor
from lightning_unlearn.model.adapters import LEARN, Adapters
from lightning_unlearn.model.log_probs import LogProbs, at_least_fp32
from lightning_unlearn.model.network import LogProbModel, Output


class Evaluator:
    """Computes values of whole data sets, and leaves the model as it was.

    Args:
        network: the model.
        adapters: its adapters; None if all weights are trained.
        placement: placement of the model.
    """

    def __init__(
        self, network: LogProbModel, adapters: Adapters | None, placement: Placement
    ) -> None:
        self.network = network
        self.adapters = adapters
        self.placement = placement

    @property
    def product_dtype(self) -> torch.dtype:
        """The type of matrix products: in `eval_mode`, that of autocast if it is enabled."""
        device = self.placement.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        dtype: torch.dtype = self.network.hf_model.dtype
        return dtype

    def score(self, examples: Sequence[Example], batch_size: int) -> LogProbs:
        """Compute log-probabilities of the answers of a whole data set.

        Distributed over the processes, each example once, in eval mode without gradient.

        Args:
            examples: the data set.
            batch_size: sequences of one forward.

        Returns:
            ``[examples, longest answer]``, on this process's device, the same on every process.
        """
        device, dtype = self.placement.device, self.network.result_dtype
        longest = max(len(example.answer) for example in examples)
        values = PerExampleMetric(len(examples)).to(device)
        values.update(
            torch.empty(0, dtype=torch.long, device=device),
            torch.empty(0, longest, dtype=dtype, device=device),
        )
        for batch, flat in self.batches(examples, batch_size):
            per_token = LogProbs.scatter(flat, batch.mask).per_token
            wide = per_token.new_zeros(len(per_token), longest)
            wide[:, : per_token.shape[1]] = per_token
            values.update(batch.index, wide)
        lengths = torch.tensor([len(example.answer) for example in examples])
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        return LogProbs(values.compute(), mask.to(device))

    def batches(
        self,
        examples: Sequence[Example],
        batch_size: int,
        output: Output = "log_probs",
        oracle: Callable[[Batch], Tensor] | None = None,
        oracle_head: nn.Module | None = None,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Run this process's share of one pass over a data set, batch by batch.

        In eval mode without gradient. The batches are the same in every pass.

        Args:
            examples: the data set.
            batch_size: sequences of one forward.
            output: what to compute for the label tokens; see `LogProbModel.forward`.
            oracle: returns the hidden states of the oracle at the label positions of a batch.
            oracle_head: gives the oracle's logits for them; None for the model's own projection.

        Yields:
            A batch on this process's device, and a value or a row of values per label token.
        """
        order = sorted(range(len(examples)), key=lambda i: (len(examples[i]), i))
        mine = self.placement.shard_of(order)
        with self.eval_mode():
            for start in range(0, len(mine), batch_size):
                rows = mine[start : start + batch_size]
                batch: Batch = self.placement.to_device(collate(examples, rows, pad_id=0))
                flat = self.network(
                    batch.input_ids,
                    batch.label_positions,
                    batch.label_ids,
                    output=output,
                    oracle=None if oracle is None else oracle(batch),
                    oracle_head=oracle_head,
                )
                yield batch, flat
            most = -(-len(order) // self.placement.data_share[1])
            self.extra_forwards(-(-most // batch_size) - -(-len(mine) // batch_size))

    def extra_forwards(self, count: int) -> None:
        """Run forwards that only keep this process in step with the others.

        All processes that share a model take part in each of its forwards, which gather it.

        Args:
            count: forwards that this process has fewer than others.
        """
        if self.placement.is_sharded:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.placement.device)
            for _ in range(count):
                self.network(token, token[0], token[0])

    def gradient_norms(self, examples: Sequence[Example]) -> dict[int, float]:
        """Compute the norm of the gradient of each example's negative log-likelihood per token.

        With respect to the adapter "learn", or to all weights if there are no adapters. One
        backward pass per example; gradients of training are left alone.

        Args:
            examples: the data set.

        Returns:
            Norms by example number, for this process's share.
        """
        if self.adapters is None:
            parameters = list(self.network.hf_model.parameters())
        else:
            parameters = list(self.adapters.parameters(LEARN).values())
        required = [parameter.requires_grad for parameter in parameters]
        numbers = range(len(examples))
        mine = self.placement.shard_of(numbers)
        norms = {}
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with self.eval_mode(), torch.enable_grad():
                # Of a sharded model every process computes all.
                for number in numbers if self.placement.is_sharded else mine:
                    batch = self.placement.to_device(collate(examples, [number], pad_id=0))
                    loss = -self.network.log_probs(batch).mean.sum()
                    squares = self._squared_gradients(loss, parameters)
                    if number in mine:
                        norms[number] = squares**0.5
        finally:
            for parameter, value in zip(parameters, required, strict=True):
                parameter.requires_grad_(value)
        return norms

    def _squared_gradients(self, loss: Tensor, parameters: list[Tensor]) -> float:
        """Sum of the squares of a loss's gradient, of the same example on all sharded processes."""
        if self.placement.is_sharded:
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
    def eval_mode(self) -> Iterator[None]:
        """Eval mode without gradient, in the Trainer's precision; restore the modes afterwards.

        Random numbers drawn inside (sampled answers) do not move those of training.
        """
        modes = {module: module.training for module in self.network.modules()}
        device = self.placement.device
        devices = [device] if device.type == "cuda" else []
        self.network.eval()
        try:
            with (
                torch.random.fork_rng(devices=devices),
                self.placement.autocast(),
                torch.no_grad(),
            ):
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            if self.placement.is_sharded:
                # A forward without a backward leaves the model gathered; code that lists the
                # parameters expects the shards.
                self.network.reshard()  # type: ignore[operator]  # a method that FSDP2 adds


def _squares(values: Tensor) -> Tensor:
    return values.to(at_least_fp32(values.dtype)).square().sum()
