"""Tables of the report as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_unlearn.report.page.markup import Markup, element, join
from lightning_unlearn.report.page.source import Told
from lightning_unlearn.report.sections.scores import sweep_grid
from lightning_unlearn.report.tables import Table


def table(
    caption: str, headings: Sequence[object], rows: Iterable[Sequence[Markup]], class_: str = ""
) -> Markup:
    """A table that scrolls sideways where there is no room.

    Args:
        caption: what it is, for those who cannot see where it stands.
        headings: of the columns.
        rows: of cells made by `element`.
        class_: of the table.
    """
    head = element("tr", *(element("th", text, scope="col") for text in headings))
    body = [element("tr", *cells) for cells in rows]
    made = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", head),
        element("tbody", *body),
        class_=class_ or None,
    )
    # Reached by keyboard, so that it can be scrolled without a mouse.
    return element("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def layout_table(caption: str, layout: Table) -> Markup:
    """A table with its note."""
    return Markup(layout.html(caption))


def sweep_table(told: Told, value: str, title: str) -> Markup:
    """The grid of a score over the sweep, below its title; empty without any value."""
    grid = sweep_grid(told.scores, value)
    return join([element("h4", title), Markup(grid.html(title, "grid"))] if grid else [])
