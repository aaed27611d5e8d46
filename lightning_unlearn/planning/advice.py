"""What would help where a run does not fit."""

from lightning_unlearn.planning.estimate import Plan
from lightning_unlearn.planning.settings import GIB


def advice(plan: Plan) -> list[str]:
    """Settings that lower the peak, those that change no result first.

    Args:
        plan: one that does not fit.

    Returns:
        Sentences.
    """
    found = []
    training = [step for phase, step in plan.steps.items() if phase in plan.misfits]
    training = [step for step in training if step.phase != "evaluation"]
    held = max((step.measured.memory["activations"] for step in training), default=0)
    if training:
        micro = max(step.micro for step in training)
        if 0 < plan.largest.size < micro:
            found.append(f"--data.micro_batch_size {plan.largest.size}: fits.")
        elif micro > 1:
            found.append("--data.micro_batch_size 1: helps, and is not enough alone.")
        if not plan.model.gradient_checkpointing:
            found.append(
                "--model.gradient_checkpointing true: of activations, up to "
                f"{held / GIB:.0f} GiB here, little is left; a third more time."
            )
    if "evaluation" in plan.misfits or "written answers" in plan.misfits:
        sequences = plan.steps["evaluation"].micro
        found.append(
            f"--data.eval_batch_size {max(1, sequences // 4)}: what evaluation and written "
            "answers hold falls in proportion."
        )
    found += _sharing_advice(plan)
    if plan.precision == "32-true":
        packed = " but the packed weights" if plan.model.quantization is not None else ""
        found.append(f"--trainer.precision bf16-true: halves all parts{packed}; results differ.")
    if plan.model.lora is not None and plan.model.quantization is None:
        shared = " Not with fsdp2: take ddp." if plan.sharing.name == "FSDP2" else ""
        found.append(
            "--model.quantization nf4: the base's linear layers, but for the output projection, in "
            f"4 bits a weight; results differ.{shared}"
        )
    if plan.model.lora is None:
        found.append("model.lora instead of null: no gradients and optimizer of the base weights.")
    return found


def _sharing_advice(plan: Plan) -> list[str]:
    """What further GPUs or another strategy would help."""
    found = []
    gpus = plan.machine.gpus
    if plan.sharing.name == "FSDP2":
        found.append(
            f"--gpus {2 * gpus}: halves parameters, gradients and optimizer; the layers that are "
            "gathered stay."
        )
        if not plan.sharing.cpu_offload:
            found.append(
                "trainer.strategy with cpu_offload: true: parameters, gradients and optimizer in "
                "the computer's memory; slower."
            )
    elif plan.model.quantization is not None:
        found.append(
            f"--gpus {max(2, gpus)} with --trainer.strategy fsdp2, --model.quantization null and "
            "--trainer.precision bf16-true: shares the model out, not quantized; results differ."
        )
    elif plan.sharing.name == "DDP":
        found.append("--trainer.strategy fsdp2: shares parameters out instead of copying them.")
    else:
        found.append("--gpus 2 with --trainer.strategy fsdp2: shares the model out.")
    return found
