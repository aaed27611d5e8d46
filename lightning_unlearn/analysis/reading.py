"""The tables a study wrote, checked and put in order for the reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_unlearn.analysis.known_rows import (
    COLUMNS,
    FORGET_LABEL,
    RUN,
    known_rows,
    sweep_keys,
    with_labels,
    with_numbers,
)
from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.settings.forget_labels import LABEL, ForgetLabel
from lightning_unlearn.settings.labels import run_name, setting_name

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Setting = tuple[object, ...]
PathPosition = tuple[str, int]
OracleRow = tuple[str, str, int, int, Setting, float]


@dataclass(frozen=True)
class Condition:
    """A method with values of the sweep keys. Its runs differ by path and seed.

    Attributes:
        method: its label.
        keys: the sweep keys.
        setting: their values.
    """

    method: str
    keys: tuple[str, ...]
    setting: Setting

    @property
    def words(self) -> str:
        """The setting in words; "" where there is none."""
        return setting_name(self.keys, self.setting)

    @property
    def condition(self) -> Condition:
        """Method and setting alone, without what a subclass adds to them."""
        return Condition(self.method, self.keys, self.setting)

    @property
    def name(self) -> str:
        """Method and setting in words."""
        return run_name(self.method, self.words)

    @property
    def identity(self) -> dict[str, Any]:
        """The first columns of a table's rows: method and sweep values."""
        return {"method": self.method, **dict(zip(self.keys, self.setting, strict=True))}


class Oracles:
    """Finds the values of oracles by metric, path, position, seed and setting."""

    def __init__(self, rows: Iterable[OracleRow]) -> None:
        self._found: dict[tuple[str, str, int], list[tuple[int, Setting, float]]] = {}
        for metric, path, position, seed, setting, value in rows:
            self._found.setdefault((metric, path, position), []).append((seed, setting, value))

    def measured(self, metric: str) -> bool:
        """Whether any oracle has a value of `metric`."""
        return any(name == metric for name, _, _ in self._found)

    def __len__(self) -> int:
        """The number of pairs of metric and path that have values."""
        return len(self._found)

    def value(
        self, metric: str, path: str, position: int, setting: Setting, seed: int | None = None
    ) -> float:
        """The value for a run; NaN where no oracle matches (see `closest`).

        Without a seed it is the mean over the seeds of the oracles.
        """
        found = closest(self._found.get((metric, path, position), []), setting)
        values = [v for own, v in found.items() if seed in (None, own) and math.isfinite(v)]
        return sum(values) / len(values) if values else math.nan


def closest(oracles: Iterable[tuple[int, Setting, T]], setting: Setting) -> dict[int, T]:
    """What the oracles of a setting have, by seed; of several what that has which names most of it.

    Args:
        oracles: seed, setting, and what the oracle has. A null in its setting matches any value.
        setting: of the runs.
    """
    best: dict[int, tuple[int, T]] = {}
    for seed, own, value in oracles:
        if all(a is None or a == b for a, b in zip(own, setting, strict=True)):
            named = sum(part is not None for part in own)
            if seed not in best or named > best[seed][0]:
                best[seed] = (named, value)
    return {seed: value for seed, (_, value) in best.items()}


@dataclass(frozen=True)
class StudyRecords:
    """What the reports read of a study.

    Attributes:
        runs: a row per run, step and metric, each once: the columns of `COLUMNS`, the sweep keys,
            `forget` (the name of the forget stage), `setting` (the row's place in `settings`) and
            `run` (runs are numbered from 0 in order of first appearance).
        oracles: the models retrained without the forget stage.
        retrained: their rows, with the columns of `runs` but for `run`.
        sweep: the sweep keys.
        settings: the distinct combinations of sweep values, in order of first appearance.
        labels: of the forget scores. The metrics of all of them are named as the paper's,
            "forget/label" and so on. Where there are several, `FORGET_LABEL` is the last sweep key,
            so that no mean is of two of them.
    """

    runs: pd.DataFrame
    oracles: Oracles
    retrained: pd.DataFrame
    sweep: tuple[str, ...]
    settings: list[Setting]
    labels: list[ForgetLabel] = field(default_factory=list)

    @property
    def label_words(self) -> str:
        """The label of the forget scores in words; where there are several, settings name them."""
        return self.labels[0].noun if len(self.labels) == 1 else "the label"

    def conditions(self, rows: pd.DataFrame) -> list[Condition]:
        """The methods and settings of some of the rows, in order of first appearance."""
        pairs = rows[["method", "setting"]].drop_duplicates().itertuples(index=False, name=None)
        return [Condition(str(m), self.sweep, self.settings[code]) for m, code in pairs]

    def by_condition(self, rows: pd.DataFrame) -> list[tuple[Condition, pd.DataFrame]]:
        """Some of the rows by method and setting, each in order of first appearance."""
        return _by_condition(rows, self.sweep, self.settings)

    def has(self, prefix: str) -> bool:
        """Whether runs have a metric whose name begins so."""
        return bool(self.runs["metric"].str.startswith(prefix).any())

    def finite(self) -> StudyRecords:
        """The study without values that are not finite, which have no place on an axis."""
        return replace(self, runs=self.runs[self.runs["value"].abs() < math.inf])

    def identities(self) -> pd.DataFrame:
        """The columns of `RUN` and the sweep keys, a row per run, indexed by `run`."""
        import pandas as pd

        found = self.runs.drop_duplicates("run").set_index("run")
        table = found[RUN].copy()
        for place, key in enumerate(self.sweep):
            values = [self.settings[setting][place] for setting in found["setting"]]
            table[key] = pd.Series(values, index=table.index)
        return table


def shown(records: pd.DataFrame) -> pd.DataFrame:
    """A table with the control characters of its names, values and headings written out.

    Names come from files, and a terminal, a browser or TeX would obey what they hold.
    """
    from pandas.api.types import is_numeric_dtype

    table = records.rename(columns={n: v for n in records.columns if (v := visible(str(n))) != n})
    for name in table.columns:
        if not is_numeric_dtype(table[name]):
            texts = [text for text in table[name].unique() if isinstance(text, str)]
            changed = {text: clean for text in texts if (clean := visible(text)) != text}
            if changed:
                table = table.assign(**{name: table[name].replace(changed)})
    return table


def read_records(records: pd.DataFrame, kind: str = "records") -> StudyRecords:
    """Take from a table of a study what reports read.

    Rows of other stages than "unlearn" and "oracle" and of unknown metrics are left out, and so
    are rows that repeat another one.

    Args:
        records: one row per value with the columns `COLUMNS`. Those between `seed` and `stage` are
            sweep keys, others are ignored.
        kind: "records", or "examples", whose rows have a number `example` as well.

    Raises:
        InputError: a column is missing, a number cannot be read, a position lies outside its
            path, or two rows give different values for the same run, step and metric.
    """
    example = ["example"] if kind == "examples" else []
    data, sweep = known_rows(shown(records), [*COLUMNS, *example], kind)
    data, sweep, labels = with_labels(data, sweep, kind)
    data = with_numbers(data, ["position", *example, "seed", "step"], kind)
    codes, settings = settings_of(data, sweep)
    data = data.assign(setting=codes)
    _refuse_contradictions(data, example, sweep, settings, kind)
    places = data[["path", "position"]].drop_duplicates().itertuples(index=False, name=None)
    forget = [forget_stage(path, position, kind) for path, position in places]
    numbers = data.groupby(["path", "position"], sort=False).ngroup()
    data = data.assign(forget=numbers.map(dict(enumerate(forget))).astype(str))
    runs = data[data["stage"] == "unlearn"].reset_index(drop=True)
    runs = runs.assign(run=runs.groupby([*RUN, "setting"], sort=False).ngroup())
    oracles = data[data["stage"] == "oracle"]
    rows = zip(
        *(oracles[name].tolist() for name in ("metric", "path", "position", "seed")),
        [settings[code] for code in oracles["setting"]],
        oracles["value"].tolist(),
        strict=True,
    )
    found = Oracles(rows), oracles.reset_index(drop=True)
    return StudyRecords(runs, *found, sweep, settings, labels)


def _refuse_contradictions(
    data: pd.DataFrame,
    example: Sequence[str],
    sweep: Sequence[str],
    settings: Sequence[Setting],
    kind: str,
) -> None:
    twice = data[data.duplicated([*RUN, "setting", "stage", "step", "metric", *example])]
    if len(twice):
        row = twice.iloc[0]
        setting = setting_name(sweep, settings[row["setting"]])
        raise InputError(
            f"{kind}, method {row['method']!r}{setting and ', ' + setting}, path {row['path']!r}, "
            f"seed {row['seed']}, step {row['step']}: found different values of "
            f"{row['metric']!r}, expected one; pass the {kind} of one study at a time"
        )


def forget_examples(study: StudyRecords, examples: pd.DataFrame | None) -> StudyRecords | None:
    """The values of each forget example: of the forget set, or of answers in its place."""
    if examples is None or not len(examples):
        return None
    if "metric" not in examples:
        return read_records(examples, "examples")
    found = forget_metric(examples["metric"].unique(), study.runs["forget"].unique())
    metric = found or "log_likelihood/forget"
    if not (examples["metric"] == metric).any():
        return None
    wanted = [metric, *several_labels(study)]
    read = read_records(examples[examples["metric"].isin(wanted)], "examples")
    runs, retrained = (t[t["metric"] == metric] for t in (read.runs, read.retrained))
    return replace(
        read, runs=runs.reset_index(drop=True), retrained=retrained.reset_index(drop=True)
    )


def several_labels(study: StudyRecords) -> list[str]:
    """The metrics that tell the labels of runs in the examples; none where all have one label."""
    return [label.metric(LABEL) for label in study.labels] if len(study.labels) > 1 else []


def forget_stage(path: str, position: int, kind: str = "records") -> str:
    """Name of the stage at the 1-based `position` of `path` ("inst-tofu-math-safety").

    Raises:
        InputError: the path has no such position.
    """
    stages = path.split("-")
    if not 1 <= position <= len(stages):
        raise InputError(
            f"{kind}, path {path!r}: found position {position}, expected 1 to {len(stages)}, "
            f"the place of the forget stage in the path; correct the column 'position'"
        )
    return stages[position - 1]


def forget_metric(metrics: Iterable[str], stages: Sequence[str]) -> str | None:
    """The metric of the forget examples: that of their group, or answers in its place.

    None without either, and where paths forget different stages, whose examples differ.
    """
    wanted = ("log_likelihood/forget", *(f"answers/{stage}" for stage in stages))
    known = set(metrics) if len(stages) == 1 else set()
    return next((metric for metric in wanted if metric in known), None)


def value_names(table: pd.DataFrame, sweep: Sequence[str]) -> list[str]:
    """The columns that are neither those of `RUN` nor sweep keys."""
    return [str(n) for n in table.columns if n not in (*RUN, *sweep, FORGET_LABEL)]


def settings_of(table: pd.DataFrame, sweep: Sequence[str]) -> tuple[list[int], list[Setting]]:
    """The setting of each row, as a place in the list of distinct settings, and that list."""
    columns = [_plain(table[key]) for key in sweep]
    each: list[Setting] = list(zip(*columns, strict=True)) if sweep else [()] * len(table)
    settings = list(dict.fromkeys(each))
    places = {setting: place for place, setting in enumerate(settings)}
    return [places[setting] for setting in each], settings


def by_condition(table: pd.DataFrame, before: str) -> list[tuple[Condition, pd.DataFrame]]:
    """The rows of a table by method and setting, each in order of first appearance.

    Sweep keys are the columns between `seed` and the one named `before`.
    """
    sweep = sweep_keys(table, before)
    codes, settings = settings_of(table, sweep)
    return _by_condition(table.assign(setting=codes), sweep, settings)


def _by_condition(
    table: pd.DataFrame, sweep: tuple[str, ...], settings: Sequence[Setting]
) -> list[tuple[Condition, pd.DataFrame]]:
    return [
        (Condition(str(method), sweep, settings[code]), part)
        for method, rows in table.groupby("method", sort=False)
        for code, part in rows.groupby("setting")
    ]


def answers_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows on answers, their stage in the column `stage`."""
    rows = runs[runs["metric"].str.startswith("answers/")]
    return rows.assign(stage=rows["metric"].str.removeprefix("answers/"))


def _plain(column: pd.Series) -> list[object]:
    """A column as plain Python values; every kind of null is None, which equals itself."""
    import pandas as pd

    codes, distinct = pd.factorize(column)
    values = [getattr(value, "item", lambda value=value: value)() for value in distinct]
    # The code of a null is -1.
    return [None if code < 0 else values[code] for code in codes]


def ends(data: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Values at the first and at the last step of each run, of rows of `StudyRecords.runs`.

    Returns:
        Columns `before`, `after` and `change` (their difference), indexed by `run` and `by`. NaN
        where nothing was measured at that step; a run of a single step has no `before`.
    """
    steps = data.groupby("run")["step"]
    first, last = steps.transform("min"), steps.transform("max")
    keys = ["run", *by]
    before = data[(data["step"] == first) & (first < last)].set_index(keys)["value"]
    after = data[data["step"] == last].set_index(keys)["value"]
    every = data.drop_duplicates(keys).set_index(keys).index
    both = before.reindex(every).to_frame("before").assign(after=after.reindex(every))
    return both.assign(change=both["after"] - both["before"])
