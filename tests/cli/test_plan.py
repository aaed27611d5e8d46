"""The plan command: what it prints, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from simulated import ROOT, files, strategy

from lightning_unlearn.cli.main import main
from lightning_unlearn.errors import InputError
from lightning_unlearn.planning import estimate
from lightning_unlearn.planning.settings import GIB, sharing, take_settings
from lightning_unlearn.settings.compose import load_configs

DEMO = ["plan", "--config", str(ROOT / "configs" / "demo.yaml")]


@pytest.mark.slow
def test_the_demo_is_planned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow processor tries no fewer sizes.
    monkeypatch.setattr(estimate, "PATIENCE", float("inf"))
    assert main(DEMO) == 0
    printed = capsys.readouterr().out
    assert (
        "1.00 million parameters" in printed and "512 tokens long (data.max_length not" in printed
    )
    assert "Largest micro-batch that fits in training: 8." in printed
    assert "Time: give --throughput" in printed


def test_what_does_not_fit_gets_advice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lightning_unlearn.planning.settings.LIBRARIES", int(1.9 * GIB) - 10 * 2**20
    )
    monkeypatch.setattr(estimate, "PATIENCE", 0.0)
    assert main([*DEMO, "--gpu-memory", "2GiB", "--data.max_length", "64"]) == 1
    printed = capsys.readouterr().out
    assert "Does not fit: learning and unlearning and evaluation" in printed
    keys = (
        "micro_batch_size",
        "gradient_checkpointing",
        "bf16-true",
        "eval_batch_size 8",
        "nf4",
    )
    for key in keys:
        assert key in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "0"], "--gpus: found 0, expected a number of GPUs, at least 1."),
        (["--gpus", "nan"], "--gpus: found nan, expected a number of GPUs, at least 1."),
        (["--gpus", "2.5"], "--gpus: found 2.5, expected a number of GPUs, at least 1."),
        (["--gpus", "many"], "--gpus: found 'many', expected a number of GPUs"),
        (["--gpus", "3"], "batch_size: found 8, which is not divisible by 3 process"),
        (["--data.micro_batch_size", "3"], "1 process(es) x data.micro_batch_size 3 = 3. Choose"),
        (["--gpu-memory", "80 TiB"], "--gpu-memory: found '80 TiB', expected the memory of one"),
        (["--gpu-memory", "big"], "--gpu-memory: found 'big', expected the memory of one GPU"),
        (["--throughput", "-1"], "--throughput: found -1, expected TFLOPS that one GPU reaches"),
        (["--rows", "inst"], "--rows: found 'inst', expected STAGE=NUMBER"),
        (["--data.max_length", "4096"], "data.max_length: found 4096, but demo:tiny-llama takes"),
        (["--model.quantization", "nf4", "--trainer.strategy", "fsdp2"], "found nf4 with the str"),
        (["--gpus", "2", "--trainer.strategy", "deepspeed"], "expected fsdp2 or ddp to plan with"),
        (["--gpus", "8", "--trainer.strategy", strategy(data_parallel_size=4)], "4 with --gpus 8"),
        (["--trainer.strategy", strategy(tensor_parallel_size=2)], "not simulate tensor parallel"),
        (["--model.base", str(ROOT / "configs")], "configs without config.json, expected a Hugg"),
        (
            ["--model.base", "./nowhere"],
            "found './nowhere', which is not a folder, expected a Hugging",
        ),
        (["--model.base", ""], "model.base: found "),
        (["--modl.base", "x"], "modl"),
    ],
)
def test_mistakes_are_told(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--config", str(ROOT / "configs" / "demo.yaml"), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_without_model_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = load_configs([str(ROOT / "configs" / "demo.yaml")])
    del content["model"]
    file = tmp_path / "bare.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert main(["plan", "--config", str(file)]) == 2
    assert "model.base: found nothing, expected text." in capsys.readouterr().err


def test_a_study_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(ROOT / "configs" / "demo-study.yaml")]) == 2
    assert "found a study file, expected a fit configuration" in capsys.readouterr().err


def test_strategies_and_memory_are_read() -> None:
    def of(name: Any, gpus: int = 2) -> str:
        return sharing({"trainer": {"strategy": name}}, gpus).name

    assert (of("ddp"), of("fsdp2"), of("auto"), of("ddp", 1)) == (
        "DDP",
        "FSDP2",
        "FSDP2",
        "one GPU",
    )
    assert of("fsdp2", 1) == "FSDP2" and of("fsdp2", 64) == "FSDP2"
    offloading = json.loads(strategy(cpu_offload=True))
    assert sharing({"trainer": {"strategy": offloading}}, 2).cpu_offload
    machine, content, changes = take_settings(["--gpu_memory=24GB", "--model.base", "x"], {})
    assert machine.memory == 24 * 10**9
    assert content == {"model": {"base": "x"}} and changes == ["--model.base", "x"]
    with pytest.raises(InputError, match="--print_config: not an option of plan"):
        take_settings(["--print_config"], {})


def test_ddp_copies_the_model_and_offloading_empties_the_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--gpus", "2", "--data.max_length", "32"]
    demo = ["plan", "--config", str(ROOT / "configs" / "demo.yaml"), *options]

    def row(name: str, printed: str) -> list[float]:
        (line,) = [line for line in printed.splitlines() if line.startswith(name)]
        return [float(value) for value in line.removeprefix(name).split()]

    assert main([*demo, "--trainer.strategy", "ddp"]) == 0
    copied = capsys.readouterr().out
    assert "2 x 80 GiB, DDP (trainer.strategy)" in copied
    assert row("parameters", copied)[0] == 4.96 and row("gathered layers", copied)[0] == 0
    # Monitors measure within a stage.
    assert len(set(row("optimizer", copied))) == 1
    assert main([*demo, "--trainer.strategy", strategy(cpu_offload=True)]) == 0
    offloaded = capsys.readouterr().out
    assert row("parameters", offloaded) == row("optimizer", offloaded) == [0, 0, 0]
    assert "The computer's memory holds" in offloaded


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "PATIENCE", 0.0)
    configs = [part for file in files("llama3.2-1b") for part in ("--config", file)]
    assert main(["plan", *configs, "--gpus", "1"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("peak"))
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert f"| `llama3.2-1b` | {float(line.split()[1]):.1f} GiB, " in text
