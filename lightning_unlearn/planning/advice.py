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
        if not plan.module.gradient_checkpointing:
            found.append(
                "--model.gradient_checkpointing true: of activations, up to "
                f"{held / GIB:.0f} GiB here, little is left; a third more time."
            )
    if "evaluation" in plan.misfits or "written answers" in plan.misfits:
        sequences = plan.steps["evaluation"].micro
        found.append(
            f"--data.measure_batch_size {max(1, sequences // 4)}: what evaluation and written "
            "answers hold falls in proportion."
        )
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
    elif plan.sharing.name == "DDP":
        found.append("--trainer.strategy fsdp2: shares parameters out instead of copying them.")
    else:
        found.append("--gpus 2 with --trainer.strategy fsdp2: shares the model out.")
    if plan.precision == "32-true":
        found.append("--trainer.precision bf16-true: halves all parts; results differ.")
    if plan.module.lora is None:
        found.append("model.lora instead of null: no gradients and optimizer of the base weights.")
    return found
