"""Builds HTML; text and attribute values are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from callfence.policygen.values import frozen
from callfence.shared.text import printable

_VOID: Final = ("meta", "br", "wbr")
"""The elements in a report that have no end tag."""


@frozen
class Html:
    """Markup: text and attribute values in it are escaped already."""

    text: str


Child = Html | str
"""A `str` is text: it is escaped and made printable, since the program chooses names of files."""


def element(name: str, /, *children: Child, **attributes: str | int) -> Html:
    """Return the element `<name ...>children</name>`.  Keywords: `class_` gives class, `aria_label` aria-label."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escape(str(value))}"' for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*children).text}</{name}>")


def join(*children: Child) -> Html:
    """Return the children, concatenated."""
    return Html("".join(child.text if isinstance(child, Html) else _escape(child) for child in children))


def lines(*children: Child) -> Html:
    """Return the children, each on its own line of the HTML source."""
    return Html("\n".join(join(child).text for child in children))


def code(text: str) -> Html:
    return element("code", text)


def prose(text: str) -> Html:
    """Return a sentence as markup, in which text between backticks becomes code."""
    return join(*(code(part) if index % 2 else part for index, part in enumerate(text.split("`"))))


def items(children: Iterable[Child], **attributes: str | int) -> Html:
    """Return an unordered list of the children."""
    return element("ul", *(element("li", child) for child in children), **attributes)


def terms(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Return a description list of (term, description)."""
    return element("dl", *(join(element("dt", term), element("dd", said)) for term, said in pairs))


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Child]], *, numbers: Iterable[int] = ()) -> Html:
    """Return a table in which the first cell of each row is the row's heading.  `numbers` are the indexes of columns to align
    as numbers.  A table that is too wide for the window can be scrolled, also with the keyboard."""
    right = frozenset(numbers)
    kinds: list[dict[str, str | int]] = [{"class_": "number"} if index in right else {} for index in range(len(columns))]
    head = element("tr", *(element("th", name, scope="col", **kind) for name, kind in zip(columns, kinds, strict=True)))
    body = []
    for first, *others in rows:
        cells = (element("td", cell, **kind) for cell, kind in zip(others, kinds[1:], strict=True))
        body.append(element("tr", element("th", first, scope="row", **kinds[0]), *cells))
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", lines(*body)))
    return element("div", whole, class_="scroll", role="region", tabindex=0, aria_label=caption)


def badge(word: str, kind: str = "") -> Html:
    return element("span", word, class_=f"badge {kind or word}")


def anchor(arch: str, name: str) -> str:
    """Return the id of the element for the first rule of a call."""
    return f"rule-{arch}-{name}"


def _escape(text: str) -> str:
    return html.escape(printable(text))
