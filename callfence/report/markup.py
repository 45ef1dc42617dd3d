"""HTML as values: text and values of attributes are escaped when they become markup.  Charts are inline SVG, with a description
in words for readers who cannot see them.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from callfence.shared.text import printable
from policygen.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VOID: Final = ("meta", "br", "wbr")
"""The elements in a report that have no end tag."""
_WIDTH: Final = 560
_HEIGHT: Final = 230
_LEFT: Final = 44
_RIGHT: Final = 16
_TOP: Final = 12
_BOTTOM: Final = 32
_TICKS: Final = 4
"""About how many horizontal lines."""
_MANY_POINTS: Final = 60
"""Points; the marks of more would hide the line."""


@frozen
class Html:
    """A piece of markup, already escaped."""

    text: str


Child = Html | str
"""A `str` is text: escaped, and made printable, since names of files come from the program."""


def element(name: str, /, *children: Child, **attributes: str | int) -> Html:
    """`<name ...>children</name>`.  `class_` is the attribute class, `aria_label` is aria-label."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escape(str(value))}"' for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*children).text}</{name}>")


def join(*children: Child) -> Html:
    """The pieces, concatenated."""
    return Html("".join(child.text if isinstance(child, Html) else _escape(child) for child in children))


def lines(*children: Child) -> Html:
    """The pieces, each on its own line of the source."""
    return Html("\n".join(join(child).text for child in children))


def code(text: str) -> Html:
    return element("code", text)


def prose(text: str) -> Html:
    """A sentence in which code stands between backticks."""
    return join(*(code(part) if index % 2 else part for index, part in enumerate(text.split("`"))))


def items(children: Iterable[Child], **attributes: str | int) -> Html:
    """An unordered list."""
    return element("ul", *(element("li", child) for child in children), **attributes)


def terms(pairs: Iterable[tuple[str, Child]]) -> Html:
    """A list of terms and their descriptions."""
    return element("dl", *(join(element("dt", term), element("dd", said)) for term, said in pairs))


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Child]], *, numbers: Iterable[int] = ()) -> Html:
    """A table whose rows are named by their first cell; `numbers` are the columns aligned as numbers.

    What is too wide for the window scrolls, with the keyboard too.
    """
    right = frozenset(numbers)
    kinds: list[dict[str, str | int]] = [{"class_": "number"} if index in right else {} for index in range(len(columns))]
    head = element("tr", *(element("th", name, scope="col", **kind) for name, kind in zip(columns, kinds, strict=True)))
    body = []
    for first, *others in rows:
        cells = (element("td", cell, **kind) for cell, kind in zip(others, kinds[1:], strict=True))
        body.append(element("tr", element("th", first, scope="row", **kinds[0]), *cells))
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", lines(*body)))
    return scrolling(whole, caption)


def scrolling(content: Html, name: str) -> Html:
    """A region that scrolls sideways."""
    return element("div", content, class_="scroll", role="region", tabindex=0, aria_label=name)


def badge(word: str, kind: str = "") -> Html:
    return element("span", word, class_=f"badge {kind or word}")


def anchor(arch: str, name: str) -> str:
    """The id of the first rule of a call."""
    return f"rule-{arch}-{name}"


def _escape(text: str) -> str:
    return html.escape(printable(text))


@frozen
class Point:
    x: float
    """0 at the left, 1 at the right."""
    y: int
    hollow: bool
    """Whether the run was a warm one."""


def curve(identity: str, title: str, description: str, points: Sequence[Point], labels: Sequence[tuple[float, str]]) -> Html:
    """A staircase through points that ascend in both directions; ids on the page begin with `identity`."""
    top, step = _scale(max((point.y for point in points), default=0))
    grid = join(*(_rule(value, top) for value in range(0, top + 1, step)))
    marks = join(*(_mark(point, top) for point in points if len(points) <= _MANY_POINTS))
    names = join(*(_label(x, text) for x, text in labels))
    path = _stairs(points, top)
    area = element("path", d=f"{path}V{_y(0, top):.1f}H{_x(points[0].x):.1f}Z", class_="area")
    return _figure(identity, title, description, grid, area, element("path", d=path, class_="line"), marks, names)


@frozen
class Column:
    name: str
    value: int
    line: str
    """What is written at the line where it begins; "" for the first one."""


def columns(identity: str, title: str, description: str, values: Sequence[Column]) -> Html:
    """Columns side by side, with a line between two; ids on the page begin with `identity`."""
    top, step = _scale(max(one.value for one in values))
    parts = [_rule(value, top) for value in range(0, top + 1, step)]
    for index, one in enumerate(values):
        left, right = _x(index / len(values)), _x((index + 1) / len(values))
        y, middle = _y(one.value, top), f"{(left + right) / 2:.1f}"
        outline = f"M{left:.1f} {_y(0, top):.1f}V{y:.1f}H{right:.1f}V{_y(0, top):.1f}Z"
        parts.append(element("path", d=outline, class_="area"))
        parts.append(element("path", d=f"M{left:.1f} {y:.1f}H{right:.1f}", class_="line"))
        parts.append(element("text", str(one.value), x=middle, y=f"{y + 16:.1f}", text_anchor="middle"))
        parts.append(element("text", one.name, x=middle, y=_HEIGHT - 10, text_anchor="middle"))
        if one.line:
            parts.append(element("path", d=f"M{left:.1f} {_TOP}V{_y(0, top):.1f}", class_="line"))
            parts.append(element("text", one.line, x=f"{left + 6:.1f}", y=_TOP + 10))
    return _figure(identity, title, description, *parts)


def _figure(identity: str, title: str, description: str, *parts: Html) -> Html:
    drawing = element(
        "svg",
        element("title", title, id=f"{identity}-title"),
        element("desc", description, id=f"{identity}-description"),
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_labelledby=f"{identity}-title {identity}-description",
    )
    return element("figure", scrolling(drawing, title), element("figcaption", title))


def _x(x: float) -> float:
    return _LEFT + x * (_WIDTH - _LEFT - _RIGHT)


def _y(y: int, top: int) -> float:
    return _TOP + (1 - y / top) * (_HEIGHT - _TOP - _BOTTOM)


def _scale(greatest: int) -> tuple[int, int]:
    """A round number not below the value, and the distance of the lines: 1, 2 or 5 times a power of ten."""
    step = 1
    while step * _TICKS < greatest:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return max(-(-greatest // step) * step, step), step


def _rule(value: int, top: int) -> Html:
    y = f"{_y(value, top):.1f}"
    line = element("path", d=f"M{_LEFT} {y}H{_WIDTH - _RIGHT}", class_="grid")
    return join(line, element("text", str(value), x=_LEFT - 8, y=y, text_anchor="end", dominant_baseline="middle"))


def _stairs(points: Sequence[Point], top: int) -> str:
    first, *others = points
    start = f"M{_x(first.x):.1f} {_y(first.y, top):.1f}"
    return start + "".join(f"H{_x(point.x):.1f}V{_y(point.y, top):.1f}" for point in others)


def _mark(point: Point, top: int) -> Html:
    kind = "mark hollow" if point.hollow else "mark"
    return element("circle", cx=f"{_x(point.x):.1f}", cy=f"{_y(point.y, top):.1f}", r=4, class_=kind)


def _label(x: float, text: str) -> Html:
    """A centred label, or one aligned with the edge that it would cross."""
    anchor = "middle" if len(text) < 5 else "start" if x == 0 else "end"
    return element("text", text, x=f"{_x(x):.1f}", y=_HEIGHT - 10, text_anchor=anchor)
