"""Input of a plan: a fit configuration and the machine that will run it."""

import re
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.compose import merge, read_arguments, set_key
from lightning_unlearn.settings.strict_yaml import read_value

GIB = 2**30
# Assumed, not simulated: memory of libraries, their workspaces and communication buffers; and the
# fraction lost between the blocks of the allocator.
LIBRARIES = 1 * GIB
FRAGMENTED = 0.05


@dataclass(frozen=True)
class Machine:
    """The GPUs of a plan.

    Attributes:
        gpus: number of GPUs, one process each.
        memory: bytes per GPU.
        throughput: floating-point operations per second of one GPU in training; None if unknown.
        rows: number of rows of stages whose files are not available.
    """

    gpus: int
    memory: int
    throughput: float | None
    rows: dict[str, int]

    @property
    def reserved(self) -> int:
        """Return the bytes of a GPU that are reserved for libraries and fragmentation."""
        return LIBRARIES + int(self.memory * FRAGMENTED)

    @property
    def usable(self) -> int:
        """Return the bytes of a GPU that are available for tensors."""
        return self.memory - self.reserved


def take_settings(
    arguments: list[str], content: dict[str, Any]
) -> tuple[Machine, dict[str, Any], list[str]]:
    """Separate the options of plan from keys of the configuration.

    Args:
        arguments: command-line arguments without configuration files.
        content: the configuration.

    Returns:
        The machine, the configuration with the changes of the command line, and the arguments that
        changed it.

    Raises:
        InputError: for an unknown option or a wrong value.
    """
    own = {"gpus": "1", "gpu_memory": "80GiB", "throughput": "", "rows": ""}
    changes: list[str] = []
    for key, value in read_arguments(arguments):
        if value is None:
            raise InputError(f"--{key}: found an unknown option, expected an option of plan.")
        if (name := key.replace("-", "_")) in own:
            own[name] = value
        else:
            content = set_key(content, key.split("."), read_value(value))
            changes += [f"--{key}", value]
    gpus = _number(own["gpus"], "gpus", "a number of GPUs, at least 1")
    if not 1 <= gpus < 2**31 or gpus != int(gpus):
        raise InputError(f"--gpus: found {own['gpus']}, expected a number of GPUs, at least 1.")
    throughput = own["throughput"]
    expected = "the TFLOPS of one GPU in training, such as 300"
    speed = _number(throughput, "throughput", expected) if throughput else None
    if speed is not None and not 0 < speed < float("inf"):
        raise InputError(f"--throughput: found {throughput}, expected {expected}.")
    machine = Machine(
        int(gpus),
        _memory(own["gpu_memory"]),
        None if speed is None else speed * 1e12,
        _rows(own["rows"]),
    )
    return machine, content, changes


def _number(text: str, key: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--{key}: found {text!r}, expected {expected}.") from None


def _memory(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gib|gb|g)?\s*", text.lower())
    size = float(found[1]) * (10**9 if found[2] == "gb" else GIB) if found else 0
    if size < 2 * GIB:
        raise InputError(
            f"--gpu-memory: found {text!r}, expected the memory of one GPU, at least 2GiB, such as "
            "80GiB."
        )
    return int(size)


def _rows(text: str) -> dict[str, int]:
    rows = {}
    for part in filter(None, text.split(",")):
        stage, _, count = part.partition("=")
        if not stage or not count.isdigit() or int(count) < 1:
            raise InputError(
                f"--rows: found {part!r}, expected STAGE=NUMBER, such as inst=4000,tofu=4000."
            )
        rows[stage] = int(count)
    return rows


def on_cpu(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose objects can be created on any computer.

    Args:
        content: a fit configuration.
    """
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "plugins": None,
        "logger": False,
        "enable_progress_bar": False,
    }
    return merge(content, {"trainer": trainer})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sharing:
    """Distribution of the work over the GPUs.

    Attributes:
        name: "one GPU", "FSDP2" or "DDP".
        chosen: the origin of the choice: the configuration or an assumption of the plan.
        cpu_offload: see `lightning_unlearn.distributed.strategy.FSDP2`.
        layers: ``layer_classes`` of `lightning_unlearn.distributed.strategy.FSDP2`.
    """

    name: str
    chosen: str = ""
    cpu_offload: bool = False
    layers: list[str] | None = None


def sharing(content: dict[str, Any], gpus: int) -> Sharing:
    """Read from a configuration how the work is distributed over the GPUs.

    Args:
        content: a fit configuration.
        gpus: number of GPUs.

    Raises:
        InputError: for a strategy that plan does not support.
    """
    found = (content.get("trainer") or {}).get("strategy") or "auto"
    options = found.get("init_args") or {} if isinstance(found, dict) else {}
    name = str(found.get("class_path") if isinstance(found, dict) else found)
    short = name.rpartition(".")[2].lower()
    ways, copies = options.get("tensor_parallel_size") or 1, options.get("data_parallel_size")
    if ways != 1:
        raise InputError(
            f"trainer.strategy: found tensor_parallel_size {ways}, expected 1 or null: plan does "
            "not simulate tensor parallelism."
        )
    if copies not in (None, gpus):
        raise InputError(
            f"trainer.strategy: found data_parallel_size {copies}, expected {gpus} (--gpus), or "
            "null."
        )
    model = content.get("model")
    packed = isinstance(model, dict) and model.get("quantization") is not None
    if packed and short == "fsdp2":
        # This import loads torch, which is slow.
        from lightning_unlearn.model.quantization import of_strategy

        raise of_strategy(name)
    if short == "fsdp2":
        offload, layers = options.get("cpu_offload", False), options.get("layer_classes")
        return Sharing("FSDP2", "trainer.strategy", bool(offload), layers)
    if gpus == 1:
        return Sharing("one GPU")
    if short in ("ddp", "ddpstrategy"):
        return Sharing("DDP", "trainer.strategy")
    if short == "auto" and packed:
        return Sharing("DDP", "assumed; set trainer.strategy: ddp")
    if short == "auto":
        return Sharing("FSDP2", "assumed; set trainer.strategy: fsdp2")
    raise InputError(f"trainer.strategy: found {name!r}, expected fsdp2 or ddp for a plan.")
