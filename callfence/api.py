"""`callfence.apply` and `callfence.confine`: a program confines itself, as the prctl of 2011 would have let it."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import TYPE_CHECKING, Literal

from callfence.enforcing import filters as policy_files
from enforcer import kernel
from enforcer.arming import seized
from enforcer.errors import EnforceError
from policygen.filter.bpf import MAX_INSTRUCTIONS
from policygen.filter.compile import compile_policy
from policygen.language.document import parse
from policygen.phases import START, in_phase
from policygen.text import printable
from tracer import linux

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callfence.enforcing.sealed import Compiled

    Filters = str | Mapping[int | str, str | int]


def apply(filters: Filters, when: Literal["now", "on_exec"] = "now") -> None:
    """Confine this process by a policy, for good; children inherit it.  Takes no privilege.

    `filters` is a policy's text, or a mapping of system calls (x86_64; names with or without `sys_`, or numbers) to
    what an entry has after its colon: `{"sys_read": "fd == 0", 1: 1, "exit_group": "allow"}`.  What it does not
    allow meets its default, which is to kill the process unless the text says otherwise.  Its `arm` does not matter.

    "now": when this returns, every thread is confined.  The interpreter needs calls of its own (munmap, futex,
    rt_sigaction, exit_group ...), which the policy has to allow.  Each further call can only reduce what is allowed.

    "on_exec": this process goes on as it is, and what it executes next is confined from its first instruction.  Until
    then it may have one thread and start no process: if it does, it ends with status 125, since what it starts could
    not be confined.  Can be asked for once.

    PolicyError (a ValueError for `when` and for an entry of several lines) and CompileError for the policy; EnforceError,
    KernelError or OSError if the kernel refuses: nothing has changed then, but that no_new_privs may be set.  One exception
    says so itself: if the policy has lines about files or ports, and the kernel has no memory or room left for another filter
    (32,768 instructions of all that a process has), these lines hold already.
    """
    if when not in ("now", "on_exec"):
        raise ValueError(f"when is 'now' or 'on_exec', not {when!r}")
    text = filters if isinstance(filters, str) else _text(filters)
    policy = parse(text, "<filters>").policy
    program, files = compile_policy(policy), policy_files.files_of(policy)
    if when == "now":
        _confine_threads(program, files)
    elif files:
        raise EnforceError("files and ports would be confined at once, and not on_exec: apply them 'now', or run `enforce`")
    else:
        _on_exec(program)
        kernel.set_no_new_privs()


def confine(policy: str | os.PathLike[str] | None = None) -> None:
    """Confine this process by a policy file, for good: when this returns, every thread is confined, and so is whatever
    they start.  Takes no privilege.

    `policy` is what `learn` writes; if None, it is `NAME.policy` in the current folder, NAME being the basename of the
    running script.  Its `arm` does not matter.  The filter comes from the cache that `enforce` uses.

    Files and ports that the policy grants are confined as well, of a process with one thread; `enter` is about calls alone.

    The kernel alone answers: a call that the policy does not allow meets its default action, and nothing is printed.  Run
    the program under `enforce` instead to have it explained.

    A UserWarning says that another user owns the policy or a file that it includes, and can change what it allows.

    UserError, which says why, or OSError if the kernel refuses: nothing has changed then, but that no_new_privs may be
    set; with the exception, which says so itself, that `apply` describes.
    """
    if policy is None:
        script = sys.argv[0] if sys.argv else ""
        if script in ("", "-", "-c", "-m"):
            raise EnforceError("there is no script whose name the policy could have: name it, confine('NAME.policy')")
        policy = policy_files.default_policy(script)
    filter_ = _compiled(policy)
    _confine_threads(_of_phase(filter_, START) if filter_.stages else filter_.filter, filter_.files)


def enter(phase: str, policy: str | os.PathLike[str] | None = None) -> bool:
    """Say that this process enters a phase, for good: from now on it needs less.  Return whether it is held to that.

    Under `enforce`, with a policy that has `phase NAME after enter`, every thread is held to what the policy allows in that
    phase when this returns True.  Otherwise this process puts the phase of the policy file `policy` on all its threads itself;
    without a file nothing happens, and this returns False.  `learn --phases` takes the call for the boundary.

    UserError, which says why, or OSError if that is not possible: nothing has changed then, but that no_new_privs may be set.
    """
    if kernel.says(linux.CALLFENCE_ENTER, os.fsencode(phase)):
        return True
    if policy is None:
        return False
    _confine_threads(_of_phase(_compiled(policy), phase))
    return True


def _compiled(policy: str | os.PathLike[str]) -> Compiled:
    """The filter of a policy file, with a warning if another user can change what it allows."""
    strangers: dict[str, int] = {}
    filter_ = policy_files.compiled(os.fspath(policy), "silent", policy_files.trusting(strangers))
    for file, owner in strangers.items():
        text = f"{printable(file)} belongs to user {owner}, who can change what it allows"
        warnings.warn(text, UserWarning, stacklevel=3)  # as `enforce` says; 3: the caller of confine() or enter()
    return filter_


def _of_phase(filter_: Compiled, phase: str) -> bytes:
    """The filter of a phase of the policy that was compiled."""
    try:
        return compile_policy(in_phase(policy_files.document(filter_).policy, phase))
    except ValueError as error:
        raise EnforceError(f"{filter_.sources[0][0]}: {error}") from error


def _confine_threads(program: bytes, files: bytes = b"") -> None:
    """Put a filter on all threads; and what is granted of files and ports on the one thread that there is.

    Files and ports come first, for a filter may deny what confines them; what can be known of the filter is tried before."""
    if files:
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            raise EnforceError(f"there are {threads} threads, and Landlock confines files of one alone: do it before")
        from enforcer.files.landlock import Confinement

        confinement = Confinement([files], [name + b"=" + value for name, value in os.environb.items()], best_effort=False)
        program = confinement.guarded(program, reports=False)
        if len(program) // 8 > MAX_INSTRUCTIONS:
            raise EnforceError("the filter has too many instructions with those that close the ways past `tcp` lines")
        kernel.set_no_new_privs()
        _require_filters()
        confinement.enter()  # from here on this process may not be able to import
    kernel.set_no_new_privs()
    try:
        thread = kernel.install(program, linux.SECCOMP_FILTER_FLAG_TSYNC)
    except OSError as error:
        if files:
            raise EnforceError(f"{error}; files and ports are confined already, system calls are not") from error
        raise
    if thread:
        raise EnforceError(f"thread {thread} has a filter of its own, so no filter can be put on all threads")


def _require_filters() -> None:
    """Raise OSError unless this thread may install filters: one that is in force already may deny that."""
    try:
        kernel.install(b"", linux.SECCOMP_FILTER_FLAG_TSYNC)  # a filter without instructions is refused, if nothing else is
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _text(filters: Mapping[int | str, str | int]) -> str:
    lines = [f"{call}: {int(value) if isinstance(value, int) else value}" for call, value in filters.items()]
    for line in lines:
        if len(line.splitlines()) != 1:
            raise ValueError(f"an entry is one line: {line!r}")
    return "\n".join(lines)


def _on_exec(program: bytes) -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise EnforceError(f"there are {threads} threads, and another might execute something: apply before they start")
    if pid := seized.tracer():
        raise EnforceError(f"this process is traced already (by pid {pid}): by a debugger, or for an earlier 'on_exec'")
    seized.be_seized(program, None, arm="exec", stderr=2)
