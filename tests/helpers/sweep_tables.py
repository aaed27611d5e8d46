"""Records of runs at several settings, and of oracles."""

import pandas as pd

LR, BETA = "data.unlearn.lr", "trainer.callbacks.beta"


FIRST, LAST = ("f-a-b", 1), ("a-b-f", 3)


def run(method, path, values, setting=None, seed=0, steps=(0, 10), stage="unlearn"):
    """Records of one run; `values` maps a measure to its values at `steps`."""
    return [
        {
            "study": "s",
            "path": path[0],
            "position": path[1],
            "method": method,
            "seed": seed,
            **(setting or {}),
            "stage": stage,
            "step": step,
            "metric": measure,
            "value": value,
        }
        for measure, series in values.items()
        for step, value in zip(steps, series, strict=True)
    ]


def oracle(path, values, setting=None, seed=0):
    """Records of the oracle of a path; `values` maps a measure to its value."""
    series = {measure: (value,) for measure, value in values.items()}
    return run("oracle", path, series, setting, seed, (0,), "oracle")


def drop(method, path, by, setting=None, seed=0):
    return run(method, path, {"forget/mean": (-1.0, -1.0 - by)}, setting, seed)


def swept():
    """GA at two learning rates, NPO at two betas: last slowest but for one setting."""
    rows = []
    for setting, last in (({LR: 1e-4, BETA: None}, 0.5), ({LR: 3e-5, BETA: None}, 3.0)):
        rows += drop("GA", FIRST, 2.0, setting) + drop("GA", LAST, last, setting)
    for beta in (0.5, 1):
        setting = {LR: 1e-4, BETA: beta}
        rows += drop("NPO", FIRST, 1.0, setting) + drop("NPO", LAST, 0.25, setting)
    return pd.DataFrame(rows)
