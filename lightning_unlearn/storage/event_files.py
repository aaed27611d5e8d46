"""TensorBoard event files: hyperparameters, chart layouts and final values of runs."""

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.settings.forget_labels import (
    LABEL,
    MEAN,
    PARAPHRASES,
    PREFIX,
    label_of,
    labels_in,
)

# Prefix of the names of event files.
EVENTS = "events.out.tfevents"
Ends = Mapping[str, tuple[float, float]]
Charts = dict[str, tuple[str, list[str]]]
# Metrics of the comparison with the oracle, and the titles of their charts.
OF_ORACLE = {
    "distance": "distance to the oracle",
    "kl": "KL from the oracle",
    "overshoot": "share below the oracle",
}


def scalar(tag: str, value: float) -> Any:
    """Return one point of a curve."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def session(settings: Mapping[str, Any]) -> list[Any]:
    """Return the summaries that make a folder of events a row of the HParams tab.

    The summaries do not list the columns of the experiment. TensorBoard would use the first list
    it finds; without a list it builds the columns from the rows, settings that differ first.

    Args:
        settings: values by name; None means no value.
    """
    from torch.utils.tensorboard.summary import hparams

    values = {
        name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else text
        for name, value in settings.items()
        if (text := _text(value)) is not None
    }
    _, start, end = hparams(values, {})  # type: ignore[no-untyped-call]
    return [start, end]


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return None if value is None else str(value)


def layout(categories: Mapping[str, Charts]) -> Any:
    """Return the summary with the charts of the Custom Scalars tab.

    Args:
        categories: by title, the result of `charts_of`.
    """
    from torch.utils.tensorboard.summary import custom_scalars

    return custom_scalars(categories)  # type: ignore[no-untyped-call]


def write_events(file: Path, time: float, steps: Iterable[tuple[int, Any]]) -> None:
    """Write an event file and rename it, so that TensorBoard never finds an incomplete file.

    Args:
        file: path; its name contains "tfevents", by which TensorBoard finds it.
        time: time of the events, in seconds since the epoch.
        steps: pairs of a step and a summary.

    Raises:
        OSError: if the file cannot be written.
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


def charts_of(method: str, metrics: Iterable[str], forget: str) -> Charts:
    """Return the charts of the runs of a method: forget score, utility, distance to the oracle.

    Args:
        method: label of the method, with which its tags begin.
        metrics: names of the metrics that were evaluated; other metrics get no chart.
        forget: the forget stage.

    Returns:
        Kind and tag patterns by title; the patterns are anchored at both ends.
    """
    names: dict[str, list[str]] = {}
    for metric in (every := list(metrics)):
        kind, _, name = metric.partition("/")
        names.setdefault(kind, []).append(name)
    wanted = {
        f"forget: {label.noun} and paraphrases": (
            "forget",
            {label.metric(part).removeprefix(PREFIX) for part in (LABEL, PARAPHRASES)},
        )
        for label in labels_in(every)
    }
    wanted |= {
        # The patterns are sorted below, because TensorBoard draws equal charts of all paths once.
        "utility: answers of the other stages": ("answers", {*names.get("answers", [])} - {forget}),
        "utility: accuracy": ("accuracy", {*names.get("accuracy", [])}),
    }
    for kind, title in OF_ORACLE.items():
        for group in names.get(kind, []):
            wanted[f"{title}: {group}"] = (kind, {group})
    return {
        title: (
            "Multiline",
            [f"{re.escape(method)}/{kind}/({'|'.join(map(re.escape, sorted(own)))})$"],
        )
        for title, (kind, own) in wanted.items()
        if own & {*names.get(kind, [])}
    }


def final_values(ends: Ends, forget: str | None, unlearned: bool) -> dict[str, float]:
    """Return the values by which runs of all methods are compared, under tags without the method.

    Forget score and utilities are defined as in `lightning_unlearn.analysis.scores`. All other
    values are those of the last step.

    Args:
        ends: first and last value of each metric.
        forget: the forget stage.
        unlearned: whether there was at least one step between the first and the last value.

    Returns:
        Finite values by tag.
    """
    found = {}
    for metric, (first, last) in ends.items():
        kind, _, name = metric.partition("/")
        label, part = label_of(metric) or (None, "")
        if unlearned and label is not None and part == MEAN:
            found[f"final/forget score {label.name}"] = first - last
        if unlearned and kind == "answers" and name != forget:
            found[f"final/utility {name}"] = 1 - abs(last - first)
        if label is not None and part == LABEL:
            found[f"final/label {label.name}"] = last
        if kind in ("accuracy", "distance"):
            found[f"final/{kind} {name}"] = last
    return {tag: value for tag, value in found.items() if math.isfinite(value)}
