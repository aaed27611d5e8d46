"""How much each run forgot and kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import FORGET_LABEL, OUTCOMES, sweep_keys
from lightning_unlearn.analysis.reading import StudyRecords, ends, read_records
from lightning_unlearn.settings.forget_labels import PREFIX, ForgetLabel, label_named

if TYPE_CHECKING:
    import pandas as pd


def scores(records: pd.DataFrame) -> pd.DataFrame:
    """Forget score and utilities of every run, as in Table 1 of Yu, He, Goyal and Arora.

    With first and last the run's lowest and highest unlearning step:

    - `forget_score` = forget/mean at the first step minus forget/mean at the last, in nats per
      token: the drop of the mean log-likelihood of label and paraphrases; higher = more forgotten.
    - `forget_label` = what the label is: "own" (answers), "paper" or "phrases", with "_end" where
      end-of-turn tokens are counted; see `lightning_unlearn.settings.forget_labels`. Where runs
      have different labels, it is a sweep key and stands before `forget_score`.
    - `oracle_gap` = forget/mean at the last step minus the oracle's forget/mean, in nats per token:
      positive = still more likely than under the model retrained without the forget stage. The
      oracle is that of the run's path, position, seed and sweep values; a null of the oracle
      matches any value. The column is there if an oracle's forget/mean was measured.
    - "<stage> utility" = 1 - |answers/<stage> at the last step minus at the first|, for every
      stage but the run's forget stage; the paper defines it so for TOFU; 1 = nothing changed.
    - "<stage> accuracy change" = accuracy/<stage> at the last step minus at the first, as a
      fraction (-0.05 = five points lost), for every stage with an accuracy.

    A value without a finite measurement at both ends is NaN; so are all changes of a run with
    records of a single step, which shows no change. A metric that occurs in no run has no column.

    Args:
        records: as for `read_records`.

    Returns:
        One row per method, path, position, seed and sweep values, in order of first appearance:
        these columns, `forget_score`, `forget_label`, `oracle_gap`, the utilities, the changes of
        accuracy. Oracles have no row.

    Raises:
        InputError: as for `read_records`.

    Source: arXiv 2510.16629, Table 1.
    """
    import pandas as pd

    study = read_records(records)
    data = study.runs[study.runs["metric"].str.startswith(OUTCOMES)]
    data = data.assign(value=data["value"].where(data["value"].abs() < math.inf))
    found = study.runs.drop_duplicates("run").set_index("run")
    table = study.identities()
    both = ends(data, ["metric"])
    changes = both["change"].unstack("metric")
    table["forget_score"] = 0.0 - _column(changes, "forget/mean", table.index)
    if len(study.labels) == 1:
        known = table.index.isin(data["run"][data["metric"].str.startswith(PREFIX)])
        table[FORGET_LABEL] = pd.Series(study.labels[0].name, table.index).where(known, None)
    if study.oracles.measured("forget/mean"):
        last = _column(both["after"].unstack("metric"), "forget/mean", table.index)
        table["oracle_gap"] = last - _of_oracles(study, found, table.index)

    kind = data["metric"].str.replace("/.*", "", regex=True)
    of_stage = data["metric"].str.replace("^[^/]*/", "", regex=True)
    for stage in of_stage[(kind == "answers") & (of_stage != data["forget"])].unique():
        utility = 1 - _column(changes, f"answers/{stage}", table.index).abs()
        table[f"{stage} utility"] = utility.where(found["forget"] != stage)
    for stage in of_stage[kind == "accuracy"].unique():
        table[f"{stage} accuracy change"] = _column(changes, f"accuracy/{stage}", table.index)
    return table.reset_index(drop=True)


def _of_oracles(study: StudyRecords, runs: pd.DataFrame, index: pd.Index) -> pd.Series:
    """The oracle's forget/mean for each run."""
    import pandas as pd

    places = runs[["path", "position", "seed", "setting"]].itertuples(index=False)
    found = [
        study.oracles.value("forget/mean", path, position, study.settings[setting], seed)
        for path, position, seed, setting in places
    ]
    return pd.Series(found, index=index, dtype=float)


def label_of_scores(table: pd.DataFrame) -> ForgetLabel | None:
    """The label of the forget scores of all runs; None where runs differ, or nothing was measured.

    Args:
        table: what `scores` returns, or some of its rows.
    """
    names = list(table[FORGET_LABEL].dropna().unique()) if FORGET_LABEL in table else []
    return label_named(str(names[0])) if len(names) == 1 else None


def score_name(table: pd.DataFrame) -> str:
    """ "forget score (own answers)": with what it is of, unless a setting of the runs says so.

    Args:
        table: as for `label_of_scores`.
    """
    label = label_of_scores(table)
    in_setting = FORGET_LABEL in sweep_keys(table, "forget_score")
    return "forget score" if label is None or in_setting else f"forget score ({label.words})"


def _column(wide: pd.DataFrame, name: str, index: pd.Index) -> pd.Series:
    """A column of `wide`, NaN where it is missing."""
    return wide.reindex(index=index, columns=[name])[name].astype(float)
