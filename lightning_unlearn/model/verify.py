"""Checks of an open model: do we compute what the model computes, and did training spoil it?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.chat import Example
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.model.compiling import eager_mode
from lightning_unlearn.model.evaluator import Evaluator
from lightning_unlearn.model.lora_targets import advise

# How far log-probabilities may be from others that should be equal, relative to their size.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
# Most tokens of the sequence that a model is checked with.
LENGTH = 32


def verify_log_probs(evaluator: Evaluator, name: str) -> None:
    """Refuse a model whose log-probabilities we would get wrong, or which is no causal LM.

    If a model changes its logits in a way that is not known here, they are taken from its own
    forward from now on. Done once for each model that is opened.

    Args:
        evaluator: of the model.
        name: of the base model, for messages.

    Raises:
        InputError: if the model is not causal, draws random numbers, or ignores its input.
    """
    network, placement = evaluator.network, evaluator.placement
    if network.is_verified:
        return
    length = max(4, min(LENGTH, network.context_length))
    words = int(network.hf_model.config.get_text_config().vocab_size)
    ids = tuple((7 * place + 3) % words for place in range(length))
    batch = _batch(evaluator, ids)
    # One row is a shape of its own, for which nothing else may be compiled.
    with eager_mode(network.is_compiled), evaluator.eval_mode():
        expected = network.log_probs_from_logits(batch.input_ids)[0]
        _check_causal(evaluator, ids, expected, name)
        if not _near(evaluator, network.log_probs(batch).per_token[0], expected):
            network.takes_own_logits = True
            if not _near(evaluator, network.log_probs(batch).per_token[0], expected):
                raise InputError(
                    f"model.base: {name} gives other log-probabilities in one forward than "
                    "in the next, expected the same. Choose another model, or another "
                    "model.attn_implementation."
                )
            placement.warn(
                f"model.base: {name} changes its logits in a way that is not known here, so "
                "all logits of a batch are formed, which takes more memory."
            )
        with _train_mode(network):
            noisy = network.log_probs(batch).per_token[0]
        if not _near(evaluator, noisy, expected):
            raise InputError(
                f"model.base: {name} computes otherwise in training than in evaluation, by "
                "dropout or noise that is not in config.json; results would depend on the "
                "micro-batch. Expected a model without; choose another."
            )
        if ignores_input(evaluator, ids):
            raise InputError(
                f"model.base: {name} gives every token the same probability whatever is "
                "before it: its weights are spoiled, such as all zero. Take an earlier or another "
                "copy."
            )
    network.is_verified = True


def verify_model(evaluator: Evaluator, name: str, example: Example) -> None:
    """Refuse a model whose log-probabilities or gradients we would get wrong.

    Args:
        evaluator: of the model, which is in a stage.
        name: of the base model, for messages.
        example: a row to try on; only its first tokens count.

    Raises:
        InputError: as of `verify_log_probs`, or if a trainable tensor receives no gradient.
    """
    verify_log_probs(evaluator, name)
    network = evaluator.network
    batch = _batch(evaluator, (example.prompt + example.answer)[: 2 * LENGTH])
    trained = {n: p for n, p in network.hf_model.named_parameters() if p.requires_grad}
    network.train()
    with eager_mode(network.is_compiled), evaluator.placement.autocast(), torch.enable_grad():
        loss = objectives.nll(network.log_probs(batch).per_token).sum()
        missing = _without_gradient(evaluator, loss, trained)
    if missing:
        found = (
            f"model: {len(missing)} of {len(trained)} trainable tensors receive no gradient, "
            f"among them {missing[0]}. They would silently stay as they are"
        )
        if evaluator.adapters is None:
            raise InputError(f"{found}; set model.lora to train adapters on the others.")
        layers = {name: name.partition(".lora_")[0] for name in trained}
        idle = sorted({layers[name] for name in missing})
        rest = sorted(set(layers.values()) - set(idle))
        raise InputError(f"{found}. Set model.lora.target_modules: {advise(rest, idle)}.")


def verify_result(evaluator: Evaluator, example: Example, place: str, lr: float) -> None:
    """Refuse weights that the last step spoiled; a loss is checked before its step only.

    Args:
        evaluator: of the model, at the end of a stage.
        example: a row to try on.
        place: stage and step, for the message.
        lr: the stage's learning rate.

    Raises:
        DivergedError: if log-probabilities of the row are not finite, or are the same whatever the
            tokens before: activations that overflow come out of a norm as zeros.
    """
    network = evaluator.network
    with eager_mode(network.is_compiled), evaluator.eval_mode():
        batch = evaluator.placement.to_device(collate([example], [0], pad_id=0))
        finite = bool(torch.isfinite(network.log_probs(batch).per_token).all())
        constant = finite and ignores_input(evaluator, (example.prompt + example.answer)[:LENGTH])
    if finite and not constant:
        return
    what = (
        "every token has the same probability whatever is before it: the weights are spoiled"
        if constant
        else "the log-probabilities are not finite"
    )
    raise DivergedError(
        f"{place}: after it {what}. Everything stored before this stage is kept. Lower the "
        f"learning rate (now {lr:g}) or clip gradients (gradient_clip)."
    )


def ignores_input(evaluator: Evaluator, tokens: tuple[int, ...]) -> bool:
    """Whether the next token's probabilities are the same at all positions.

    Args:
        evaluator: of the model, in eval mode.
        tokens: a sequence; one of equal tokens cannot tell.
    """
    if len(set(tokens)) < 2:
        return False
    device = evaluator.placement.device
    ids = torch.tensor([tokens], device=device)
    places = torch.arange(len(tokens), device=device)
    for token in sorted(set(tokens))[:2]:
        values = evaluator.network(ids, places, torch.full_like(places, token))
        spread = (values.max() - values.min()).item()
        if spread > 4 * torch.finfo(torch.float32).eps * values.abs().max().item():
            return False
    return True


def _check_causal(evaluator: Evaluator, ids: tuple[int, ...], expected: Tensor, name: str) -> None:
    """Refuse a model in which a token changes the log-probabilities of those before it."""
    network = evaluator.network
    other = _batch(evaluator, (*ids[:-1], ids[0]))
    before = network.log_probs_from_logits(other.input_ids)[0, :-1]
    if not _near(evaluator, before, expected[:-1]):
        raise InputError(
            f"model.base: {name} ({type(network.hf_model).__name__}) is not causal: a token "
            "changes the probabilities of those before it. Expected a causal language model; "
            "BERT's kin are one with is_decoder: true in config.json."
        )


def _batch(evaluator: Evaluator, tokens: tuple[int, ...]) -> Batch:
    """One row, of which all tokens but the first are labels."""
    row = collate([Example(tokens[:1], tokens[1:])], [0], pad_id=0)
    batch: Batch = evaluator.placement.to_device(row)
    return batch


def _near(evaluator: Evaluator, ours: Tensor, expected: Tensor) -> bool:
    gap = ((ours - expected).abs() / (1 + expected.abs())).max().item()
    # A GPU rounds the same product otherwise where it is cut otherwise.
    return gap <= TOLERANCE.get(evaluator.product_dtype, 1e-3)


@contextmanager
def _train_mode(network: nn.Module) -> Iterator[None]:
    """Training mode, except for the adapters' dropout; inside `Evaluator.eval_mode`."""
    network.train()
    for name, part in network.named_modules():
        if ".lora_dropout" in name:
            part.eval()
    yield
    network.eval()


def _without_gradient(
    evaluator: Evaluator, loss: Tensor, trained: dict[str, nn.Parameter]
) -> list[str]:
    if evaluator.placement.is_sharded:
        # A shard's gradient comes from its module's hooks, which autograd.grad does not run.
        loss.backward()  # type: ignore[no-untyped-call]
        missing = [name for name, parameter in trained.items() if parameter.grad is None]
        evaluator.network.zero_grad(set_to_none=True)
        return missing
    # Not by backward(): other strategies would begin to exchange gradients.
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return [name for name, grad in zip(trained, grads, strict=True) if grad is None]
