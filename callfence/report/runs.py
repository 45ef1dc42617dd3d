"""How complete the policy is: the runs, what was new in each, and the estimates; and which program started which, and what each
called.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from callfence.learning.summary import at_most, call_name, expected, name_of, newest
from callfence.report.content import calls_of
from callfence.report.markup import Child, Html, Point, code, curve, element, items, join, table, terms
from callfence.shared.text import command_line, ending, plural
from tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from callfence.report.content import Report
    from policygen.completeness.discovery import Executable, Growing
    from policygen.recording.model import Run

_MANY_LABELS = 12
"""The most runs that the axis numbers."""
_MANY_RUNS = 20
"""Rows; a longer table is folded."""
_SHADES = 4
_UNKNOWN = "Not known what first started these:"


def how_sure(report: Report) -> Html:
    runs = report.recording.runs
    if not runs:
        return element("p", "There is no recording, so nothing is known of the runs behind the policy.")
    parts = [_estimates(report)]
    if len(runs) > 1:
        parts.append(element("div", *_curves(report), class_="charts"))
    parts.append(_runs(report))
    parts += [element("h3", "Arguments that still grow"), _growing(report)]
    parts += [element("h3", "Seen in one run only"), _single(report)]
    return join(*parts)


def _estimates(report: Report) -> Html:
    sure, found = report.sure, report.discovery
    if sure.chance is None:
        said = "One run says nothing about the next one. Learn more of them, and different ones."
        return element("p", said)
    alone = [step.alone for step in found.steps]
    known = [one for one in alone if one is not None]
    pairs: list[tuple[str, Child]] = [("Runs", str(sure.runs))]
    more = sum(bool(step.new or step.wider) for step in found.steps[1:])
    pairs.append(("Run by run", f"{more} of {plural(sure.runs - 1, 'later run')} needed more than the runs before it gave"))
    missed = f"{sum(known)} of {plural(len(known), 'run')} would have been missed by a policy learned from all the others"
    if len(known) < len(alone):
        missed += "; of the rest it is not known, since a warm run does not record what is allowed already"
    pairs.append(("Leave one run out", missed))
    if found.estimate is None:
        pairs.append(("Good-Turing", "needs runs that are not warm: it is not known which rules a warm run needed again"))
    else:
        text = f"{plural(found.estimate.once, 'rule')} seen in one run only, so {expected(found.estimate.expected)}"
        pairs.append(("Good-Turing", f"{text} on average in one more run like these"))
        unfound = round(found.estimate.unfound)
        least = f"about {plural(unfound, 'rule')} at least" if unfound else "no sign of any rule"
        pairs.append(("Not found yet", f"{least}, by Chao's lower bound"))
    if sure.at_most is not None:
        pairs.append(("Bound", at_most(sure.at_most)))
    if sure.last_new is not None:
        number = [run.id for run in report.recording.runs].index(sure.last_new.id) + 1
        pairs.append(("Last new rule", f"came with run {number} of {sure.runs}"))
    note = "All of this speaks of runs like those recorded, and of no others."
    return join(terms(pairs), element("p", note, class_="muted"))


def _curves(report: Report) -> list[Html]:
    """The curves over runs, and over time if the runs are not simultaneous."""
    runs, steps = report.recording.runs, report.discovery.steps
    last = len(runs) - 1
    jumps = [f"run {index + 1}: {step.total}" for index, step in enumerate(steps) if step.new]
    description = f"Rules found up to each run, where a run brought any. {', '.join(jumps) or 'None was found'}."
    every = -(-len(runs) // _MANY_LABELS)
    points = [Point(index / last, step.total, runs[index].warm) for index, step in enumerate(steps)]
    labels = [(index / last, str(index + 1)) for index in range(0, len(runs), every)]
    charts = [curve("by-run", "Rules found, run by run", description, points, labels)]
    span = runs[-1].started - runs[0].started
    if span:
        points = [
            Point((run.started - runs[0].started) / span, step.total, run.warm)
            for run, step in zip(runs, steps, strict=True)
        ]
        ends = [(0.0, _time(runs[0])), (1.0, _time(runs[-1]))]
        longest = max(after.started - before.started for before, after in pairwise(runs))
        description = f"The same over the time at which the runs began: {ends[0][1]} to {ends[1][1]}."
        description += f" The longest time between two runs is {plural(round(longest / 1e9), 'second')}."
        charts.append(curve("by-time", "Rules found, over time", description, points, ends))
    return charts


def _runs(report: Report) -> Html:
    """The data of the curves as a table, for readers who cannot see them."""
    rows = []
    for number, (run, step, calls) in enumerate(
        zip(report.recording.runs, report.discovery.steps, calls_of(report), strict=True), 1
    ):
        brought = str(step.new) + (f", {step.wider} wider" if step.wider else "")
        kind = "warm" if run.warm else "full" if run.complete else "in part"
        command = code(command_line(run.command))
        began = element("time", _time(run))
        rows.append((str(number), began, command, ending(run.status), kind, f"{calls:,}", brought, str(step.total)))
    columns = ("Run", "Began (UTC)", "Command", "Ended", "Recorded", "Calls", "New rules", "Rules so far")
    caption = "Runs, and what each of them brought"
    note = "A warm run records only what the policy did not allow by then; its mark in the curves is hollow."
    warm = [element("p", note, class_="muted")] if any(run.warm for run in report.recording.runs) else []
    whole = join(table(caption, columns, rows, numbers=(0, 5, 6, 7)), *warm)
    if len(rows) <= _MANY_RUNS:
        return whole
    return element("details", element("summary", f"All {plural(len(rows), 'run')}"), whole, class_="more")


def _time(run: Run) -> str:
    """A time of the recording, to the second."""
    return datetime.fromtimestamp(run.started // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _growing(report: Report) -> Html:
    if len(report.recording.runs) < 2:
        return element("p", "One run says nothing about it.")
    if not report.discovery.growing:
        return element("p", "None: the later half of the runs brought no value, and no flag, that the first half had not.")
    caption = "Arguments of which the later half of the runs still brought new values or flags"
    rows = [_growing_row(one) for one in report.discovery.growing]
    return table(caption, ("Argument", "First run", "By now", "Newest", "In run"), rows, numbers=(1, 2, 4))


def _growing_row(one: Growing) -> tuple[Child, ...]:
    name = code(f"{name_of(one)}: {one.argument.name}")
    return (name, str(one.first), str(one.total), code(newest(one)), str(one.column + 1))


def _single(report: Report) -> Html:
    if len(report.recording.runs) < 2:
        return element("p", "Everything: there is one run.")
    if not report.sure.single:
        return element("p", "No rule, as far as is known.")
    return items((code(call_name(*call)) for call in report.sure.single), class_="words")


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
