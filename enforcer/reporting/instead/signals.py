"""Signals that a process may send though its policies do not say so: to itself, and to processes that it has started.

Where Landlock keeps signals among the program's processes, the call runs: the kernel denies all others.  By a pidfd, which the
program could exchange while it waits, the helper sends that signal itself.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from callfence.enforcer import kernel
from callfence.enforcer.reporting.instead import DENIED, DONE, RUNS
from callfence.tracer.linux import int_in
from callfence.tracer.proc import fields_of, is_in_own_user_namespace, kin_of, process_of

if TYPE_CHECKING:
    from callfence.enforcer.listener import Request
    from callfence.tracer.abi import Event

BY_NUMBER = ("kill", "tgkill", "tkill")
BY_DESCRIPTOR = "pidfd_send_signal"
_CAP_KILL = 1 << 5  # linux/capability.h
_GENERATIONS = 100
"""How many ancestors of a process are examined at most."""


def by_number(name: str, event: Event, *, keeps_signals: bool) -> int:
    """Return what becomes of a call of BY_NUMBER: a process may signal itself, and the processes and groups that it has started
    if the kernel denies all others (`keeps_signals`); a signal to a missing process fails with ESRCH, and signal 0 to another
    with EPERM.

    Nothing but registers decides what the call does, and the program cannot change them while it waits."""
    caller, target = fields_of(event.task), int_in(event.arguments[0])
    if len(caller.get("NSpid", "").split()) != 1:  # another pid namespace: the same number is another process
        return DENIED
    process = int(caller["Tgid"])
    if name == "tgkill" and fields_of(int_in(event.arguments[1])).get("Tgid") != caller["Tgid"]:
        return DENIED
    if target == (event.task if name == "tkill" else process):
        return RUNS
    if name != "kill" or target in (-1, 1):
        return DENIED
    signum = int_in(event.arguments[1])
    if target > 0:
        return _to_other(process, target, signum, keeps_signals=keeps_signals)
    return RUNS if signum and keeps_signals and _is_own_group(caller, -target) else DENIED


def by_descriptor(request: Request, event: Event, *, keeps_signals: bool) -> int:
    """Send a signal to the caller itself, or to a process that it has started, by a copy of its pidfd, if the kernel would let
    the caller send it.  Return what becomes of the call, with ESRCH if that process has ended.

    Landlock does not judge what the helper sends.  So a process below must have the filters of its caller, which one that was
    there before the program lacks; and who is the helper's own parent adopts others' processes, too."""
    number, information, flags = event.arguments[1:4]
    caller = fields_of(event.task)
    process = int(caller["Tgid"])
    if information or int_in(flags) or not keeps_signals or not is_in_own_user_namespace(event.task):
        return DENIED
    if is_below(os.getpid(), process):
        return DENIED
    try:
        pidfd = kernel.descriptor_of(event.task, process, int_in(event.arguments[0]))
    except OSError:
        return DENIED
    try:
        target = process_of(pidfd)
        is_own = target == process or (target > 0 and is_below(target, process))
        may = is_own and _has_filters_of(target, event.task) and may_signal(caller, fields_of(target))
        if not (target < 0 or may):
            return DENIED
        if request.is_waiting():
            kernel.send_signal(pidfd, int_in(number))
    except OSError as error:
        return error.errno or errno.EPERM
    finally:
        os.close(pidfd)
    return DONE


def _to_other(caller: int, target: int, signum: int, *, keeps_signals: bool) -> int:
    try:
        os.close(kernel.pidfd_open(target))
    except ProcessLookupError:
        return errno.ESRCH
    except OSError:  # a thread, or no descriptor is left: it is not known
        return DENIED
    if keeps_signals and is_below(target, caller):
        return RUNS  # as the caller, whom the kernel permits less if it has given that up
    if signum or is_below(caller, target):  # no pid file names who has started the program
        return DENIED
    return errno.EPERM  # asked whether it exists, as getsid(2) tells, too: no signal is sent


def _is_own_group(caller: dict[str, str], group: int) -> bool:
    """Return whether a process group is that of a process which the caller has started, with what that one has started in turn,
    or the caller's own (0, or by number) if it leads that, as timeout(1) does.

    A second thread of the caller could change which group its own is."""
    process, own = int(caller["Tgid"]), int(caller["NSpgid"])
    leads = own == process and group in (0, own) and bool(group or caller["Threads"] == "1")
    return leads or (group > 0 and fields_of(group).get("NSpgid") == str(group) and is_below(group, process))


def may_signal(caller: dict[str, str], target: dict[str, str]) -> bool:
    """Return whether a task may signal another of its user namespace or one below, by their status (kill(2))."""
    real, effective, _, _ = caller["Uid"].split()
    return bool(int(caller["CapEff"], 16) & _CAP_KILL) or not {real, effective}.isdisjoint(target.get("Uid", "").split()[0:3:2])


def is_below(process: int, caller: int) -> bool:
    """Return whether a process is a descendant of the caller."""
    for _ in range(_GENERATIONS):
        process = kin_of(process)[1]
        if process == caller:
            return True
        if process <= 1:
            return False
    return False


def _has_filters_of(task: int, caller: int) -> bool:
    """Return whether a task has at least as many filters as the caller, as what it has started does."""
    counts = [int(fields_of(each).get("Seccomp_filters", -1)) for each in (task, caller)]
    return counts[0] >= counts[1] > 0
