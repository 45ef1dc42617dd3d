"""`callfence.apply`, `callfence.confine` and `callfence.enter`, by which a Python program confines itself."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Literal

from callfence.enforcer import kernel
from callfence.enforcer.arming import seized
from callfence.enforcer.bpf import ALL_RUN, chain
from callfence.enforcer.errors import EnforceError
from callfence.enforcer.hosts.rules import makes_calls
from callfence.enforcing import filters as policy_files
from callfence.enforcing.sealed import Compiled
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.language.document import parse
from callfence.policygen.phases import START
from callfence.policygen.text import printable
from callfence.tracer import linux

Filters = str | Mapping[int | str, str | int]


def apply(filters: Filters, when: Literal["now", "on_exec"] = "now") -> None:
    """Confine this process, and all that it starts, by a policy for good.  This needs no privilege.

    `filters` is a policy's text, or a mapping of system calls (of this machine; names with or without `sys_`, or numbers) to
    what an entry has after its colon: `{"sys_read": "fd == 0", 1: 1, "exit_group": "allow"}`.  A call that the policy does not
    allow gets the default action: the process is killed unless the text has another `default`.  The policy's `arm` is ignored.

    "now": when this returns, every thread is confined.  The interpreter makes calls of its own (munmap, futex, rt_sigaction,
    exit_group ...), which the policy has to allow.  Calling this again can only reduce what is allowed.

    "on_exec": this process stays unconfined until its next execve, and the executed program is confined from its first
    instruction.  Until then this process must have only one thread and start no process; otherwise it ends with status 125,
    since the new thread or process could not be confined.  A process can use "on_exec" only once.

    Raises PolicyError or CompileError for the policy, ValueError for another `when` or for an entry of several lines, and
    EnforceError, KernelError or OSError if the kernel refuses.  Nothing has changed then, except that no_new_privs may be set.
    In one case files and ports are confined already, and the message says so: the policy has lines about them, and the kernel
    has no memory or room for another filter (32,768 instructions for all filters of a process)."""
    if when not in ("now", "on_exec"):
        raise ValueError(f"when must be 'now' or 'on_exec', not {when!r}")
    text = filters if isinstance(filters, str) else _text(filters)
    policy = parse(text, "<filters>").policy
    if makes_calls(policy.files):
        raise _needs_helper("<filters>")
    program, (files, _) = compile_policy(policy), policy_files.files_of(policy)
    if when == "now":
        _confine_threads(program, files)
    elif files:
        raise EnforceError(
            "when='on_exec' cannot confine files and ports, because that takes effect at once: "
            "use when='now', or run the program with enforce"
        )
    else:
        _on_exec(program)
        kernel.set_no_new_privs()


def confine(policy: str | os.PathLike[str] | None = None) -> None:
    """Confine all threads of this process, and all that they start, by a policy file for good.  This needs no privilege.

    `policy` is a file that `learn` has written; if None, it is `NAME.policy` in the current folder, NAME being the basename
    of the running script.  The policy's `arm` is ignored.  The filter comes from the cache that `enforce` uses.

    If the policy grants files or ports, these are confined as well; the process must have only one thread then.

    The kernel alone answers: a call that the policy does not allow gets the policy's default action, and nothing is printed.
    `enforce` explains denied calls.

    Warns with UserWarning if another user owns the policy or a file that it includes, and so can change what it allows.

    Raises UserError, or OSError if the kernel refuses.  Nothing has changed then, except that no_new_privs may be set, and
    except in the one case that `apply` describes."""
    if policy is None:
        script = sys.argv[0] if sys.argv else ""
        if script in ("", "-", "-c", "-m"):
            raise EnforceError("the policy's name cannot be derived, because no script is running: call confine('NAME.policy')")
        policy = policy_files.default_policy(script)
    filter_ = _compiled(policy)
    _confine_threads(_of_phase(filter_, START) if filter_.stages else filter_.filter, filter_.files)


def enter(phase: str, policy: str | os.PathLike[str] | None = None) -> bool:
    """Confine this process to what the policy allows in a phase, for good.  Return whether the process is confined so.

    Under `enforce`, with a policy that has `phase NAME after enter`, the helper confines every thread.  Otherwise this
    process installs the filter of the phase in the file `policy` on all its threads itself; if `policy` is None, nothing
    changes, and this returns False.  `learn --phases` begins the phase at this call.  Only system calls are confined.

    Raises UserError, or OSError if the kernel refuses.  Nothing has changed then, except that no_new_privs may be set."""
    if kernel.prctl_accepts(linux.CALLFENCE_ENTER, os.fsencode(phase)):
        return True
    if policy is None:
        return False
    _confine_threads(_of_phase(_compiled(policy), phase))
    return True


def _compiled(policy: str | os.PathLike[str]) -> Compiled:
    """Return the compiled filter of a policy file; warn if another user owns a file that it was read from."""
    strangers: dict[str, int] = {}
    filter_ = policy_files.compiled(os.fspath(policy), "silent", policy_files.trusting(strangers))
    for file, owner in strangers.items():
        text = policy_files.owner_warning(printable(file), owner)
        warnings.warn(text, UserWarning, stacklevel=3)  # as `enforce` says; 3: the caller of confine() or enter()
    if filter_.makes_calls:
        raise _needs_helper(filter_.sources[0][0])
    return filter_


def _needs_helper(file: str) -> EnforceError:
    return EnforceError(f"{file} confines hosts or unix sockets, which needs the helper that `enforce` starts")


def _of_phase(filter_: Compiled, phase: str) -> bytes:
    """Compile the filter of one phase of a compiled policy.  Raises EnforceError if the policy has no such phase."""
    try:
        return compile_policy(policy_files.document(filter_).policy, phase)
    except ValueError as error:
        raise EnforceError(f"{filter_.sources[0][0]}: {error}") from error


def _confine_threads(program: bytes, files: bytes = b"") -> None:
    """Install the filter `program` on all threads, after the Landlock rules `files` if the process has only one thread.

    Landlock comes first, since the filter may deny its calls; whether filters can be installed at all is tested before.
    Raises EnforceError for several threads with `files`, or for a filter that is too large; OSError if the kernel refuses."""
    if files:
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            raise EnforceError(
                f"this process has {threads} threads, and Landlock confines the files and ports of one only: "
                "confine it before it starts threads"
            )
        from callfence.enforcer.files.landlock import Confinement
        from callfence.enforcer.files.past_landlock import refusals
        from callfence.policygen.files.landlock import decode

        confinement = Confinement([files], [name + b"=" + value for name, value in os.environb.items()], best_effort=False)
        try:
            program = chain([program, refusals(program, decode(files), reports=False) + ALL_RUN])
        except ValueError as error:
            raise EnforceError(f"{error}, together with those that guard files and ports") from error
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
        raise EnforceError(f"thread {thread} has a filter of its own, so no filter can be installed on all threads")


def _require_filters() -> None:
    """Raise OSError unless this thread may install filters: an earlier filter may deny that."""
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
        raise EnforceError(
            f"this process has {threads} threads, and when='on_exec' requires a single one: use it before threads start"
        )
    if pid := seized.tracer():
        raise EnforceError(
            f"this process is already traced by pid {pid} (a debugger, or an earlier 'on_exec'), so 'on_exec' is not possible"
        )
    seized.be_seized(program, None, arm="exec", stderr=2)
