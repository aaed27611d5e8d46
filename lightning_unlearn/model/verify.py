"""Check a model before and after training: its log-probabilities, gradients and weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.chat import Example
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.model.lora_targets import advise
from lightning_unlearn.model.measured_lm import MeasuredLM

# Largest relative difference between log-probabilities that should be equal.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
# Largest number of tokens on which a model is checked.
LENGTH = 32


def check_log_probs(module: MeasuredLM) -> None:
    """Refuse a model whose log-probabilities would be wrong, or that is not a causal LM.

    If the model transforms its logits in an unknown way, its own forward computes the logits from
    then on. The check runs once for each loaded model.

    Args:
        module: module after ``configure_model``.

    Raises:
        InputError: if the model is not causal, draws random numbers, or ignores its input.
    """
    assert module.net is not None, "configure_model() comes first"
    if module.net.is_checked:
        return
    length = max(4, min(LENGTH, module.context))
    words = int(module.lm.config.get_text_config().vocab_size)
    ids = tuple((7 * position + 3) % words for position in range(length))
    batch = _batch(module, ids)
    with module.measuring():
        theirs = module.net.own_log_probs(batch.input_ids)[0]
        _check_causal(module, ids, theirs)
        if not _near(module, module.log_probs(batch).per_token[0], theirs):
            module.net.takes_own_logits = True
            if not _near(module, module.log_probs(batch).per_token[0], theirs):
                raise InputError(
                    f"model.base: {module.base} gives different log-probabilities in two forwards, "
                    "expected equal ones. Choose another model, or another "
                    "model.attn_implementation."
                )
            module.warn(
                f"model.base: {module.base} transforms its logits in an unknown way, so all logits "
                "of a batch are computed, which needs more memory."
            )
        with _training(module):
            noisy = module.log_probs(batch).per_token[0]
        if not _near(module, noisy, theirs):
            raise InputError(
                f"model.base: {module.base} computes differently in training and in evaluation, by "
                "dropout or noise that is not in config.json, expected a model without: results "
                "would depend on the micro-batch size. Choose another model."
            )
        if ignores_input(module, ids):
            raise InputError(
                f"model.base: {module.base} gives the next token the same probability after every "
                "text: its weights are damaged, such as all zero. Use an earlier or another copy."
            )
    module.net.is_checked = True


def check_model(module: MeasuredLM, example: Example) -> None:
    """Refuse a model whose log-probabilities or gradients would be wrong.

    Args:
        module: module after ``configure_model``, in a stage.
        example: a row for the test, of which the first tokens are used.

    Raises:
        InputError: see `check_log_probs`; also if a trainable tensor receives no gradient.
    """
    check_log_probs(module)
    tokens = (example.prompt + example.answer)[: 2 * LENGTH]
    batch = _batch(module, tokens)
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    module.train()
    with module.precision_context(), torch.enable_grad():
        loss = objectives.nll(module.log_probs(batch).per_token).sum()
        missing = _without_gradient(module, loss, trained)
    if missing:
        found = (
            f"model: {len(missing)} of {len(trained)} trainable tensors receive no gradient, "
            f"among them {missing[0]}. Training would silently not change them"
        )
        if module.lora is None:
            raise InputError(f"{found}; set model.lora to train adapters on the others.")
        layers = {name: name.removeprefix("net.lm.").partition(".lora_")[0] for name in trained}
        idle = sorted({layers[name] for name in missing})
        rest = sorted(set(layers.values()) - set(idle))
        raise InputError(f"{found}. Set model.lora.target_modules: {advise(rest, idle)}.")


def check_result(module: MeasuredLM, example: Example, place: str, lr: float) -> None:
    """Refuse weights that have diverged in the last step, whose loss was computed before it.

    Args:
        module: module at the end of a stage.
        example: a row for the test.
        place: stage and step, for the message.
        lr: learning rate of the stage.

    Raises:
        DivergedError: if log-probabilities of the row are not finite, or do not depend on the
            tokens before: a norm turns activations that overflow into zeros.
    """
    with module.measuring():
        batch = module.to_device(collate([example], [0], pad_id=0))
        finite = bool(torch.isfinite(module.log_probs(batch).per_token).all())
        constant = finite and ignores_input(module, (example.prompt + example.answer)[:LENGTH])
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


def ignores_input(module: MeasuredLM, tokens: tuple[int, ...]) -> bool:
    """Return whether the probabilities of the next token are the same at all positions.

    Args:
        module: module after ``configure_model``, in eval mode.
        tokens: a sequence; for a sequence of equal tokens the result is False.
    """
    assert module.net is not None, "configure_model() comes first"
    if len(set(tokens)) < 2:
        return False
    ids = torch.tensor([tokens], device=module.device)
    positions = torch.arange(len(tokens), device=module.device)
    for target in sorted(set(tokens))[:2]:
        values = module.net(ids, positions, torch.full_like(positions, target))
        spread = (values.max() - values.min()).item()
        if spread > 4 * torch.finfo(torch.float32).eps * values.abs().max().item():
            return False
    return True


def _check_causal(module: MeasuredLM, ids: tuple[int, ...], theirs: Tensor) -> None:
    """Refuse a model in which a token changes the probabilities of earlier tokens."""
    assert module.net is not None
    other = _batch(module, (*ids[:-1], ids[0]))
    before = module.net.own_log_probs(other.input_ids)[0, :-1]
    if not _near(module, before, theirs[:-1]):
        raise InputError(
            f"model.base: {module.base} ({type(module.lm).__name__}) is not causal: a token "
            "changes the probabilities of earlier tokens. Expected a causal language model; models "
            "like BERT are causal with is_decoder: true in config.json."
        )


def _batch(module: MeasuredLM, tokens: tuple[int, ...]) -> Batch:
    """Return a batch of one row, in which all tokens but the first are labels."""
    batch: Batch = module.to_device(collate([Example(tokens[:1], tokens[1:])], [0], pad_id=0))
    return batch


def _near(module: MeasuredLM, ours: Tensor, theirs: Tensor) -> bool:
    gap = ((ours - theirs).abs() / (1 + theirs.abs())).max().item()
    # A GPU rounds the same product differently in batches of another shape.
    return gap <= TOLERANCE.get(module.product_dtype, 1e-3)


@contextmanager
def _training(module: MeasuredLM) -> Iterator[None]:
    """Within the context, set training mode, except for dropout of the adapters; then eval mode."""
    module.train()
    for name, part in module.named_modules():
        if ".lora_dropout" in name:
            part.eval()
    yield
    module.eval()


def _without_gradient(
    module: MeasuredLM, loss: Tensor, trained: dict[str, nn.Parameter]
) -> list[str]:
    if module.is_sharded:
        # Hooks of a sharded module compute the gradient of its shard; autograd.grad runs no hooks.
        loss.backward()  # type: ignore[no-untyped-call]
        missing = [name for name, parameter in trained.items() if parameter.grad is None]
        module.zero_grad(set_to_none=True)
        return missing
    # Not with backward(): other strategies would start to exchange gradients.
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return [name for name, grad in zip(trained, grads, strict=True) if grad is None]
