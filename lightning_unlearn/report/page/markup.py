"""HTML in which a text is harmless unless it says that it is markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

from lightning_unlearn.errors import visible


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """A text as HTML, for content and for attributes; markup stays as it is."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(visible(str(text), lines=True), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Texts and markup, one after the other."""
    return Markup(between.join(escape(part) for part in parts))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """An element: content is escaped unless it is markup.

    Args:
        name: of the tag.
        content: what is inside; None is left out.
        attributes: with "_" for "-", and one at the end of a name for nothing; None leaves an
            attribute out, True gives one without a value.
    """
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {key}")
        elif value is not None and value is not False:
            written.append(f' {key}="{escape(value)}"')
    inside = join(part for part in content if part is not None)
    return Markup(f"<{name}{''.join(written)}>{inside}</{name}>")


def name(text: object) -> Markup:
    """A name from outside, set apart so that its reading direction ends with it."""
    return element("bdi", text)


def bullets(sentences: Iterable[object]) -> Markup | None:
    """A list; None where there is nothing to list."""
    items = [element("li", sentence) for sentence in sentences]
    return element("ul", *items) if items else None


def details(title: object, *content: object, open: bool = False, **attributes: object) -> Markup:
    """Something to be opened by its title."""
    return element("details", element("summary", title), *content, open=open, **attributes)


def data_block(identity: str, values: Any) -> Markup:
    """Values for the page's script, in a block that no browser runs."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    # Nothing in it can end the block or begin a comment.
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(f'<script type="application/json" id="{escape(identity)}">{text}</script>')
