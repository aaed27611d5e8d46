"""Models and paths on a base in NF4."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import Precision
from tiny_stages import Tiny
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    CausalLM,
    LabelLikelihood,
    LoRA,
    OracleDistance,
    Recipe,
    StagedTrainer,
)
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.stage import StageStart

SMALL = LoRA(rank=4, alpha=8)


PATH = ["tofu", "safety"]


LONG = {"lr": 1e-2, "epochs": 3}


needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is missing (the extra of that name)"
)


def wide(tiny: Tiny) -> Tiny:
    """Tiny stages, and a base whose matrices have multiples of 64 columns."""
    base = tiny.root / "wide"
    if not base.exists():
        shutil.copytree(tiny.base, base)
        config = LlamaConfig.from_pretrained(
            tiny.base, hidden_size=64, intermediate_size=128, head_dim=16
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(base)
    return replace(tiny, base=base)


def opened(base: str | Path, precision: str = "32-true", **options: Any) -> CausalLM:
    """A quantized module, ready to compute, its adapter not without effect."""
    module = CausalLM(str(base), SMALL, quantization="nf4", **options)
    trainer = SimpleNamespace(
        precision=precision,
        precision_plugin=Precision(),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        world_size=1,
        global_rank=0,
    )
    vars(module)["_trainer"] = trainer
    module.configure_model()
    module.start_stage(StageStart("tofu", Recipe(), 1, seed=3, fresh=True))
    module.configure_model()
    torch.manual_seed(5)
    for name, parameter in module.adapters.parameters(LEARN).items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return module


def fitted(
    tiny: Tiny,
    recipe: dict[str, Any],
    oracle: bool = False,
    save_merged: bool = False,
    **settings: Any,
) -> StagedTrainer:
    """A path of two stages and its unlearning on a quantized base."""
    stages = tiny.stages(**recipe)
    data = tiny.datamodule(stages=stages, order=PATH, oracle=oracle, eval_batch_size=3)
    monitors = [LabelLikelihood(2), AnswerLikelihood(2), OracleDistance(2)]
    callbacks: list[Any] = [*monitors] if oracle else [NPO(), *monitors]
    trainer = tiny.trainer(callbacks, **settings)
    trainer.fit(tiny.module(quantization="nf4", save_merged=save_merged), data)
    return trainer
