"""Models that tensor parallelism refuses; test_sharding.py has models that it shards."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_stages import Tiny
from torch.distributed.tensor import Replicate, Shard
from transformers import AutoConfig

from lightning_unlearn import GA, CausalLM, InputError, LoRA
from lightning_unlearn.distributed import tensors
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.distributed.tensor_parallel import (
    check_tensor_parallel,
    tensor_parallel_plan,
)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_the_plan_is_that_of_transformers(family: str) -> None:
    by_output = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    wanted = dict.fromkeys(by_output, "colwise") | dict.fromkeys(("o_proj", "down_proj"), "rowwise")
    assert tensor_parallel_plan(AutoConfig.for_model(family)) == wanted


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            "gpt2",
            "found no plan for gpt2 models in transformers, expected only colwise and rowwise",
        ),
        ("phi3", "found a plan with colwise_gather_output, rowwise_split_input for phi3 models"),
    ],
)
def test_other_models_are_refused(family: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"tensor_parallel_size: {message}"):
        tensor_parallel_plan(AutoConfig.for_model(family))


def refused(size: int, lora: LoRA | None, **shape: Any) -> str:
    given = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48, **shape}
    with pytest.raises(InputError) as refusal:
        check_tensor_parallel(AutoConfig.for_model("llama", **given), lora, size)
    return str(refusal.value)


def test_sizes_that_are_not_divisible_are_refused() -> None:
    assert refused(3, LoRA()).endswith(
        "found 3, expected a divisor of num_attention_heads, which is 8 for this model."
    )
    assert refused(8, LoRA()).endswith(
        "found 8, expected a divisor of num_key_value_heads, which is 4 for this model."
    )
    text = refused(4, LoRA(), intermediate_size=50)
    assert text.endswith("expected a divisor of intermediate_size, which is 50 for this model.")


def test_full_fine_tuning_and_dropout_are_refused() -> None:
    assert "found 2 with model.lora: null, expected adapters, or 1." in refused(2, None)
    dropout = "found 2 with dropout, expected none (model.lora.dropout: 0)"
    assert dropout in refused(2, LoRA(dropout=0.1))
    assert dropout in refused(2, LoRA(), attention_dropout=0.1)


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], r".*(q_proj|lm_head)"])
def test_adapters_on_replicated_projections_are_refused(tmp_path: Path, targets: Any) -> None:
    module = CausalLM(tiny_checkpoint(tmp_path), LoRA(rank=2, alpha=4, target_modules=targets))
    message = (
        r"found adapters on lm_head \(model.lora.target_modules\), expected them only on sharded"
    )
    with pytest.raises(InputError, match=message):
        module.checks.layers(None, 2)
    CausalLM(module.settings.base, LoRA(rank=2, alpha=4)).checks.layers(None, 2)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            FSDP2(2, 2),
            "found 2 processes (trainer.devices x trainer.num_nodes) with data_parallel_size 2 x "
            "tensor_parallel_size 2, expected 4 processes, or data_parallel_size null.",
        ),
        (
            FSDP2(None, 3),
            "found 2 processes (trainer.devices x trainer.num_nodes) with tensor_parallel_size 3, "
            "expected a multiple of 3 processes.",
        ),
        (
            FSDP2(3),
            "found 2 processes (trainer.devices x trainer.num_nodes) with data_parallel_size 3 x "
            "tensor_parallel_size 1, expected 3 processes, or data_parallel_size null.",
        ),
        (FSDP2(0, None), "found data_parallel_size 0, expected at least 1."),
        (FSDP2(None, 0), "found tensor_parallel_size 0, expected at least 1."),
    ],
)
def test_sizes_must_match_the_processes(tiny: Tiny, strategy: FSDP2, message: str) -> None:
    trainer = tiny.trainer([GA()], accelerator="cpu", devices=2, strategy=strategy)
    with pytest.raises(InputError, match=re.escape(f"trainer.strategy: {message}")):
        trainer.check(tiny.module(), tiny.datamodule())
    assert not tiny.root.exists() or not any(tiny.root.iterdir())


def test_compiled_layers_are_refused(tmp_path: Path) -> None:
    module = CausalLM(tiny_checkpoint(tmp_path), LoRA(rank=2, alpha=4), compile=True)
    with pytest.raises(InputError, match=r"^model.compile: found true with tensor_parallel_size 2"):
        module.checks.layers(None, 2)


@pytest.mark.parametrize("rows", [8, 6])
@pytest.mark.parametrize("cut", [None, 0, 1])
def test_shards_of_groups_of_two_cover_the_full_tensor(rows: int, cut: int | None) -> None:
    """PyTorch shards first over the tensor-parallel group, then by rows."""
    values = torch.arange(float(rows * 4)).view(rows, 4)
    for group, place in itertools.product(range(2), range(2)):
        of_layer = values if cut is None else values.chunk(2, cut)[place]
        expected = of_layer.chunk(2, 0)[group]
        mesh = SimpleNamespace(
            ndim=2, size=lambda axis: 2, get_local_rank=lambda axis, at=(group, place): at[axis]
        )
        target = SimpleNamespace(
            device_mesh=mesh,
            shape=values.shape,
            placements=(Shard(0), Replicate() if cut is None else Shard(cut)),
            to_local=lambda expected=expected: expected,
        )
        assert torch.equal(values[tensors.local_slices(target)], expected)
