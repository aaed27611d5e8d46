"""Checks of `gpu_checks.py` that train a smaller version of the demo's path and unlearn a stage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from gpu_checks import ROOT, Bench
from gpu_compare import Found, compare, read_run
from gpu_table import Row, Skipped, at_least, at_most, judged

DEMO = ROOT / "configs" / "demo.yaml"
# Tolerance for a path on two devices in fp32. One forward pass differs by 1e-6. The first steps of
# AdamW have the length of the learning rate for any gradient, so a gradient that is zero up to
# rounding moves a weight as far as any other. After 30 such steps the difference is 1e-4.
ACROSS = 1e-3
# Tolerance for the same sums on one device, where a kernel may add in another order.
WITHIN = 1e-4


def limited(count: int, **others: Any) -> dict[str, Any]:
    """Return the settings of a stage with few rows."""
    return {"limit": count, "heldout_limit": 8, "epochs": 1, **others}


def settings(work: Path) -> Path:
    """Write a file that changes the demo's configuration: fewer rows, and every monitor.

    Args:
        work: folder for the file, and for one with rows that have wrong answers.

    Returns:
        Path of the file.
    """
    from lightning_unlearn.demo import resolve

    file, asked = work / "path.yaml", work / "asked.jsonl"
    if file.exists():
        return file
    rows = [json.loads(line) for line in Path(resolve("demo:safety")).read_text().splitlines()[:6]]
    answers = [row["response"] for row in rows]
    with asked.open("w", encoding="utf-8") as handle:
        for number, row in enumerate(rows):
            others = [f"Of course. Step {1 + (number + n) % 4}: begin." for n in range(3)]
            wrong = {"paraphrase": f"No. {answers[number]}", "alternatives": others}
            handle.write(json.dumps({**row, **wrong}) + "\n")
    probe = {"source": str(asked), "prompt": "prompt", "answer": "response"}
    probe |= {"paraphrase": "paraphrase", "alternatives": "alternatives"}
    content = {
        "trainer": {
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {"class_path": name, "init_args": given} for name, given in MONITORS.items()
            ],
        },
        "data": {
            "micro_batch_size": 4,
            "eval_batch_size": 8,
            "stages": {
                "inst": limited(24),
                "tofu": limited(24),
                "math": limited(48),
                "safety": limited(24, lr=1e-3),
            },
            "eval_sets": {"asked": probe},
            "unlearn": {"epochs": 2, "batch_size": 8, "lr": 3e-4},
        },
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


MONITORS: dict[str, dict[str, Any]] = {
    "NPO": {"beta": 0.5},
    "LabelLikelihood": {"every_n_steps": 2, "limit": 6},
    "AnswerLikelihood": {"every_n_steps": 2, "limit": 8},
    "AnswerStatistics": {"every_n_steps": 3, "limit": 8},
    "OracleDistance": {"every_n_steps": 2, "limit": 8},
    "MathAccuracy": {"stage": "math", "num_samples": 2, "max_new_tokens": 16, "limit": 6},
    "Membership": {"nonmembers": "safety:heldout", "limit": 8},
    "Memorization": {"set": "safety", "max_new_tokens": 16, "limit": 6},
    "TOFU": {"forget": "asked", "retain": "asked", "max_new_tokens": 16},
}


def arguments(bench: Bench, name: str, device: str, *options: str) -> list[str]:
    """Return the arguments of ``lightning-unlearn`` for the path."""
    folder = bench.work / name
    given = ["fit", "--config", str(DEMO), "--config", str(settings(bench.work))]
    given += ["--trainer.default_root_dir", str(folder / "runs")]
    given += ["--trainer.store", str(folder / "store"), "--trainer.devices", "1"]
    given += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu"]
    return [*given, *options]


def fit(bench: Bench, name: str, *options: str, device: str | None = None) -> Found:
    """Train the oracle and the path, unlearn, and read the results.

    Args:
        bench: arguments of the check.
        name: name of the folder.
        options: further arguments.
        device: "cuda" or "cpu"; None takes the device of the check.
    """
    from lightning_unlearn.cli.main import main

    given = arguments(bench, name, device or bench.device, *options)
    for oracle in ("true", "false"):
        code = main([*given, "--data.oracle", oracle])
        if code:
            raise RuntimeError(f"lightning-unlearn fit ended with exit code {code}")
    return found(bench, name)


def found(bench: Bench, name: str) -> Found:
    """Read the results of the path in a folder."""
    (folder,) = (bench.work / name / "runs" / "NPO").iterdir()
    return read_run(folder)


def on_cpu(bench: Bench) -> Iterator[Row]:
    """Compute the values with which other checks compare."""
    run = fit(bench, "cpu", device="cpu")
    yield judged(
        "",
        f"{len(run.losses)} steps, {len(run.means)} means, {len(run.values)} values of examples, "
        f"forget set {run.start:.3f} to {run.end:.3f} nats",
        "finite numbers, and a falling likelihood",
        run.finite and run.end < run.start - 0.05,
    )


def fp32(bench: Bench) -> Iterator[Row]:
    """Compare the path on the device in fp32 with the CPU's."""
    yield from same(fit(bench, "fp32"), found(bench, "cpu"), ACROSS)


def same(own: Found, other: Found, limit: float) -> Iterator[Row]:
    """Compare two runs of the same path; yield the rows.

    Args:
        own: the run.
        other: the run to compare with.
        limit: largest allowed difference, relative to 1 + the size of the number.
    """
    gap = compare(own, other)
    yield judged(
        "steps and metrics", gap.keys, "the same", gap.keys.startswith("the same") and own.finite
    )
    yield at_most("losses", gap.losses, limit, "largest difference / (1 + loss)")
    yield at_most("likelihoods", gap.likelihoods, limit, f"largest, {gap.worst}")
    yield at_least("generated answers", gap.generated, 0.95, "fraction of equal scores")
    yield at_least("ranks and counts", gap.counts, 0.95, "fraction of equal values")


def bf16(bench: Bench) -> Iterator[Row]:
    """Compare conclusions of a study in bf16-true with those in fp32 on the CPU."""
    yield from alike(fit(bench, "bf16", "--trainer.precision", "bf16-true"), found(bench, "cpu"))


def mixed(bench: Bench) -> Iterator[Row]:
    """Compare conclusions of a study in bf16-mixed with those in fp32 on the CPU."""
    yield from alike(fit(bench, "mixed", "--trainer.precision", "bf16-mixed"), found(bench, "cpu"))


def alike(own: Found, other: Found) -> Iterator[Row]:
    """Compare the conclusions of two runs in different precisions; yield the rows.

    bf16 has 8 bits: a log-probability of -4 has an error of 0.02, and that of an answer of 25
    tokens, on which NPO's loss depends, 0.1 or more. Losses are therefore compared if they are
    means per token. The effect of unlearning is compared by its size and by the order of the
    examples.
    """
    gap = compare(learning(own), learning(other))
    yield at_most("losses of learning", gap.losses, 0.02, "largest difference / (1 + loss)")
    change = abs((own.end - own.start) / (other.end - other.start) - 1)
    yield at_most("change of the forget set", change, 0.15, "relative difference")
    order = compare(own, other).ranks
    yield at_least("order of the examples", order, 0.9, "rank correlation of likelihoods")


def learning(run: Found) -> Found:
    """Return a run without the losses of unlearning."""
    return replace(run, losses={k: v for k, v in run.losses.items() if k[0] != "unlearn"})


def resume(bench: Bench) -> Iterator[Row]:
    """Check a path that is killed inside unlearning and then resumed."""
    given = arguments(bench, "resume", bench.device, "--trainer.checkpoint_steps", "2")
    step = "3"
    command = [sys.executable, str(Path(__file__)), step, *given]
    oracle = subprocess.run([*command, "--data.oracle", "true"], check=False)
    killed = subprocess.run([*command, "--data.oracle", "false"], check=False)
    kept = sorted((bench.work / "resume" / "store" / "checkpoints").glob("*"))
    yield judged(
        "killed in unlearning after step 3",
        f"exit codes {oracle.returncode} and {killed.returncode}, {len(kept)} checkpoint",
        f"0 and {-signal.SIGKILL}, and a checkpoint",
        (oracle.returncode, killed.returncode) == (0, -signal.SIGKILL) and bool(kept),
    )
    own, whole = fit(bench, "resume", "--trainer.checkpoint_steps", "2"), found(bench, "fp32")
    yield from same(own, whole, WITHIN)
    equal = own.adapters == whole.adapters
    yield Row("adapters, byte for byte", "equal" if equal else "not equal", "", "ok")


def kill_after(step: int) -> None:
    """Let this process kill itself after the given number of unlearning steps."""
    from lightning_unlearn import CausalLM

    before = CausalLM.training_step

    def training_step(self: Any, *given: Any) -> None:
        if self.stage == "unlearn" and self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        before(self, *given)

    CausalLM.training_step = training_step  # type: ignore[method-assign]


def ddp(bench: Bench) -> Iterator[Row]:
    """Check one process with DistributedDataParallel."""
    yield from same(fit(bench, "ddp", "--trainer.strategy", "ddp"), found(bench, "fp32"), WITHIN)


def fsdp2(bench: Bench) -> Iterator[Row]:
    """Check one process with FSDP2."""
    own = fit(bench, "fsdp2", "--trainer.strategy", "fsdp2")
    yield from same(own, found(bench, "fp32"), WITHIN)


def offload(bench: Bench) -> Iterator[Row]:
    """Check FSDP2 with shards in the computer's memory."""
    strategy = '{"class_path": "FSDP2", "init_args": {"cpu_offload": true}}'
    own = fit(bench, "offload", f"--trainer.strategy={strategy}")
    yield from same(own, found(bench, "fp32"), WITHIN)


def checkpointing(bench: Bench) -> Iterator[Row]:
    """Check activations that are computed again in the backward pass."""
    own = fit(bench, "checkpointing", "--model.gradient_checkpointing", "true")
    yield from same(own, found(bench, "fp32"), WITHIN)


def deterministic(bench: Bench) -> Iterator[Row]:
    """Check that every operation has a deterministic algorithm, and that two runs are equal."""
    runs = [fit(bench, f"deterministic-{n}", "--trainer.deterministic", "true") for n in (1, 2)]
    one, two = runs
    equal = one.adapters == two.adapters and one.values == two.values and one.losses == two.losses
    yield judged("two runs", "equal" if equal else "not equal", "equal byte for byte", equal)
    gap = compare(one, found(bench, "cpu"))
    yield at_most(
        "losses, against the CPU's", gap.losses, ACROSS, "largest difference / (1 + loss)"
    )


def qlora(bench: Bench) -> Iterator[Row]:
    """Check a base in NF4, with products in bf16."""
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise Skipped("the package bitsandbytes is not installed")
    options = ("--model.base", padded(bench.work), "--trainer.precision", "bf16-true")
    own = fit(bench, "qlora", *options, "--model.quantization", "nf4")
    other = found(bench, "bf16")
    yield judged(
        "",
        f"forget set {own.start:.3f} to {own.end:.3f} nats, without NF4 {other.start:.3f} to "
        f"{other.end:.3f}",
        "finite numbers; a drop between half and twice the drop without NF4",
        own.finite and 0.5 <= (own.end - own.start) / (other.end - other.start) <= 2,
    )
    gap = compare(learning(own), learning(other))
    # Four bits change a weight by up to a tenth of the largest weight of its block.
    yield at_most("losses of learning", gap.losses, 0.05, "largest difference / (1 + loss)")


def padded(work: Path) -> str:
    """Pad the MLPs of the demo's model with zeros: on CPUs bitsandbytes needs multiples of 64.

    Returns:
        Folder of the model.
    """
    import shutil

    from safetensors.torch import load_file, save_file
    from torch.nn.functional import pad

    from lightning_unlearn.demo import resolve

    folder = Path(shutil.copytree(resolve("demo:tiny-llama"), work / "padded"))
    config = json.loads((folder / "config.json").read_text())
    more = -config["intermediate_size"] % 64
    config["intermediate_size"] += more
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "gate_proj" in name or "up_proj" in name:
            weights[name] = pad(weights[name], (0, 0, 0, more))
        elif "down_proj" in name:
            weights[name] = pad(weights[name], (0, more))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


if __name__ == "__main__":
    kill_after(int(sys.argv[1]))
    from lightning_unlearn.cli.main import main

    sys.exit(main(sys.argv[2:]))
