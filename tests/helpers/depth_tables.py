"""Records and examples of answers, by order of the stages."""

import itertools

import numpy as np
import pandas as pd

PATHS = [("-".join(p), p.index("U") + 1) for p in itertools.permutations("RCU")]


def answers(path, values, method="GA", seed=0, setting=None, steps=(0, 5, 10), stage="unlearn"):
    """Records of one run; `values` maps a stage to the log-likelihood of its answers at `steps`."""
    return [
        {
            "study": "depth",
            "path": path[0],
            "position": path[1],
            "method": method,
            "seed": seed,
            **(setting or {}),
            "stage": stage,
            "step": step,
            "metric": f"answers/{name}",
            "value": value,
        }
        for name, series in values.items()
        for step, value in zip(steps, series, strict=True)
    ]


def one(refusal, other, forgotten, path=PATHS[0]):
    """Records of a run by the first and last value of R, C and U."""
    values = {"R": refusal, "C": other, "U": forgotten}
    return pd.DataFrame(answers(path, values, steps=(0, 10)))


def drawn(paths=PATHS, seeds=(0,), methods=("GA",), prompts=7):
    """Records and examples of random runs, in random order."""
    draw = np.random.default_rng(5)
    examples = []
    for path, seed, method, example in itertools.product(paths, seeds, methods, range(prompts)):
        values = {
            name: draw.normal(scale=[1, 2, 2]) - [0, 1, fall]
            for name, fall in (("R", 1), ("C", 2), ("U", 4))
        }
        rows = answers(path, values, method, seed)
        examples += [{**row, "example": example} for row in rows]
    draw.shuffle(examples)
    table = pd.DataFrame(examples)
    identity = [name for name in table.columns if name not in ("example", "value")]
    records = table.groupby(identity, sort=False)["value"].mean().reset_index()
    return records, table
