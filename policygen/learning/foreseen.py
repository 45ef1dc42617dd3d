"""Calls that programs make only after more runs than are learned: those that remove old logs and caches, those that take
connections from a socket that listens already, those that ask a name server by TCP, and those that read a socket's errors."""

from __future__ import annotations

import os
from collections.abc import Iterator

from callfence.policygen.files.calls import AT_FDCWD, INTERNET, UDP_CONNECT
from callfence.policygen.files.made import made, removals
from callfence.policygen.recording.model import Observation, Recording, recorded_values
from callfence.tracer.abi import Arch, Event, table

WORD = "later: "
"""Begins the note on an entry that no run needed yet."""
_REMOVES = f"{WORD}removes old ones of the files that it makes with dates or numbers in their names"
_ACCEPTS = f"{WORD}takes connections from the sockets on which it listens"
_ASKS = f"{WORD}makes a TCP socket to ask a name server again if its answer is too long for UDP"
_READS = f"{WORD}reads what its packets met with, an unreachable peer for instance, as it has asked to be woken by that"
NOTES = {
    "unlink": _REMOVES, "unlinkat": _REMOVES, "accept4": _ACCEPTS, "socket": _ASKS, "recvmsg": _READS, "recvmmsg": _READS,
}  # fmt: skip
"""The notes on the entries for what `foreseen` returns, by call."""
_FLAGS = {"open": 1, "openat": 2}
"""Calls that make files -> the index of their flags."""
_STREAM, _DATAGRAM, _TYPE, _CLOEXEC = 1, 2, 0xF, 0o2000000
"""SOCK_STREAM, SOCK_DGRAM, SOCK_TYPE_MASK (linux/net.h), SOCK_CLOEXEC: C libraries set it here, and it grants nothing."""
_SOL_SOCKET, _SELECT_ERR_QUEUE, _ERRQUEUE = 1, 45, 0x2000
"""SOL_SOCKET, SO_SELECT_ERR_QUEUE (asm-generic/socket.h), MSG_ERRQUEUE (linux/socket.h)."""
_READ_ERRORS = {"recvmmsg": (0, 0, 0, _ERRQUEUE, 0, 0), "recvmsg": (0, 0, _ERRQUEUE, 0, 0, 0)}
"""Calls that can read a socket's errors -> their arguments then.  Who receives by the first reads errors by it, too."""
_START = {"~": "$HOME", ".": "."}


def foreseen(old: Recording, whole: Recording) -> tuple[Observation, ...]:
    """Return the calls that no run made yet, as observations of runs: those that remove files, if the runs of `whole` show for
    the first time that the program makes files with dates or numbers in their names; one that takes connections, if they show
    so that it listens; those that make TCP sockets, if they show so that it asks name servers; and one that reads a socket's
    queue of errors, if they show so that it asks to be woken by that (SO_SELECT_ERR_QUEUE).  The runs of `old` did not.
    Each is allowed once: who removes it from the policy does not get it again."""
    counts = (1,) * len(whole.runs)
    removes = bool(_folders(whole)) and not _folders(old)
    result = []
    for arch in sorted({observation.arch for observation in whole.observations}):
        known = Arch.from_audit(arch)
        if known is None:
            continue
        calls = table(known).by_name
        events = []
        if removes and "unlink" in calls:
            events.append(Event(arch, calls["unlink"].number))
        elif removes:  # aarch64 has only this one
            events.append(Event(arch, calls["unlinkat"].number, (AT_FDCWD & 0xFFFFFFFF, 0, 0, 0, 0, 0)))
        listens = _makes(whole, known, "listen") and not _makes(old, known, "listen")
        if listens and not _makes(whole, known, "accept", "accept4"):
            events.append(Event(arch, calls["accept4"].number))
        if _asks(whole) and not _asks(old):
            kind = _STREAM | _CLOEXEC
            events += [Event(arch, calls["socket"].number, (family, kind, 0, 0, 0, 0)) for family in _families(whole, known)]
        if _is_woken(whole, known) and not _is_woken(old, known) and not _reads_errors(whole, known):
            name = "recvmmsg" if _makes(whole, known, "recvmmsg") else "recvmsg"
            events.append(Event(arch, calls[name].number, _READ_ERRORS[name]))
        for event in events:
            values = recorded_values(table(known), event)
            result.append(Observation(arch, event.number, values, "", counts, "", event.arguments))
    return tuple(result)


def _makes(recording: Recording, arch: Arch, *names: str) -> bool:
    """Return whether plain runs made one of these calls; not all architectures have each."""
    calls = table(arch).by_name
    numbers = {calls[name].number for name in names if name in calls}
    return any(one.arch == arch.audit and one.number in numbers for one in recording.plain().observations)


def _is_woken(recording: Recording, arch: Arch) -> bool:
    """Return whether plain runs asked to be woken by what is in a socket's queue of errors."""
    number, asked = table(arch).by_name["setsockopt"].number, (_SOL_SOCKET, _SELECT_ERR_QUEUE)
    of_arch = (one for one in recording.plain().observations if (one.arch, one.number) == (arch.audit, number))
    return any(one.example[1:3] == asked for one in of_arch)


def _reads_errors(recording: Recording, arch: Arch) -> bool:
    """Return whether plain runs read such a queue."""
    flags = {table(arch).by_name[name].number: arguments.index(_ERRQUEUE) for name, arguments in _READ_ERRORS.items()}
    of_arch = (one for one in recording.plain().observations if one.arch == arch.audit and one.number in flags)
    return any(one.example[flags[one.number]] & _ERRQUEUE for one in of_arch)


def _asks(recording: Recording) -> bool:
    """Return whether plain runs asked a name server by UDP."""
    return any(use == UDP_CONNECT for run in recording.plain().runs for use, _, _ in run.files)


def _families(recording: Recording, arch: Arch) -> list[int]:
    """Return the families (AF_*) of the UDP sockets that plain runs made, but for those of which they made TCP sockets, too."""
    number = table(arch).by_name["socket"].number
    of_arch = [one for one in recording.plain().observations if (one.arch, one.number) == (arch.audit, number)]
    made = {(one.example[0], one.example[1] & _TYPE) for one in of_arch}
    return [family for family in INTERNET if (family, _DATAGRAM) in made and (family, _STREAM) not in made]


def _folders(recording: Recording) -> set[str]:
    """Return the folders in which plain runs made such files."""
    plain = recording.plain()
    return removals([*made([run.files for run in plain.runs]), *_created(plain)])


def _created(recording: Recording) -> Iterator[str]:
    """Yield the paths that calls with O_CREAT named, as far as there is evidence of them."""
    for observation in recording.observations:
        index = _FLAGS.get(observation.name)
        if index is None or not observation.example[index] & os.O_CREAT:
            continue
        for fact in observation.evidence:
            name, _, text = fact.partition('="')
            if name == "filename" and "/" in text:
                start, slash, rest = text.rstrip('"').partition("/")
                yield f"{_START.get(start, start and f'./{start}')}{slash}{rest}"
