"""Writes the table of the results of run.py: table.py RESULTS PAGE."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import circumstances
import programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODES = {"exact": "`--exact`", "implied": "`implied 1`", "rehearsed": "`--rehearse`"}
HEAD = """\
# Circumstances

A policy is learned from what a program did in a few runs, and must not deny what it legitimately does in the next one. Here
each program is learned twice on the same input and then enforced in other circumstances: on other files, with wrong usage,
with closed or full output, as another user, under limits, with signals. A program may fail there, as it does without
callfence. A run in which a call is denied is a *false denial*.

`make circumstances` makes all runs and writes this page. The programs and the circumstances are in `bench/circumstances/`.
Half of the programs and half of the circumstances may be looked at while callfence is changed. The others are only counted:
their denied calls are not printed.

- `--exact`: learned by `learn --exact`, which allows what was seen.
- `implied 1`: learned by `learn`, which also allows [what grants nothing beyond it](implied.md).
- `--rehearse`: learned by `learn`, then by `learn --rehearse`.
"""
SUITES = "## Test suites of other projects\n"
"""The heading of what bench/suites/table.py writes at the end of the page."""
REASONS = {
    "socket": "without HOME the C library asks a daemon for the user's home: a connection is a new kind of object",
    "openat": "Rust and Go open /dev/null in place of closed streams, for writing too: the policy writes no file that is there",
    "clone": "it saves in a child process: the policy starts none",
    "kill": "a process of it tells another one to end: the policy sends no signals",
    "mkdir": "a folder for temporary files: the policy makes no folder",
    "rmdir": "a folder for temporary files: the policy removes none",
    "unlink": "it removes an unfinished file: the policy removes none",
    "shmctl": "it looks for the memory of the server that was killed: the policy used none that was there",
    "setfsuid": "it changes its identity",
    "setgid": "it changes its identity",
    "setgroups": "it changes its identity",
}
"""Why a call is not implied, by its name."""


class Result(NamedTuple):
    program: str
    circumstance: str
    mode: str
    denied: tuple[str, ...]

    @property
    def seen(self) -> bool:
        return self.program in programs.SEEN and self.circumstance in circumstances.SEEN


def main(results: Path, page: Path) -> None:
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    runs = list({  # the last one of each
        (row["program"], row["circumstance"], row["mode"]):
        Result(row["program"], row["circumstance"], row["mode"], tuple(map(short, row["denied"])))
        for row in rows if "circumstance" in row
    }.values())  # fmt: skip
    lines = {(row["program"], row["mode"]): row["lines"] for row in rows if "lines" in row}
    modes = [mode for mode in MODES if any(run.mode == mode for run in runs)]
    parts = [HEAD, "## False denials\n", *totals(runs, modes), "\n## By program\n", *by_program(runs, lines, modes)]
    parts += ["\n## By circumstance\n", *by_circumstance(runs, modes)]
    parts += ["\n## The denied calls in the half that may be looked at\n"]
    _, heading, suites = page.read_text().partition(SUITES) if page.exists() else ("", "", "")
    page.write_text("\n".join([*parts, *calls(runs, modes)]) + "\n" + heading + suites)


def short(call: str) -> str:
    """A call without addresses and process ids, which differ in every run."""
    without = re.sub(r"(, )?\b\w+=0x[0-9a-f]{5,}", "", call)
    return re.sub(r"\b(t?g?id|pid)=\d{3,}", r"\1=N", without).replace("(, ", "(")


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def count(runs: list[Result], mode: str, chosen: Callable[[Result], bool]) -> tuple[int, int]:
    """How many of the chosen runs had a denial, and how many there are."""
    found = [bool(run.denied) for run in runs if run.mode == mode and chosen(run)]
    return sum(found), len(found)


def share(runs: list[Result], mode: str, chosen: Callable[[Result], bool]) -> str:
    bad, every = count(runs, mode, chosen)
    return f"{bad} ({bad / every:.1%})" if every else "-"


def totals(runs: list[Result], modes: list[str]) -> Iterator[str]:
    parts: dict[str, Callable[[Result], bool]] = {
        "all": lambda run: True,
        "looked at: program and circumstance": lambda run: run.seen,
        "only counted: the others": lambda run: not run.seen,
        "of these, neither program nor circumstance is looked at": lambda run: (
            run.program not in programs.SEEN and run.circumstance not in circumstances.SEEN
        ),
    }
    rows = []
    for name, part in parts.items():
        rows.append([name, str(count(runs, modes[0], part)[1]), *(share(runs, mode, part) for mode in modes)])
    return table(["half", "runs", *(MODES[mode] for mode in modes)], rows)


def by_program(runs: list[Result], lines: dict[tuple[str, str], int], modes: list[str]) -> Iterator[str]:
    def row(name: str) -> list[str]:
        def chosen(run: Result) -> bool:
            return run.program == name

        bad = [str(count(runs, mode, chosen)[0]) for mode in modes]
        sizes = [str(lines.get((name, mode), "-")) for mode in modes]
        return [name, str(count(runs, modes[0], chosen)[1]), *bad, *sizes]

    names = [name for name in (*programs.PROGRAMS, *programs.SERVERS) if any(run.program == name for run in runs)]
    head = ["program", "runs", *(MODES[mode] for mode in modes), *(f"lines, {MODES[mode]}" for mode in modes)]
    return table(head, [row(name) for name in names])


def by_circumstance(runs: list[Result], modes: list[str]) -> Iterator[str]:
    rows = []
    for name in circumstances.CIRCUMSTANCES:
        chosen = [run for run in runs if run.circumstance == name]
        bad = [str(sum(bool(run.denied) for run in chosen if run.mode == mode)) for mode in modes]
        rows.append([name, str(sum(run.mode == modes[0] for run in chosen)), *bad])
    return table(["circumstance", "runs", *(MODES[mode] for mode in modes)], rows)


def calls(runs: list[Result], modes: list[str]) -> Iterator[str]:
    for mode in modes:
        failed = [run for run in runs if run.mode == mode and run.seen and run.denied]
        found = Counter(run.denied[0] for run in failed)
        yield f"### {MODES[mode]}\n"
        if not found:
            yield "None.\n"
        for call, times in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            where = [f"{run.program}, {run.circumstance}" for run in failed if run.denied[0] == call]
            reason = "" if mode == "exact" else REASONS.get(call.partition("(")[0], "")
            yield f"- {times}: `{call}`: {'; '.join(where[:4])}{' ...' if len(where) > 4 else ''}{reason and f' ({reason})'}"
        yield ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
