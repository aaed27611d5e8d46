"""A look at a model on one row, before it is trained: is what we compute what it computes?"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import collate
from lightning_unlearn.data.chat import Example
from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    from lightning_unlearn.module import CausalLM

# How far our log-probabilities may be from the model's own, relative to their size.
HEAD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def check_model(module: "CausalLM", example: Example) -> None:
    """Refuse a model whose log-probabilities or gradients we would get wrong.

    Args:
        module: configured, in a stage.
        example: a row to try on; only its first 64 tokens count.

    Raises:
        InputError: if our log-probabilities are not the model's own, or if a trainable tensor
            receives no gradient.
    """
    tokens = (example.prompt + example.answer)[:64]
    short = Example(tokens[:1], tokens[1:])
    batch = module.to_device(collate([short], [0], pad_id=0))
    assert module.net is not None, "configure_model() comes first"
    with module.measuring():
        ours = module.log_probs(batch).per_token[0]
        theirs = module.net.own_log_probs(batch.input_ids)[0]
    gap = ((ours - theirs).abs() / (1 + theirs.abs())).max().item()
    if not gap <= HEAD_TOLERANCE.get(module.lm.dtype, 1e-3):
        raise InputError(
            f"model.base: {module.base} changes its logits in a way that is not reproduced here "
            f"(log-probabilities differ by {gap:.2g}). Please report the model."
        )
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    module.train()
    with module.precision_context(), torch.enable_grad():
        loss = objectives.nll(module.log_probs(batch).per_token).sum()
        missing = _without_gradient(module, loss, trained)
    if missing:
        raise InputError(
            f"model: {len(missing)} of {len(trained)} trainable tensors receive no gradient, "
            f"among them {missing[0]}. They would silently stay as they are; leave them out of "
            "model.lora.targets."
        )


def _without_gradient(
    module: "CausalLM", loss: Tensor, trained: dict[str, nn.Parameter]
) -> list[str]:
    if module.is_sharded:
        # A part's gradient comes from its module's hooks, which autograd.grad does not run.
        loss.backward()  # type: ignore[no-untyped-call]
        missing = [name for name, parameter in trained.items() if parameter.grad is None]
        module.zero_grad(set_to_none=True)
        return missing
    # Not by backward(): other strategies would begin to exchange gradients.
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return [name for name, grad in zip(trained, grads, strict=True) if grad is None]
