"""What a server that serves does under a policy with phases, and under the same one without."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import servers
from harness import ENFORCE, LEARN, Figure, Section, Words, alternate, scratch, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS = 3
SERVING = 0.99


def section() -> Section:
    rows, figures = [], list[Figure]()
    for name in ("redis", "nginx"):
        row, found = _serving(name, servers.SERVERS[name])
        rows.append(row)
        figures += found
    text = (
        f"Servers after the trigger, started and loaded in turn, median of {ROUNDS} (least-most); the processor time, least of "
        f"{ROUNDS}, is that of the processes that serve, which nothing traces.\n\n"
        + table(("", "requests a second: without", "phases", "us of processor time a request: without", "phases"), rows)
    )
    return Section(text, tuple(figures))


def _serving(name: str, server: servers.Server) -> tuple[tuple[str, ...], list[Figure]]:
    with scratch() as folder:
        sides = {side: _learned(folder / side, server, keeps=side == "phases") for side in ("without", "phases")}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        spent: dict[str, list[float]] = {side: [] for side in sides}

        def loaded(side: str) -> float:
            """One server's life: two that live longer differ by where their memory is."""
            words, port = sides[side]
            with servers.running(words, port):
                pids = _serving_in(str(port), str(folder / side))
                before, began = _spent(pids), time.monotonic()
                rate = server.load(port)
                rates[side].append(rate)
                spent[side].append((_spent(pids) - before) / (rate * (time.monotonic() - began)))
            return rate

        found = alternate({side: lambda side=side: loaded(side) for side in sides}, ROUNDS)  # type: ignore[misc]
    processor = {side: min(values[1:]) for side, values in spent.items()}
    shown = [f"{found[side].median:,.0f} ({found[side].least:,.0f}-{found[side].most:,.0f})" for side in sides]
    shown += [f"{processor[side] * 1e6:.2f}" for side in sides]
    figures = [
        Figure(f"{name}, requests a second: phases / without", SERVING, _ratio(*rates.values()), is_floor=True),
        Figure(
            f"{name}, processor time of a request: without / phases",
            SERVING,
            processor["without"] / processor["phases"],
            is_floor=True,
        ),
    ]
    return (name, *shown), figures


def _learned(place: Path, server: servers.Server, *, keeps: bool) -> tuple[Words, int]:
    """A confined server, its phases kept or taken out of its policy, and its port."""
    port = servers.free_port()
    place.mkdir()
    words, policy = server.command(place, port), place / "it.policy"
    for _ in range(2):
        servers.measured((LEARN, "-q", "--phases", "-o", policy, "--", *words), port, server.load)
    assert "\nphase serving" in policy.read_text()
    if not keeps:
        lines = policy.read_text().replace(" until serving", "").splitlines(keepends=True)
        policy.write_text("".join(line for line in lines if not line.startswith("phase ")))
    return (ENFORCE, "-p", policy, "--", *words), port


def _ratio(below: Sequence[float], above: Sequence[float]) -> float:
    """The median of the ratios of what was measured one after the other, without the first round."""
    return statistics.median(one / other for one, other in list(zip(above, below, strict=True))[1:])


def _serving_in(*marks: str) -> list[int]:
    """The processes of a server that nothing traces, once there are any: one of their command lines, or of their parents', has
    one of the marks."""
    end = time.monotonic() + 10
    while not (found := [pid for pid, is_traced in _family(marks) if not is_traced]):
        assert time.monotonic() < end, "all are traced"
        time.sleep(0.1)
    time.sleep(0.2)  # others follow
    return [pid for pid, is_traced in _family(marks) if not is_traced] or found


def _family(marks: Sequence[str]) -> Iterator[tuple[int, bool]]:
    mine = set[int]()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):  # it has ended
            folder = Path(f"/proc/{pid}")
            status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
            said = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
            is_helper = os.path.basename(os.readlink(folder / "exe")).startswith("python")
            if not is_helper and (int(status["PPid"]) in mine or any(mark in said for mark in marks)):
                mine.add(pid)
                yield pid, status["TracerPid"] != "0"


def _spent(pids: list[int]) -> float:
    """Seconds of processor time, of all threads."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
