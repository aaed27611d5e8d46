"""Plans of studies made by hand, without a model."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.study.plan import StudyPlan, Task, Trial


def hand_plan(
    folder: Path | str = "study",
    paths: Sequence[Sequence[str]] = (("a", "b"), ("b", "a")),
    methods: Sequence[str] = ("GA",),
    seeds: Sequence[int] = (0,),
    sweep: Mapping[str, Sequence[Any]] | None = None,
    forget: str = "b",
    tokens: Mapping[str, int] | None = None,
) -> StudyPlan:
    """The plan of a study whose swept keys are of unlearning; an oracle skips the forget stage.

    Keys of tasks are readable: "s0_a-b" is a stage, "s0_a-b_GA" a run.
    """
    tokens = tokens or {}
    trials: list[Trial] = []
    tasks: dict[str, Task] = {}
    settings = [
        tuple(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())
    ] if sweep else [()]  # fmt: skip
    grid = itertools.product(seeds, enumerate(paths, start=1), methods, settings)
    for number, (seed, (place, path), method, setting) in enumerate(grid):
        is_oracle = method == "oracle"
        trained = [stage for stage in path if not (is_oracle and stage == forget)]
        stages = [f"s{seed}_{'-'.join(trained[:end])}" for end in range(1, len(trained) + 1)]
        told = "" if is_oracle else "".join(f",{json.dumps(value)}" for _, value in setting)
        end = f"{stages[-1]}_{method}{told}"
        keys = [*stages, end]
        for count, key in enumerate(keys):
            leaf = "oracle" if is_oracle else "unlearn"
            stage = leaf if key == end else trained[count]
            parent = keys[count - 1] if count else None
            task = Task(key, stage, parent, number, count, tokens.get(stage, 100))
            tasks.setdefault(key, task)
        trials.append(
            Trial(
                path=tuple(path),
                place=place,
                position=list(path).index(forget) + 1,
                method=method,
                seed=seed,
                sweep=setting,
                keys=tuple(keys),
                run=f"{method}{told}/{'-'.join(trained)}_s{seed}",
            )
        )
    store = str(Path(folder) / "store")
    return StudyPlan("small", str(folder), store, tuple(trials), tuple(tasks.values()))
