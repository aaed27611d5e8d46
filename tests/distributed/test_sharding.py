"""FSDP2 with real processes: other models and settings, resuming, loading in parts, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interrupts import Interrupts
from lightning.pytorch import Callback, Trainer
from process_runs import assert_same, free_port, run_script
from safetensors.torch import load_file
from sharded import make_bases
from tiny_stages import Tiny, results

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    LabelLikelihood,
    LoRA,
    Recipe,
    SimNPO,
    StagedTrainer,
)
from lightning_unlearn.cli.main import main
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.model import compiling, sharded_loading
from lightning_unlearn.storage.records import read_table

SMALL = LoRA(rank=3, alpha=6)


# Model, method, settings of the module and of the trainer; float64 unless another precision is
# given. 3, 49 and 1025 rows cannot be divided evenly.
VARIANTS: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "full, untied": ("llama", GA, {"lora": None}, {}),
    "recomputed, offloaded": (
        "llama",
        lambda: SimNPO(beta=0.1),
        {"gradient_checkpointing": True, "save_merged": True},
        {"offload": True},
    ),
    "embeddings": (
        "llama",
        NPO,
        {"lora": LoRA(rank=3, alpha=6, target_modules=["q_proj", "embed_tokens", "lm_head"])},
        {},
    ),
    "tensor parallel": ("even", NPO, {"gradient_checkpointing": True}, {"tensor": 2}),
}


# Only with four processes; the last variant has two groups of two.
OF_FOUR: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "full, tied, recomputed": ("qwen2", NPO, {"lora": None, "gradient_checkpointing": True}, {}),
    "bf16": ("qwen2", NPO, {"save_merged": True}, {"precision": "bf16-true"}),
    "tensor parallel, bf16": ("even", GA, {}, {"tensor": 2, "precision": "bf16-true"}),
}


# Sums of bf16 values have another order, and are rounded to 8 bits at every layer.
TOLERANCE = {"bf16": 5e-3, "tensor parallel, bf16": 5e-3}


def variants(devices: int) -> dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]]:
    return VARIANTS | (OF_FOUR if devices == 4 else {})


def walked(
    tiny: Tiny, name: str, devices: int, *others: Callback, place: str | None = None
) -> StagedTrainer:
    """Run a path of two stages and unlearning, with two or three steps each."""
    base, method, module, settings = variants(4)[name]
    settings = {"precision": "64-true", **settings, "devices": devices}
    offload, tensor = settings.pop("offload", False), settings.pop("tensor", 1)
    if devices > 1:
        settings["strategy"] = FSDP2(None, tensor, cpu_offload=offload)
    own = tiny.below(place or f"{name} {devices}")
    stages = tiny.stages(gradient_clip=0.5, limit=9)
    data = own.datamodule(
        stages=stages,
        order=["tofu", "safety"],
        unlearn=Recipe(lr=2e-3, epochs=1, batch_size=4, gradient_clip=0.5),
        micro_batch_size=min(2, 4 // devices),
        eval_batch_size=3,
    )
    trainer = own.trainer([method(), AnswerLikelihood(2), LabelLikelihood(2)], **settings)
    # These callbacks are not part of the key.
    trainer.callbacks.extend(others)  # type: ignore[attr-defined]
    model = own.module(**{"base": str(tiny.root / base), "lora": SMALL, **module})
    trainer.fit(model, data)
    if settings.get("precision") == "bf16-true":
        types = {p.requires_grad: p.dtype for p in model.parameters()}
        assert types == {True: torch.float32, False: torch.bfloat16}
        # Rotary frequencies.
        assert {buffer.dtype for buffer in model.network.hf_model.buffers()} == {torch.float32}
    return trainer


class StateTypes(Callback):
    """Check that optimizer states are at least fp32."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        states = [s for o in trainer.optimizers for s in o.state.values()]
        wanted = torch.float64 if trainer.precision == "64-true" else torch.float32
        assert states and {s["exp_avg"].dtype for s in states} == {wanted}


class Counts:
    """Count the values that are read from weight files by slices."""

    def __init__(self) -> None:
        self.values = 0

    def __enter__(self) -> "Counts":
        self._own, counts = sharded_loading._fill_slice, self

        class Source:
            def __init__(self, source: Any) -> None:
                self.source = source

            def __getitem__(self, rows: slice) -> torch.Tensor:
                found: torch.Tensor = self.source[rows]
                counts.values += found.numel()
                return found

        sharded_loading._fill_slice = lambda target, source: self._own(target, Source(source))
        return self

    def __exit__(self, *_: Any) -> None:
        sharded_loading._fill_slice = self._own


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
import test_sharding
from tiny_stages import Tiny

if __name__ == "__main__":
    tiny = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    test_sharding.{function}(tiny, *sys.argv[2:])
"""


def script_of(tiny: Tiny, function: str) -> Path:
    script = tiny.root / f"{function}.py"
    tests = [str(Path(__file__).parents[1] / name) for name in ("distributed", "helpers", "")]
    script.write_text(SCRIPT.format(tests=tests, function=function))
    return script


# Number of processes that start a run, which the other number finishes.
BEGUN = {"one": "full, untied", "two": "tensor parallel"}


def all_variants(tiny: Tiny, devices: str) -> None:
    """Run in each of several processes."""
    told = {}
    for name in variants(int(devices)):
        with Counts() as read:
            trainer = walked(tiny, name, int(devices), StateTypes())
        model = trainer.lightning_module
        parts: list[Any] = list(model.parameters())
        held = sum(part.to_local().numel() for part in parts)
        told[name] = [str(trainer.run_dir), read.values, held, sum(p.numel() for p in parts)]
    if devices == "2":
        told["one"] = [str(walked(tiny, BEGUN["one"], 2, place="one").run_dir)]
        # Only the second process gets the signal.
        stops = Interrupts("safety", 2 if trainer.global_rank else -1)
        with pytest.raises(
            KeyboardInterrupt, match="at step 2 of 3; a checkpoint of step 2 is stored"
        ):
            walked(tiny, BEGUN["two"], 2, stops, place="two")
    (tiny.root / f"told-{trainer.global_rank}.json").write_text(json.dumps(told))


def assert_weights(run: Path, other: Path, tolerance: float) -> None:
    """Compare files whose values may differ in the last digits."""
    assert set(results(run)) == set(results(other))
    files = sorted(run.rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(file), load_file(other / file.relative_to(run))
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            assert values.dtype == theirs[name].dtype
            torch.testing.assert_close(values, theirs[name], rtol=0, atol=tolerance)


def compared(tiny: Tiny, devices: int) -> dict[str, Any]:
    """Compare all variants with this number of processes to one process."""
    make_bases(tiny)
    runs = {name: walked(tiny, name, 1, StateTypes()).run_dir for name in variants(devices)}
    if devices == 2:
        with pytest.raises(KeyboardInterrupt):
            walked(tiny, BEGUN["one"], 1, Interrupts("safety", 2), place="one")
    run_script(script_of(tiny, "all_variants"), tiny.settings(), str(devices))
    told = [json.loads((tiny.root / f"told-{i}.json").read_text()) for i in range(devices)]
    for name, run in runs.items():
        assert run is not None
        other = Path(told[0][name][0])
        assert_same(run, other, TOLERANCE.get(name, 1e-9))
        # Adam turns the smallest difference in sign into a full step.
        assert_weights(run, other, 2e-2 if name in TOLERANCE else 1e-9)
        whole = told[0][name][3]
        for rank in told:
            # No process reads or stores more than its shard, except for uneven rows.
            _, read, held, _ = rank[name]
            most = 1.15 * whole / devices
            if "tensor" in name:
                # Groups of two shard only decoder layers, and replicate their norms.
                embeddings = 1025 * 32
                most = (embeddings + 0.65 * (whole - embeddings)) * 2 / devices
            assert 0 < read < most and 0 < held < most
        assert "tensor" in name or sum(rank[name][2] for rank in told) == whole
    return {"runs": runs, "told": told[0]}


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_equal_one_and_resume_its_runs(tiny: Tiny) -> None:
    """Several models and settings; checkpoints inside a stage; each process reads its own shard."""
    found = compared(tiny, 2)
    assert_same(found["runs"][BEGUN["one"]], Path(found["told"]["one"][0]), 1e-9)
    assert (tiny.root / "two" / "store" / "checkpoints").is_dir()
    trainer = walked(tiny, BEGUN["two"], 1, place="two")
    assert trainer.trained_stages == ["safety", "unlearn"] and trainer.run_dir is not None
    assert_same(found["runs"][BEGUN["two"]], trainer.run_dir, 1e-9)
    assert_weights(found["runs"][BEGUN["two"]], trainer.run_dir, 1e-9)
    # Other libraries load the weights that two processes wrote.
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(tiny.root / "llama", dtype=torch.float64)
    run = Path(found["told"]["recomputed, offloaded"][0])
    opened = PeftModel.from_pretrained(lm, run / "learn")
    opened.load_adapter(run / "unlearn", "unlearn")
    opened.base_model.set_adapter(["default", "unlearn"])
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float64)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(opened(ids).logits, merged(ids).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_four_processes_equal_one(tiny: Tiny) -> None:
    compared(tiny, 4)


def compiled_walk(tiny: Tiny, devices: str, compiles: str) -> StagedTrainer:
    """Run two steps of learning and unlearning, with or without compiled layers."""
    if compiles == "yes":
        # The compilation after tracing takes minutes.
        compiling.BACKEND = "eager"
    own = tiny.below(f"compiled {devices} {compiles}")
    lora = LoRA(rank=3, alpha=6, target_modules=["q_proj"])
    data = own.datamodule(
        stages=tiny.stages(limit=8),
        order=["safety"],
        unlearn=Recipe(lr=2e-3, epochs=1, batch_size=4),
        micro_batch_size=2,
    )
    strategy = FSDP2() if devices == "2" else "auto"
    trainer = own.trainer([NPO()], devices=int(devices), strategy=strategy, precision="64-true")
    model = own.module(lora=lora, compile=compiles == "yes", gradient_checkpointing=True)
    trainer.fit(model, data)
    (tiny.root / f"compiled-{trainer.global_rank}.json").write_text(str(trainer.run_dir))
    return trainer


@pytest.mark.slow
def test_compiled_layers_are_sharded(tiny: Tiny) -> None:
    run_script(script_of(tiny, "compiled_walk"), tiny.settings(), "2", "yes", seconds=900)
    run = Path((tiny.root / "compiled-0.json").read_text())
    plain = compiled_walk(tiny, "1", "no").run_dir
    assert plain is not None
    losses = [read_table(folder / "training.parquet")["loss"] for folder in (run, plain)]
    assert len(losses[0]) == 4
    torch.testing.assert_close(*(torch.tensor(v.to_numpy()) for v in losses), rtol=1e-9, atol=1e-9)
    assert_weights(plain, run, 1e-9)


def long_walk(tiny: Tiny) -> StagedTrainer:
    """Run a path with many steps and print a line at each step."""
    trainer = tiny.trainer(
        [NPO(), AnswerLikelihood(2)],
        devices=1,
        num_nodes=int(os.environ.get("NODES", "1")),
        strategy="fsdp2" if "NODES" in os.environ else "auto",
        checkpoint_steps=5,
    )
    stages = tiny.stages()
    stages["tofu"].epochs = 8
    data = tiny.datamodule(stages=stages, order=["tofu", "safety"])
    (tiny.root / f"started-{trainer.global_rank}").touch()
    trainer.fit(tiny.module(), data)
    return trainer


def wait_for(pattern: str, folder: Path, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < until, f"no {pattern}"
        time.sleep(0.1)


class Group:
    """Start several commands and end all of them after the test."""

    def __init__(self, commands: list[list[str]], settings: list[dict[str, str]]) -> None:
        own = ("MASTER_", "LOCAL_", "SLURM_", "NODE_", "WORLD_")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        clean |= {"OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(
                command,
                env={**clean, **setting},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            for command, setting in zip(commands, settings, strict=True)
        ]

    def __enter__(self) -> "Group":
        return self

    def ends(self, seconds: float = 300) -> list[str]:
        """Return the output of each command."""
        return [process.communicate(timeout=seconds)[0] for process in self.processes]

    def __exit__(self, *_: Any) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


SCONTROL = "#!/bin/sh\necho $@ >> {}\n"


@pytest.mark.long
@pytest.mark.slow
def test_slurm_requeues_a_job_and_two_nodes_resume_it(tiny: Tiny) -> None:
    """Use fake SLURM commands, then torchrun with two nodes on this machine."""
    asked = tiny.root / "asked"
    (tiny.root / "scontrol").write_text(SCONTROL.format(asked))
    (tiny.root / "scontrol").chmod(0o755)
    script = script_of(tiny, "long_walk")
    port = str(free_port())
    job = {
        "PATH": f"{tiny.root}:{os.environ['PATH']}",
        "NODES": "2",
        "SLURM_JOB_NAME": "unlearn",
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_LOCALID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    command = [sys.executable, str(script), tiny.settings()]
    ranks = [{**job, "SLURM_PROCID": str(i), "SLURM_NODEID": str(i)} for i in range(2)]
    checkpoints = tiny.root / "store" / "checkpoints"
    with Group([command] * 2, ranks) as group:
        wait_for("*", checkpoints)
        for process in group.processes:
            process.send_signal(signal.SIGUSR1)
        outputs = group.ends()
    assert all("is stored. Stored stages of this path: none." in out for out in outputs), outputs
    assert "SLURM will start job 7 again, which resumes this run." in outputs[0]
    assert asked.read_text() == "requeue 7\n"
    (kept,) = checkpoints.iterdir()
    step = kept.name.rpartition("-")[2]

    nodes = [
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
            *("--node-rank", str(i), "--nproc-per-node", "1"),
            *("--master-addr", "127.0.0.1", "--master-port", str(free_port()) if not i else ""),
        ]
        for i in range(2)
    ]
    nodes[1][-1] = nodes[0][-1]
    with Group(
        [[*node, str(script), tiny.settings()] for node in nodes], [{"NODES": "2"}] * 2
    ) as g:
        outputs = g.ends()
        assert all(process.returncode == 0 for process in g.processes), outputs
    assert f"tofu: resumes after step {step} of 24." in outputs[0]
    # In fp32, as most runs are.
    alone = tiny.below("alone")
    alone.root.mkdir()
    trainer = long_walk(alone)
    assert trainer.run_dir is not None
    assert_same(trainer.run_dir, tiny.root / trainer.run_dir.relative_to(alone.root), 1e-3)


DIES = """
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Dies(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_rank == 1 and pl_module.step == 2 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_one_resumes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.root)
    Path("dies.py").write_text(DIES)
    config = tiny.fit()
    config["trainer"]["callbacks"] += [{"class_path": "NPO"}, {"class_path": "dies.Dies"}]
    config["trainer"]["checkpoint_steps"] = 1
    config["data"]["order"] = ["tofu", "safety"]
    config["data"]["stages"] = {k: config["data"]["stages"][k] for k in ("tofu", "safety")}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    two = [sys.executable, "-m", "lightning_unlearn"]
    sharded = ["--config", "config.yaml", "--trainer.strategy", "fsdp2", "--trainer.devices", "2"]
    with Group([[*two, "fit", *sharded]], [{}]) as group:
        wait_for("died", tiny.root)
        began = time.monotonic()
        (output,) = group.ends()
        assert time.monotonic() - began < 60
    assert group.processes[0].returncode == 2
    assert "error: process 1 of 0 to 1 has ended (killed by SIGKILL), so the others" in output
    assert "Traceback" not in output
    assert main(["fit", "--config", "config.yaml"]) == 0
    assert "tofu: resumes after step 1 of 3." in capsys.readouterr().err
    with Group([[*two, "validate", *sharded]], [{}]) as group:
        (output,) = group.ends()
    assert group.processes[0].returncode == 0 and output.count("answers/tofu") == 1, output
