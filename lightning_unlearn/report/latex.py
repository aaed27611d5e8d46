"""Tables as LaTeX, with the packages booktabs and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # After the \\ of the row before, a bracket would be read as its argument.
    "[": "{[}",
    "]": "{]}",
    "\u00b1": r"$\pm$",
    "\u2212": "$-$",
    "\u00b7": r"$\cdot$",
    "\u2192": r"$\to$",
    "\u2191": r"$\uparrow$",
}
_ANY = re.compile("|".join(map(re.escape, _SIGNS)))


def escape_latex(text: str) -> str:
    """`text` as plain letters of LaTeX, on one line."""
    plain = _ANY.sub(lambda found: _SIGNS[found[0]], " ".join(text.split()))
    # The unit of distances, (nats per token)^2.
    plain = plain.replace(r")\textasciicircum{}2", ")$^2$")
    # Two hyphens would be set as a dash, and one before a number is a minus.
    return re.sub(r"(?<![\w}-])-(?=\d)", "$-$", re.sub(r"-(?=-)", "-{}", plain))


def bold_latex(escaped: str) -> str:
    """Escaped text in bold."""
    return rf"\textbf{{{escaped}}}"


def table_latex(
    head: Sequence[str],
    right: Sequence[bool],
    groups: Sequence[Sequence[Sequence[str]]],
    note: str = "",
    caption: str = "",
    above: Sequence[str] = (),
) -> str:
    """A table float with rules of booktabs, ending in a newline.

    Args:
        head: escaped headings of the columns.
        right: whether each column is right-aligned.
        groups: rows of escaped cells; groups are parted by a rule. A row of one cell goes across.
        note: what stands under the table, not escaped yet.
        caption: likewise; "" for none.
        above: finished rows over the headings.
    """
    columns = "".join("r" if aligned else "l" for aligned in right)
    lines = [r"\begin{table}[tbp]", r"\centering", r"\small"]
    lines += [rf"\caption{{{escape_latex(caption)}}}"] if caption else []
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *above, _row(head)]
    for group in groups:
        lines += [r"\midrule", *map(_row, group)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if note:
        lines += [
            r"\par\smallskip",
            rf"\parbox{{\linewidth}}{{\footnotesize {escape_latex(note)}}}",
        ]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"
