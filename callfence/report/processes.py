"""Which executables ran, which of them can have started which, and which calls each made."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.report.markup import Child, Html, code, element, items, join, table
from callfence.sure import call_name
from callfence.text import plural
from tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.report.content import Report
    from policygen.programs import Program

_SHADES = 4


def tree(report: Report) -> Html:
    """Nested where one executable alone can have started another; else in groups, by those that can have."""
    if not report.programs:
        return element("p", "There is no recording, so it is not known which executables ran.")
    note = (
        "A recording counts calls by executable and does not hold whose child a process was. An executable stands below "
        "another if no other one executed anything in the runs that had it; where several did, all of them are named."
    )
    roots = [one for one in report.programs if one.is_first]
    parts = [element("p", note, class_="muted"), _nested(roots, report.programs)]
    nested = _below(roots, report.programs)
    others = [one for one in report.programs if one not in nested]
    for starters, group in groupby(sorted(others, key=_group), key=_group):
        parts += [element("p", *_heading(starters)), items((_line(one) for one in group), class_="tree")]
    return join(*parts)


def _group(one: Program) -> tuple[int, tuple[str, ...]]:
    return (0 if one.is_first is None and one.executes else 1 if one.starters else 2, one.starters)


def _heading(group: tuple[int, tuple[str, ...]]) -> list[Child]:
    kind, starters = group
    if kind == 0:
        return ["Not known which of these a run began with:"]
    if kind == 2:
        return ["Not known what started these:"]
    names = [part for name in starters for part in (" or ", code(name))][1:]
    return ["First started by ", *names, ":"]


def _nested(those: Sequence[Program], everything: Sequence[Program]) -> Html:
    if not those:
        return join()
    return items((join(_line(one), _nested(_children(one, everything), everything)) for one in those), class_="tree")


def _children(parent: Program, everything: Sequence[Program]) -> list[Program]:
    """No cycle can begin at one that was first: what has a single starter was not."""
    return [one for one in everything if one.starters == (parent.executable,)]


def _below(those: Sequence[Program], everything: Sequence[Program]) -> list[Program]:
    return [*those, *(one for parent in those for one in _below(_children(parent, everything), everything))]


def _line(one: Program) -> Html:
    said = [plural(one.calls, "call"), plural(len(one.syscalls), "syscall"), plural(len(one.runs), "run")]
    if one.executes:
        said.append(plural(one.executes, "execve"))
    return join(code(one.executable), " ", element("span", ", ".join(said), class_="muted"))


def matrix(report: Report) -> Html:
    """How often each executable made each call."""
    if not report.programs:
        return element("p", "There is no recording.")
    names = _short_names([one.executable for one in report.programs])
    calls = sorted({call for one in report.programs for call in one.syscalls}, key=lambda call: (_arch(call), call_name(*call)))
    several = len({audit for audit, _ in calls}) > 1
    greatest = max(count for one in report.programs for count in one.syscalls.values())
    rows: list[tuple[Child, ...]] = []
    for call in calls:
        name = f"{_arch(call)} {call_name(*call)}" if several else call_name(*call)
        cells = [_cell(one.syscalls.get(call, 0), greatest) for one in report.programs]
        total = sum(one.syscalls.get(call, 0) for one in report.programs)
        rows.append((code(name), f"{total:,}", *cells))
    columns = ("Syscall", "All", *names)
    caption = "Calls of each executable, over all runs"
    note = "The stronger a cell's colour, the more calls. A warm run counts only what was new then."
    whole = table(caption, columns, rows, numbers=range(1, len(columns)))
    return join(element("p", note, class_="muted"), element("div", whole, class_="matrix"))


def _arch(call: tuple[int, int]) -> str:
    return Arch.from_audit(call[0]) or f"{call[0]:#x}"


def _short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path where it tells them apart, else the whole of it."""
    last = [path.rpartition("/")[2] or path for path in paths]
    often = Counter(last)
    return [path if often[name] > 1 else name for path, name in zip(paths, last, strict=True)]


def _cell(count: int, greatest: int) -> Html:
    """Its shade is by the number of digits: the greatest has the last one."""
    if not count:
        return element("span", "0", class_="none")
    shade = -(-len(str(count)) * _SHADES // len(str(greatest)))
    return element("span", f"{count:,}", class_=f"shade{shade}")
