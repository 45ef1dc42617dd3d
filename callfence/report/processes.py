"""Which executables ran, which of them started which, and which calls each made."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from callfence.learning.learned import call_name
from callfence.report.markup import Child, Html, code, element, items, join, table
from callfence.shared.text import plural
from tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from callfence.report.content import Report
    from policygen.completeness.discovery import Executable

_SHADES = 4
_UNKNOWN = "Not known what first started these:"


def tree(report: Report) -> Html:
    """The tree of executables: each above those that it started; last, those whose starter is not known."""
    if not report.programs:
        return element("p", "There is no recording, so it is not known which executables ran.")
    note = "Below an executable stand those that it started: those that it became, and those that its child processes became."
    started: defaultdict[str, list[Executable]] = defaultdict(list)
    for one in report.programs:
        for starter in one.starters:
            started[starter].append(one)
    shown: dict[str, int] = {}
    parts = [element("p", note, class_="muted"), _nested([one for one in report.programs if one.is_first], started, shown)]
    for in_circles in (False, True):
        others = [one for one in report.programs if one.executable not in shown and bool(one.starters) == in_circles]
        if others:
            parts += [element("p", _UNKNOWN), _nested(others, started, shown)]
    return join(*parts)


def _nested(tops: Sequence[Executable], started: Mapping[str, Sequence[Executable]], shown: dict[str, int]) -> Html:
    """What an executable started is listed at its line nearest to the top; its other lines link to that one.

    `shown` are those that have their place, numbered.  No recursion: a chain of them may be longer than Python's stack.
    """
    lines = [(one, -1) for one in tops]
    places = set()
    for at, (one, _) in enumerate(lines):  # the list grows in the loop
        if one.executable not in shown:
            shown[one.executable] = len(shown)
            places.add(at)
            lines += [(child, at) for child in started.get(one.executable, ())]
    below: defaultdict[int, list[Html]] = defaultdict(list)
    for at, (one, above) in reversed([*enumerate(lines)]):
        identity = f"program-{shown[one.executable]}"
        if at in places:
            line = join(_line(one, id=identity), items(reversed(below[at]), class_="tree") if below[at] else "")
        elif one.executable in started:
            line = join(_line(one), "; ", element("a", "what it started", href=f"#{identity}"))
        else:
            line = _line(one)
        below[above].append(line)
    return items(reversed(below[-1]), class_="tree") if tops else join()


def _line(one: Executable, **attributes: str) -> Html:
    said = (plural(one.calls, "call"), plural(len(one.syscalls), "syscall"), plural(len(one.runs), "run"))
    return join(element("code", one.executable, **attributes), " ", element("span", ", ".join(said), class_="muted"))


def matrix(report: Report) -> Html:
    """How often each executable made each call."""
    those = [one for one in report.programs if one.syscalls]
    if not those:
        return element("p", "No call is recorded.")
    names = _short_names([one.executable for one in those])
    calls = sorted({call for one in those for call in one.syscalls}, key=lambda call: (_arch(call), call_name(*call)))
    several = len({audit for audit, _ in calls}) > 1
    greatest = max(count for one in those for count in one.syscalls.values())
    rows: list[tuple[Child, ...]] = []
    for call in calls:
        name = f"{_arch(call)} {call_name(*call)}" if several else call_name(*call)
        cells = [_cell(one.syscalls.get(call, 0), greatest) for one in those]
        total = sum(one.syscalls.get(call, 0) for one in those)
        rows.append((code(name), f"{total:,}", *cells))
    columns = ("Syscall", "All", *names)
    caption = "Calls of each executable, over all runs"
    note = (
        "The stronger a cell's colour, the more calls. The numbers are lower bounds: known calls may run uncounted "
        "(learn --every-call counts all), and a warm run counts only what was new then."
    )
    whole = table(caption, columns, rows, numbers=range(1, len(columns)))
    return join(element("p", note, class_="muted"), element("div", whole, class_="matrix"))


def _arch(call: tuple[int, int]) -> str:
    return Arch.from_audit(call[0]) or f"{call[0]:#x}"


def _short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path if it is unique, else the whole path."""
    last = [path.rpartition("/")[2] or path for path in paths]
    often = Counter(last)
    return [path if often[name] > 1 else name for path, name in zip(paths, last, strict=True)]


def _cell(count: int, greatest: int) -> Html:
    """The shade of a count, by its number of digits; the greatest count has the last shade."""
    if not count:
        return element("span", "0", class_="none")
    shade = -(-len(str(count)) * _SHADES // len(str(greatest)))
    return element("span", f"{count:,}", class_=f"shade{shade}")
