"""Add the calls by which tasks wait for one another, which a run makes or not depending on timing (`floor`)."""

from __future__ import annotations

from collections.abc import Iterable

from callfence.policygen.evaluate import evaluate
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.sorting import Placed
from callfence.policygen.model import Always, Entry, Policy
from callfence.policygen.recording.model import Observation, recorded_values
from callfence.tracer.abi import Arch, Event, constants, table
from callfence.tracer.linux import CLONE_THREAD

_THREADS = "floor: how threads wait for each other; depends on timing"
"""The note on futex of a program that starts threads and so may use all of `_FUTEX_OPERATIONS`."""
_FUTEX_OPERATIONS = (
    "FUTEX_WAIT_PRIVATE",
    "FUTEX_WAKE_PRIVATE",
    "FUTEX_WAIT_BITSET_PRIVATE",
    "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME",
    "FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME",
)
"""The futex operations that glibc, musl, Go and Rust use for locks, conditions and joins.  Which of them a run needs depends on
timing: on whether a lock is already taken."""
_PAUSE = "floor: sleeping while waiting for another task; depends on timing"
"""The note on the calls of `_PAUSES`, which a program that starts processes or threads may make: whether it has to wait for the
other task depends on timing."""
_STARTS = ("clone", "fork", "vfork")
_PAUSES = ("clock_nanosleep", "clock_nanosleep_time64")
_PAUSE_ARGUMENTS = (("CLOCK_REALTIME", "0"), ("CLOCK_MONOTONIC", "TIMER_ABSTIME"))
"""The arguments that glibc passes for sleep, usleep and nanosleep, and CPython since 3.11 for time.sleep."""
_ALLOWED = Entry(Always(True))
_WAITING = ("futex", *_PAUSES)


def with_waits(placed: Placed, policy: Policy, options: Options) -> Placed:
    """Return the observations with every way of waiting for another thread added if the program starts threads, and a pause if
    it starts any tasks.  An allowed clone3 may start both: its flags are behind a pointer.

    Nothing is added if the policy already allows all such calls that were observed: a person may have removed the others."""
    result = dict(placed)
    for arch in policy.entries:
        opaque = _of(placed, arch, "clone3")
        if "clone3" not in options.allow_opaque and not _allows(policy, opaque):
            opaque = ()  # it fails
        starts = [*opaque, *(observation for name in _STARTS for observation in _of(placed, arch, name))]
        threads = [
            *opaque,
            *(observation for observation in _of(placed, arch, "clone") if observation.example[0] & CLONE_THREAD),
        ]
        for name in _WAITING:
            causes, observed = threads if name == "futex" else starts, _of(placed, arch, name)
            if causes and name in table(arch).by_name and not _allows(policy, (*causes, *observed)):
                result[arch, table(arch).by_name[name].number] = observed + tuple(
                    Observation(arch.audit, event.number, recorded_values(table(arch), event), "", (1,), "", event.arguments)
                    for event in _waits(arch, name)
                )
    return result


def note_on_waiting(policy: Policy, arch: Arch, number: int) -> str:
    """Return the note on the entry of a call, if that lets tasks wait for one another; else ""."""
    section, names = policy.entries[arch], table(arch).by_number
    name = names[number].name
    if name not in _WAITING or section[number] == _ALLOWED:
        return ""
    if not all(evaluate(policy, event).allows for event in _waits(arch, name)):
        return ""
    if name == "futex":
        return _THREADS
    starting = (*_STARTS, "clone3") if section.get(table(arch).by_name["clone3"].number) == _ALLOWED else _STARTS
    return _PAUSE if any(names[call].name in starting for call in section) else ""


def _allows(policy: Policy, observations: Iterable[Observation]) -> bool:
    return all(evaluate(policy, observation.event).allows for observation in observations)


def _of(placed: Placed, arch: Arch, name: str) -> tuple[Observation, ...]:
    call = table(arch).by_name.get(name)
    return placed.get((arch, call.number), ()) if call else ()


def _waits(arch: Arch, name: str) -> tuple[Event, ...]:
    """Return the calls of `name` by which tasks may need to wait for one another."""
    ways = [("0", operation) for operation in _FUTEX_OPERATIONS] if name == "futex" else _PAUSE_ARGUMENTS
    number = table(arch).by_name[name].number
    return tuple(Event(arch.audit, number, (_bits(first, arch), _bits(second, arch), 0, 0, 0, 0)) for first, second in ways)


def _bits(names: str, arch: Arch) -> int:
    """Return the value of the constants `A|B`, or 0 if the architecture lacks one."""
    return sum(constants.value(name, arch) or 0 for name in names.split("|"))
