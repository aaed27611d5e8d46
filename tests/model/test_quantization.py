"""A base in NF4: refused settings, and, with bitsandbytes, real training on a CPU."""

import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from process_runs import assert_same, run_script
from quantized import LONG, PATH, SMALL, fitted, needs_bitsandbytes, opened, wide
from tiny_models import FAMILIES, tiny_checkpoint
from tiny_stages import Tiny, results

from lightning_unlearn import (
    GA,
    NPO,
    CausalLM,
    InputError,
    StagedTrainer,
)
from lightning_unlearn.data.batches import collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model import quantization
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.pretrained import load_causal_lm
from lightning_unlearn.model.quantization import dequantize_into, quantized_layers
from lightning_unlearn.storage.records import read_table


def test_full_fine_tuning_of_a_quantized_base_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"model\.quantization: found nf4 with model\.lora null"):
        tiny.module(quantization="nf4", lora=None)


def test_other_types_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="found 'int8', expected nf4 or null"):
        tiny.module(quantization="int8")


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_quantized_checkpoint_is_refused(tiny: Tiny, quantization: str | None) -> None:
    base = shutil.copytree(tiny.base, tiny.root / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    expected = r"model\.base: found .*, whose weights are stored quantized \(bitsandbytes\)"
    with pytest.raises(InputError, match=expected):
        tiny.module(base=str(base), quantization=quantization)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy": "fsdp2"}, "found nf4 with the strategy FSDP2, expected one device, or train"),
        ({"precision": "64-true"}, r"trainer\.precision: found 64-true with model\.quantization: "),
    ],
)
def test_incompatible_settings_are_refused_before_anything_is_written(
    tiny: Tiny, settings: dict[str, Any], expected: str
) -> None:
    trainer = tiny.trainer([GA()], **settings)
    with pytest.raises(InputError, match=expected):
        trainer.fit(tiny.module(quantization="nf4"), tiny.datamodule(order=PATH))
    assert not list(tiny.root.iterdir())


def test_without_the_package_the_message_says_how_to_install_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(quantization, "version", missing)
    expected = r'bitsandbytes is not installed\. Install it \(pip install "lightning-unlearn\[bits'
    with pytest.raises(InputError, match=expected):
        tiny.trainer([GA()]).fit(tiny.module(quantization="nf4"), tiny.datamodule(order=PATH))
    monkeypatch.setattr(quantization, "version", lambda name: "0.45.5")
    with pytest.raises(InputError, match=r"with bitsandbytes 0\.45\.5, expected 0\.46\.1 or later"):
        tiny.module(quantization="nf4").checks.quantization(tiny.trainer())
    assert not list(tiny.root.iterdir())


@needs_bitsandbytes
def test_a_device_is_tested(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    module, trainer = wide(tiny).module(quantization="nf4"), tiny.trainer()
    state = torch.get_rng_state()
    module.checks.quantization(trainer)
    assert torch.equal(torch.get_rng_state(), state)
    trainer.strategy._root_device = torch.device("meta")
    expected = (
        r"model\.quantization: found nf4 on the device meta, where bitsandbytes .* can't comp"
    )
    with pytest.raises(InputError, match=expected):
        module.checks.quantization(trainer)


@needs_bitsandbytes
def test_matrices_with_wrong_results_are_detected(tiny: Tiny) -> None:
    """Since 0.49, its CPU code uses wrong scales for rows that end inside a block."""
    matrix = torch.arange(64.0).repeat_interleave(32).view(64, 32)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(matrix, quant_type="nf4")
    right = (dequantize_4bit(packed, state) - matrix).abs().max() < 12
    module = tiny.module(quantization="nf4")
    if right:
        module.checks.quantization(tiny.trainer())
    else:
        with pytest.raises(
            InputError,
            match="computes wrong results for matrices of 32, 48 columns, expected a CUDA",
        ):
            module.checks.quantization(tiny.trainer())


def test_only_a_quantized_base_has_another_key(tiny: Tiny) -> None:
    data, trainer = tiny.datamodule(order=PATH), tiny.trainer([GA()])
    trainer.check(tiny.module(), data)
    plain = trainer.plan(tiny.module(), data)
    packed = trainer.plan(tiny.module(quantization="nf4"), data)
    for one, other in zip(plain, packed, strict=True):
        assert one.key != other.key
        assert other.content == {**one.content, "quantization": "nf4"}


EXAMPLES = [Example((5, 6, 7), (8, 9, 10, 11)), Example((12, 13), (14, 15, 16, 17, 18))]


def values(module: CausalLM) -> torch.Tensor:
    return module.network.log_probs(collate(EXAMPLES, [0, 1], pad_id=0)).per_token


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_log_probabilities_equal_those_of_the_unpacked_weights(tiny: Tiny, precision: str) -> None:
    tiny = wide(tiny)
    module = opened(tiny.base, precision)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    plain = load_causal_lm(str(tiny.base), dtype, "sdpa", False)
    before = [p.clone() for p in plain.parameters()]
    dequantize_into(plain, module.network.hf_model)
    moved = [(p - q).abs().max().item() for p, q in zip(plain.parameters(), before, strict=True)]
    # Seven matrices of each of two layers. NF4 has no value between -1 and -0.69 of the largest.
    largest = max(weight.abs().max().item() for weight in before)
    assert sum(change > 0 for change in moved) == 14 and max(moved) < 0.17 * largest
    other = CausalLM(str(tiny.base), SMALL)
    vars(other)["_trainer"] = module._trainer
    other.pretrained.load = lambda dtype, **options: plain  # type: ignore[method-assign]
    other.configure_model()
    for which in (LEARN, UNLEARN):
        own = other.adapters.parameters(which)
        for name, parameter in module.adapters.parameters(which).items():
            own[name].data.copy_(parameter)
    assert {p.dtype for n, p in module.network.hf_model.named_parameters() if "lora_" in n} == {
        torch.float32
    }
    assert torch.equal(values(module), values(other))


@needs_bitsandbytes
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_all_linear_layers_but_the_head_are_packed(tmp_path: Path, family: str, tied: bool) -> None:
    base = tiny_checkpoint(tmp_path, family, tie_word_embeddings=tied)
    module = opened(base, attn_implementation="eager" if family == "gemma2" else "sdpa")
    lm = module.network.hf_model
    packed = {name for name, _ in quantization._packed_layers(lm)}
    assert len(packed) == 14 and all(".layers." in name for name in packed)
    assert type(lm.get_output_embeddings()) is torch.nn.Linear
    floats = [p for n, p in lm.named_parameters() if n.removesuffix(".weight") not in packed]
    assert {p.dtype for p in floats} == {torch.float32}
    assert {name for name, _ in quantized_layers(module.pretrained.empty(torch.float32))} == {
        name.removesuffix(".base_layer") for name in packed
    }


@needs_bitsandbytes
def test_evaluation_changes_neither_weights_nor_gradients(tiny: Tiny) -> None:
    """On a processor with bf16, bitsandbytes by default would pack the weights again."""

    def gradients(module: CausalLM) -> list[torch.Tensor]:
        trained = [p for p in module.parameters() if p.requires_grad]
        return list(torch.autograd.grad(values(module).sum(), trained))

    module = opened(wide(tiny).base)
    module.train()
    before = gradients(module)
    stored = [
        layer.weight.data.clone()
        for _, layer in quantization._packed_layers(module.network.hf_model)
    ]
    with module.evaluator.eval_mode():
        looked = values(module)
    assert torch.equal(looked, values(module).detach())
    after = [layer.weight.data for _, layer in quantization._packed_layers(module.network.hf_model)]
    assert all(map(torch.equal, stored, after))
    assert all(map(torch.equal, before, gradients(module)))
    assert all(part.abs().max() > 0 for part in before[1::2])


def fall(trainer: StagedTrainer) -> dict[str, float]:
    """Return the decrease of the loss of each stage from its first to its last step."""
    assert trainer.run_dir is not None
    losses = read_table(trainer.run_dir / "training.parquet").groupby("stage")["loss"]
    found: dict[str, float] = (losses.first() - losses.last()).to_dict()
    return found


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_path_is_run_compared_with_its_oracle_and_resumed(tiny: Tiny, precision: str) -> None:
    tiny = wide(tiny)
    fitted(tiny, LONG, oracle=True, precision=precision)
    trainer = fitted(tiny, LONG, precision=precision)
    assert trainer.trained_stages == ["safety", "unlearn"] and trainer.run_dir is not None
    assert trainer.results is not None
    measures = {name for _, name, _ in trainer.results.steps}
    assert any(name.startswith("kl/") for name in measures), measures
    assert min(fall(trainer)[stage] for stage in PATH) > 0.1 and fall(trainer)["unlearn"] > 0
    before = results(trainer.run_dir)
    assert fitted(tiny, LONG, precision=precision).trained_stages == []
    # Repeat the last step with the stored earlier stages.
    for adapter in (tiny.root / "store").glob("*/unlearn"):
        shutil.rmtree(adapter.parent)
    resumed = fitted(tiny, LONG, precision=precision)
    assert resumed.trained_stages == ["unlearn"] and resumed.run_dir is not None
    assert results(resumed.run_dir) == before


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-true"])
def test_other_precisions_learn(tiny: Tiny, precision: str) -> None:
    tiny = wide(tiny)
    data = tiny.datamodule(stages=tiny.stages(lr=1e-2, epochs=2), order=["safety"])
    trainer = tiny.trainer([NPO()], precision=precision)
    trainer.fit(tiny.module(quantization="nf4"), data)
    assert fall(trainer)["safety"] > 0.1 and fall(trainer)["unlearn"] > 0


@needs_bitsandbytes
def test_the_merged_model_is_the_unlearned_one(tiny: Tiny) -> None:
    tiny = wide(tiny)
    module = tiny.module(quantization="nf4", save_merged=True)
    trainer = tiny.trainer([GA()])
    trainer.fit(module, tiny.datamodule(order=["safety"]))
    assert trainer.run_dir is not None
    assert not hasattr(module.pretrained.config, "quantization_config")
    merged = load_causal_lm(str(trainer.run_dir / "merged"), torch.float32, "sdpa", False)
    module.eval()
    ids = torch.tensor([EXAMPLES[0].prompt])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, module.network.hf_model(ids).logits, atol=1e-4)


class WhereItLies(Callback):
    """Packed weights and their scales are on the GPU while a stage is trained."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for _, layer in quantization._packed_layers(pl_module.network.hf_model):
            state = layer.weight.quant_state
            devices = {layer.weight.device.type, state.absmax.device.type, state.offset.device.type}
            assert devices == {"cuda"} and layer.weight.dtype == torch.uint8


@needs_bitsandbytes
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_on_a_gpu(tiny: Tiny) -> None:
    tiny = wide(tiny)
    data = tiny.datamodule(stages=tiny.stages(**LONG), order=PATH)
    for method in (GA(), NPO()):
        # The second takes up stages from the store, on a model that has been to the CPU and back.
        module = tiny.module(quantization="nf4", save_merged=True)
        trainer = tiny.trainer([method], accelerator="gpu", precision="bf16-true")
        trainer.callbacks.append(WhereItLies())  # type: ignore[attr-defined]
        trainer.fit(module, data)
        assert trainer.trained_stages[-1] == "unlearn" and fall(trainer)["unlearn"] > 0
        assert trainer.run_dir is not None
        merged = load_causal_lm(str(trainer.run_dir / "merged"), torch.float32, "sdpa", False)
        ids = torch.tensor([EXAMPLES[0].prompt])
        with torch.no_grad():
            own = (
                module.network.hf_model.eval()(ids.to(module.network.hf_model.device))
                .logits.float()
                .cpu()
            )
            assert torch.allclose(merged(ids).logits, own, atol=0.1)


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
from tiny_stages import Tiny
from quantized import fitted

if __name__ == "__main__":
    tiny = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    trainer = fitted(tiny, {{}}, devices=2, strategy="ddp", save_merged=True)
    assert trainer.world_size == 2
    (tiny.root / f"told-{{trainer.global_rank}}").write_text(str(trainer.run_dir))
"""


@pytest.mark.slow
@needs_bitsandbytes
def test_two_processes_equal_one(tiny: Tiny) -> None:
    script = tiny.root / "script.py"
    script.write_text(
        SCRIPT.format(
            tests=[str(Path(__file__).parents[1] / name) for name in ("distributed", "helpers", "")]
        )
    )
    tiny = wide(tiny)
    two = tiny.below("two")
    two.root.mkdir()
    run_script(script, two.settings())
    (run,) = {(two.root / f"told-{rank}").read_text() for rank in (0, 1)}
    alone = fitted(tiny.below("one"), {}, save_merged=True)
    assert alone.run_dir is not None
    # Kernels for four bits compute in fp32.
    assert_same(alone.run_dir, Path(run), 1e-4)
    assert set(results(alone.run_dir)) == set(results(Path(run)))
