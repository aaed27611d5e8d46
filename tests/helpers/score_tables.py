"""Records of runs by position, with known scores."""

import pandas as pd

FOUR = {
    1: "safety-inst-tofu-math",
    2: "inst-safety-tofu-math",
    3: "inst-tofu-safety-math",
    4: "inst-tofu-math-safety",
}


def run(method, path, position, values, seed=0, steps=(0, 5, 10)):
    """Records of one run; `values` maps a measure to its values at `steps` (None: not measured)."""
    return [
        {
            "study": "demo",
            "path": path,
            "position": position,
            "method": method,
            "seed": seed,
            "stage": "unlearn",
            "step": step,
            "metric": measure,
            "value": value,
        }
        for measure, series in values.items()
        for step, value in zip(steps, series, strict=True)
        if value is not None
    ]


def table(rows):
    return pd.DataFrame(rows)


def forgetting(method, drops, seed=0):
    """One run per position of FOUR, whose forget/mean falls by drops[position]."""
    rows = []
    for position, drop in drops.items():
        rows += run(method, FOUR[position], position, {"forget/mean": (0, -drop / 2, -drop)}, seed)
    return rows


def curves(paths, methods=("GA",), seeds=(0,), scale=1.0):
    rows = []
    for number, method in enumerate(methods):
        for path, position in paths:
            for seed in seeds:
                slope = (5 - position + 0.1 * seed) * scale**number / 10
                label = [-0.3 - slope * step for step in (0, 5, 10)]
                values = {"forget/label": label, "forget/mean": label, "grad_norm": [1, 2, 3]}
                for stage in path.split("-"):
                    values[f"answers/{stage}"] = [-1.0, -1.0 - slope, -1.0 - 2 * slope]
                rows += run(method, path, position, values, seed)
    return table(rows)


def standard(**options):
    return curves([(path, position) for position, path in FOUR.items()], **options)
