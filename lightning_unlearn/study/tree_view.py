"""The plan of a study as a tree for the terminal."""

from collections import Counter

from rich.markup import escape
from rich.tree import Tree

from lightning_unlearn.errors import visible
from lightning_unlearn.study.plan import StudyPlan, Task, Trial, common_setting


def draw(plan: StudyPlan, trials: list[Trial], stored: set[str]) -> Tree:
    """Draw the prefixes of paths, and the runs that start from each.

    Args:
        plan: the study.
        trials: the trials to draw.
        stored: keys of the tasks whose entries are in the store.

    Returns:
        The tree, for `rich.console.Console.print`. Seeds with equal trees are drawn once.
    """
    root = Tree(f"[bold]{escape(visible(plan.name))}[/]: {plan}")
    tasks = plan.needed(trials)
    by_seed = {
        seed: [task for task in tasks if plan.trials[task.trial].seed == seed]
        for seed in dict.fromkeys(trial.seed for trial in trials)
    }
    drawn: dict[str, list[int]] = {}
    for seed, own in by_seed.items():
        drawn.setdefault("\n".join(_lines(plan, own, stored)), []).append(seed)
    for lines, seeds in drawn.items():
        branch = root
        if len(by_seed) > 1:
            each = ", once for each" if len(seeds) > 1 else ""
            branch = root.add(f"seed {', '.join(map(str, seeds))}{each}")
        levels = [branch]
        for line in lines.split("\n"):
            depth = len(line) - len(line.lstrip("\t"))
            levels[depth + 1 :] = [levels[depth].add(line.lstrip("\t"))]
    return root


def _lines(plan: StudyPlan, tasks: list[Task], stored: set[str]) -> list[str]:
    """Return the tree of one seed: one line per prefix, indented by tabs."""
    children: dict[str | None, list[Task]] = {}
    for task in tasks:
        children.setdefault(task.parent, []).append(task)
    lines = []

    def add(parent: str | None, depth: int) -> None:
        below = children.get(parent, [])
        stages = [task for task in below if not task.is_run]
        leaves = [task for task in below if task.is_run]
        if leaves:
            lines.append("\t" * depth + _runs(plan, leaves, stored))
        alike = Counter(task.stage for task in stages)
        for task in stages:
            setting = (
                common_setting([c.sweep for c in plan.through[task.key]])
                if alike[task.stage] > 1
                else ""
            )
            text = escape(visible(f"{task.stage} ({setting})" if setting else task.stage))
            lines.append("\t" * depth + text + _mark(task.key in stored))
            add(task.key, depth + 1)

    add(None, 0)
    return lines


def _runs(plan: StudyPlan, leaves: list[Task], stored: set[str]) -> str:
    """Return the runs that start from a prefix as one line: methods with their settings."""
    methods = Counter(plan.trials[task.trial].method for task in leaves)
    parts = [f"{m} x {count} settings" if count > 1 else m for m, count in methods.items()]
    done = sum(task.key in stored for task in leaves)
    share = "" if done == len(leaves) or not done else f" [green]({done} of {len(leaves)} done)[/]"
    return f"[dim]→[/] [cyan]{escape(visible(', '.join(parts)))}[/]{share or _mark(done > 0)}"


def _mark(done: bool) -> str:
    return " [green]✓[/]" if done else ""
