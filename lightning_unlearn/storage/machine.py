"""Describe what changes the rounding of numbers but is in no key: threads, processor, versions."""

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.version import __version__

LIBRARIES = ("torch", "transformers", "peft", "lightning")


def describe_machine(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Describe the hardware and the software that compute the numbers.

    On a CPU, equal descriptions and equal keys give equal bytes. In all other cases numbers are
    equal except for rounding.

    Args:
        device: device of this process.
        processes: number of processes that train one model.

    Returns:
        Plain values for JSON.
    """
    described: dict[str, Any] = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "processes": processes,
        "versions": versions(),
    }
    if device.type == "cuda":
        described["device"] = torch.cuda.get_device_name(device)
        described["versions"]["cuda"] = torch.version.cuda or torch.version.hip
    return described


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of the libraries that compute."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "lightning-unlearn": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # A source tree has no package metadata, but torch has a __version__.
            found[name] = str(getattr(sys.modules.get(name), "__version__", "unknown"))
    return found


@cache
def _processor() -> str:
    """Return the name of the processor that the operating system reports."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()
