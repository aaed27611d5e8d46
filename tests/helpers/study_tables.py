"""Tables of a study with known statistics."""

import itertools

import numpy as np
import pandas as pd

FOUR = [
    ("safety-inst-tofu-math", 1),
    ("inst-safety-tofu-math", 2),
    ("inst-tofu-safety-math", 3),
    ("inst-tofu-math-safety", 4),
]


STEPS = (0, 5, 10, 15, 20, 25)


PROBES = ("forget", "retain")


class Tables:
    """Collects the rows of both tables."""

    def __init__(self):
        self.records, self.examples = [], []

    def add(self, path, method, seed, setting, stage, step, measure, values):
        keys = {"study": "s", "path": path[0], "position": path[1], "method": method, "seed": seed}
        keys |= {**setting, "stage": stage, "step": step, "metric": measure}
        self.records.append({**keys, "value": float(np.mean(values))})
        self.examples += [{**keys, "example": i, "value": v} for i, v in enumerate(values)]

    def frames(self):
        return pd.DataFrame(self.records), pd.DataFrame(self.examples)


def drawn(paths=FOUR, seeds=3, methods=("GA", "NPO"), settings=({},), prompts=6, oracles=True):
    """A random study in which the last position forgets slowest and distances grow."""
    draw = np.random.default_rng(7)
    tables = Tables()
    for seed, path in itertools.product(range(seeds), paths):
        aim = {probe: draw.normal(-4, 0.3, prompts) for probe in PROBES}
        null = dict.fromkeys(settings[0])
        for probe, values in aim.items() if oracles else ():
            for kind, shift in (("log_likelihood", 0.0), ("margin", -1.0)):
                row = values + shift
                tables.add(path, "oracle", seed, null, "oracle", 0, f"{kind}/{probe}", row)
        for method, setting in itertools.product(methods, settings):
            speed = (5 - path[1]) * (1 + (method == "GA")) / 8
            offset = draw.normal(0, 0.02, prompts)
            for step in STEPS:
                label = -2 - (1 + offset) * 0.1 * np.exp(0.25 * speed * step)
                add = [path, method, seed, setting, "unlearn", step]
                tables.add(*add, "forget/label", label)
                tables.add(*add, "forget/mean", label - 1)
                tables.add(*add, "answers/tofu", -1 - 0.01 * step + draw.normal(0, 0.01, prompts))
                tables.add(*add, "answers/safety", label - 0.5)
                for probe in PROBES if oracles else ():
                    own = label if probe == "forget" else np.full(prompts, -4.1)
                    tables.add(*add, f"log_likelihood/{probe}", own)
                    tables.add(*add, f"margin/{probe}", own - 1)
                    tables.add(*add, f"distance/{probe}", (own - aim[probe]) ** 2)
                    tables.add(*add, f"kl/{probe}", np.abs(own - aim[probe]) / 3)
                    below = (own < aim[probe]).astype(float)
                    tables.add(*add, f"overshoot/{probe}", below)
    return tables.frames()


def values(table, **keys):
    """The values of the rows with these keys, by seed and example."""
    for name, value in keys.items():
        table = table[table[name] == value]
    table = table.sort_values(["seed", "example"] if "example" in table else "seed")
    return table["value"].to_numpy()


def changed(records, examples, drop=None, **keys):
    """The tables without rows, or with NaN in place of their values."""
    tables = []
    for table in (records, examples):
        hit = np.full(len(table), True)
        for name, value in keys.items():
            kind = table[name].astype(str).str.startswith
            hit &= kind(value) if isinstance(value, str) else table[name] == value
        tables.append(table[~hit] if drop else table.assign(value=table["value"].mask(hit)))
    return tables


def part_of(found, title):
    (section,) = [section for section in found.sections if section.title == title]
    return section
