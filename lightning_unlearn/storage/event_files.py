"""TensorBoard's event files: what is written into them besides a run's curves."""

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# What names of event files begin with.
EVENTS = "events.out.tfevents"
Ends = Mapping[str, tuple[float, float]]
Charts = dict[str, tuple[str, list[str]]]
# Measures against the oracle, and what their charts are called.
OF_ORACLE = {
    "distance": "distance to the oracle",
    "kl": "KL from the oracle",
    "overshoot": "share below the oracle",
}


def scalar(tag: str, value: float) -> Any:
    """A point of a curve."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def session(settings: Mapping[str, Any]) -> list[Any]:
    """What makes a folder of events a row of the HParams tab.

    Without a list of an experiment's columns, of which TensorBoard takes any one it finds, it puts
    the columns together from the rows: settings that differ first.

    Args:
        settings: by name; None has no value.
    """
    from torch.utils.tensorboard.summary import hparams

    told = {
        name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else text
        for name, value in settings.items()
        if (text := _text(value)) is not None
    }
    _, start, end = hparams(told, {})  # type: ignore[no-untyped-call]
    return [start, end]


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return None if value is None else str(value)


def layout(categories: Mapping[str, Charts]) -> Any:
    """The charts of the Custom Scalars tab.

    Args:
        categories: by title, charts as of `charts_of`.
    """
    from torch.utils.tensorboard.summary import custom_scalars

    return custom_scalars(categories)  # type: ignore[no-untyped-call]


def write_events(file: Path, time: float, steps: Iterable[tuple[int, Any]]) -> None:
    """Write a whole event file, so that TensorBoard finds it complete or not at all.

    Args:
        file: named as TensorBoard looks for them, with "tfevents" in it.
        time: when that was, in seconds since the epoch.
        steps: summaries with their steps.

    Raises:
        OSError: if it can't be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
        RecordWriter,
    )

    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid.uuid4().hex[:8]}.draft")
    events = [Event(wall_time=time, file_version="brain.Event:2")]
    events += [Event(wall_time=time, step=step, summary=summary) for step, summary in steps]
    try:
        with draft.open("wb") as stream:
            writer = RecordWriter(stream)
            for event in events:
                writer.write(event.SerializeToString())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def charts_of(method: str, measures: Iterable[str], forget: str) -> Charts:
    """The charts of a method's runs: what it forgot, what it kept, how far the oracle is.

    Args:
        method: the label that its tags begin with.
        measures: names of what is measured; nothing else has a chart.
        forget: the stage that is unlearned.

    Returns:
        Kind and patterns of tags by title; patterns are anchored at both ends.
    """
    names: dict[str, list[str]] = {}
    for measure in measures:
        kind, _, name = measure.partition("/")
        names.setdefault(kind, []).append(name)
    wanted = {
        "forget: label and paraphrases": ("forget", {"label", "paraphrases"}),
        # Sorted, for equal charts of all paths are drawn once.
        "utility: answers of the other stages": ("answers", {*names.get("answers", [])} - {forget}),
        "utility: accuracy": ("accuracy", {*names.get("accuracy", [])}),
    }
    for kind, title in OF_ORACLE.items():
        for probe in names.get(kind, []):
            wanted[f"{title}: {probe}"] = (kind, {probe})
    return {
        title: (
            "Multiline",
            [f"{re.escape(method)}/{kind}/({'|'.join(map(re.escape, sorted(own)))})$"],
        )
        for title, (kind, own) in wanted.items()
        if own & {*names.get(kind, [])}
    }


def final_values(ends: Ends, forget: str | None, unlearned: bool) -> dict[str, float]:
    """What runs of all methods are compared by, under names that do not name the method.

    The forget score and the utilities are those of `lightning_unlearn.report.scores`; the rest is
    as measured at the last step.

    Args:
        ends: first and last value of each measure.
        forget: the stage that is unlearned.
        unlearned: whether there was a step between first and last.

    Returns:
        Tags and finite values.
    """
    found = {}
    for measure, (first, last) in ends.items():
        kind, _, name = measure.partition("/")
        if unlearned and measure == "forget/mean":
            found["final/forget score"] = first - last
        if unlearned and kind == "answers" and name != forget:
            found[f"final/utility {name}"] = 1 - abs(last - first)
        if measure == "forget/label":
            found["final/label"] = last
        if kind in ("accuracy", "distance"):
            found[f"final/{kind} {name}"] = last
    return {tag: value for tag, value in found.items() if math.isfinite(value)}
