"""An oracle of its own is in the key of the unlearning that is compared with it."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_stages import Tiny

from lightning_unlearn import NPO, Oracle, OracleDistance
from lightning_unlearn.model.checks import ModelChecks


def keys(tiny: Tiny, oracle: Oracle | None) -> list[str]:
    """Keys of the path [math, safety, unlearn]."""
    model, data = tiny.module(), tiny.datamodule(order=["math", "safety"])
    trainer = tiny.trainer([NPO(), OracleDistance()], oracle=oracle)
    trainer.verbose = False
    trainer.check(model, data)
    return [stage.key for stage in trainer.plan(model, data)]


def copied(tiny: Tiny, name: str) -> Path:
    return Path(shutil.copytree(tiny.base, tiny.root / name))


def test_the_oracle_is_in_the_key_of_its_comparisons(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelChecks, "quantization", lambda self, trainer: None)
    same, other = str(copied(tiny, "same")), copied(tiny, "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.01}))
    changes = {
        "base": Oracle(str(other)),
        "quantization": Oracle(same, quantization="nf4"),
        "attn_implementation": Oracle(same, attn_implementation="eager"),
    }
    leaves = {
        "base": Oracle(str(tiny.base)),
        "attn_implementation": Oracle(same, attn_implementation="sdpa"),
        "trust_remote_code": Oracle(same, trust_remote_code=True),
    }
    assert {*changes, *leaves} == {field.name for field in fields(Oracle)}
    plain, own = keys(tiny, None), keys(tiny, Oracle(same))
    found = [plain, own, *(keys(tiny, oracle) for oracle in changes.values())]
    assert len({tuple(each[:2]) for each in found}) == 1 and len({k[2] for k in found}) == 5
    assert all(keys(tiny, oracle) == own for oracle in leaves.values())
