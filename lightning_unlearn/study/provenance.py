"""How a study came about, from its plan and from what the entries of its stage store say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.report.provenance import Branch, Cost, Provenance
from lightning_unlearn.storage.run_folders import MANIFEST, read_about
from lightning_unlearn.storage.seals import Damage, number_of, read_json

if TYPE_CHECKING:
    from lightning_unlearn.study.plan import StudyPlan, Task

CONFIGURATION = "config.yaml"
# Names under which an entry may tell of the bytes that it took at the peak.
MEMORY = ("peak_memory", "memory")


def provenance_of_study(plan: StudyPlan, folder: Path) -> Provenance:
    """What is recorded of a study.

    Args:
        plan: from its study.json.
        folder: of the study.
    """
    store = Path(plan.store)
    entries = {task.key: read_entry(store, task.key) for task in plan.tasks}
    made = [trial for trial in plan.runs() if entries.get(trial.walk[-1])]
    # An oracle's configuration says less.
    made.sort(key=lambda trial: trial.method == "oracle")
    runs = [folder / trial.run for trial in made]
    configured = [run for run in runs if (run / CONFIGURATION).is_file()]
    ends = [entry for task in plan.tasks if task.is_run and (entry := entries[task.key])]
    # What an oracle was made with has no method in it.
    ends.sort(key=lambda entry: "method" not in entry.get("content", {}))
    return Provenance(
        plan=f"{plan}.",
        trees=_trees(plan, entries),
        facts=_facts(plan, ends[0] if ends else {}),
        costs=_costs(plan, entries),
        configuration=_text(configured[0] / CONFIGURATION) if configured else "",
        run=configured[0].relative_to(folder).as_posix() if configured else "",
    )


def provenance_of_run(folder: Path) -> Provenance:
    """What is recorded of a single run of fit."""
    about = read_about(folder)
    store = Path(str(about.get("store", "")))
    stages = [stage for stage in about.get("stages", []) if isinstance(stage, dict)]
    costs, entry = [], dict[str, Any]()
    for stage in stages:
        entry = read_entry(store, str(stage.get("key"))) or {}
        costs.append(_cost(str(stage.get("name")), [entry] if entry else [], None))
    file = folder / CONFIGURATION
    facts = [("seeds", str(about.get("seed", ""))), *_made_with(entry), *_computed_with(entry)]
    return Provenance(
        facts=facts,
        costs=costs,
        configuration=_text(file) if file.is_file() else "",
        run=folder.name,
    )


def read_entry(store: Path, key: str) -> dict[str, Any] | None:
    """What an entry of the store says of itself; None where there is none that can be read."""
    try:
        return read_json(store / key / MANIFEST)
    except Damage:
        return None


def _trees(
    plan: StudyPlan, entries: Mapping[str, dict[str, Any] | None]
) -> list[tuple[str, list[Branch]]]:
    """The tree of every seed; seeds whose trees have the same shape are one."""
    children: dict[str | None, list[Task]] = {}
    for task in plan.tasks:
        children.setdefault(task.parent, []).append(task)

    def below(key: str | None, seed: int) -> list[Branch]:
        found = []
        own = [n for n in children.get(key, []) if plan.trials[n.trial].seed == seed]
        leaves: dict[str, list[Task]] = {}
        for task in own:
            if task.is_run:
                leaves.setdefault(plan.trials[task.trial].method, []).append(task)
                continue
            trials = plan.through[task.key]
            paths = len({trial.path for trial in trials if trial.method != "oracle"})
            branch = _branch(task.stage, [task], entries, paths or len({c.path for c in trials}))
            branch.below = below(task.key, seed)
            found.append(branch)
        for method, tasks in leaves.items():
            text = f"{method} ({len(tasks)} settings)" if len(tasks) > 1 else method
            branch = _branch(text, tasks, entries, 1)
            branch.is_run = True
            found.append(branch)
        return found

    seeds = list(dict.fromkeys(trial.seed for trial in plan.trials))
    drawn: dict[str, tuple[list[int], list[Branch]]] = {}
    for seed in seeds:
        branches = below(None, seed)
        drawn.setdefault(_shape(branches), ([], branches))[0].append(seed)
    found = []
    for own, branches in drawn.values():
        each = f", alike; the times are those of seed {own[0]}" if len(own) > 1 else ""
        found.append((f"seed{'s' * (len(own) > 1)} {', '.join(map(str, own))}{each}", branches))
    return found


def _branch(
    text: str,
    tasks: Sequence[Task],
    entries: Mapping[str, dict[str, Any] | None],
    paths: int,
) -> Branch:
    known = [entry for task in tasks if (entry := entries[task.key])]
    seconds = [value for entry in known if (value := _number(entry, "seconds")) is not None]
    return Branch(text, len(known), len(tasks), paths, sum(seconds) if seconds else None)


def _shape(branches: Sequence[Branch]) -> str:
    return "".join(f"({b.text!r},{b.done},{b.tasks},{b.paths}{_shape(b.below)})" for b in branches)


def _costs(plan: StudyPlan, entries: Mapping[str, dict[str, Any] | None]) -> list[Cost]:
    parts: dict[str, list[Task]] = {}
    for task in plan.tasks:
        method = plan.trials[task.trial].method
        part = task.stage if not task.is_run else f"unlearning: {method}"
        parts.setdefault("oracle" if task.stage == "oracle" else part, []).append(task)
    found = []
    for part, tasks in parts.items():
        made = [task for task in tasks if entries[task.key]]
        known = [entry for task in made if (entry := entries[task.key])]
        found.append(_cost(part, known, sum(task.tokens for task in made)))
    return found


def _cost(part: str, entries: Sequence[Mapping[str, Any]], tokens: int | None) -> Cost:
    seconds = [value for entry in entries if (value := _number(entry, "seconds")) is not None]
    memory = [
        value for entry in entries for name in MEMORY if (value := _number(entry, name)) is not None
    ]
    return Cost(part, len(entries), seconds, tokens, memory)


def _facts(plan: StudyPlan, entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    seeds = sorted({trial.seed for trial in plan.trials})
    facts = [("seeds", ", ".join(map(str, seeds)))]
    swept: dict[str, list[str]] = {}
    for trial in plan.trials:
        for key, value in trial.sweep:
            swept.setdefault(key, []).append(str(value))
    facts += [(f"swept: {key}", ", ".join(dict.fromkeys(own))) for key, own in swept.items()]
    return [*facts, *_made_with(entry), *_computed_with(entry), ("stage store", plan.store)]


def _made_with(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, precision and data of a run, with their fingerprints."""
    content = entry.get("content")
    if not isinstance(content, dict):
        return [("fingerprints", "not recorded: the stage store is gone or has no finished run")]
    facts = []
    for key, label in (
        ("base", "base model, fingerprint"),
        ("template", "chat template, fingerprint"),
        ("lora", "LoRA"),
        ("quantization", "quantization of the base"),
        ("precision", "precision"),
    ):
        if key in content:
            facts.append((label, _said(content[key])))
    for stage in content.get("stages") or []:
        if isinstance(stage, dict) and "data" in stage:
            facts.append((f"data of {stage.get('name')}, fingerprint", str(stage["data"])))
    measured = content.get("measured")
    if isinstance(measured, dict):
        facts += [(f"measured on {name}, fingerprint", str(own)) for name, own in measured.items()]
    return facts


def _computed_with(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an entry says of the software and the machine that made it."""
    details = entry.get("details")
    machine = details.get("machine") if isinstance(details, dict) else None
    machine = machine if isinstance(machine, dict) else {}
    versions = machine.get("versions")
    named = versions.items() if isinstance(versions, dict) else ()
    told = ", ".join(f"{name} {number}" for name, number in named)
    where = [str(machine[name]) for name in ("processor", "instructions") if name in machine]
    where += [f"{machine['threads']} threads"] if "threads" in machine else []
    if (device := machine.get("device")) not in (None, "cpu"):
        where.append(str(device))
    return [
        ("versions", told or "not recorded"),
        ("machine", ", ".join(where) or "not recorded"),
    ]


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(entry: Mapping[str, Any], name: str) -> float | None:
    return number_of(entry.get("details"), name)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
