"""An oracle that is a model of its own: the same values as the stored oracle of equal weights."""

import gc
import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_models import tiny_lm
from tiny_stages import Tiny

from lightning_unlearn import (
    NPO,
    TOFU,
    CausalLM,
    EvalSet,
    InputError,
    LoRA,
    Membership,
    Monitor,
    Oracle,
    OracleDistance,
    Recipe,
    StagedTrainer,
)
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table

PATH = ["safety", "math"]
EXACT: dict[str, Any] = {"precision": "64-true"}
ADAPTERS = LoRA(rank=4, alpha=8)


def given(tiny: Tiny, **changes: Any) -> dict[str, Any]:
    """Data with a set for TOFU: three steps of unlearning."""
    file = tiny.root / "tofu-rows.jsonl"
    rows = [json.loads(line) for line in (tiny.data / "tofu.jsonl").read_text().splitlines()][:4]
    wrong = ["In the town of Port pencil.", "Nowhere."]
    rows = [{**row, "paraphrase": f"Born: {row['answer']}", "wrong": wrong} for row in rows]
    tiny.root.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"paraphrase": "paraphrase", "alternatives": "wrong"}
    sets = {"asked": EvalSet(str(file), **columns), "kept": EvalSet(str(file), limit=3, **columns)}
    unlearn = Recipe(lr=5e-3, steps=3, batch_size=4)
    return {"order": PATH, "unlearn": unlearn, "eval_sets": sets, **changes}


def watch() -> list[Monitor]:
    """All monitors that compare with the oracle; two sizes of one row set."""
    return [
        OracleDistance(2, limit=5),
        TOFU("asked", "kept", every_n_steps=2, max_new_tokens=2),
        Membership("asked", members="math:train", every_n_steps=1, limit=4),
    ]


def unlearned(tiny: Tiny, oracle: Any = None, *more: Monitor, **options: Any) -> StagedTrainer:
    options = {**EXACT, **options}
    lora = options.pop("lora", ADAPTERS)
    made = Oracle(**oracle) if isinstance(oracle, dict) else oracle
    trainer = tiny.trainer([NPO(), *(more or watch())], oracle=made, **options)
    trainer.fit(tiny.module(lora=lora), tiny.datamodule(**given(tiny)))
    return trainer


def values(trainer: StagedTrainer, file: str = EXAMPLES) -> pd.Series:
    assert trainer.run_dir is not None
    table = read_table(trainer.run_dir / file)
    keys = [name for name in ("step", "metric", "example") if name in table.columns]
    return table.set_index(keys)["value"].sort_index()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Tiny) -> Any:
    """A run compared with the stored oracle, and that oracle as an adapter and merged."""
    tiny = Tiny(shared_tiny.base, shared_tiny.data, tmp_path_factory.mktemp("stored"))
    oracle = tiny.trainer([], **EXACT)
    module = tiny.module(lora=ADAPTERS)
    oracle.fit(module, tiny.datamodule(**given(tiny), oracle=True))
    assert oracle.run_dir is not None
    module.weights.save_merged(tiny.root / "merged")
    return tiny, unlearned(tiny), oracle.run_dir / "learn", tiny.root / "merged"


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_all_values_equal_those_of_the_stored_oracle(stored: Any, form: str) -> None:
    tiny, first, adapter, merged = stored
    folder = adapter if form == "adapter" else merged
    other = unlearned(tiny.below(form), {"base": str(folder)})
    for file in (EXAMPLES, STEPS):
        expected, found = values(first, file), values(other, file)
        assert list(found.index) == list(expected.index)
        kinds = {index[1] for index in found.index}
        assert {"kl/forget", "overshoot/retain", "distance/heldout"} <= kinds
        if file == STEPS:
            assert {"tofu/forget_quality", "privleak/loss", "privleak/gradient_norm"} <= kinds
        if form == "merged":
            # Its gradient is that of a fresh adapter on the merged weights.
            kept = [index for index in found.index if index[1] != "privleak/gradient_norm"]
            found, expected = found[kept], expected[kept]
        assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-9)
