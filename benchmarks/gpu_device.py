"""Check of `gpu_checks.py` on the device itself; it imports little more than PyTorch."""

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from gpu_checks import Bench
from gpu_table import Row, judged

from lightning_unlearn.model.compat import reduced_fp32_products

PACKAGES = ("torch", "transformers", "lightning", "peft", "bitsandbytes", "flash-attn")


def found_version(name: str) -> str:
    """Return the version of an installed package, or "missing"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def environment(bench: Bench) -> Iterator[Row]:
    """Write the heading of the table, and check the default settings of PyTorch."""
    about = {name: found_version(name) for name in PACKAGES}
    if bench.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU")
        gpu = torch.cuda.get_device_properties(0)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}"
        about = {"device": f"GPU: {gpu.name}, {memory}, CUDA {torch.version.cuda}", **about}
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield judged("bf16", str(bf16), "True, on a GPU of 2020 or later", bf16 == (gpu.major >= 8))
    else:
        about = {"device": f"CPU, {torch.get_num_threads()} threads: test without a GPU", **about}
    (bench.work / "about.json").write_text(json.dumps(about), encoding="utf-8")
    reduced = reduced_fp32_products()
    found = ", ".join(f"{place} {how}" for place, how in reduced.items()) or "fp32"
    yield judged("products in fp32", found, "fp32", not reduced)
