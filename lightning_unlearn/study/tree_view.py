"""The plan of a study as a tree for the terminal."""

from collections import Counter

from rich.markup import escape
from rich.tree import Tree

from lightning_unlearn.errors import visible
from lightning_unlearn.study.plan import StudyPlan, Task, Trial, common_setting


def draw(plan: StudyPlan, cells: list[Trial], made: set[str]) -> Tree:
    """The stage prefixes and what is done on top of each.

    Args:
        plan: the study.
        cells: the part of it that is wanted.
        made: keys of what is in the store already.

    Returns:
        The tree, for `rich.console.Console.print`. Seeds with the same tree are drawn once.
    """
    root = Tree(f"[bold]{escape(visible(plan.name))}[/]: {plan}")
    nodes = plan.needed(cells)
    by_seed = {
        seed: [node for node in nodes if plan.cells[node.cell].seed == seed]
        for seed in dict.fromkeys(cell.seed for cell in cells)
    }
    drawn: dict[str, list[int]] = {}
    for seed, own in by_seed.items():
        drawn.setdefault("\n".join(_lines(plan, own, made)), []).append(seed)
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


def _lines(plan: StudyPlan, nodes: list[Task], made: set[str]) -> list[str]:
    """The tree of one seed, a line per prefix, indented by tabs."""
    children: dict[str | None, list[Task]] = {}
    for node in nodes:
        children.setdefault(node.parent, []).append(node)
    lines = []

    def add(parent: str | None, depth: int) -> None:
        below = children.get(parent, [])
        stages = [node for node in below if not node.is_run]
        leaves = [node for node in below if node.is_run]
        if leaves:
            lines.append("\t" * depth + _runs(plan, leaves, made))
        alike = Counter(node.stage for node in stages)
        for node in stages:
            setting = (
                common_setting([c.sweep for c in plan.through[node.key]])
                if alike[node.stage] > 1
                else ""
            )
            text = escape(visible(f"{node.stage} ({setting})" if setting else node.stage))
            lines.append("\t" * depth + text + _mark(node.key in made))
            add(node.key, depth + 1)

    add(None, 0)
    return lines


def _runs(plan: StudyPlan, leaves: list[Task], made: set[str]) -> str:
    """The runs on top of a prefix, in one line: methods, and settings of each."""
    methods = Counter(plan.cells[node.cell].method for node in leaves)
    parts = [f"{m} x {count} settings" if count > 1 else m for m, count in methods.items()]
    done = sum(node.key in made for node in leaves)
    share = "" if done == len(leaves) or not done else f" [green]({done} of {len(leaves)} done)[/]"
    return f"[dim]→[/] [cyan]{escape(visible(', '.join(parts)))}[/]{share or _mark(done > 0)}"


def _mark(done: bool) -> str:
    return " [green]✓[/]" if done else ""
