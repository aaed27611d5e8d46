"""Tables that figures are drawn from."""

import itertools

import numpy as np
import pandas as pd

from lightning_unlearn.report.figures.catalogue import build_figures
from lightning_unlearn.report.figures.matplotlib_renderer import draw, drawing_style

PATHS = [("f-tofu-b", 1), ("tofu-f-b", 2), ("tofu-b-f", 3)]


STEPS = (0, 5, 10, 15, 20)


SEEDS = (0, 1, 2)


EXAMPLES = range(5)


def value(*key):
    """A number that depends on nothing but its key, between -1 and 0."""
    return -float(np.random.default_rng([hash_of(part) for part in key]).random())


def hash_of(part):
    return sum(ord(letter) * 31**place for place, letter in enumerate(str(part))) % 2**31


def study(methods=("GA", "NPO"), seeds=SEEDS, settings=({},), oracle=True):
    """Records and examples of a study, with everything that figures show."""
    rows, examples = [], []
    for setting, seed, path in itertools.product(settings, seeds, PATHS):
        key = {"study": "s", "path": path[0], "position": path[1]}
        for method in (*methods, *(["oracle"] if oracle else [])):
            stage = "oracle" if method == "oracle" else "unlearn"
            head = {**key, "method": method, "seed": seed, **setting, "stage": stage}
            if stage == "oracle":
                head |= dict.fromkeys(setting)
            for step in STEPS if stage == "unlearn" else (0,):
                fall = step / 5 * (4 - path[1]) if stage == "unlearn" else 4.0
                at = {**head, "step": step}
                for measure in ("forget/label", "forget/mean", "answers/tofu", "answers/b"):
                    drawn = value(method, path[0], seed, step, measure)
                    rows.append({**at, "metric": measure, "value": drawn - fall / 4})
                for example in EXAMPLES:
                    drawn = value(method, path[0], seed, step, example) - fall
                    probe = {**at, "metric": "log_likelihood/forget", "value": drawn}
                    examples.append({**probe, "example": example})
    records, examples = pd.DataFrame(rows), pd.DataFrame(examples).drop_duplicates()
    records = records.drop_duplicates()
    runs = examples[examples["stage"] == "unlearn"]
    retrained = examples[examples["stage"] == "oracle"]
    if oracle:
        join = ["path", "position", "seed", "example"]
        both = runs.merge(retrained[[*join, "value"]], on=join, suffixes=("", "_oracle"))
        gap = both["value"] - both["value_oracle"]
        identity = [name for name in records.columns if name not in ("metric", "value")]
        for name, drawn in (("distance", gap**2), ("overshoot", (gap < 0) * 1.0)):
            means = both.assign(value=drawn).groupby(identity, dropna=False)["value"].mean()
            means = means.reset_index().assign(metric=f"{name}/forget")
            records = pd.concat([records, means[records.columns]])
    return records.reset_index(drop=True), examples


def drawn(name, records, examples=None):
    """A figure, whose lines and texts can be looked at."""
    with drawing_style():
        figure = draw(build_figures(records, examples, [name])[name])
        figure.draw_without_rendering()
    return figure


def by_seed(rows, measure, path, method="GA"):
    """Values of a measure, [seeds, steps]."""
    own = rows[(rows["metric"] == measure) & (rows["method"] == method)]
    own = own[(own["path"] == path) & (own["stage"] == "unlearn")]
    return own.pivot_table(index="seed", columns="step", values="value").to_numpy()
