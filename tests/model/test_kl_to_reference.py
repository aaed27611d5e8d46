"""KL from the model before unlearning to the model: values and gradients against plain logits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_models import random_examples, tiny_module
from torch import Tensor, nn

from lightning_unlearn import LoRA
from lightning_unlearn.data.batches import collate
from lightning_unlearn.model import log_probs
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.log_probs import LogitTransform, token_kl


def plain_kl(own: Tensor, reference: Tensor) -> Tensor:
    own, reference = own.log_softmax(-1), reference.log_softmax(-1)
    return (reference.exp() * (reference - own)).sum(-1)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("bias", [False, True])
def test_token_kl_equals_plain_autograd(
    monkeypatch: pytest.MonkeyPatch, trained: bool, bias: bool
) -> None:
    monkeypatch.setattr(log_probs, "chunk_rows", lambda head, device: 3)
    torch.manual_seed(0)
    head = nn.Linear(5, 11, bias=bias, dtype=torch.float64).requires_grad_(trained)
    hidden = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    before = torch.randn(8, 5, dtype=torch.float64)
    weights = torch.randn(8, dtype=torch.float64)
    for transform in (LogitTransform(), LogitTransform(scale=0.5, softcap=1.5)):
        found = token_kl(hidden, before, head, head, transform)
        # The reference is a constant, also where its head is trained.
        expected = plain_kl(transform(head(hidden)), transform(head(before)).detach())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert (found >= 0).all()
        inputs = [hidden, *(head.parameters() if trained else ())]
        grads = [torch.autograd.grad((v * weights).sum(), inputs) for v in (found, expected)]
        for own, plain in zip(*grads, strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(token_kl(hidden, hidden, head, head, transform), torch.zeros(8))
    assert token_kl(hidden[:0], before[:0], head, head, transform).shape == (0,)


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"], ["embed_tokens", "o_proj"]])
def test_the_reference_is_the_network_without_the_unlearn_adapter(
    tmp_path: Path, targets: list[str]
) -> None:
    lora = LoRA(rank=4, alpha=8, dropout=0.5, target_modules=targets)
    options = {"lora": lora, "attn_implementation": "eager"}
    model = tiny_module(tmp_path, "gemma2", torch.float64, **options)
    assert model.adapters is not None
    torch.manual_seed(1)
    with torch.no_grad():
        for name in (LEARN, UNLEARN):
            for parameter in model.adapters.parameters(name).values():
                parameter.copy_(0.3 * torch.randn_like(parameter))
    batch = collate(random_examples(5, seed=3), range(5), pad_id=0)
    hf_model = model.network.hf_model

    def logits() -> Tensor:
        flat = hf_model(input_ids=batch.input_ids).logits.flatten(0, 1)
        return flat[batch.label_positions]

    model.eval()
    model.adapters.set_active([LEARN], None)
    before = logits().detach()
    model.adapters.set_active([LEARN, UNLEARN], UNLEARN)
    found = model.network.kl_to_reference(batch)
    expected = plain_kl(logits(), before)
    torch.testing.assert_close(found[batch.mask], expected, rtol=1e-9, atol=1e-9)
    parameters = list(model.adapters.parameters(UNLEARN).values())
    assert all(parameter.requires_grad for parameter in parameters)
    grads = [torch.autograd.grad(v.sum(), parameters) for v in (found, expected)]
    for own, plain in zip(*grads, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)
    # Training and its dropout change the model, but not the reference.
    model.train()
    states = [model.network._hidden_before_unlearning(batch) for _ in range(2)]
    assert torch.equal(*states) and model.training and hf_model.training
    assert model.adapters.active == [LEARN, UNLEARN]
    assert F.relu(-model.network.kl_to_reference(batch)).max() < 1e-12
