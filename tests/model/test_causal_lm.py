"""The module: what it opens, what it refuses, and how it trains."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import naive_log_probs
from tiny_stages import Tiny, results
from torch import Tensor

from lightning_unlearn import GA, NPO, CausalLM, InputError, LoRA, Recipe
from lightning_unlearn.data.batches import collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.model.model_files import model_fingerprint
from lightning_unlearn.model.objective import supervised
from lightning_unlearn.model.pretrained import load_causal_lm
from lightning_unlearn.model.stage import StageStart
from lightning_unlearn.model.verify import verify_model

EXAMPLE = Example(tuple(range(3, 20)), tuple(range(30, 45)))


def built(tiny: Tiny, **changes: Any) -> CausalLM:
    module = tiny.module(**changes)
    module.configure_model()
    return module


def copied(tiny: Tiny, name: str) -> Path:
    return Path(shutil.copytree(tiny.base, tiny.root / name))


def test_a_folder_that_does_not_exist(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"model\.base: found '.*/nothing', which is not a folder"):
        tiny.module(base=str(tiny.root / "nothing"))


def test_a_folder_without_configuration(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"model\.base: found the folder .* without config\.json"):
        tiny.module(base=str(tiny.root))


def test_a_folder_with_an_unreadable_configuration(tiny: Tiny) -> None:
    (tiny.root / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.base: .*config\.json: found invalid JSON \("):
        tiny.module(base=str(tiny.root))


def test_an_unknown_embedded_model(tiny: Tiny) -> None:
    with pytest.raises(
        InputError,
        match=r"'demo:huge-llama', which is not an embedded .*, expected one of .*demo:tiny-llama",
    ):
        tiny.module(base="demo:huge-llama")


def test_a_folder_without_weights(tiny: Tiny) -> None:
    folder = copied(tiny, "weightless")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="can't be loaded as a causal language model"):
        tiny.module(base=str(folder)).configure_model()
    with pytest.raises(InputError, match=r"without model\.safetensors and without model\.safe"):
        tiny.module(base=str(folder)).pretrained.fingerprint()


def test_weights_that_are_damaged(tiny: Tiny) -> None:
    folder = copied(tiny, "damaged")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(InputError, match="can't be loaded as a causal language model"):
        tiny.module(base=str(folder)).configure_model()


def test_weights_of_another_shape(tiny: Tiny) -> None:
    folder = copied(tiny, "wide")
    config = (folder / "config.json").read_text()
    wide = config.replace('"intermediate_size": 48', '"intermediate_size": 64')
    (folder / "config.json").write_text(wide)
    with pytest.raises(InputError, match=r"6 of another shape \(model\.layers\.0\.mlp"):
        tiny.module(base=str(folder)).configure_model()


def test_pickled_weights_are_not_opened(tiny: Tiny) -> None:
    folder = copied(tiny, "pickled")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="can't be loaded as a causal language model"):
        tiny.module(base=str(folder)).configure_model()


def test_a_folder_without_tokenizer(tiny: Tiny) -> None:
    folder = copied(tiny, "mute")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="has no tokenizer that can be loaded"):
        tiny.module(base=str(folder)).pretrained.tokenizer()


def test_a_tokenizer_without_chat_template(tiny: Tiny) -> None:
    tokenizer = tiny.module().pretrained.tokenizer()
    tokenizer.chat_template = None
    folder = copied(tiny, "plain")
    for file in [*folder.glob("tokenizer*"), *folder.glob("*.jinja")]:
        file.unlink()
    tokenizer.save_pretrained(folder)
    module = tiny.module(base=str(folder))
    trainer = tiny.trainer([GA()])
    with pytest.raises(InputError, match=r"plain has no chat template.*data\.chat_template_from"):
        trainer.fit(module, tiny.datamodule())
    assert not (tiny.root / "store").exists() and not (tiny.root / "runs").exists()
    sibling = tiny.datamodule(chat_template_from=str(tiny.base), order=["safety"])
    trainer.fit(module, sibling)
    assert trainer.trained_stages == ["safety", "unlearn"]


def test_context_is_the_longest_sequence(tiny: Tiny) -> None:
    module = tiny.module()
    assert module.pretrained.context_length == 128
    data = tiny.datamodule(max_length=129)
    with pytest.raises(
        InputError,
        match=r"data\.max_length: found 129, expected at most 128, the context of .* in tokens",
    ):
        tiny.trainer([GA()]).fit(module, data)


def test_identity_is_that_of_the_weights(tiny: Tiny) -> None:
    own = tiny.module().pretrained.fingerprint()
    folder = copied(tiny, "copy")
    assert model_fingerprint(str(folder), False) == own
    assert tiny.module(lora=None).pretrained.fingerprint() == own
    state = load_file(folder / "model.safetensors")
    name = sorted(state)[0]
    state[name].view(-1)[0] += 1e-3
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert model_fingerprint(str(folder), False) != own
    other = copied(tiny, "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1'))
    assert model_fingerprint(str(other), False) != own


@pytest.mark.parametrize("lora", [LoRA(rank=4), LoRA(rank=4, target_modules=["v_proj"]), None])
def test_a_good_model_passes(tiny: Tiny, lora: LoRA | None) -> None:
    module = built(tiny, lora=lora)
    verify_model(module.evaluator, module.settings.base, EXAMPLE)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_tensor_without_gradient_is_refused(tiny: Tiny) -> None:
    module = built(tiny)
    module.network.hf_model.idle = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(InputError, match=r"1 of \d+ trainable .* no gradient.*among them idle"):
        verify_model(module.evaluator, module.settings.base, EXAMPLE)


class Doubled(torch.nn.Linear):
    """A head that is more than its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_what_a_model_does_to_its_logits_is_its_own(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is not known here, logits come from the model's own forward."""
    said: list[str] = []
    monkeypatch.setattr(Placement, "warn", lambda self, text: said.append(text))
    module = built(tiny, base="demo:tiny-llama")
    old = module.network.hf_model.lm_head
    own = Doubled(old.in_features, old.out_features, bias=False)
    own.weight = old.weight
    module.network.hf_model.lm_head = own
    # The head is called like any other module, so its log-probabilities are right.
    verify_model(module.evaluator, module.settings.base, EXAMPLE)
    assert not module.network.takes_own_logits
    module.network.hf_model.lm_head = old
    module.network.is_verified = False
    module.network.hf_model.forward = _halved(module.network.hf_model.forward)
    verify_model(module.evaluator, module.settings.base, EXAMPLE)
    assert module.network.takes_own_logits
    assert len(said) == 1 and "transforms its logits in an unknown way" in said[0]
    module.eval()
    batch = collate([EXAMPLE, Example((3, 4), (5, 6, 7))], [0, 1], pad_id=0)
    values = module.network.log_probs(batch).per_token
    for place, row in enumerate((EXAMPLE, Example((3, 4), (5, 6, 7)))):
        expected = naive_log_probs(module.network.hf_model, row.prompt, row.answer)
        assert torch.allclose(values[place, : len(row.answer)], expected, atol=1e-5)


def _halved(forward: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    return wrapped


def test_a_model_that_gives_no_numbers_is_refused(tiny: Tiny) -> None:
    module = built(tiny)
    with torch.no_grad():
        module.network.hf_model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"model\.base"):
        verify_model(module.evaluator, module.settings.base, EXAMPLE)


@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_gradient_checkpointing_changes_nothing_but_memory(tiny: Tiny, lora: LoRA | None) -> None:
    batch = collate([EXAMPLE, Example((3, 4), (5, 6, 7))], [0, 1], pad_id=0)
    found = []
    for checkpointing in (False, True):
        module = built(tiny, lora=lora, gradient_checkpointing=checkpointing).double().train()
        if lora is not None:
            generator = torch.Generator().manual_seed(0)
            for _, parameter in sorted(module.named_parameters()):
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.data = noise.double() * 0.1
        loss = supervised(module.network, batch).sum()
        torch.autograd.backward(loss)
        grads = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}
        assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
        found.append((loss.detach(), grads))
    (loss, grads), (again, regrads) = found
    assert torch.allclose(loss, again, rtol=1e-12)
    for name, grad in grads.items():
        other = regrads[name]
        assert grad is not None and other is not None
        assert torch.allclose(grad, other, rtol=1e-12, atol=1e-12)


def test_measuring_leaves_everything_as_it_was(tiny: Tiny) -> None:
    module = built(tiny, lora=LoRA(rank=4, dropout=0.5)).train()
    module.network.hf_model.model.norm.eval()
    modes = [m.training for m in module.network.modules()]
    state = torch.random.get_rng_state()
    with module.evaluator.eval_mode():
        assert not any(m.training for m in module.network.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert [m.training for m in module.network.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


def test_full_fine_tuning_trains_stores_and_resumes(tiny: Tiny) -> None:
    """In one go, in two goes, and out of the store, in one module: the same bytes."""
    module = tiny.module(lora=None)
    data = tiny.datamodule(order=["tofu", "safety"], unlearn=Recipe(lr=1e-4, batch_size=4))
    whole = tiny.trainer([NPO()], run_name="whole")
    whole.fit(module, data)
    assert whole.trained_stages == ["tofu", "safety", "unlearn"]
    assert whole.run_dir is not None
    assert (whole.run_dir / "unlearn" / "model.safetensors").is_file()
    ended = {n: p.detach().clone() for n, p in module.network.hf_model.named_parameters()}

    apart = tiny.below("apart")
    first = apart.trainer()
    first.fit(module, tiny.datamodule(order=["tofu"], forget=None))
    assert first.trained_stages == ["tofu"], "starts from the base again, not from where it was"
    second = apart.trainer([NPO()])
    second.fit(module, data)
    assert second.trained_stages == ["safety", "unlearn"]
    assert second.run_dir is not None
    assert results(second.run_dir) == results(whole.run_dir)

    fresh = tiny.module(lora=None)
    third = apart.trainer([NPO()])
    third.fit(fresh, data)
    assert third.trained_stages == []
    for name, parameter in fresh.network.hf_model.named_parameters():
        assert torch.equal(parameter, ended[name]), name


def test_a_merged_model_is_written_and_is_the_unlearned_one(tiny: Tiny) -> None:
    module = tiny.module(save_merged=True)
    trainer = tiny.trainer([GA()], precision="64-true")
    trainer.fit(module, tiny.datamodule(order=["safety"]))
    assert trainer.run_dir is not None
    merged = load_causal_lm(str(trainer.run_dir / "merged"), torch.float64, "sdpa", False)
    module.eval()
    ids = torch.tensor([EXAMPLE.prompt])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, module.network.hf_model(ids).logits, atol=1e-11)


@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_bfloat16_runs(tiny: Tiny, lora: LoRA | None) -> None:
    module = tiny.module(lora=lora)
    data = tiny.datamodule(order=["tofu", "safety"])
    trainer = tiny.trainer([NPO()], precision="bf16-true")
    trainer.fit(module, data)
    assert trainer.trained_stages == ["tofu", "safety", "unlearn"]
    adapters = {
        p.dtype for name, p in module.network.hf_model.named_parameters() if "lora_" in name
    }
    base = {
        p.dtype for name, p in module.network.hf_model.named_parameters() if "lora_" not in name
    }
    # A step of 1e-5 would be lost on adapters in 16 bits.
    assert adapters == ({torch.float32} if lora is not None else set())
    assert base == {torch.bfloat16}
    assert trainer.run_dir is not None
    before = results(trainer.run_dir)
    again = tiny.trainer([NPO()], precision="bf16-true")
    again.fit(tiny.module(lora=lora), data)
    assert again.trained_stages == []
    assert again.run_dir is not None and results(again.run_dir) == before


@pytest.mark.parametrize(
    "recipe", [Recipe(lr=1e-2, batch_size=4, optimizer="sgd", momentum=0.9, gradient_clip=0.1)]
)
def test_sgd_with_clipped_gradients_trains(tiny: Tiny, recipe: Recipe) -> None:
    module = tiny.module()
    trainer = tiny.trainer([GA()])
    trainer.fit(module, tiny.datamodule(order=["safety"], unlearn=recipe))
    moved = {
        name: parameter.abs().max().item()
        for name, parameter in module.named_parameters()
        if "lora_B.unlearn" in name
    }
    assert all(change > 0 for change in moved.values())
    # Three steps, momentum sums to less than 5.7 norms of 0.1 each.
    assert all(change < 1e-2 * 0.1 * 6 for change in moved.values())


def test_a_stage_begins_alike_where_tensors_are_made_on_another_device(tiny: Tiny) -> None:
    """Lightning configures a model with its device as the place of new tensors."""
    found = []
    for context in (nullcontext(), torch.device("meta")):
        module = tiny.module()
        module.configure_model()
        for stage in ("tofu", "unlearn"):
            module.start_stage(StageStart(stage, Recipe(), 1, seed=3, fresh=stage == "tofu"))
            with context:
                module.configure_model()
        found.append({**module.weights.state_dict("learn"), **module.weights.state_dict("unlearn")})
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert torch.equal(found[1][name], values)


def test_a_fully_trained_model_is_not_opened_twice_on_its_device(tiny: Tiny) -> None:
    module = tiny.module(lora=None)
    module.configure_model()
    before = {name: values.clone() for name, values in module.network.hf_model.state_dict().items()}
    with torch.no_grad():
        module.network.hf_model.get_input_embeddings().weight.zero_()
    module.weights.are_changed = True
    module.start_stage(StageStart("tofu", Recipe(), 1, seed=3, fresh=True))
    with torch.device("meta"):
        module.configure_model()
    for name, values in module.network.hf_model.state_dict().items():
        assert torch.equal(values, before[name])
