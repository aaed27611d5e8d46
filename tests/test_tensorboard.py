"""The curves: read back from the event files as TensorBoard reads them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout  # type: ignore[import-untyped]

from lightning_unlearn import NPO, AnswerLikelihood, LabelLikelihood, MathAccuracy, StagedTrainer
from lightning_unlearn.records import read_table

PATH = ["math", "safety"]


def fitted(tiny: Tiny, name: str | None = None) -> StagedTrainer:
    method = NPO()
    if name is not None:
        method.name = name
    monitors = [LabelLikelihood(2), AnswerLikelihood(2), MathAccuracy(max_new_tokens=3)]
    trainer = tiny.trainer([method, *monitors], logger=True)
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    return trainer


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    (file,) = run.rglob("events.out.tfevents.*")
    assert file.parent == run
    events = EventAccumulator(str(file), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def layout(run: Path) -> Any:
    events = EventAccumulator(str(run))
    events.Reload()
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    (found,) = events.Tensors("custom_scalars__config__")
    return Layout.FromString(found.tensor_proto.string_val[0])


def check(trainer: StagedTrainer) -> dict[str, list[tuple[int, float]]]:
    """Every recorded value is a point of the right curve, once, and nothing else is there."""
    assert trainer.run_dir is not None and trainer.method is not None
    seen = curves(trainer.run_dir)
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in read_table(trainer.run_dir / "records.parquet").itertuples():
        expected.setdefault(f"{trainer.method.name}/{row.measure}", []).append(
            (row.step, row.value)
        )
    for row in read_table(trainer.run_dir / "training.parquet").itertuples():
        expected.setdefault(f"train/{row.stage} loss", []).append((row.step, row.loss))
        expected.setdefault(f"train/{row.stage} learning rate", []).append((row.step, row.lr))
    assert set(seen) == set(expected)
    for tag, points in expected.items():
        assert [step for step, _ in seen[tag]] == [step for step, _ in points], tag
        assert [v for _, v in seen[tag]] == pytest.approx([v for _, v in points], rel=1e-6), tag
    return seen


def test_curves_are_the_records(tiny: Tiny) -> None:
    seen = check(fitted(tiny))
    assert set(seen) == {
        "NPO/forget/label",
        "NPO/forget/paraphrases",
        "NPO/forget/mean",
        "NPO/answers/math",
        "NPO/answers/safety",
        "NPO/accuracy/math",
        "NPO/capped/math",
        *(f"train/{stage} {what}" for stage in (*PATH, "unlearn") for what in LINES),
    }
    assert [step for step, _ in seen["NPO/forget/label"]] == [0, 2, 3]


LINES = ("loss", "learning rate")


def test_a_second_run_does_not_double_points(tiny: Tiny) -> None:
    first = fitted(tiny)
    before = check(first)
    second = fitted(tiny)
    assert second.trained == [] and second.run_dir == first.run_dir
    assert check(second) == before


def test_the_layout_sets_forget_against_utility(tiny: Tiny) -> None:
    trainer = fitted(tiny, name="NPO+0.5")
    assert trainer.run_dir is not None
    (category,) = layout(trainer.run_dir).category
    assert category.title == "NPO+0.5: forget against utility"
    tags = list(check(trainer))
    hits: Counter[str] = Counter()
    for chart in category.chart:
        for pattern in chart.multiline.tag:
            found = [tag for tag in tags if re.match(pattern, tag)]
            assert found, f"{chart.title}: {pattern} shows nothing"
            hits.update(found)
    shown = ("forget/label", "forget/paraphrases", "answers/math", "accuracy/math")
    assert hits == Counter(f"NPO+0.5/{measure}" for measure in shown)


def test_an_interrupted_run_is_drawn_once(tiny: Tiny) -> None:
    """The curves of a run that was cut short are made anew, not overlaid."""
    first = fitted(tiny)
    assert first.run_dir is not None
    about = json.loads((first.run_dir / "run.json").read_text())
    entry = first.store.folder / about["stages"][-1]["key"]
    entry.rename(entry.with_name("gone"))
    (first.run_dir / "run.json").write_text(json.dumps({**about, "finished": False}))
    second = fitted(tiny)
    assert second.trained == ["unlearn"]
    check(second)
