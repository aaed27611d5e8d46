"""TensorBoard curves of the divergence between the paths of a study, written while it runs."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.statistics import squared_distance
from lightning_unlearn.storage import records
from lightning_unlearn.storage.event_files import EVENTS, layout, scalar, write_events
from lightning_unlearn.storage.run_folders import MANIFEST
from lightning_unlearn.study.plan import StudyPlan, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "divergence"


@dataclass(frozen=True)
class _LogLikelihoods:
    """Log-likelihoods of the examples of a run.

    Attributes:
        metric: name of the metric.
        steps: steps with a value, ascending.
        examples: numbers of the examples, ascending.
        values: ``[steps, examples]``, nats per token; NaN if not measured.
    """

    metric: str
    steps: "NDArray[np.int64]"
    examples: "NDArray[np.int64]"
    values: "NDArray[np.float64]"


class DivergenceCurves:
    """Writes the RE distance between the paths of a method, setting and seed, pair by pair.

    A pair is written when both of its runs are finished and have TensorBoard curves, also if
    another process made the runs. A pair is never written twice, so a resumed study, or two
    commands on one study, write the same curves. Curves that cannot be written cause one warning
    and do not stop the study.

    Args:
        plan: the study.
        say: function that prints a message.
    """

    def __init__(self, plan: StudyPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._folder = Path(plan.folder)
        self._groups: dict[Path, list[Trial]] = {}
        for trial in plan.runs():
            if plan.task[trial.keys[-1]].stage == "unlearn":
                group = self._folder / FOLDER / Path(trial.run).parent / f"s{trial.seed}"
                self._groups.setdefault(group, []).append(trial)
        self._group = {
            trial.keys[-1]: group for group, trials in self._groups.items() for trial in trials
        }
        self._loaded: dict[str, _LogLikelihoods] = {}
        self._with_curves: set[str] = set()
        self._has_warned = False

    def begin(self) -> None:
        """Write the pairs that an earlier command did not write; delete curves of other runs."""
        for group in self._groups:
            names = {name for _, _, name in self._pairs(group)}
            self._warn_on_failure(partial(_clear, group, names))
            self._warn_on_failure(partial(self._write, group))

    def add(self, key: str) -> None:
        """Write the pairs of a finished run.

        Args:
            key: key of a finished task; tasks that are not runs are ignored.
        """
        group = self._group.get(key)
        if group is not None:
            self._warn_on_failure(partial(self._write, group, key))

    def _warn_on_failure(self, act: Callable[[], None]) -> None:
        try:
            act()
        # The reader raises ValueError for a truncated file.
        except (OSError, ValueError) as error:
            if not self._has_warned:
                self._has_warned = True
                reason = getattr(error, "strerror", None) or error
                self._say(
                    f"{self._folder / FOLDER}: the curves of the distance between paths cannot be "
                    f"written: {reason}."
                )

    def _pairs(self, group: Path) -> Iterator[tuple[tuple[Trial, Trial], str, str]]:
        """Yield pairs of runs, each with the tag of its curve and the suffix of its file."""
        trials = sorted(self._groups[group], key=lambda trial: (trial.position, trial.place))
        positions = [trial.position for trial in trials]
        for pair in itertools.combinations(trials, 2):
            named = [
                f"p{trial.position}"
                if positions.count(trial.position) == 1
                else "-".join(trial.path)
                for trial in pair
            ]
            tag = f"{pair[0].method}/divergence/{named[0]} to {named[1]}"
            text = "\n".join([tag, *(trial.keys[-1] for trial in pair)])
            yield pair, tag, hashlib.sha256(text.encode()).hexdigest()[:16]

    def _write(self, group: Path, key: str | None = None) -> None:
        """Write the missing pairs of a group; with a key, only the pairs of that run."""
        there = {file.name.rpartition(".")[2] for file in group.glob(f"{EVENTS}.*")}
        # TensorBoard may ignore a file whose name sorts before a file that it has read.
        for pair, tag, name in sorted(self._pairs(group), key=lambda found: found[-1]):
            keys = [trial.keys[-1] for trial in pair]
            wanted = name not in there and (key is None or key in keys)
            if not wanted or not all(self._has_curves(trial) for trial in pair):
                continue
            one, other = (self._load(trial) for trial in pair)
            if one is None or other is None or one.metric != other.metric:
                continue
            # Use the time at which the later run was stored: the names are then in order of time,
            # as TensorBoard reads them, and the same in every process.
            time = max((self._entry(trial) / MANIFEST).stat().st_mtime for trial in pair)
            points = [(step, scalar(tag, value)) for step, value in distances(one, other)]
            if points:
                self._write_layout()
                write_events(group / f"{EVENTS}.{int(time):010d}.{name}", time, points)
        if all(trial.keys[-1] in self._loaded for trial in self._groups[group]):
            for trial in self._groups[group]:
                del self._loaded[trial.keys[-1]]

    def _entry(self, trial: Trial) -> Path:
        return Path(self._plan.store) / trial.keys[-1]

    def _has_curves(self, trial: Trial) -> bool:
        """Return whether a run is finished and has curves: TensorBoard may be switched off."""
        key = trial.keys[-1]
        if key not in self._with_curves and (self._entry(trial) / MANIFEST).is_file():
            run = trial.find(self._folder, sizes_only=True)
            if run is not None and any(run.glob(f"{EVENTS}.*")):
                self._with_curves.add(key)
        return key in self._with_curves

    def _load(self, trial: Trial) -> _LogLikelihoods | None:
        key = trial.keys[-1]
        if key not in self._loaded:
            forget = trial.path[trial.position - 1]
            file = self._entry(trial) / records.EXAMPLES
            loaded = _read(file, ["log_likelihood/forget", f"answers/{forget}"])
            if loaded is None:
                return None
            self._loaded[key] = loaded
        return self._loaded[key]

    def _write_layout(self) -> None:
        """Write the layout of the Custom Scalars tab: one chart per method."""
        methods = list(dict.fromkeys(trials[0].method for trials in self._groups.values()))
        name = hashlib.sha256("\n".join(methods).encode()).hexdigest()[:16]
        file = self._folder / FOLDER / f"{EVENTS}.{0:010d}.{name}"
        if not file.is_file():
            _clear(file.parent, {name})
            tags = {method: [f"{re.escape(method)}/divergence/.*$"] for method in methods}
            charts = {method: ("Multiline", tags[method]) for method in methods}
            write_events(file, 0.0, [(0, layout({"divergence between paths": charts}))])


def _clear(folder: Path, names: set[str]) -> None:
    """Delete the event files whose suffix is not among the given names."""
    for file in folder.glob(f"{EVENTS}.*"):
        if file.name.rpartition(".")[2] not in names:
            file.unlink(missing_ok=True)


def distances(one: _LogLikelihoods, other: _LogLikelihoods) -> list[tuple[int, float]]:
    """Compute the RE distance of two runs at each step at which both were measured.

    Args:
        one: log-likelihoods of the first run.
        other: log-likelihoods of the second run.

    Returns:
        Pairs of step and finite distance, (nats per token)^2.
    """
    steps, mine, theirs = np.intersect1d(one.steps, other.steps, return_indices=True)
    _, own, others = np.intersect1d(one.examples, other.examples, return_indices=True)
    found = squared_distance(one.values[mine][:, own], other.values[theirs][:, others])
    pairs = zip(steps.tolist(), found.tolist(), strict=True)
    return [(step, value) for step, value in pairs if np.isfinite(value)]


def _read(file: Path, metrics: list[str]) -> _LogLikelihoods | None:
    """Read the first of the given metrics that a run has; None if it has none of them."""
    columns = ["step", "metric", "example", "value"]
    wanted = [("metric", "in", metrics)]
    table = records.read_arrow(file, columns, columns=columns, filters=wanted)
    names = table["metric"].to_numpy()
    for metric in metrics:
        rows = names == metric
        if rows.any():
            steps, at = np.unique(table["step"].to_numpy()[rows], return_inverse=True)
            examples, which = np.unique(table["example"].to_numpy()[rows], return_inverse=True)
            values = np.full((len(steps), len(examples)), np.nan)
            values[at, which] = table["value"].to_numpy()[rows]
            return _LogLikelihoods(metric, steps, examples, values)
    return None
