"""What phases add to a program's start, and what a server that serves does under them."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import servers
from harness import ENFORCE, LEARN, Figure, Section, Words, alternate, compiled, run, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Command = Callable[[Path, int], Words]

TITLE = "phases"
STARTS = 20
ROUNDS = 9
CALLS = 2000
START, CALL, SERVING = 3, 20, 0.99
"""The goals: milliseconds, microseconds, and a share."""


def section() -> Section:
    """The measurements."""
    starts, began = _starts()
    rows, served = [], list[Figure]()
    calls = _calls()
    for name, (command, load) in servers.SERVERS.items():
        row, found = _serving(name, command, load)
        rows.append(row)
        served += found
    text = (
        f"Starting a program without a library that makes no further call, or {CALLS:,}, and then the trigger: least of "
        f"{STARTS}, in ms.\n\n{starts}\nA call after the trigger, least of {STARTS}, in ns.\n\n{calls}\nServers after the "
        f"trigger, started and loaded in turn, median of {ROUNDS} (least-most); the processor time, least of {ROUNDS}, is that "
        "of the processes that serve, which nothing traces.\n\n"
        + table(("", "requests a second: without", "phases", "us of processor time a request: without", "phases"), rows)
    )
    return Section(text, (*began, *served))


def _starts() -> tuple[str, list[Figure]]:
    with scratch() as folder:
        program = compiled("phases.c", folder, "-static")
        _write_policies(folder)

        def start(policy: str, calls: int) -> Callable[[], float]:
            words = (ENFORCE, "-p", f"{policy}.policy", "--", program, str(calls))
            return lambda: run(words, folder).seconds

        sides = [(policy, calls) for policy in ("without", "with") for calls in (0, CALLS)]
        found = alternate({f"{policy} {calls}": start(policy, calls) for policy, calls in sides}, STARTS)
    least = {name: one.least * 1e3 for name, one in found.items()}
    more = [least[f"with {calls}"] - least[f"without {calls}"] for calls in (0, CALLS)]
    rows = [
        (policy, *(f"{least[f'{policy} {calls}']:.1f}" for calls in (0, CALLS))) for policy in ("without", "with")
    ]
    figures = [
        Figure("a start with phases beyond one without", START, more[0], " ms"),
        Figure("each call before the trigger", CALL, (more[1] - more[0]) * 1e3 / CALLS, " us"),
    ]
    return table(("phases", "no call", f"{CALLS:,} calls"), rows), figures


def _calls() -> str:
    """What a call costs after the trigger."""
    with scratch() as folder:
        program = compiled("phases.c", folder, "-static")
        _write_policies(folder)
        found: dict[str, list[list[float]]] = {"without": [], "with": []}
        for _ in range(STARTS):
            for policy, times in found.items():
                words = (ENFORCE, "-p", folder / f"{policy}.policy", "--", program, "0", "100000")
                times.append([float(word) for word in servers.said(words).split()])
    least = {policy: [f"{min(column):.0f}" for column in zip(*times, strict=True)] for policy, times in found.items()}
    header = ("phases", "getppid", "fcntl, whose argument the filter compares")
    return table(header, [(name, *one) for name, one in least.items()])


def _write_policies(folder: Path) -> None:
    entries = "mmap: allow{}\nmprotect: allow\nreadlinkat: allow\n"
    (folder / "with.policy").write_text("implied 1\nphase serving after poll\n" + entries.format(" until serving"))
    (folder / "without.policy").write_text("implied 1\n" + entries.format(""))


def _serving(
    name: str, command: Command, load: Callable[[int], float]
) -> tuple[tuple[str, ...], list[Figure]]:
    with scratch() as folder:
        sides = {side: _learned(folder / side, command, load, keeps=side == "phases") for side in ("without", "phases")}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        spent: dict[str, list[float]] = {side: [] for side in sides}

        def loaded(side: str) -> float:
            """One server's life: two that live longer differ by where their memory is."""
            words, port = sides[side]
            with servers.running(words, port):
                load(port)
                pids = _serving_in(str(port), str(folder / side))
                before, began = _spent(pids), time.monotonic()
                rate = load(port)
                rates[side].append(rate)
                spent[side].append((_spent(pids) - before) / (rate * (time.monotonic() - began)))
            return rate

        found = alternate({side: lambda side=side: loaded(side) for side in sides}, ROUNDS)  # type: ignore[misc]
    processor = {side: min(values[1:]) for side, values in spent.items()}
    shown = [f"{found[side].median:,.0f} ({found[side].least:,.0f}-{found[side].most:,.0f})" for side in sides]
    shown += [f"{processor[side] * 1e6:.2f}" for side in sides]
    figures = [
        Figure(
            f"{name}, requests a second: phases / without",
            SERVING,
            _ratio(rates["phases"], rates["without"]),
            is_floor=True,
        ),
        Figure(
            f"{name}, processor time of a request: without / phases",
            SERVING,
            processor["without"] / processor["phases"],
            is_floor=True,
        ),
    ]
    return (name, *shown), figures


def _learned(place: Path, command: Command, load: Callable[[int], float], *, keeps: bool) -> tuple[Words, int]:
    """A confined server, its phases kept or taken out of its policy, and its port."""
    port = servers.free_port()
    place.mkdir()
    words, policy = command(place, port), place / "it.policy"
    servers.measured((LEARN, "-q", "--phases", "-o", policy, "--", *words), port, load)
    assert "\nphase serving" in policy.read_text()
    if not keeps:
        lines = policy.read_text().replace(" until serving", "").splitlines(keepends=True)
        policy.write_text("".join(line for line in lines if not line.startswith("phase ")))
    return (ENFORCE, "-p", policy, "--", *words), port


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of what was measured one after the other."""
    return statistics.median(one / other for one, other in list(zip(above, below, strict=True))[1:])


def _serving_in(*marks: str) -> list[int]:
    """The processes of a server that nothing traces: one of their command lines, or of their parents', has one of the marks."""
    mine, found = set[int](), list[int]()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):  # it has ended
            folder = Path(f"/proc/{pid}")
            status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
            said = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
            is_helper = os.path.basename(os.readlink(folder / "exe")).startswith("python")
            if not is_helper and (int(status["PPid"]) in mine or any(mark in said for mark in marks)):
                mine.add(pid)
                found += [pid] * (status["TracerPid"] == "0")
    assert found, "all are traced"
    return found


def _spent(pids: list[int]) -> float:
    """Seconds of processor time, of all threads."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    made = section()
    print(made.text)
    print(table(("figure", "goal", "measured", "kept"), [figure.row() for figure in made.figures]))
