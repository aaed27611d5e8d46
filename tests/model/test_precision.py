"""A run in float64 uses float64 everywhere: no value is rounded to fp32."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from tiny_stages import Tiny

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    AnswerStatistics,
    LabelLikelihood,
    Membership,
    OracleDistance,
)
from lightning_unlearn.model import adapters
from lightning_unlearn.storage.records import read_table


class Types(Callback):
    """Record the dtypes of all tensors of a step."""

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        states = [s for o in trainer.optimizers for s in o.state.values()]
        self.seen |= {s["exp_avg"].dtype for s in states}
        self.seen |= {p.dtype for p in pl_module.parameters()}
        self.seen |= {value.dtype for value in trainer.callback_metrics.values()}
        method = trainer.callbacks[0]
        if method._reference is not None:
            self.seen.add(method._reference.per_token.dtype)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_a_run_uses_its_precision_everywhere(tiny: Tiny, precision: str) -> None:
    data = tiny.datamodule(stages=tiny.stages(gradient_clip=1.0), order=["math", "safety"])
    oracle = tiny.datamodule(order=["math", "safety"], oracle=True)
    tiny.trainer(precision=precision).fit(tiny.module(), oracle)
    monitors = [
        LabelLikelihood(2),
        AnswerLikelihood(2),
        AnswerStatistics(every_n_steps=2),
        OracleDistance(2),
        Membership("math:heldout", limit=3),
    ]
    trainer = tiny.trainer([NPO(), *monitors], precision=precision)
    types = Types()
    # Looks on without being part of what is stored.
    trainer.callbacks.append(types)  # type: ignore[attr-defined]
    trainer.fit(tiny.module(), data)
    assert trainer.run_dir is not None
    wide = precision == "64-true"
    # Learning rates are Python's numbers.
    assert types.seen - {torch.float64} == (set() if wide else {torch.float32})
    files = list(trainer.run_dir.rglob("*.safetensors"))
    assert files
    kept = {w.dtype for file in files for w in load_file(file).values()}
    assert kept == {torch.float64 if wide else torch.float32}
    losses = read_table(trainer.run_dir / "training.parquet")["loss"].to_numpy()
    examples = read_table(trainer.run_dir / "examples.parquet")
    # Shares of tokens and the like may come out even.
    fractions = examples[examples["value"] % 0.125 != 0]
    assert len(fractions) > 100
    by_measure = {name: own.to_numpy() for name, own in fractions.groupby("metric")["value"]}
    for values in (losses, *by_measure.values()) if wide else (losses, by_measure["answers/math"]):
        rounded = values == values.astype(np.float32)
        assert not rounded.all() if wide else rounded.all()


def test_checkpoints_keep_float64(tiny: Tiny) -> None:
    trainer = tiny.trainer(precision="64-true")
    module = tiny.module()
    trainer.fit(module, tiny.datamodule(order=["safety"], forget=None))
    again = tiny.module()
    other = tiny.trainer(precision="64-true")
    other.fit(again, tiny.datamodule(order=["safety"], forget=None))
    assert other.trained == [] and trainer.trained == ["safety"]
    for (name, own), (_, found) in zip(
        module.named_parameters(), again.named_parameters(), strict=True
    ):
        assert own.dtype == torch.float64 and torch.equal(own, found), name


def test_fresh_adapters_are_the_same_in_every_precision(tiny: Tiny) -> None:
    """Also if Lightning has set another default dtype."""
    module = tiny.module()
    module.configure_model()
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            adapters.start_adapter(module.peft, "learn", seed=3)
        finally:
            torch.set_default_dtype(torch.float32)
        found.append(
            [p.clone() for p in adapters.adapter_parameters(module.peft, "learn").values()]
        )
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
