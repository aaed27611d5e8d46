"""Small synthetic studies, as they lie on disk: plans, records, examples and a store's entries."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lightning_unlearn.storage import records
from lightning_unlearn.storage.integrity import describe_files
from lightning_unlearn.study.plan import StudyPlan, Task, Trial

ORDERS = ["safety-inst-math", "inst-safety-math", "inst-math-safety"]
STEPS = [0, 5, 10]


TABLES = (records.STEPS, records.EXAMPLES)


def write_frame(table: pd.DataFrame, file: Path, runs: Sequence[str] | None = None) -> None:
    """A table as a study writes it, of the runs with these keys; None for a table of one run."""
    made = pa.Table.from_pandas(table, preserve_index=False)
    with records.table_writer(file, made.schema, runs) as writer:
        writer.write_table(made)


def write_entry(entry: Path, tables: Mapping[str, pd.DataFrame], **values: Any) -> None:
    """Tables of a run, by file, and what its entry in the store says of itself.

    Args:
        entry: made where it is missing.
        tables: by the names of their files.
        values: of entry.json, besides the checksums.
    """
    entry.mkdir(parents=True, exist_ok=True)
    for file, table in tables.items():
        write_frame(table, entry / file)
    files = describe_files(entry, tables)
    (entry / "entry.json").write_text(json.dumps({"details": {}, **values, "files": files}))


@dataclass
class Synthetic:
    """A study of which every value is a formula.

    Attributes:
        name: of the study.
        paths: orders of the stages; "safety" or "U" is forgotten.
        methods: their labels.
        seeds: of everything random.
        sweep: a swept key and its values.
        oracle: whether there are oracles and distances to them.
        examples: forget examples.
        steps: of unlearning.
        label: whether the forget label is measured.
    """

    name: str = "small"
    paths: Sequence[str] = tuple(ORDERS)
    methods: Sequence[str] = ("GA", "NPO")
    seeds: Sequence[int] = (0, 1, 2)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    oracle: bool = True
    examples: int = 6
    steps: Sequence[int] = tuple(STEPS)
    label: bool = True

    def position(self, path: str) -> int:
        """Of the forget stage."""
        stages = path.split("-")
        return next(n for n, stage in enumerate(stages, 1) if stage in ("safety", "U"))

    def cells(self) -> list[dict[str, Any]]:
        """The first columns of the rows of every run, oracles included."""
        settings = [dict(zip(self.sweep, v, strict=True))
                    for v in itertools.product(*self.sweep.values())]  # fmt: skip
        methods = [*(["oracle"] if self.oracle else []), *self.methods]
        return [
            {
                "study": self.name,
                "path": path,
                "position": self.position(path),
                "method": method,
                "seed": seed,
                **setting,
            }
            for path in self.paths
            for method in methods
            for seed in self.seeds
            for setting in settings
        ]

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Records and examples."""
        steps, examples = [], []
        for cell in self.cells():
            is_oracle = cell["method"] == "oracle"
            n, p = len(cell["path"].split("-")), cell["position"]
            names = [cell["method"]] if is_oracle else self.methods
            rate = 0.12 * (1 + list(names).index(cell["method"])) * (n + 1 - p)
            noise = 0.05 * math.sin(7.0 * cell["seed"] + p)
            forget = cell["path"].split("-")[p - 1]
            for step in [0] if is_oracle else self.steps:
                own = {**cell, "stage": "oracle" if is_oracle else "unlearn", "step": step}
                start = (-3.0 if is_oracle else -1.0 - 0.2 * p) + noise

                def put(measure: str, value: float, own: dict[str, Any] = own) -> None:
                    steps.append({**own, "metric": measure, "value": value})

                value = start - rate * step
                if self.label:
                    put("forget/label", value)
                    put("forget/mean", value - 0.5)
                for stage in cell["path"].split("-"):
                    drop = rate * step * (1.0 if stage == forget else 0.2)
                    put(f"answers/{stage}", -1.5 + noise - drop)
                if self.oracle:
                    values = [value + 0.1 * math.cos(e) for e in range(self.examples)]
                    put("log_likelihood/forget", sum(values) / len(values))
                    for e, each in enumerate(values):
                        one = {
                            **own,
                            "metric": "log_likelihood/forget",
                            "example": e,
                            "value": each,
                        }
                        examples.append(one)
                    if not is_oracle:
                        put("distance/forget", (value + 3.0) ** 2 + 0.01)
                        put("overshoot/forget", float(value < -3.0))
                else:
                    for e in range(self.examples):
                        each = -1.5 - rate * step + 0.1 * math.cos(e)
                        one = {**own, "metric": f"answers/{forget}", "example": e, "value": each}
                        examples.append(one)
        return steps, examples

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Records and examples as tables."""
        steps, examples = self.rows()
        return pd.DataFrame(steps), pd.DataFrame(examples)

    def plan(self, folder: Path) -> StudyPlan:
        """A plan in which the runs of a path and seed share its stages."""
        cells, nodes = [], {}
        for number, row in enumerate(self.cells()):
            keys: list[str] = []
            is_oracle = row["method"] == "oracle"
            own = row["path"].split("-")
            own = [s for s in own if s not in ("safety", "U")] if is_oracle else own
            sweep = tuple((key, row[key]) for key in self.sweep)
            for stage in [*own, "oracle" if is_oracle else "unlearn"]:
                is_run = stage in ("oracle", "unlearn")
                last = [row["method"], json.dumps(sweep)] if is_run else [stage]
                parent = keys[-1] if keys else None
                key = "/".join([parent or f"s{row['seed']}", *last]).replace("/", "~")
                place = len(keys)
                keys.append(key)
                tokens = 0 if stage == "oracle" else 1000
                nodes.setdefault(key, Task(key, stage, parent, number, place, tokens))
            run = f"{row['method']}/{row['path']}_s{row['seed']}"
            cells.append(Trial(tuple(row["path"].split("-")), 1 + self.paths.index(row["path"]),
                              row["position"], row["method"], row["seed"], sweep, tuple(keys),
                              run))  # fmt: skip
        store = str(folder / "store")
        return StudyPlan(self.name, str(folder), store, tuple(cells), tuple(nodes.values()))

    def write(self, folder: Path, tables: tuple[pd.DataFrame, pd.DataFrame] | None = None) -> Path:
        """The study in a folder of its own, all of it finished.

        Args:
            folder: made where it is missing.
            tables: in place of its records and examples.
        """
        folder.mkdir(parents=True, exist_ok=True)
        plan = self.plan(folder)
        runs = [cell.keys[-1] for cell in plan.runs()]
        for table, file in zip(tables or self.tables(), TABLES, strict=True):
            write_frame(table, folder / file, runs)
        plan.write(folder)
        for node in plan.tasks:
            entry = folder / "store" / node.key
            content = {
                "base": "b" * 64,
                "precision": "32-true",
                "stages": [{"name": "inst", "data": "d" * 64}],
                "method": {"class": "GA"},
            }
            versions = {"python": "3.11.7", "lightning-unlearn": "0.1.0"}
            machine = {"processor": "Some CPU", "threads": 2, "versions": versions}
            details = {"seconds": 2.5, "stage": node.stage, "machine": machine}
            write_entry(entry, {}, content=content, details=details)
        run = folder / plan.trials[-1].run
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("# lightning.pytorch==2.6.6\nseed_everything: 0\n")
        return folder
