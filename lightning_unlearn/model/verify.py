"""Check a model before and after training: its log-probabilities, gradients and weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.model.compiling import eager_mode
from lightning_unlearn.model.evaluator import Evaluator
from lightning_unlearn.model.lora_targets import advise

# Largest relative difference between log-probabilities that should be equal.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
# Largest number of tokens on which a model is checked.
LENGTH = 32


def verify_log_probs(evaluator: Evaluator, name: str) -> None:
    """Refuse a model whose log-probabilities would be wrong, or that is not a causal LM.

    If the model transforms its logits in an unknown way, its own forward computes the logits from
    then on. The check runs once for each loaded model.

    Args:
        evaluator: evaluator of the model.
        name: name of the base model, for messages.

    Raises:
        InputError: if the model is not causal, draws random numbers, or ignores its input.
    """
    network, placement = evaluator.network, evaluator.placement
    if network.is_verified:
        return
    length = max(4, min(LENGTH, network.context_length))
    words = int(network.hf_model.config.get_text_config().vocab_size)
    ids = tuple((7 * position + 3) % words for position in range(length))
    batch = _batch(evaluator, ids)
    # One row has another shape than the batches of training, so do not compile for it.
    with eager_mode(network.is_compiled), evaluator.eval_mode():
        expected = network.log_probs_from_logits(batch.input_ids)[0]
        _check_causal(evaluator, ids, expected, name)
        if not _near(evaluator, network.log_probs(batch).per_token[0], expected):
            network.takes_own_logits = True
            if not _near(evaluator, network.log_probs(batch).per_token[0], expected):
                raise InputError(
                    f"model.base: {name} gives different log-probabilities in two forwards, "
                    "expected equal ones. Choose another model, or another "
                    "model.attn_implementation."
                )
            placement.warn(
                f"model.base: {name} transforms its logits in an unknown way, so all logits "
                "of a batch are computed, which needs more memory."
            )
        with _train_mode(network):
            noisy = network.log_probs(batch).per_token[0]
        if not _near(evaluator, noisy, expected):
            raise InputError(
                f"model.base: {name} computes differently in training and in evaluation, by "
                "dropout or noise that is not in config.json, expected a model without: results "
                "would depend on the micro-batch size. Choose another model."
            )
        if ignores_input(evaluator, ids):
            raise InputError(
                f"model.base: {name} gives the next token the same probability after every "
                "text: its weights are damaged, such as all zero. Use an earlier or another copy."
            )
    network.is_verified = True


def verify_model(evaluator: Evaluator, name: str, example: Example) -> None:
    """Refuse a model whose log-probabilities or gradients would be wrong.

    Args:
        evaluator: evaluator of the model, which is in a stage.
        name: name of the base model, for messages.
        example: a row for the test, of which the first tokens are used.

    Raises:
        InputError: see `verify_log_probs`; also if a trainable tensor receives no gradient.
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
            f"among them {missing[0]}. Training would silently not change them"
        )
        if evaluator.adapters is None:
            raise InputError(f"{found}; set model.lora to train adapters on the others.")
        layers = {name: name.partition(".lora_")[0] for name in trained}
        idle = sorted({layers[name] for name in missing})
        rest = sorted(set(layers.values()) - set(idle))
        raise InputError(f"{found}. Set model.lora.target_modules: {advise(rest, idle)}.")


def verify_result(evaluator: Evaluator, example: Example, place: str, lr: float) -> None:
    """Refuse weights that have diverged in the last step, whose loss was computed before it.

    Args:
        evaluator: evaluator of the model, at the end of a stage.
        example: a row for the test.
        place: stage and step, for the message.
        lr: learning rate of the stage.

    Raises:
        DivergedError: if log-probabilities of the row are not finite, or do not depend on the
            tokens before: a norm turns activations that overflow into zeros.
    """
    network = evaluator.network
    with eager_mode(network.is_compiled), evaluator.eval_mode():
        batch = evaluator.placement.to_device(collate([example], [0], pad_id=0))
        finite = bool(torch.isfinite(network.log_probs(batch).per_token).all())
        constant = finite and ignores_input(evaluator, (example.prompt + example.answer)[:LENGTH])
    if finite and not constant:
        return
    what = (
        "the next token has the same probability after every text: the weights have diverged"
        if constant
        else "the log-probabilities are not finite"
    )
    raise DivergedError(
        f"{place}: after this step, {what}. Results stored before this stage are kept. Lower the "
        f"learning rate (now {lr:g}) or clip gradients (gradient_clip)."
    )


def ignores_input(evaluator: Evaluator, tokens: tuple[int, ...]) -> bool:
    """Return whether the probabilities of the next token are the same at all positions.

    Args:
        evaluator: evaluator of the model, in eval mode.
        tokens: a sequence; for a sequence of equal tokens the result is False.
    """
    if len(set(tokens)) < 2:
        return False
    device = evaluator.placement.device
    ids = torch.tensor([tokens], device=device)
    positions = torch.arange(len(tokens), device=device)
    for token in sorted(set(tokens))[:2]:
        values = evaluator.network(ids, positions, torch.full_like(positions, token))
        spread = (values.max() - values.min()).item()
        if spread > 4 * torch.finfo(torch.float32).eps * values.abs().max().item():
            return False
    return True


def _check_causal(evaluator: Evaluator, ids: tuple[int, ...], expected: Tensor, name: str) -> None:
    """Refuse a model in which a token changes the probabilities of earlier tokens."""
    network = evaluator.network
    other = _batch(evaluator, (*ids[:-1], ids[0]))
    before = network.log_probs_from_logits(other.input_ids)[0, :-1]
    if not _near(evaluator, before, expected[:-1]):
        raise InputError(
            f"model.base: {name} ({type(network.hf_model).__name__}) is not causal: a token "
            "changes the probabilities of earlier tokens. Expected a causal language model; models "
            "like BERT are causal with is_decoder: true in config.json."
        )


def _batch(evaluator: Evaluator, tokens: tuple[int, ...]) -> Batch:
    """Return a batch of one row, in which all tokens but the first are labels."""
    row = collate([Example(tokens[:1], tokens[1:])], [0], pad_id=0)
    batch: Batch = evaluator.placement.to_device(row)
    return batch


def _near(evaluator: Evaluator, ours: Tensor, expected: Tensor) -> bool:
    gap = ((ours - expected).abs() / (1 + expected.abs())).max().item()
    # A GPU rounds the same product differently in batches of another shape.
    return gap <= TOLERANCE.get(evaluator.product_dtype, 1e-3)


@contextmanager
def _train_mode(network: nn.Module) -> Iterator[None]:
    """Within the context, set training mode, except for dropout of the adapters; then eval mode."""
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
        # Hooks of a sharded module compute the gradient of its shard; autograd.grad runs no hooks.
        loss.backward()  # type: ignore[no-untyped-call]
        missing = [name for name, parameter in trained.items() if parameter.grad is None]
        evaluator.network.zero_grad(set_to_none=True)
        return missing
    # Not with backward(): other strategies would start to exchange gradients.
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return [name for name, grad in zip(trained, grads, strict=True) if grad is None]
