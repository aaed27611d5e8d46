"""Tables of the report as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_unlearn.report.formatting import number, short_number
from lightning_unlearn.report.layout import Layout
from lightning_unlearn.report.page.looks import path_shown
from lightning_unlearn.report.page.markup import Markup, element, escape, join, name
from lightning_unlearn.report.page.source import Told
from lightning_unlearn.settings.labels import setting_name


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


def layout_table(caption: str, layout: Layout) -> Markup:
    """A layout with its notes."""
    several = any(row.seeds > 1 for row in layout.rows)
    headings: list[object] = ["method"]
    headings += ["setting"] if layout.swept else []
    headings += ["p", "path"] if layout.by_path else []
    headings += ["seeds"] if layout.by_path and several else []
    rows = []
    before = None
    for row in layout.rows:
        same = before == (row.method, row.setting)
        cells = [element("th", None if same else name(row.method), scope="row")]
        if layout.swept:
            cells.append(element("td", None if same else name(row.setting or "n/a")))
        if layout.by_path:
            path = path_shown(row.path, row.position)
            cells += [element("td", row.position, class_="n"), element("td", path, class_="path")]
        if layout.by_path and several:
            cells.append(element("td", row.seeds, class_="n"))
        for place, cell in enumerate(row.cells):
            head, opened, rest = cell.partition(" (")
            value = element("b", head) if place == row.bold else escape(head)
            # The spread goes on a line of its own where there is little room.
            small = join([" ", element("small", f"({rest}")]) if opened else ""
            cells.append(element("td", value, small, class_="n"))
        rows.append(cells)
        before = (row.method, row.setting)
    notes = " ".join([*layout.notes, *([layout.seeds] if layout.seeds and several else [])])
    made = table(caption, [*headings, *layout.headings], rows)
    return join([made, element("p", notes, class_="note")]) if notes else made


def sweep_grid(told: Told, value: str, title: str, signed: bool = False) -> Markup:
    """Means over seeds of a score: a row per setting, a column per method and path, shaded.

    Args:
        told: a study with sweep keys.
        value: a column of the scores.
        title: of the table.
        signed: whether numbers have a plus.
    """
    cells = told.study.runs.drop_duplicates("run").set_index("run")
    scores = told.scores.assign(code=cells["setting"])
    means = scores.groupby(["code", "method", "path", "position"])[value].mean().dropna()
    if means.empty:
        return Markup("")
    columns = sorted(
        {(str(method), int(position), str(path)) for _, method, path, position in means.index},
        key=lambda column: (list(scores["method"]).index(column[0]), column[1], column[2]),
    )
    low, high = float(means.min()), float(means.max())
    rows = []
    for code in sorted({int(code) for code, *_ in means.index}):
        words = setting_name(told.study.sweep, told.study.settings[code])
        row = [element("th", name(words or "n/a"), scope="row")]
        for method, position, path in columns:
            found = means.get((code, method, path, position))
            if found is None:
                row.append(element("td", "n/a", class_="n"))
                continue
            share = (float(found) - low) / (high - low) if high > low else 0.0
            shade = f"--heat:{0.06 + 0.5 * share:.2f}"
            text = number(float(found), signed)
            row.append(element("td", text, class_="n heat", style=shade))
        rows.append(row)
    headings = ["setting", *(join([name(m), element("small", f"p = {p}")]) for m, p, _ in columns)]
    paths = {path: position for _, position, path in columns}
    note = f"Darker: higher. From {short_number(low)} to {short_number(high)}. " + "; ".join(
        f"p = {position}: {path}" for path, position in paths.items()
    )
    made = table(title, headings, rows, "grid")
    return join([element("h4", title), made, element("p", note, class_="note")])
