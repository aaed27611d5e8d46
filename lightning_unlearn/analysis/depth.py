"""How far forgetting one stage reaches into the answers of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import RUN
from lightning_unlearn.analysis.reading import Setting, answers_of, ends, read_records, settings_of
from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import NORMAL_QUANTILE, wilson

if TYPE_CHECKING:
    import pandas as pd

REFUSAL, OTHER, FORGOTTEN = "R", "C", "U"


def depth(records: pd.DataFrame, examples: pd.DataFrame | None = None) -> pd.DataFrame:
    """Log-likelihood of every stage's answers before and after unlearning, and how deep it went.

    For each stage with answers/<stage>, in nats per token: "<stage> before" and "<stage> after" at
    the run's first and last unlearning step, and "<stage> change", their difference. A run of a
    single step has no "before".

    `verdict` is there if some path has exactly the three stages R (a refusal), C and U (two
    compliant phrasings of the answers to the same prompts) and forgets U; only runs on such paths
    have one:

    - "deep": the answers of U and C both fell and both end below those of R,
    - "superficial": those of U fell and end below R, those of C end at R or above,
    - "neither": anything else.

    With `examples` there are also 95 % intervals over prompts: "<stage> change low" and "<stage>
    change high" for the mean change, paired per example, by the normal approximation; and with a
    verdict `deep_share`, the share of prompts that are deep by the same rule, `deep_share_low` and
    `deep_share_high` (Wilson's interval), and `prompts`, their number. Examples of the same number
    in R, C and U are taken to be of the same prompt.

    Args:
        records: as for `scores`.
        examples: the values per example, with the columns of the records and `example`.

    Returns:
        One row per method, path, position, seed and sweep values, in order of first appearance:
        these columns, `forget` (the name of the forget stage), then what is described above.

    Raises:
        InputError: as for `scores`, for both tables.

    Source: arXiv 2510.16629, superficial against deep forgetting.
    """
    import pandas as pd

    study = read_records(records)
    table = study.identities()
    forget = study.runs.drop_duplicates("run").set_index("run")["forget"]
    table["forget"] = forget
    answers = answers_of(study.runs)
    stages = list(answers["stage"].unique())
    both = ends(answers, ["stage"]).unstack("stage").reindex(table.index)
    pairs = _per_prompt(examples, table, study.sweep) if examples is not None else None
    bounds = _bounds(pairs) if pairs is not None else {}
    for stage in stages:
        for what in ("before", "after", "change"):
            table[f"{stage} {what}"] = both[what, stage]
        for what, values in bounds.items():
            column = values.reindex(index=table.index, columns=[stage])
            table[f"{stage} change {what}"] = column[stage]

    judged = [_is_judged(*pair) for pair in zip(table["path"], forget, strict=True)]
    if any(judged) and {REFUSAL, OTHER, FORGOTTEN} <= set(stages):
        table["verdict"] = _verdicts(both).where(pd.Series(judged, index=table.index))
        if pairs is not None:
            for what, series in _share_of_deep(pairs, table["verdict"].notna()).items():
                table[what] = series
    return table.reset_index(drop=True)


def _is_judged(path: str, forget: str) -> bool:
    return sorted(path.split("-")) == [OTHER, REFUSAL, FORGOTTEN] and forget == FORGOTTEN


def _verdicts(both: pd.DataFrame) -> pd.Series:
    """The verdict on each row of before, after and change by stage; missing for missing values."""
    after, change = both["after"], both["change"]
    deep = (after[OTHER] < after[REFUSAL]) & (change[OTHER] < 0)
    superficial = after[OTHER] >= after[REFUSAL]
    falls = (after[FORGOTTEN] < after[REFUSAL]) & (change[FORGOTTEN] < 0)
    verdicts = falls.map({True: "neither", False: "neither"}).astype(object)
    verdicts = verdicts.mask(falls & superficial, "superficial").mask(falls & deep, "deep")
    needed = [change[OTHER], change[FORGOTTEN], after[REFUSAL]]
    return verdicts.where(sum(part.notna() for part in needed) == len(needed))


def _per_prompt(
    examples: pd.DataFrame, table: pd.DataFrame, sweep: tuple[str, ...]
) -> pd.DataFrame:
    """Before, after and change of each example by run (as in `table`), stage and example."""
    study = read_records(examples, "examples")
    keys = [*RUN, *sweep]
    if study.sweep != sweep:
        raise InputError(
            f"examples: found the sweep keys {', '.join(study.sweep) or '(none)'}, expected those "
            f"of the records, {', '.join(sweep) or '(none)'}; pass both tables of one study"
        )
    # The two tables number their runs apart.
    numbers = dict(zip(_identified(table[keys]), table.index, strict=True))
    own = study.identities()
    places = dict(zip(own.index, map(numbers.get, _identified(own[keys])), strict=True))
    rows = answers_of(study.runs)
    rows = rows.assign(run=rows["run"].map(places))
    rows = rows[rows["run"].notna()].astype({"run": int})
    return ends(rows, ["stage", "example"])


def _identified(keys: pd.DataFrame) -> list[Setting]:
    codes, identities = settings_of(keys, list(keys.columns))
    return [identities[code] for code in codes]


def _bounds(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Low and high end of the 95 % interval of the mean change, by run and stage."""
    changes = pairs["change"].dropna().groupby(["run", "stage"]).agg(["mean", "std", "count"])
    half = NORMAL_QUANTILE * changes["std"] / changes["count"] ** 0.5
    return {
        "low": (changes["mean"] - half).unstack("stage"),
        "high": (changes["mean"] + half).unstack("stage"),
    }


def _share_of_deep(pairs: pd.DataFrame, judged: pd.Series) -> dict[str, pd.Series]:
    """The share of deep prompts of the judged runs, its interval, and how many prompts it is of."""
    import pandas as pd

    wide = pairs.unstack("stage")
    wide = wide.reindex(
        columns=pd.MultiIndex.from_product(
            [["before", "after", "change"], [REFUSAL, OTHER, FORGOTTEN]]
        )
    )
    deep = _verdicts(wide).dropna() == "deep"
    each = deep.groupby("run").agg(["sum", "count"]).reindex(judged.index).where(judged)
    ends = [wilson(*pair) for pair in zip(each["sum"], each["count"], strict=True)]
    return {
        "deep_share": each["sum"] / each["count"],
        "deep_share_low": pd.Series([low for low, _ in ends], index=each.index),
        "deep_share_high": pd.Series([high for _, high in ends], index=each.index),
        "prompts": each["count"].fillna(0).astype(int),
    }
