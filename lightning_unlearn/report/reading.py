"""The tables a study wrote, checked and put in order for the reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.report.oracles import Oracles, Setting
from lightning_unlearn.settings.labels import setting_name

if TYPE_CHECKING:
    import pandas as pd

RUN = ["method", "path", "position", "seed"]
COLUMNS = ["path", "position", "method", "seed", "stage", "step", "metric", "value"]
# What scores and depths are of.
OUTCOMES = ("forget/", "answers/", "accuracy/")
# What the monitor OracleDistance measures.
COMPARISONS = ("log_likelihood/", "margin/", "distance/", "kl/", "overshoot/")
PREFIXES = (*OUTCOMES, *COMPARISONS)


@dataclass(frozen=True)
class StudyRecords:
    """What the reports read of a study.

    Attributes:
        runs: a row per run, step and measure, each once: the columns of `COLUMNS`, the sweep keys,
            `forget` (the name of the forget stage), `setting` (the row's place in `settings`) and
            `run` (runs are numbered from 0 in order of first appearance).
        oracles: the models retrained without the forget stage.
        retrained: their rows, with the columns of `runs` but for `run`.
        sweep: the sweep keys.
        settings: the distinct combinations of sweep values, in order of first appearance.
    """

    runs: pd.DataFrame
    oracles: Oracles
    retrained: pd.DataFrame
    sweep: list[str]
    settings: list[Setting]

    def name(self, setting: int) -> str:
        """A setting in words."""
        return setting_name(self.sweep, self.settings[setting])

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

    Rows of other stages than "unlearn" and "oracle" and of unknown measures are left out, and so
    are rows that repeat another one.

    Args:
        records: one row per value with the columns `COLUMNS`. Those between `seed` and `stage` are
            sweep keys, others are ignored.
        kind: "records", or "examples", whose rows have a number `example` as well.

    Raises:
        InputError: a column is missing, a number cannot be read, a position lies outside its
            path, or two rows give different values for the same run, step and measure.
    """
    records = shown(records)
    example = ["example"] if kind == "examples" else []
    columns = [*COLUMNS, *example]
    missing = [name for name in columns if name not in records.columns]
    if missing:
        raise InputError(
            f"{kind}: found the columns {', '.join(map(str, records.columns)) or '(none)'}, "
            f"expected also {', '.join(missing)}; pass the {kind} that a study wrote"
        )
    sweep = sweep_keys(records, "stage")
    data = records[[*columns, *sweep]]
    known = [name for name in data["metric"].unique() if str(name).startswith(PREFIXES)]
    data = data[data["stage"].isin(["unlearn", "oracle"]) & data["metric"].isin(known)]
    data = data.astype({"path": str, "method": str, "stage": str, "metric": str})
    try:
        whole = dict.fromkeys(["position", "seed", "step", *example], int)
        data = data.astype({**whole, "value": float})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{kind}: found a value that is not a number ({error}), expected whole numbers in "
            f"{', '.join(['position', *example, 'seed'])} and step and numbers in value; pass the "
            f"{kind} that a study wrote"
        ) from error
    data = data.drop_duplicates(ignore_index=True)
    codes, settings = settings_of(data, sweep)
    data = data.assign(setting=codes)
    twice = data[data.duplicated([*RUN, "setting", "stage", "step", "metric", *example])]
    if len(twice):
        row = twice.iloc[0]
        setting = setting_name(sweep, settings[row["setting"]])
        raise InputError(
            f"{kind}, method {row['method']!r}{setting and ', ' + setting}, path {row['path']!r}, "
            f"seed {row['seed']}, step {row['step']}: found different values of "
            f"{row['metric']!r}, expected one; pass the {kind} of one study at a time"
        )
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
    return StudyRecords(runs, Oracles(rows), oracles.reset_index(drop=True), sweep, settings)


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


def sweep_keys(table: pd.DataFrame, before: str) -> list[str]:
    """The columns between `seed` and the one named `before`."""
    names = [str(name) for name in table.columns]
    return names[names.index("seed") + 1 : names.index(before)]


def settings_of(table: pd.DataFrame, sweep: Sequence[str]) -> tuple[list[int], list[Setting]]:
    """The setting of each row, as a place in the list of distinct settings, and that list."""
    columns = [_plain(table[key]) for key in sweep]
    each: list[Setting] = list(zip(*columns, strict=True)) if sweep else [()] * len(table)
    settings = list(dict.fromkeys(each))
    places = {setting: place for place, setting in enumerate(settings)}
    return [places[setting] for setting in each], settings


def _plain(column: pd.Series) -> list[object]:
    """A column as plain Python values; every kind of null is None, which equals itself."""
    import pandas as pd

    codes, distinct = pd.factorize(column)
    values = [getattr(value, "item", lambda value=value: value)() for value in distinct]
    # The code of a null is -1.
    return [None if code < 0 else values[code] for code in codes]


def ends(data: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Values at the first and at the last step of each run.

    Args:
        data: `StudyRecords.runs`, or some of its rows.
        by: what tells a run's values at one step apart, such as ["metric"].

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
