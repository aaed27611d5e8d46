"""FSDP2: refused models, other names of weights, and steps in 16 bits."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from sharded import make_bases
from tiny_models import tiny_lm
from tiny_stages import Tiny

from lightning_unlearn import (
    NPO,
    InputError,
)
from lightning_unlearn.distributed.strategy import FSDP2, check_precision
from lightning_unlearn.model import sharded_loading
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.decoder import decoder_layers


def test_missing_layer_classes_are_refused(tiny: Tiny) -> None:
    trainer = tiny.trainer([NPO()], strategy=FSDP2(layer_classes=["Block"]), devices=2)
    wanted = r"no module of the class Block .* init_args\.layer_classes .* LlamaDecoderLayer"
    with pytest.raises(InputError, match=wanted):
        trainer.fit(tiny.module(), tiny.datamodule())
    lm = tiny_lm("llama")
    type(lm)._no_split_modules, kept = None, type(lm)._no_split_modules
    try:
        assert decoder_layers(lm) == list(lm.model.layers)
    finally:
        type(lm)._no_split_modules = kept


def test_a_missing_file_is_reported_before_training(tiny: Tiny) -> None:
    make_bases(tiny)
    (tiny.root / "llama" / "model-00002-of-00004.safetensors").unlink()
    trainer = tiny.trainer([NPO()], strategy="fsdp2", devices=2)
    with pytest.raises(InputError, match=r"found no model-00002-of-00004\.safetensors, which"):
        trainer.fit(tiny.module(base=str(tiny.root / "llama")), tiny.datamodule())
    assert not (tiny.root / "runs").exists()


def test_weights_under_other_names_are_read_in_full_with_a_warning(tiny: Tiny) -> None:
    lm, said = tiny_lm("llama"), []
    folder = tiny.root / "other"
    lm.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    other = {name.removeprefix("model."): values for name, values in weights.items()}
    save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
    into = tiny_lm("llama", seed=1)
    sharded_loading.load_sharded_weights(into, str(folder), lm.state_dict, said.append)
    assert len(said) == 1 and "(model.embed_tokens.weight is not among them)" in said[0]
    for name, values in lm.state_dict().items():
        assert torch.equal(values, into.state_dict()[name])


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    gpu = torch.device("cuda", 0)
    check_precision("32-true", gpu)
    check_precision("bf16-true", torch.device("cpu"))
    with pytest.raises(InputError, match="found bf16-mixed on V100, which does not support bf16"):
        check_precision("bf16-mixed", gpu)


def test_small_steps_move_adapters_of_a_base_in_bf16(tiny: Tiny) -> None:
    trainer = tiny.trainer(precision="bf16-true")
    assert trainer.precision == "bf16-true"
    stages = tiny.stages(lr=1e-5)
    module = tiny.module()
    trainer.fit(module, tiny.datamodule(stages=stages, order=["tofu", "safety"], forget=None))
    types = {p.dtype for p in module.adapters.parameters(LEARN).values()}
    assert types == {torch.float32} and module.network.hf_model.dtype == torch.bfloat16
    assert trainer.run_dir is not None
    trained = load_file(trainer.run_dir / "learn" / "adapter_model.safetensors")
    module.adapters.reset(LEARN, trainer.seed)
    for name, fresh in module.adapters.state_dict(LEARN).items():
        gap = (trained[name] - fresh).abs()
        # In bf16, no weight above 0.004 would change.
        assert 1e-6 < gap.max() < 1e-4 and (gap > 0).float().mean() > 0.9, name
