"""How a study came about: its tree, its configuration, what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.report.page.markup import Markup, details, element, join, name
from lightning_unlearn.report.page.source import Branch, Cost, Provenance
from lightning_unlearn.report.page.tables import table

NOT_RECORDED = "not recorded"


def tree(provenance: Provenance) -> Markup | None:
    """The stages of a study and what they share; None where there is no plan."""
    if not provenance.trees:
        return None
    parts: list[Markup] = [element("p", provenance.plan, class_="lead")]
    for number, (heading, branches) in enumerate(provenance.trees):
        inside = _branches(branches)
        if len(provenance.trees) > 1:
            inside = details(heading, inside, open=number == 0)
        parts.append(inside)
    legend = "✓ made, ◐ in part, · not yet. A bar is as long as its work took."
    return join([*parts, element("p", legend, class_="note")])


def _branches(branches: Sequence[Branch], longest: float | None = None) -> Markup:
    if longest is None:
        longest = max((b.seconds or 0.0 for b in _every(branches)), default=0.0)
    items = []
    for branch in branches:
        mark, state = ("✓", "made") if branch.done == branch.parts else ("·", "not made yet")
        if 0 < branch.done < branch.parts:
            mark, state = "◐", f"{branch.done} of {branch.parts} made"
        said: list[str] = []
        if branch.paths > 1 and not branch.is_run:
            said.append(f"shared by {branch.paths} paths")
        if branch.seconds is not None:
            said.append(duration(branch.seconds))
        width = 100 * (branch.seconds or 0.0) / longest if longest else 0.0
        line = element(
            "div",
            element("span", mark, class_="mark", title=state),
            element("span", f"{state}: ", class_="unseen"),
            element("span", name(branch.text), class_="run" if branch.is_run else "stage"),
            element("span", ", ".join(said), class_="soft") if said else None,
            element("span", class_="bar", style=f"--bar:{width:.1f}%", aria_hidden="true"),
            class_="branch",
        )
        items.append(
            element("li", line, _branches(branch.below, longest) if branch.below else None)
        )
    return element("ul", *items, class_="tree")


def _every(branches: Sequence[Branch]) -> list[Branch]:
    return [b for branch in branches for b in (branch, *_every(branch.below))]


def facts(provenance: Provenance) -> Markup | None:
    """What is recorded, by name."""
    if not provenance.facts:
        return None
    rows = [
        (element("th", label, scope="row"), element("td", name(value), class_="wrap"))
        for label, value in provenance.facts
    ]
    return table("What is recorded of how the study was made", ["", ""], rows, "facts")


def configuration(provenance: Provenance) -> Markup | None:
    """The configuration of one run, to be opened."""
    if not provenance.configuration:
        return None
    text = element("pre", element("code", name(provenance.configuration)), tabindex="0")
    return details(join(["Configuration of ", name(provenance.whose)]), text)


def costs(provenance: Provenance) -> Markup | None:
    """What the parts took."""
    if not provenance.costs:
        return None
    every = provenance.costs
    rows = [_row(cost) for cost in every]
    total = sum(sum(cost.seconds) for cost in every)
    timed = sum(len(cost.seconds) for cost in every)
    made = sum(cost.made for cost in every)
    said = [f"In all {duration(total)} of wall time for {timed} parts."] if timed else []
    if timed < made:
        said.append(f"The wall time of {made - timed} parts is not recorded.")
    if not any(cost.memory for cost in every):
        said.append("Peak memory is not recorded.")
    headings = ["part", "made", "seconds each", "seconds in all", "tokens", "peak memory"]
    made_table = table("What the parts took", headings, rows)
    return join([made_table, element("p", " ".join(said), class_="note")])


def _row(cost: Cost) -> list[Markup]:
    seconds, memory = list(cost.seconds), list(cost.memory)
    each = f"{sum(seconds) / len(seconds):.1f}" if seconds else NOT_RECORDED
    if len(seconds) > 1:
        each += f" ({min(seconds):.1f} to {max(seconds):.1f})"
    tokens = f"{cost.tokens:,}" if cost.tokens is not None else NOT_RECORDED
    peak = f"{max(memory) / 2**30:.2f} GiB" if memory else NOT_RECORDED
    cells = [cost.made, each, f"{sum(seconds):.0f}" if seconds else NOT_RECORDED, tokens, peak]
    part = element("th", name(cost.part), scope="row")
    return [part, *(element("td", cell, class_="n") for cell in cells)]


def duration(seconds: float) -> str:
    """Seconds for people: "41 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
