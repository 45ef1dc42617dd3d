"""Attach each comment to the statement on its line, or else to the next statement."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from callfence.policygen.language.expressions import Span
from callfence.policygen.language.layout import Comments, Include, Layout, Remarks, Section, is_note
from callfence.policygen.language.lexer import Comment
from callfence.policygen.language.normal import normal_expression
from callfence.policygen.model import Entry, Expression, Or
from callfence.policygen.values import replace
from callfence.tracer.abi import NATIVE, Arch
from callfence.tracer.named import NamedTuple

Place = (
    tuple[Literal["setting"], str]
    | tuple[Literal["arch"], Arch]
    | tuple[Literal["files"], str]
    | tuple[Literal["include"], Arch, Include]
    | tuple[Literal["entry"], Arch, int, Entry]
)


class Item(NamedTuple):
    """A statement of the text: its position, and what it sets, includes or allows."""

    start: int
    end: int
    place: Place
    spans: tuple[Span, ...] = ()
    """The places of an entry's alternatives."""


def attach(text: str, items: Sequence[Item], comments: Sequence[Comment]) -> Layout:
    """Return the layout of a text: each statement in `items` (in the order of the text) with the comments that belong to it."""
    starts = [item.start for item in items]
    on: defaultdict[int, list[Comment]] = defaultdict(list)
    for comment in comments:
        # The statement that begins last before the comment, if the comment is in it or on its line; else the next.
        index = bisect_right(starts, comment.start) - 1
        inside = index >= 0 and (comment.start < items[index].end or not comment.alone)
        on[index if inside else index + 1].append(comment)
    header, rest = _header(text, items, on[0])
    on[0] = rest
    settings: dict[str, Comments] = {}
    files: dict[str, Comments] = {}
    sections: dict[Arch, _Section] = {}
    arch = NATIVE
    for index, item in enumerate(items):
        attached = on[index]
        match item.place:
            case ("setting", name) if attached:
                settings[name] = _comments(text, attached, item.start)
            case ("files", line) if attached:
                files[line] = _comments(text, attached, item.start)
            case ("arch", new):
                placed = _comments(text, attached, item.start)
                if sections:
                    below, above = _last_paragraph(placed.above)
                    sections.setdefault(arch, _Section()).end += below
                    placed = Comments(above, placed.trailing)
                arch = new
                sections.setdefault(arch, _Section()).arch = placed
            case ("include", arch, include):
                placed = _comments(text, attached, item.start)
                sections.setdefault(arch, _Section()).includes.append(replace(include, comments=placed))
            case ("entry", arch, number, entry):
                section = sections.setdefault(arch, _Section())
                if attached:
                    remarks = _remarks(text, attached, item.start, _alternatives(arch, number, entry, item.spans))
                    section.entries[number] = remarks.settled(entry.expression)
    sections.setdefault(arch, _Section()).end += _lines(text, on[len(items)], len(text)) if items else ()
    frozen = {name: section.frozen() for name, section in sections.items()}
    return Layout(header, settings, {name: section for name, section in frozen.items() if section != Section()}, files)


class _Section:
    """A section under construction."""

    def __init__(self) -> None:
        self.arch = Comments()
        self.includes: list[Include] = []
        self.entries: dict[int, Remarks] = {}
        self.end: tuple[str, ...] = ()

    def frozen(self) -> Section:
        end = self.end[:-1] if self.end[-1:] == ("",) else self.end
        return Section(self.arch, tuple(self.includes), self.entries, end)


def _header(text: str, items: Sequence[Item], first: list[Comment]) -> tuple[tuple[str, ...], list[Comment]]:
    """Return the lines of the comments about the whole file, and the remaining comments of the first statement.  If the first
    statement is a setting, all comments above it are about the file; if it is an entry, all but the last paragraph."""
    if not items:
        return _lines(text, first, len(text)), []
    start = items[0].start
    above = [comment for comment in first if comment.start < start]
    lines = _lines(text, above, start)
    if items[0].place[0] in ("setting", "arch"):
        return lines, first[len(above) :]
    header, own = _last_paragraph(lines)
    return header, first[len(above) - len(own) :]


def _last_paragraph(lines: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split comment lines after the last blank line."""
    after = next((count for count, line in enumerate(reversed(lines)) if not line), len(lines))
    return lines[: len(lines) - after], lines[len(lines) - after :]


def _lines(text: str, comments: Sequence[Comment], end: int) -> tuple[str, ...]:
    """Return comments as lines, with one blank line where the text has any between them or before `end`."""
    lines: list[str] = []
    for index, comment in enumerate(comments):
        lines.append(comment.text)
        following = comments[index + 1].start if index + 1 < len(comments) else end
        if text.count("\n", comment.start + len(comment.text), following) > 1:
            lines.append("")
    return tuple(lines)


def _comments(text: str, attached: Sequence[Comment], start: int) -> Comments:
    """Return the comments of a statement that begins at `start` and has one line in the canonical text."""
    above = [comment for comment in attached if comment.start < start]
    result = Comments(_lines(text, above, start))
    for comment in attached[len(above) :]:
        result = result.join(Comments((), comment.text))
    return result


Alternatives = list[tuple[Span, Expression]]


def _alternatives(arch: Arch, number: int, entry: Entry, spans: Sequence[Span]) -> Alternatives:
    """Return the alternatives of an entry with their places in the text; none if it has one alternative."""
    if not isinstance(entry.expression, Or):
        return []
    parts = set(entry.expression.parts)
    result: Alternatives = []
    end = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start < end:
            continue  # it stands in parentheses within an alternative
        if not isinstance(span.expression, Or):
            end = span.end
        alternative = normal_expression(arch, number, span.expression)
        if alternative in parts:
            result.append((span, alternative))
    return result


def _remarks(text: str, attached: Sequence[Comment], start: int, alternatives: Alternatives) -> Remarks:
    """Return the comments of an entry that begins at `start`: its own, and those of each of several alternatives."""
    above = [comment for comment in attached if comment.start < start]
    entry = Comments(_lines(text, above, start))
    by_rule: dict[Expression, Comments] = {}
    for comment in attached[len(above) :]:
        own = Comments((comment.text,)) if comment.alone else Comments((), comment.text)
        if not alternatives or is_note(comment.text):
            entry = entry.join(own)
        else:
            alternative = _alternative(alternatives, comment)
            by_rule[alternative] = by_rule.get(alternative, Comments()).join(own)
    return Remarks(entry, by_rule)


def _alternative(alternatives: Alternatives, comment: Comment) -> Expression:
    """Return the alternative on the comment's line, else the next alternative."""
    begun = bisect_right(alternatives, comment.start, key=lambda pair: pair[0].start)
    if begun and (not comment.alone or comment.start < alternatives[begun - 1][0].end):
        return alternatives[begun - 1][1]
    return alternatives[min(begun, len(alternatives) - 1)][1]
