"""Models with their own code: the code that runs is part of the identity of the model."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import transformers.dynamic_module_utils
import transformers.utils.hub
from tiny_stages import Tiny

from lightning_unlearn.model.remote_code import remote_code_identity
from lightning_unlearn.storage.records import read_table

FILES = {
    "modeling_own.py": (
        "from transformers import LlamaForCausalLM\n"
        "from .layers import SCALE\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n"
        "    def __init__(self, config):\n"
        "        super().__init__(config)\n"
        "        self.model.norm.variance_epsilon = SCALE * 1.0\n"
    ),
    "layers.py": "from .numbers_own import ONE\nSCALE = ONE\n",
    "numbers_own.py": "def late():\n    from .late_own import TWO\n    return TWO\nONE = 1.0\n",
    "late_own.py": "TWO = 2.0\n",
    "unused_own.py": "THREE = 3.0\n",
}
MAP = {
    "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    "AutoModelForSequenceClassification": "unused_own.Other",
}


def with_code(tiny: Tiny, auto_map: dict[str, str]) -> Path:
    folder = Path(shutil.copytree(tiny.base, tiny.root / "own"))
    for name, text in FILES.items():
        (folder / name).write_text(text)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
    return folder


def test_every_file_of_code_that_runs_is_in_the_identity(tiny: Tiny) -> None:
    folder = with_code(tiny, MAP)
    first = tiny.module(base=str(folder), trust_remote_code=True).identity()
    untrusted = tiny.module(base=str(folder)).identity()
    assert first != untrusted
    for name, text in FILES.items():
        (folder / name).write_text(text.replace(".0", ".5") + "#\n")
        edited = tiny.module(base=str(folder), trust_remote_code=True).identity()
        assert (edited != first) == (name != "unused_own.py"), name
        assert tiny.module(base=str(folder)).identity() == untrusted
        (folder / name).write_text(text)
    copied = shutil.copytree(folder, tiny.root / "copied")
    assert tiny.module(base=str(copied), trust_remote_code=True).identity() == first


def test_a_model_whose_code_was_edited_is_trained_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where transformers puts the code that it runs.
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tiny.root / "m"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = with_code(tiny, MAP)
    losses = []
    for text in ("ONE = 1.0", "ONE = 0.5"):
        (folder / "numbers_own.py").write_text(f"{text}\n")
        trainer = tiny.trainer()
        module = tiny.module(base=str(folder), trust_remote_code=True)
        trainer.fit(module, tiny.datamodule(order=["tofu"], forget=None))
        assert trainer.trained == ["tofu"] and trainer.run_dir is not None
        losses.append(read_table(trainer.run_dir / "training.parquet")["loss"][0])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("tokenizer", [False, True])
def test_code_of_another_repository_is_in_the_identity(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tokenizer: bool
) -> None:
    cache = tiny.root / "hub"
    snapshot = cache / "models--some--code" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "models--some--code" / "refs").mkdir()
    (cache / "models--some--code" / "refs" / "main").write_text("0" * 40)
    for name, text in FILES.items():
        (snapshot / name).write_text(text)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(cache))
    folder = with_code(tiny, {} if tokenizer else {"AutoConfig": "some/code--modeling_own.C"})
    if tokenizer:
        names = {"AutoTokenizer": ["some/code--modeling_own.Slow", None]}
        (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": names}))
    first = remote_code_identity(str(folder))
    assert first
    (snapshot / "late_own.py").write_text("TWO = 3.0\n")
    assert remote_code_identity(str(folder)) != first


def test_a_model_without_code_has_none(tiny: Tiny) -> None:
    assert remote_code_identity(str(tiny.base)) == ""
    plain = tiny.module(trust_remote_code=True).identity()
    assert plain == tiny.module().identity()
