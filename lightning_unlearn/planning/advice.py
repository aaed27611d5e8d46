"""Settings that lower the memory of a run that does not fit."""

from lightning_unlearn.planning.estimate import Plan
from lightning_unlearn.planning.settings import GIB


def advice(plan: Plan) -> list[str]:
    """Return settings that lower the peak; settings that change no result come first.

    Args:
        plan: a plan that does not fit.

    Returns:
        One sentence per setting.
    """
    return [
        *_about_training(plan),
        *_about_evaluation(plan),
        *_about_sharing(plan),
        *_about_precision(plan),
    ]


def _about_training(plan: Plan) -> list[str]:
    training = [step for phase, step in plan.steps.items() if phase in plan.misfits]
    training = [step for step in training if step.phase != "evaluation"]
    if not training:
        return []
    found = []
    activations = max(step.measured.memory["activations"] for step in training)
    micro = max(step.micro for step in training)
    if 0 < plan.largest.size < micro:
        found.append(f"--data.micro_batch_size {plan.largest.size}: fits.")
    elif micro > 1:
        found.append("--data.micro_batch_size 1: helps, but is not enough alone.")
    if not plan.model.gradient_checkpointing:
        found.append(
            "--model.gradient_checkpointing true: removes most of the activations (up to "
            f"{activations / GIB:.0f} GiB here); takes a third more time."
        )
    return found


def _about_evaluation(plan: Plan) -> list[str]:
    if not {"evaluation", "generated answers", "oracle"} & set(plan.misfits):
        return []
    sequences = plan.steps["evaluation"].micro
    quantized = (
        "--oracle.quantization nf4: stores the linear layers of the oracle with 4 bits per "
        "weight; results differ."
    )
    return [
        *([quantized] if "oracle" in plan.misfits else []),
        f"--data.eval_batch_size {max(1, sequences // 4)}: lowers the memory of evaluation and "
        "generated answers in proportion.",
    ]


def _about_sharing(plan: Plan) -> list[str]:
    gpus = plan.machine.gpus
    if plan.sharing.name == "FSDP2":
        found = [
            f"--gpus {2 * gpus}: halves parameters, gradients and optimizer; the gathered layers "
            "stay."
        ]
        if not plan.sharing.cpu_offload:
            found.append(
                "trainer.strategy with cpu_offload: true: moves parameters, gradients and "
                "optimizer to the computer's memory; slower."
            )
        return found
    if plan.model.quantization is not None:
        return [
            f"--gpus {max(2, gpus)} with --trainer.strategy fsdp2, --model.quantization null and "
            "--trainer.precision bf16-true: shards the model without quantization; results differ."
        ]
    if plan.sharing.name == "DDP":
        return ["--trainer.strategy fsdp2: shards the parameters instead of copying them."]
    return ["--gpus 2 with --trainer.strategy fsdp2: shards the model."]


def _about_precision(plan: Plan) -> list[str]:
    found = []
    if plan.precision == "32-true":
        quantized = " but the quantized weights" if plan.model.quantization is not None else ""
        found.append(f"--trainer.precision bf16-true: halves all parts{quantized}; results differ.")
    if plan.model.lora is None:
        found.append(
            "model.lora instead of null: removes gradients and optimizer of the base weights."
        )
    elif plan.model.quantization is None:
        strategy = (
            " Set trainer.strategy to ddp: fsdp2 does not support it."
            if plan.sharing.name == "FSDP2"
            else ""
        )
        found.append(
            "--model.quantization nf4: stores the base's linear layers, except the output "
            f"projection, with 4 bits per weight; results differ.{strategy}"
        )
    return found
