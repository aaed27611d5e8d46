"""Tensor parallelism: shard the heads and hidden units of every layer over a group of processes.

The plan is Megatron's (Shoeybi et al. 2019, arXiv 1909.08053). Projections into heads and hidden
units are sharded by output (colwise), projections back by input (rowwise). So the forward of a
layer sums over the processes twice. Adapters are sharded like their projections: B of a colwise
projection, A of a rowwise one. The other matrix is replicated on every process.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

BY_OUTPUT, BY_INPUT = "colwise", "rowwise"
KEY = "trainer.strategy.init_args.tensor_parallel_size"


def tensor_parallel_plan(config: Any) -> dict[str, str]:
    """Return the tensor-parallel plan that transformers defines for a model.

    Args:
        config: configuration of the model.

    Returns:
        "colwise" or "rowwise" by the last part of the name of a projection.

    Raises:
        InputError: if transformers defines no plan, or one with other kinds of sharding.
    """
    text = config.get_text_config()
    plan = getattr(text, "base_model_tp_plan", None) or {}
    others = sorted({kind for kind in plan.values() if kind not in (BY_OUTPUT, BY_INPUT)})
    if not plan or others:
        found = f"a plan with {', '.join(others)}" if others else "no plan"
        raise InputError(
            f"{KEY}: found {found} for {text.model_type} models in transformers, expected only "
            "colwise and rowwise, as for Llama, Mistral and Qwen2. Set it to 1: fsdp2 shards any "
            "model."
        )
    return {name.rpartition(".")[2]: kind for name, kind in plan.items()}


def check_tensor_parallel(config: Any, adapter_dropout: float | None, size: int) -> None:
    """Refuse a model that cannot be sharded, before any weights are loaded.

    Args:
        config: configuration of the model.
        adapter_dropout: dropout of the adapters; None for a model without adapters.
        size: number of processes in a tensor-parallel group.

    Raises:
        InputError: with the reason.
    """
    tensor_parallel_plan(config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    counts = {
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
        "intermediate_size": text.intermediate_size,
    }
    for name, count in counts.items():
        if count % size:
            raise InputError(
                f"{KEY}: found {size}, expected a divisor of {name}, which is {count} for this "
                "model."
            )
    if adapter_dropout is None:
        raise InputError(f"{KEY}: found {size} with model.lora: null, expected adapters, or 1.")
    if adapter_dropout or getattr(text, "attention_dropout", 0.0):
        raise InputError(
            f"{KEY}: found {size} with dropout, expected none (model.lora.dropout: 0): all "
            "processes of a group would draw the same dropout mask."
        )


def check_adapted_layers(lm: Any) -> None:
    """Refuse adapters on projections that are not sharded.

    Args:
        lm: Hugging Face model with PEFT layers.

    Raises:
        InputError: with the names of these projections.
    """
    from peft.tuners.lora import LoraLayer

    plan = tensor_parallel_plan(lm.config)
    adapted = {n.rpartition(".")[2] for n, m in lm.named_modules() if isinstance(m, LoraLayer)}
    if others := sorted(adapted - set(plan)):
        raise InputError(
            f"{KEY}: found adapters on {', '.join(others)} (model.lora.target_modules), expected "
            f"them only on sharded projections: {', '.join(plan)}. Remove them from "
            "model.lora.target_modules, or set tensor_parallel_size to 1."
        )


def parallelize_layers(layers: list[nn.Module], config: Any, mesh: "DeviceMesh") -> None:
    """Shard decoder layers and their adapters.

    Args:
        layers: decoder layers on the meta device, with or without PEFT layers.
        config: configuration of the model.
        mesh: mesh of the tensor-parallel group.
    """
    from peft.tuners.lora import LoraLayer
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    plan = tensor_parallel_plan(config)
    for layer in layers:
        for name, module in list(layer.named_modules()):
            kind = plan.get(name.rpartition(".")[2])
            if kind is None:
                continue
            by_output = kind == BY_OUTPUT
            sharded = ColwiseParallel if by_output else RowwiseParallel
            parts: list[tuple[nn.Module, Any]] = [(module, sharded())]
            if isinstance(module, LoraLayer):
                replicated = _replicated()
                parts = [(module.base_layer, sharded())]
                for half, is_cut in ((module.lora_A, not by_output), (module.lora_B, by_output)):
                    parts += [(part, sharded() if is_cut else replicated) for part in half.values()]
            for part, style in parts:
                trainable = [parameter.requires_grad for parameter in part.parameters()]
                parallelize_module(part, mesh, style)
                for parameter, value in zip(part.parameters(), trainable, strict=True):
                    parameter.requires_grad_(value)


def _replicated() -> Any:
    """Return a parallel style that replicates a layer on every process.

    Its weights are DTensors like all others, because optimizers accept no mixture of types.
    """
    from torch.distributed.tensor import DTensor, Replicate, distribute_module
    from torch.distributed.tensor.parallel import ParallelStyle

    class Replicated(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: Any) -> nn.Module:
            def to_mesh(module: nn.Module, inputs: Any, mesh: Any) -> Any:
                return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False)

            def to_local(module: nn.Module, output: Any, mesh: Any) -> Any:
                return output.to_local()

            return distribute_module(module, device_mesh, None, to_mesh, to_local)

    return Replicated()
