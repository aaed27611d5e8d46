"""How far the paths of a study are from each other, as TensorBoard curves while it runs."""

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
class _Seen:
    """The log-likelihoods of a run's examples.

    Attributes:
        measure: which.
        steps: ascending.
        examples: their numbers, ascending.
        values: [steps, examples]; NaN where nothing was measured.
    """

    measure: str
    steps: "NDArray[np.int64]"
    examples: "NDArray[np.int64]"
    values: "NDArray[np.float64]"


class DivergenceCurves:
    """Writes the RE distance between the paths of a method, setting and seed, pair by pair.

    A pair is written when both of its runs are finished and have curves of their own, whoever made
    them. A pair that is written is never written again, so a study that goes on, or two commands on
    one study, leave the same curves. Curves that can't be written are told once, and cost nothing
    else.

    Args:
        plan: the study.
        say: called with a sentence.
    """

    def __init__(self, plan: StudyPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._folder = Path(plan.folder)
        self._groups: dict[Path, list[Trial]] = {}
        for trial in plan.runs():
            if plan.task[trial.walk[-1]].stage == "unlearn":
                group = self._folder / FOLDER / Path(trial.run).parent / f"s{trial.seed}"
                self._groups.setdefault(group, []).append(trial)
        self._group = {
            trial.walk[-1]: group for group, trials in self._groups.items() for trial in trials
        }
        self._seen: dict[str, _Seen] = {}
        self._drawn: set[str] = set()
        self._is_told = False

    def begin(self) -> None:
        """Write what an earlier command left to be written, and drop curves of other runs."""
        for group in self._groups:
            names = {name for _, _, name in self._pairs(group)}
            self._carefully(partial(_clear, group, names))
            self._carefully(partial(self._write, group))

    def add(self, key: str) -> None:
        """A part of the study is made.

        Args:
            key: of a run; other parts are no matter.
        """
        group = self._group.get(key)
        if group is not None:
            self._carefully(partial(self._write, group, key))

    def _carefully(self, act: Callable[[], None]) -> None:
        try:
            act()
        # A file that is cut short is a ValueError of its reader's.
        except (OSError, ValueError) as error:
            if not self._is_told:
                self._is_told = True
                reason = getattr(error, "strerror", None) or error
                self._say(
                    f"{self._folder / FOLDER}: curves of the distance between paths are missing: "
                    f"{reason}."
                )

    def _pairs(self, group: Path) -> Iterator[tuple[tuple[Trial, Trial], str, str]]:
        """Pairs of runs, each with the tag of its curve and the end of its file's name."""
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
            text = "\n".join([tag, *(trial.walk[-1] for trial in pair)])
            yield pair, tag, hashlib.sha256(text.encode()).hexdigest()[:16]

    def _write(self, group: Path, key: str | None = None) -> None:
        """Write the pairs that are not there yet, or those of them that one run is in."""
        there = {file.name.rpartition(".")[2] for file in group.glob(f"{EVENTS}.*")}
        # TensorBoard may pass over a file that comes before one it has read.
        for pair, tag, name in sorted(self._pairs(group), key=lambda found: found[-1]):
            keys = [trial.walk[-1] for trial in pair]
            wanted = name not in there and (key is None or key in keys)
            if not wanted or not all(self._is_drawn(trial) for trial in pair):
                continue
            one, other = (self._of(trial) for trial in pair)
            if one is None or other is None or one.measure != other.measure:
                continue
            # When the later of the two was stored: names in order of time, as TensorBoard reads
            # them, and the same whoever writes.
            time = max((self._entry(trial) / MANIFEST).stat().st_mtime for trial in pair)
            points = [(step, scalar(tag, value)) for step, value in distances(one, other)]
            if points:
                self._arrange()
                write_events(group / f"{EVENTS}.{int(time):010d}.{name}", time, points)
        if all(trial.walk[-1] in self._seen for trial in self._groups[group]):
            for trial in self._groups[group]:
                del self._seen[trial.walk[-1]]

    def _entry(self, trial: Trial) -> Path:
        return Path(self._plan.store) / trial.walk[-1]

    def _is_drawn(self, trial: Trial) -> bool:
        """Whether a run is finished, and with curves: TensorBoard may be switched off."""
        key = trial.walk[-1]
        if key not in self._drawn and (self._entry(trial) / MANIFEST).is_file():
            run = trial.find(self._folder, sizes_only=True)
            if run is not None and any(run.glob(f"{EVENTS}.*")):
                self._drawn.add(key)
        return key in self._drawn

    def _of(self, trial: Trial) -> _Seen | None:
        key = trial.walk[-1]
        if key not in self._seen:
            forget = trial.path[trial.position - 1]
            file = self._entry(trial) / records.EXAMPLES
            seen = _read(file, ["log_likelihood/forget", f"answers/{forget}"])
            if seen is None:
                return None
            self._seen[key] = seen
        return self._seen[key]

    def _arrange(self) -> None:
        """Write the layout of the Custom Scalars tab: a chart for each method."""
        methods = list(dict.fromkeys(trials[0].method for trials in self._groups.values()))
        name = hashlib.sha256("\n".join(methods).encode()).hexdigest()[:16]
        file = self._folder / FOLDER / f"{EVENTS}.{0:010d}.{name}"
        if not file.is_file():
            _clear(file.parent, {name})
            tags = {method: [f"{re.escape(method)}/divergence/.*$"] for method in methods}
            charts = {method: ("Multiline", tags[method]) for method in methods}
            write_events(file, 0.0, [(0, layout({"divergence between paths": charts}))])


def _clear(folder: Path, names: set[str]) -> None:
    """Remove event files of other names than those that end so."""
    for file in folder.glob(f"{EVENTS}.*"):
        if file.name.rpartition(".")[2] not in names:
            file.unlink(missing_ok=True)


def distances(one: _Seen, other: _Seen) -> list[tuple[int, float]]:
    """The RE distance of two runs at each step that both were measured at.

    Args:
        one: a run.
        other: another one.

    Returns:
        Steps and finite distances, (nats per token)^2.
    """
    steps, mine, theirs = np.intersect1d(one.steps, other.steps, return_indices=True)
    _, own, others = np.intersect1d(one.examples, other.examples, return_indices=True)
    found = squared_distance(one.values[mine][:, own], other.values[theirs][:, others])
    pairs = zip(steps.tolist(), found.tolist(), strict=True)
    return [(step, value) for step, value in pairs if np.isfinite(value)]


def _read(file: Path, measures: list[str]) -> _Seen | None:
    """The first of some measures that a run has."""
    columns = ["step", "metric", "example", "value"]
    wanted = [("metric", "in", measures)]
    table = records.read_arrow(file, columns, columns=columns, filters=wanted)
    names = table["metric"].to_numpy()
    for measure in measures:
        rows = names == measure
        if rows.any():
            steps, at = np.unique(table["step"].to_numpy()[rows], return_inverse=True)
            examples, which = np.unique(table["example"].to_numpy()[rows], return_inverse=True)
            values = np.full((len(steps), len(examples)), np.nan)
            values[at, which] = table["value"].to_numpy()[rows]
            return _Seen(measure, steps, examples, values)
    return None
