"""Log-probabilities of label tokens, for all training and evaluation.

The decoder of the language model runs once. The vocabulary projection runs only at positions that
predict a label token, in chunks. So a batch x length x vocabulary tensor never exists, neither in
the forward nor in the backward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Elements of one chunk of logits: 32 MiB in fp32 on a CPU; 128 MiB on an accelerator, where a chunk
# reads the weight of the projection once for all its rows.
CHUNK_ELEMENTS = 2**23
ACCELERATOR_CHUNK_ELEMENTS = 2**25
_AS_ACCELERATOR = ContextVar("as_accelerator", default=False)


@contextmanager
def chunks_of_accelerator() -> Iterator[None]:
    """Within the context, use the chunk size of an accelerator on any device."""
    token = _AS_ACCELERATOR.set(True)
    try:
        yield
    finally:
        _AS_ACCELERATOR.reset(token)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which results of a model are summed and stored.

    Args:
        dtype: dtype of the model's weights or logits.

    Returns:
        fp32; float64 for float64.
    """
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of the label tokens of a batch, in nats; fp32, or float64 as the model.

    Attributes:
        per_token: log pi(y_t | x, y_<t), ``[sequences, longest answer]``, 0 where masked.
        mask: True at real label tokens, ``[sequences, longest answer]``.
    """

    per_token: Tensor
    mask: Tensor

    @property
    def sum(self) -> Tensor:
        """log pi(y|x), ``[sequences]``."""
        return self.per_token.sum(-1)

    @property
    def length(self) -> Tensor:
        """Label tokens, ``[sequences]``."""
        return self.mask.sum(-1)

    @property
    def mean(self) -> Tensor:
        """Log-likelihood per label token, ``[sequences]``."""
        return self.sum / self.length.clamp(min=1)

    @staticmethod
    def scatter(flat: Tensor, mask: Tensor) -> "LogProbs":
        """Convert flat values of the label tokens, row after row, to a padded table.

        Args:
            flat: one value per label token, ``[label tokens]``.
            mask: ``[sequences, longest answer]`` with as many True as ``flat`` has values.

        Returns:
            The table; gradients flow to ``flat``.
        """
        table = flat.new_zeros(mask.shape)
        return LogProbs(table.masked_scatter(mask, flat), mask)


# Gemma 2 and later, Recurrent Gemma, xLSTM.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class LogitTransform:
    """The transform that a causal LM applies to its logits after the output projection.

    Attributes:
        scale: factor on the logits (Cohere's ``logit_scale``, Granite's 1 / ``logits_scaling``,
            Falcon H1's ``lm_head_multiplier``).
        softcap: c in c tanh(logits / c) (Gemma 2's ``final_logit_softcapping``), None for none.
    """

    scale: float = 1.0
    softcap: float | None = None

    @staticmethod
    def of(config: Any) -> "LogitTransform":
        """Read the transform from a Hugging Face model configuration."""
        text = config.get_text_config() if hasattr(config, "get_text_config") else config

        def factor(name: str) -> float:
            return float(getattr(text, name, None) or 1.0)

        scale = factor("logit_scale") * factor("lm_head_multiplier")
        scaling = factor("logits_scaling")
        # logits_scaling is a divisor in Granite and a factor in HyperCLOVA X.
        is_factor = str(getattr(text, "model_type", "")).startswith("hyperclovax")
        scale *= scaling if is_factor else 1 / scaling
        caps = (getattr(text, name, None) for name in _CAPS)
        return LogitTransform(scale, next((float(cap) for cap in caps if cap), None))

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply the transform to ``[..., vocabulary]`` logits, at least in fp32."""
        logits = logits.to(at_least_fp32(logits.dtype))
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


class _FrozenHead(torch.autograd.Function):
    """Base of functions of hidden states whose forward computes d value / d h, a vector per row."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grads[0].unsqueeze(-1) * slopes).to(slopes.dtype), None, None, None, None, None


class _FrozenHeadLogProbs(_FrozenHead):
    """log softmax(head(h))[target] for a linear head that needs no gradient itself.

    Each value depends only on its own row of h, so d value / d h is one vector per row,
    ``(onehot - softmax) W``. The forward computes it while the logits of the chunk exist; the
    backward pass only scales it. So the logits are computed once and never stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        transform: LogitTransform,
        chunk: int,
    ) -> Tensor:
        wants_grad = ctx.needs_input_grad[0]
        kept = at_least_fp32(hidden.dtype)
        values = torch.empty(hidden.shape[0], dtype=kept, device=hidden.device)
        slopes = torch.empty_like(hidden) if wants_grad else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            picked_ids = target[rows, None]
            logits = transform(F.linear(hidden[rows], weight, bias))
            normalizer = torch.logsumexp(logits, dim=-1, keepdim=True)
            values[rows] = (logits.gather(-1, picked_ids) - normalizer).squeeze(-1)
            if slopes is None:
                continue
            bend = None
            if transform.softcap is not None:
                bend = 1.0 - (logits / transform.softcap).square()
            slope = logits.sub_(normalizer).exp_().neg_()
            slope.scatter_add_(-1, picked_ids, torch.ones_like(slope[:, :1]))
            if bend is not None:
                slope.mul_(bend)
            if transform.scale != 1.0:
                slope.mul_(transform.scale)
            slopes[rows] = (slope.to(weight.dtype) @ weight).to(slopes.dtype)
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return values


class _FrozenHeadKL(_FrozenHead):
    """KL(reference || model) of next-token distributions for a linear head without gradient.

    As in `_FrozenHeadLogProbs`, d value / d h is one vector per row, ``(p - q) W`` for the
    distributions p of the model and q of the reference, and the forward computes it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        reference: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        transform: LogitTransform,
        chunk: int,
    ) -> Tensor:
        wants_grad = ctx.needs_input_grad[0]
        kept = at_least_fp32(hidden.dtype)
        values = torch.empty(hidden.shape[0], dtype=kept, device=hidden.device)
        slopes = torch.empty_like(hidden) if wants_grad else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            aim = transform(F.linear(reference[rows], weight, bias)).log_softmax(-1)
            logits = transform(F.linear(hidden[rows], weight, bias))
            own = logits.log_softmax(-1)
            share = aim.exp()
            values[rows] = aim.sub_(own).mul_(share).sum(-1)
            if slopes is None:
                continue
            slope = own.exp_().sub_(share)
            if transform.softcap is not None:
                slope.mul_(1.0 - (logits / transform.softcap).square())
            if transform.scale != 1.0:
                slope.mul_(transform.scale)
            slopes[rows] = (slope.to(weight.dtype) @ weight).to(slopes.dtype)
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return values


def chunk_rows(head: nn.Module, device: torch.device) -> int:
    """Return the number of rows of logits that are computed at a time.

    Args:
        head: the output projection.
        device: device of the computation.

    Returns:
        Number of rows, at least 16.
    """
    weight = getattr(head, "weight", None)
    small = device.type == "cpu" and not _AS_ACCELERATOR.get()
    elements = CHUNK_ELEMENTS if small else ACCELERATOR_CHUNK_ELEMENTS
    return max(16, elements // max(1, weight.shape[0] if isinstance(weight, Tensor) else 2**17))


def token_log_probs(
    hidden: Tensor, target: Tensor, head: nn.Module, transform: LogitTransform
) -> Tensor:
    """Compute the log-probabilities of given tokens from the hidden states that predict them.

    Args:
        hidden: last hidden states, after the final norm, ``[tokens, width]``.
        target: token ids, ``[tokens]``.
        head: the output projection to ``[tokens, vocabulary]``.
        transform: transform of the logits after the projection.

    Returns:
        ``[tokens]``, nats; see `at_least_fp32`.
    """
    chunk = chunk_rows(head, hidden.device)
    if type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters()):
        value: Tensor = _FrozenHeadLogProbs.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, head.bias, target, transform, chunk
        )
        return value

    def of_chunk(rows: Tensor, ids: Tensor) -> Tensor:
        logits = transform(head(rows))
        return logits.gather(-1, ids[:, None]).squeeze(-1) - torch.logsumexp(logits, dim=-1)

    return _by_chunk(of_chunk, hidden, target, chunk)


def token_kl(
    hidden: Tensor,
    reference: Tensor,
    head: nn.Module,
    reference_head: Callable[[Tensor], Tensor],
    transform: LogitTransform,
) -> Tensor:
    """Compute KL(reference || model) of next-token distributions from their hidden states.

    Args:
        hidden: last hidden states of the model, after the final norm, ``[tokens, width]``.
        reference: the same of the reference, a constant.
        head: the output projection to ``[tokens, vocabulary]``.
        reference_head: that of the reference.
        transform: transform of the logits after the projection.

    Returns:
        ``[tokens]``, nats; see `at_least_fp32`. Gradients flow to ``hidden`` and to the head.
    """
    chunk = chunk_rows(head, hidden.device)
    if type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters()):
        value: Tensor = _FrozenHeadKL.apply(  # type: ignore[no-untyped-call]
            hidden, reference, head.weight, head.bias, transform, chunk
        )
        return value

    def of_chunk(rows: Tensor, aims: Tensor) -> Tensor:
        with torch.no_grad():
            aim = transform(reference_head(aims)).log_softmax(-1)
        own = transform(head(rows)).log_softmax(-1)
        return F.kl_div(own, aim, reduction="none", log_target=True).sum(-1)

    return _by_chunk(of_chunk, hidden, reference, chunk)


def _by_chunk(
    compute: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, other: Tensor, chunk: int
) -> Tensor:
    """Compute one value per row, chunk by chunk.

    Args:
        compute: returns the values of some rows of ``hidden`` and ``other``.
        hidden: ``[rows, width]``.
        other: ``[rows, ...]``.
        chunk: number of rows of a chunk.

    Returns:
        ``[rows]``.
    """
    parts = []
    for start in range(0, hidden.shape[0], chunk):
        rows = hidden[start : start + chunk], other[start : start + chunk]
        if torch.is_grad_enabled():
            # Compute the logits of the chunk again in the backward pass instead of storing them.
            parts.append(checkpoint(compute, *rows, use_reentrant=False))
        else:
            parts.append(compute(*rows))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=at_least_fp32(hidden.dtype))
