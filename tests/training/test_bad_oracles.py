"""Oracles that cannot be compared with the model are refused in one sentence, before training."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_stages import Tiny
from trained_elsewhere import train_elsewhere
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    InputError,
    LoRA,
    Membership,
    Monitor,
    Oracle,
    OracleDistance,
)
from lightning_unlearn.model.checks import ModelChecks

ROWS = [{"prompt": "Where was melon born?", "answer": "In the town of Port MELON."}]


def checked(tiny: Tiny, base: str | Path, *monitors: Monitor, **options: Any) -> list[str]:
    """Check a run as fit does before training; return its notes."""
    data = {"order": ["math", "safety"], **options.pop("data", {})}
    model = tiny.module(**options.pop("model", {}))
    oracle = Oracle(str(base), **options)
    callbacks = [NPO(), *(monitors or (OracleDistance(limit=2),))]
    trainer = tiny.trainer(callbacks, oracle=oracle)
    datamodule = tiny.datamodule(**data)
    trainer.verbose = False
    trainer.check(model, datamodule)
    trainer.plan(model, datamodule)
    return trainer.data_notes(model, datamodule)


def refused(message: str, tiny: Tiny, base: str | Path, *given: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        checked(tiny, base, *given, **options)
    assert str(error.value).startswith(("oracle.base: ", "data.oracle: "))
    assert not (tiny.root / "store").exists()


def copied(tiny: Tiny) -> Path:
    return Path(shutil.copytree(tiny.base, tiny.root / "oracle"))


def with_weights(tiny: Tiny, change: Callable[[torch.Tensor], None]) -> Path:
    folder = copied(tiny)
    weights = load_file(folder / "model.safetensors")
    change(weights["model.norm.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_missing_folder(tiny: Tiny) -> None:
    refused("oracle.base: found './nowhere', which is not a folder", tiny, "./nowhere")


def test_numbers_that_are_not_finite(tiny: Tiny) -> None:
    folder = with_weights(tiny, lambda weight: weight.fill_(torch.nan))
    refused(f"oracle.base: {folder}: found nan in model.norm.weight", tiny, folder)


def test_another_vocabulary(tiny: Tiny) -> None:
    folder = tiny.root / "oracle"
    lm = AutoModelForCausalLM.from_pretrained(tiny.base)
    lm.resize_token_embeddings(1030)
    lm.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.base).save_pretrained(folder)
    message = f"oracle.base: found {folder} with an embedding of 1030 tokens, expected 1024"
    refused(message, tiny, folder)


def test_another_tokenizer(tiny: Tiny) -> None:
    folder = copied(tiny)
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["merges"] = table["model"]["merges"][:20]
    (folder / "tokenizer.json").write_text(json.dumps(table))
    message = (
        "math.jsonl, row 1, line 1 as other tokens than the tokenizer of model.base, expected the"
    )
    refused(message, tiny, folder)


def test_an_oracle_that_is_trained_too(tiny: Tiny) -> None:
    message = f"data.oracle: found true with oracle.base {tiny.base}, expected one of the two."
    refused(message, tiny, tiny.base, data={"oracle": True})


def test_messages_name_the_keys_of_the_oracle(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ModelChecks, trainer: Any) -> None:
        if self._settings.quantization is not None:
            raise InputError("model.quantization: found nf4 here. Set model.quantization to null.")

    monkeypatch.setattr(ModelChecks, "quantization", refuse)
    message = "oracle.quantization: found nf4 here. Set oracle.quantization to null."
    with pytest.raises(InputError, match=re.escape(message)):
        checked(tiny, tiny.base, quantization="nf4")


def test_the_same_weights_as_the_base_are_noted(tiny: Tiny) -> None:
    (note,) = checked(tiny, copied(tiny))
    assert "has the same weights as model.base, so the distance of model.base to the oracle" in note


def test_an_oracle_that_nothing_compares_with_is_noted(tiny: Tiny) -> None:
    folder = with_weights(tiny, lambda weight: weight.mul_(1.1))
    (note,) = checked(tiny, folder, AnswerLikelihood())
    assert f"oracle.base: {folder} is not loaded, because no monitor compares with" in note


def test_an_oracle_without_a_tokenizer_is_noted(tiny: Tiny) -> None:
    folder = with_weights(tiny, lambda weight: weight.mul_(1.1))
    for file in folder.glob("*token*"):
        file.unlink()
    (note,) = checked(tiny, folder)
    assert f"oracle.base: {folder} has no tokenizer, so its tokens are taken for those of" in note


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_oracle_with_its_own_projection_has_a_kl_where_adapters_train_it(tiny: Tiny) -> None:
    folder = with_weights(tiny, lambda weight: weight.mul_(1.1))
    lora = LoRA(rank=4, target_modules=["q_proj", "lm_head"])
    assert checked(tiny, folder, model={"lora": lora}) == []


def test_without_an_oracle_the_message_names_both_ways(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny.trainer([NPO(), Membership("math:heldout")])
    model, data = tiny.module(), tiny.datamodule(order=["math", "safety"])
    trainer.check(model, data)
    trainer.plan(model, data)
    said = capsys.readouterr().err
    assert "--data.oracle true, or name a retrained model with --oracle.base MODEL" in said


class Adapter:
    """The folder of an adapter that PEFT wrote."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self.folder = Path(
            train_elsewhere(tiny.base, ROWS, tiny.root / "adapter", "adapter", epochs=1)
        )

    def configure(self, **changes: Any) -> None:
        file = self.folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def adapter(tiny: Tiny) -> Adapter:
    return Adapter(tiny)


def test_an_adapter_is_taken(adapter: Adapter) -> None:
    assert checked(adapter.tiny, adapter.folder) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "found use_dora: true, expected plain LoRA."),
        ({"base_model_name_or_path": None}, "Write the folder or hub name of its base model into"),
        ({"base_model_name_or_path": "./gone"}, "found './gone', which is not a folder"),
        ({"r": 3}, "expected the shape [3, 48] on the base model"),
    ],
)
def test_adapters_are_checked(adapter: Adapter, changes: dict[str, Any], message: str) -> None:
    adapter.configure(**changes)
    refused(message, adapter.tiny, adapter.folder)


def test_an_adapter_of_numbers_that_are_not_finite(adapter: Adapter) -> None:
    file = adapter.folder / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).fill_(torch.inf)
    save_file(weights, file, metadata={"format": "pt"})
    refused("expected finite numbers.", adapter.tiny, adapter.folder)
    file.write_bytes(b"damaged")
    refused("oracle.base: ", adapter.tiny, adapter.folder)
