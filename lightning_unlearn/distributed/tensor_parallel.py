"""Tensor parallelism: every layer's heads and hidden units shared out over some processes.

Megatron's cut (Shoeybi et al. 2019, arXiv 1909.08053): projections into heads and hidden units by
output, those back by input, so that a layer sends two sums forward. Adapters are cut as their
projections are: of one cut by output B is, of one cut by input A is; the other half is on every
process.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

BY_OUTPUT, BY_INPUT = "colwise", "rowwise"
KEY = "trainer.strategy.init_args.tensor_parallel_size"


def tensor_parallel_plan(config: Any) -> dict[str, str]:
    """How a model's layers can be cut, as its class in transformers says.

    Args:
        config: of the model.

    Returns:
        "colwise" or "rowwise" by the last part of a projection's name.

    Raises:
        InputError: if the class says nothing, or of other kinds of cuts.
    """
    text = config.get_text_config()
    plan = getattr(text, "base_model_tp_plan", None) or {}
    others = sorted({kind for kind in plan.values() if kind not in (BY_OUTPUT, BY_INPUT)})
    if not plan or others:
        why = f"cuts of the kind {', '.join(others)}" if others else "no cuts"
        raise InputError(
            f"{KEY}: {text.model_type} models name {why} in transformers, expected only colwise "
            "and rowwise ones, as of Llama, Mistral and Qwen2. Leave it 1: fsdp2 shards any model."
        )
    return {name.rpartition(".")[2]: kind for name, kind in plan.items()}


def check_tensor_parallel(config: Any, adapter_dropout: float | None, size: int) -> None:
    """Refuse what can't be cut, before anything is loaded.

    Args:
        config: of the model.
        adapter_dropout: None for a model without adapters.
        size: processes that share a layer.

    Raises:
        InputError: naming what stands in the way.
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
                f"{KEY}: found {size}, but the model has {name} {count}, which can't be shared "
                "out evenly."
            )
    if adapter_dropout is None:
        raise InputError(f"{KEY}: found {size} with model.lora: null, expected adapters, or 1.")
    if adapter_dropout or getattr(text, "attention_dropout", 0.0):
        raise InputError(
            f"{KEY}: found {size} with dropout, expected none (model.lora.dropout: 0): processes "
            "that share a layer would drop alike."
        )


def check_cut(lm: Any) -> None:
    """Refuse adapters on layers that are not cut.

    Args:
        lm: with PEFT layers.

    Raises:
        InputError: naming them.
    """
    from peft.tuners.lora import LoraLayer

    cuts = tensor_parallel_plan(lm.config)
    adapted = {n.rpartition(".")[2] for n, m in lm.named_modules() if isinstance(m, LoraLayer)}
    if others := sorted(adapted - set(cuts)):
        raise InputError(
            f"{KEY}: found adapters on {', '.join(others)} (model.lora.target_modules), expected "
            f"them only on layers that are shared out: {', '.join(cuts)}. Leave them out, or "
            "tensor_parallel_size 1."
        )


def parallelize_layers(layers: list[nn.Module], config: Any, mesh: "DeviceMesh") -> None:
    """Cut decoder layers and their adapters.

    Args:
        layers: on the meta device, with PEFT layers or without.
        config: of the model.
        mesh: the processes that share a layer.
    """
    from peft.tuners.lora import LoraLayer
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    cuts = tensor_parallel_plan(config)
    for layer in layers:
        for name, module in list(layer.named_modules()):
            kind = cuts.get(name.rpartition(".")[2])
            if kind is None:
                continue
            by_output = kind == BY_OUTPUT
            cut = ColwiseParallel if by_output else RowwiseParallel
            parts: list[tuple[nn.Module, Any]] = [(module, cut())]
            if isinstance(module, LoraLayer):
                everywhere = _everywhere()
                parts = [(module.base_layer, cut())]
                for half, is_cut in ((module.lora_A, not by_output), (module.lora_B, by_output)):
                    parts += [(part, cut() if is_cut else everywhere) for part in half.values()]
            for part, style in parts:
                wanted = [parameter.requires_grad for parameter in part.parameters()]
                parallelize_module(part, mesh, style)
                for parameter, value in zip(part.parameters(), wanted, strict=True):
                    parameter.requires_grad_(value)


def _everywhere() -> Any:
    """A style of parallel layers: all of the layer on every process.

    As a tensor of the mesh like all others, since optimizers take no mixture.
    """
    from torch.distributed.tensor import DTensor, Replicate, distribute_module
    from torch.distributed.tensor.parallel import ParallelStyle

    class Everywhere(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: Any) -> nn.Module:
            def come(module: nn.Module, inputs: Any, mesh: Any) -> Any:
                return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False)

            def go(module: nn.Module, output: Any, mesh: Any) -> Any:
                return output.to_local()

            return distribute_module(module, device_mesh, None, come, go)

    return Everywhere()
