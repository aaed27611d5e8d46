"""Text of a plan, as the plan command prints it."""

from lightning_unlearn.planning.advice import advice
from lightning_unlearn.planning.estimate import OracleNeeds, Plan
from lightning_unlearn.planning.memory_meter import PARTS, Part
from lightning_unlearn.planning.settings import GIB

WIDTH = 26
LABELS: dict[Part, str] = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "gathered": "gathered layers",
    "other": "other",
}


def text(plan: Plan, base: str, oracle: str = "") -> str:
    """Return the text of a plan.

    Args:
        plan: the plan.
        base: name of the base model.
        oracle: name of an oracle that is a model of its own.
    """
    parts = [_head(plan, base), _memory(plan, oracle), _work(plan), _time(plan), _disk(plan)]
    if not plan.fits:
        names = " and ".join(plan.misfits)
        lines = [f"Does not fit: {names}. Settings that help:"]
        parts.append("\n".join(lines + [f"  {line}" for line in advice(plan)]))
    return "\n\n".join(parts)


def _head(plan: Plan, base: str) -> str:
    lora, machine = plan.model.lora, plan.machine
    trained = "all weights trained" if lora is None else f"LoRA rank {lora.rank}"
    if plan.model.quantization is not None:
        trained += f", base in {plan.model.quantization.upper()} ({_size(plan.base)})"
    how = plan.sharing.name
    how += f" ({plan.sharing.chosen})" if plan.sharing.chosen else ""
    chosen = "data.max_length is not set" if plan.assumed else "data.max_length"
    checkpointing = "with" if plan.model.gradient_checkpointing else "without"
    return (
        f"{base}: {_count(plan.parameters)} parameters, {trained}, {plan.precision}, "
        f"{checkpointing} gradient checkpointing\n"
        f"{machine.gpus} x {machine.memory / GIB:.0f} GiB, {how}\n"
        f"Simulated with {plan.length} tokens in every sequence ({chosen}), the maximum."
    )


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"


def _row(name: str, values: list[str]) -> str:
    return f"{name:<{WIDTH}}" + "".join(f"{value:>13}" for value in values)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.1f} MiB"


def _memory(plan: Plan, oracle: str) -> str:
    steps = list(plan.steps.values())
    small = max(step.measured.peak for step in steps) < GIB
    unit, name = (2**20, "MiB") if small else (GIB, "GiB")

    def size(value: int) -> str:
        return f"{value / unit:.2f}"

    lines = [_row(f"{name} per GPU", list(plan.steps))]
    lines.append(_row("sequences per forward", [str(step.micro) for step in steps]))
    for part in PARTS:
        lines.append(_row(LABELS[part], [size(step.measured.memory[part]) for step in steps]))
    lines.append(_row("peak", [size(step.measured.peak) for step in steps]))
    limit = _size(plan.machine.usable)
    verdicts = ["no" if phase in plan.misfits else "yes" for phase in plan.steps]
    lines.append(_row(f"fits into {limit}", verdicts))
    reserved = (
        f"{plan.machine.reserved / GIB:.1f} GiB are reserved for CUDA, NCCL and fragmentation."
    )
    if plan.host:
        reserved += f" The computer's memory holds {_gib(plan.host)} GiB more, over all GPUs."
    largest = plan.largest
    if largest.size == 0:
        verdict = "Not even a micro-batch of 1 fits in training."
    else:
        tried = "" if largest.tried else " or more (larger ones were not all simulated)"
        verdict = f"Largest micro-batch that fits in training: {largest.size}{tried}."
    lines += [reserved, verdict]
    if plan.generated is not None:
        lines.append(
            f"Generated answers, {plan.generated.sequences} at a time: "
            f"{_size(plan.generated.cache)} of keys and values (by formula), "
            f"{_size(plan.generated.peak)} with the model."
        )
    if plan.norms is not None:
        lines.append(f"Gradient norms, one row at a time: {_size(plan.norms)} with the model.")
    if plan.oracle is not None:
        lines.append(_oracle(plan.oracle, oracle))
    return "\n".join(lines)


def _oracle(needs: OracleNeeds, name: str) -> str:
    text = f"Oracle {name}, evaluated before training and then removed: {_size(needs.peak)}."
    if needs.states:
        text += (
            f" Kept for the KL: {_size(needs.head)} of output projection (above, among other), and "
            f"{needs.states / 2**10:.1f} KiB of hidden states on disk per label token."
        )
    return text


def _work(plan: Plan) -> str:
    steps = [step for phase, step in plan.steps.items() if phase != "evaluation"]
    rows = {
        "sequences": [str(step.batch) for step in steps],
        "tokens, at most": [str(step.batch * plan.length) for step in steps],
        "micro-batches per GPU": [str(step.parts) for step in steps],
        "TFLOP per GPU": [f"{step.flops / 1e12:.1f}" for step in steps],
        "TFLOP in total": [f"{step.flops * plan.machine.gpus / 1e12:.1f}" for step in steps],
        "GiB read and written": [f"{step.traffic / GIB:.0f}" for step in steps],
        "GiB sent per GPU": [f"{step.exchanged / GIB:.2f}" for step in steps],
    }
    names = [phase for phase in plan.steps if phase != "evaluation"]
    lines = [_row("One optimizer step", [str(name) for name in names])]
    lines += [_row(name, values) for name, values in rows.items()]
    if plan.paired:
        lines.append(
            f"A step of unlearning also computes as many {' and as many '.join(plan.paired)} as "
            "forget rows; its operations and memory include them."
        )
    return "\n".join(lines)


def _time(plan: Plan) -> str:
    unknown = [name for name, count in plan.counts.items() if count is None]
    counted = ", ".join(f"{name} {count}" for name, count in plan.counts.items() if count)
    lines = [f"Optimizer steps: {counted}." if counted else "Optimizer steps: unknown."]
    if unknown:
        example = ",".join(f"{name}=4000" for name in plan.stages[:2])
        lines.append(
            f"The number of rows of {', '.join(unknown)} is unknown. Set the sources to local "
            f"files, or add --rows {example},..."
        )
    speed = plan.machine.throughput
    if speed is None:
        lines.append(
            "Time: unknown. Add --throughput with the TFLOPS of one GPU in training, such as 300 "
            "for an H100 in bf16."
        )
        return "\n".join(lines)
    flops = {phase: step.flops for phase, step in plan.steps.items()}
    seconds = {phase: flops[phase] / speed for phase in flops}
    each = ", ".join(f"{seconds[p]:.1f} s in {p}" for p in seconds if p != "evaluation")
    lines.append(f"Time per optimizer step at {speed / 1e12:g} TFLOPS, at most: {each}.")
    if counted and not unknown:
        total = sum(
            (count or 0) * seconds["unlearning" if name == "unlearn" else "learning"]
            for name, count in plan.counts.items()
        )
        share = plan.scored / plan.machine.gpus / plan.steps["evaluation"].micro
        total += share * seconds["evaluation"]
        hours = f"{total / 3600:.1f} h"
        lines.append(f"Training of a path and unlearning, without monitors: at most {hours}.")
    return "\n".join(lines)


def _disk(plan: Plan) -> str:
    prefixes, paths = plan.paths
    size = plan.adapter
    what = "adapter" if plan.model.lora is not None else "model"
    one = len(plan.counts)
    return (
        f"Disk: base model {_size(2 * plan.parameters)} in bf16; {what} of a stage "
        f"{_size(size)}; store of a path {_size(one * size)}, plus {_size(3 * size)} for its "
        f"checkpoint; store of a study of positions {_size(prefixes * size)} per seed "
        f"({prefixes} stages), plus {_size(paths * size)} per method and seed."
    )
