"""Explains lines about hosts and unix sockets: whom recorded runs talked to, by which executables; a name's addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from callfence.policygen.grants import BARE, TO_HOSTS, USES, Files, bare_line, host_line
from callfence.policygen.hosts import PLACES, containing
from callfence.policygen.recording.model import Recording
from callfence.shared.text import plural, printable

_MAX_LISTED = 6
"""The most hosts or sockets, and the most addresses of one, that are listed for a line."""


def of_hosts(line: str, files: Files, recording: Recording, reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about the recorded uses that led to the line for a host, a unix socket or a name (its part before the colon),
    and why it grants more; nothing for any other line."""
    hosts = {host_line(use, host): (USES[use], host) for use in TO_HOSTS for host in files.hosts(use)}
    bare = {bare_line(kind, place): (kind, place) for kind in BARE for place in getattr(files, kind) or ()}
    if line not in hosts and line not in bare:
        return
    kind, place = (hosts | bare)[line]
    above = PLACES[kind].containing if line in bare else containing
    starts = [kind] if line in hosts else [BARE[kind], *[USES[use] for use in TO_HOSTS] * (kind == "query")]
    yield from _uses(recording, starts, lambda used: place in above(used))
    if reason := reasons.get(line):
        yield f"it grants more than that, because {reason}"


def _uses(recording: Recording, starts: Sequence[str], belongs: Callable[[str], bool]) -> Iterator[str]:
    """Yield a line for each host, socket or name of a line that recorded runs used, by what uses of it begin with."""
    runs: dict[tuple[str, str], dict[int, None]] = {}
    executables: dict[tuple[str, str], dict[str, None]] = {}
    for column, run in enumerate(recording.runs, 1):
        for what, port, executable in run.files:
            start = next((start for start in starts if what.startswith(f"{start} ")), "")
            name = what.removeprefix(f"{start} ")
            if start and belongs(name):
                runs.setdefault((name, port), {})[column] = None
                executables.setdefault((name, port), {})[executable] = None
    for (name, port), columns in [*runs.items()][:_MAX_LISTED]:
        where = f"run{'s' * (len(columns) > 1)} {', '.join(map(str, columns))} by {', '.join(executables[name, port])}"
        yield printable(f"{f'{port} at ' if port else ''}{name} in {where}{_addresses(name, recording)}")
    if len(runs) > _MAX_LISTED:
        yield f"and {len(runs) - _MAX_LISTED} more"
    if not runs:
        yield "no recorded run used it: the line was written by hand, or learned from runs that are not in the recording"


def _addresses(name: str, recording: Recording) -> str:
    """Return the addresses that a name had, as the end of a sentence; '' if none is recorded."""
    rows = (use for run in recording.runs for use in run.files if use[0] == f"name {name}")
    found = [*dict.fromkeys(address for _, address, _ in rows)]
    shown = ", ".join(found[:_MAX_LISTED])
    more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    return f"; it had {plural(len(found), 'address', 'addresses')}: {shown}{more}" if found else ""
