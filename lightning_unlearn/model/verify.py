"""A look at a model before and after it is trained: is what we compute what it computes?"""

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

# How far log-probabilities may be from others that should be equal, relative to their size.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
# Tokens that a model is looked at on, at most.
LENGTH = 32


def check_log_probs(module: MeasuredLM) -> None:
    """Refuse a model whose log-probabilities we would get wrong, or that are none of a causal LM.

    If what it does to its logits is not known here, they are taken from its own forward from now
    on. Once for each model that is opened.

    Args:
        module: configured.

    Raises:
        InputError: if the model is not causal, draws random numbers, or does not look at its input.
    """
    assert module.net is not None, "configure_model() comes first"
    if module.net.is_checked:
        return
    length = max(4, min(LENGTH, module.context))
    words = int(module.lm.config.get_text_config().vocab_size)
    ids = tuple((7 * place + 3) % words for place in range(length))
    batch = _batch(module, ids)
    with module.measuring():
        theirs = module.net.own_log_probs(batch.input_ids)[0]
        _check_causal(module, ids, theirs)
        if not _near(module, module.log_probs(batch).per_token[0], theirs):
            module.net.takes_own_logits = True
            if not _near(module, module.log_probs(batch).per_token[0], theirs):
                raise InputError(
                    f"model.base: {module.base} gives other log-probabilities in one forward than "
                    "in the next, expected the same. Choose another model, or another "
                    "model.attn_implementation."
                )
            module.warn(
                f"model.base: {module.base} changes its logits in a way that is not known here, so "
                "all logits of a batch are formed, which takes more memory."
            )
        with _training(module):
            noisy = module.log_probs(batch).per_token[0]
        if not _near(module, noisy, theirs):
            raise InputError(
                f"model.base: {module.base} computes otherwise in training than in evaluation, by "
                "dropout or noise that is not in config.json; results would depend on the "
                "micro-batch. Expected a model without; choose another."
            )
        if ignores_input(module, ids):
            raise InputError(
                f"model.base: {module.base} gives every token the same probability whatever is "
                "before it: its weights are spoiled, such as all zero. Take an earlier or another "
                "copy."
            )
    module.net.is_checked = True


def check_model(module: MeasuredLM, example: Example) -> None:
    """Refuse a model whose log-probabilities or gradients we would get wrong.

    Args:
        module: configured, in a stage.
        example: a row to try on; only its first tokens count.

    Raises:
        InputError: as of `check_log_probs`, or if a trainable tensor receives no gradient.
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
            f"among them {missing[0]}. They would silently stay as they are"
        )
        if module.lora is None:
            raise InputError(f"{found}; set model.lora to train adapters on the others.")
        layers = {name: name.removeprefix("net.lm.").partition(".lora_")[0] for name in trained}
        idle = sorted({layers[name] for name in missing})
        rest = sorted(set(layers.values()) - set(idle))
        raise InputError(f"{found}. Set model.lora.target_modules: {advise(rest, idle)}.")


def check_result(module: MeasuredLM, example: Example, place: str, lr: float) -> None:
    """Refuse weights that the last step spoiled: a loss is looked at before its step.

    Args:
        module: at the end of a stage.
        example: a row to try on.
        place: stage and step, for the message.
        lr: the stage's learning rate.

    Raises:
        DivergedError: if log-probabilities of the row are not finite, or are the same whatever the
            tokens before: activations that overflow come out of a norm as zeros.
    """
    with module.measuring():
        batch = module.to_device(collate([example], [0], pad_id=0))
        finite = bool(torch.isfinite(module.log_probs(batch).per_token).all())
        constant = finite and ignores_input(module, (example.prompt + example.answer)[:LENGTH])
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


def ignores_input(module: MeasuredLM, tokens: tuple[int, ...]) -> bool:
    """Whether the next token's probabilities are the same wherever one asks.

    Args:
        module: configured; in eval mode.
        tokens: a sequence; one of equal tokens tells nothing.
    """
    assert module.net is not None, "configure_model() comes first"
    if len(set(tokens)) < 2:
        return False
    ids = torch.tensor([tokens], device=module.device)
    places = torch.arange(len(tokens), device=module.device)
    for target in sorted(set(tokens))[:2]:
        values = module.net(ids, places, torch.full_like(places, target))
        spread = (values.max() - values.min()).item()
        if spread > 4 * torch.finfo(torch.float32).eps * values.abs().max().item():
            return False
    return True


def _check_causal(module: MeasuredLM, ids: tuple[int, ...], theirs: Tensor) -> None:
    """Refuse a model in which a token changes what is before it."""
    assert module.net is not None
    other = _batch(module, (*ids[:-1], ids[0]))
    before = module.net.own_log_probs(other.input_ids)[0, :-1]
    if not _near(module, before, theirs[:-1]):
        raise InputError(
            f"model.base: {module.base} ({type(module.lm).__name__}) is not causal: a token "
            "changes the probabilities of those before it. Expected a causal language model; "
            "BERT's kin are one with is_decoder: true in config.json."
        )


def _batch(module: MeasuredLM, tokens: tuple[int, ...]) -> Batch:
    """One row, of which all tokens but the first are labels."""
    batch: Batch = module.to_device(collate([Example(tokens[:1], tokens[1:])], [0], pad_id=0))
    return batch


def _near(module: MeasuredLM, ours: Tensor, theirs: Tensor) -> bool:
    gap = ((ours - theirs).abs() / (1 + theirs.abs())).max().item()
    # A GPU rounds the same product otherwise where it is cut otherwise.
    return gap <= TOLERANCE.get(module.product_dtype, 1e-3)


@contextmanager
def _training(module: MeasuredLM) -> Iterator[None]:
    """Training mode but for the adapters' dropout; who measures puts modes back."""
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
        # A part's gradient comes from its module's hooks, which autograd.grad does not run.
        loss.backward()  # type: ignore[no-untyped-call]
        missing = [name for name, parameter in trained.items() if parameter.grad is None]
        module.zero_grad(set_to_none=True)
        return missing
    # Not by backward(): other strategies would begin to exchange gradients.
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return [name for name, grad in zip(trained, grads, strict=True) if grad is None]
