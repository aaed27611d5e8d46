"""Checks of `gpu_checks.py` on training steps: planned memory, time, compiled layers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gpu import LORA, OWN, SHAPES, flops, matmul_rate, planned, size
from gpu_checks import Bench
from gpu_sides import DTYPES, Setting, empty_gpu, hugging_face, make_plan, ours
from gpu_table import Row, at_most, judged

from lightning_unlearn.model.pretrained import load_config, quiet_transformers
from lightning_unlearn.planning.model_shapes import CONFIGS, config_folder

CONFIGS.update(OWN)
WARMUP = 2


def shape(bench: Bench) -> tuple[str, int, int]:
    """Return the name of the measured shape, sequences per micro-batch, and their length."""
    return ("llama3.2-1b", 4, 512) if bench.device == "cuda" else ("tiny", 2, 32)


def setting(
    bench: Bench, folder: str, precision: str, labels: int, steps: int, size: tuple[int, int]
) -> Setting:
    """Return the settings for the sides of `gpu.py`, with two micro-batches per step."""
    micro, length = size
    vocabulary = load_config(folder, False).vocab_size
    batches = make_plan(vocabulary, length, labels, micro, 2 * micro, steps)
    return Setting(folder, bench.device, precision, "sdpa", False, LORA, batches, WARMUP)


def plan(bench: Bench) -> Iterator[Row]:
    """Compare PyTorch's peak of allocated memory with the value of `lightning-unlearn plan`."""
    quiet_transformers()
    name, micro, length = shape(bench)
    with config_folder(SHAPES[name]) as folder:
        for precision in ("bf16-true", "32-true"):
            for unlearns in (False, True):
                given = setting(bench, folder, precision, length - 1, 2, (micro, length))
                figure = planned(given, unlearns, micro, length, True)
                about = f"{name}, {'unlearning' if unlearns else 'learning'} in {precision}"
                if bench.device == "cpu":
                    why = f"planned {size(figure)}; the memory of a CPU is not measured"
                    yield Row(about, why, "", "skipped")
                    continue
                real = ours(replace(given, warmup=1), unlearns).peak
                empty_gpu()
                value = f"planned {size(figure)}, peak {size(real)}, ratio {figure / real:.3f}"
                yield judged(about, value, "ratio 0.9 to 1.1", abs(figure / real - 1) <= 0.1)


def step(bench: Bench) -> Iterator[Row]:
    """Measure the time of a training step of the 1B shape, beside Hugging Face's Trainer."""
    quiet_transformers()
    precision = "bf16-true" if bench.device == "cuda" else "32-true"
    name, micro, length = shape(bench)
    rate = matmul_rate(bench.device, DTYPES[precision], 8192 if bench.device == "cuda" else 256)
    unit = "TFLOPS" if bench.device == "cuda" else "GFLOPS"
    scale = 1e12 if bench.device == "cuda" else 1e9
    yield Row("matrix product", f"{rate / scale:.1f} {unit}", "", "ok")
    labels, steps = length // 2, 6
    with config_folder(SHAPES[name]) as folder:
        given = setting(bench, folder, precision, labels, WARMUP + steps, (micro, length))
        work = flops(load_config(folder, False), LORA, 2 * micro, length, labels, False)
        sides: dict[str, Any] = {
            "learning": lambda: ours(given),
            "NPO": lambda: ours(given, unlearns=True),
            "Hugging Face's Trainer": lambda: hugging_face(given),
        }
        runs = {}
        for side, run in sides.items():
            runs[side] = run()
            empty_gpu()
            seconds = runs[side].seconds / steps
            value = f"{1000 * seconds:.1f} ms, {2 * micro * length / seconds:.0f} tokens/s, "
            value += f"{100 * work / seconds / rate:.0f} % of the matrix product's rate"
            if runs[side].peak:
                value += f", peak {size(runs[side].peak)}"
            yield judged(f"{name}, {side}", value, "a time", seconds > 0)
    loss, theirs = runs["learning"].loss, runs["Hugging Face's Trainer"].loss
    near = 1e-2 if precision == "bf16-true" else 1e-4
    gap = abs(loss / theirs - 1)
    yield at_most("first loss, against Hugging Face's", gap, near, f"relative, {loss:.4f}")


def compiled(bench: Bench) -> Iterator[Row]:
    """Compare compiled layers with uncompiled ones."""
    quiet_transformers()
    name = "60m" if bench.device == "cuda" else "tiny"
    sizes = (8, 512) if bench.device == "cuda" else (2, 32)
    on_gpu = bench.device == "cuda"
    # On a CPU each compilation takes a minute.
    precisions = ("bf16-true", "32-true") if on_gpu else ("32-true",)
    with config_folder(SHAPES[name]) as folder:
        for precision in precisions:
            given = setting(bench, folder, precision, sizes[1] // 2, WARMUP + 8, sizes)
            for unlearns in (False, True) if precision == "bf16-true" else (False,):
                plain = ours(given, unlearns)
                own = ours(given, unlearns, compiled=True)
                empty_gpu()
                about = f"{'NPO' if unlearns else 'learning'} in {precision}"
                near = 1e-2 if precision == "bf16-true" else 1e-4
                gap = abs(own.loss - plain.loss) / (1 + abs(plain.loss))
                yield at_most(f"{about}, first loss", gap, near, "difference / (1 + loss)")
                ratio = plain.seconds / own.seconds
                yield Row(f"{about}, speed", f"{ratio:.2f} x as fast as uncompiled", "", "ok")
