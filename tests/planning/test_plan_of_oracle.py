"""The plan counts an oracle that is a model of its own, and what is kept of it."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from lightning_unlearn.demo import resolve

DEMO = str(Path(__file__).parents[2] / "configs" / "demo.yaml")


def test_an_oracle_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_unlearn.cli.main import main

    config = AutoConfig.from_pretrained(resolve("demo:tiny-llama"))
    short = ["plan", "--config", DEMO, "--data.max_length", "64", "--data.eval_batch_size", "4"]
    short += ["--data.micro_batch_size", "1"]
    assert main(short) == 0
    plain = capsys.readouterr().out
    assert main([*short, "--oracle.base", "demo:tiny-llama"]) == 0
    said = capsys.readouterr().out
    assert "Oracle" not in plain
    head = config.vocab_size * config.hidden_size * 4 / 2**20
    assert "Oracle demo:tiny-llama, evaluated before training and then removed: " in said
    assert f"Kept for the KL: {head:.1f} MiB of output projection (above, among other)" in said
    assert f"and {config.hidden_size * 4 / 1024:.1f} KiB of hidden states on disk" in said

    def other(text: str) -> list[float]:
        (line,) = [line for line in text.splitlines() if line.startswith("other ")]
        return [float(number) for number in line.split()[1:]]

    # Without a second adapter that is set aside for the stored oracle.
    assert other(said)[:2] == pytest.approx([each + head for each in other(plain)[:2]], abs=0.02)
