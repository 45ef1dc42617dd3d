"""What processes give up for good: the helper its capabilities and most calls; the program what reaches other processes, and,
by options of `enforce`, descriptors, capabilities and a life beyond its parent's.

The helper is in no Landlock domain: a process in one may not look at processes outside it (ptrace(2)), so no report could say
which executable made a call, and where.
"""

from __future__ import annotations

import os

from enforcer import kernel
from enforcer.errors import EnforceError
from enforcer.later import read_file
from tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HERE = os.path.dirname(__file__)

_CAP_KILL, _CAP_SYS_PTRACE = 1 << 5, 1 << 19  # linux/capability.h
_KEPT = _CAP_KILL | _CAP_SYS_PTRACE
"""Of the program's capabilities: without the first, root's helper could not kill a program that has changed its user; without
the second, it could not tell which executable made a call."""


def read(*, renews_log: bool = False) -> bytes:
    """Return the filter for the helper, which is compiled from helper.policy when callfence is built; for one that may open its
    log anew, from helper-log.policy as well."""
    return read_file(f"{_HERE}/helper-log.filter" if renews_log else f"{_HERE}/helper.filter")


def read_follower() -> bytes:
    """Return the filter for a helper that follows the program through its phases, of follower.policy and those two."""
    return read_file(f"{_HERE}/follower.filter")


def drop_capabilities(*, traces: bool = False) -> None:
    """Leave this process two capabilities; if it traces the program, those without which it could not.  Raises OSError.

    A process may look into one that has no capability beyond its own, or into any with CAP_SYS_PTRACE (capabilities(7)): what
    is not root, or root in a container, has some, and not that one."""
    _, permitted, _ = kernel.capabilities()
    if not traces or permitted & _CAP_SYS_PTRACE:
        permitted &= _KEPT
    kernel.set_capabilities(permitted)


def confine(filter_: bytes, *, listens: bool = False, traces: bool = False) -> None:
    """Leave this process few capabilities, and the calls that answering takes, or all calls (b"").  Raises OSError.

    With `listens`, also EBUSY if the program could not have a listener: it has the filters that this process had."""
    drop_capabilities(traces=traces)
    kernel.set_no_new_privs()
    if filter_ and listens:
        os.close(kernel.install(filter_, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER))
    elif filter_:
        kernel.install(filter_, 0)


SCOPES = {"abstract sockets": linux.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, "signals": linux.LANDLOCK_SCOPE_SIGNAL}
SINCE = 6
"""The version of Landlock's ABI that has them (Linux 6.12)."""


def bits(words: str) -> int:
    """Return the LANDLOCK_SCOPE_* of words of SCOPES, with commas between them."""
    return sum(SCOPES[word] for word in words.split(", ")) if words else 0


def keep_inside(words: str, *, is_nested: bool) -> None:
    """Have only processes that the program starts be signalled by it, or connected to by an abstract unix socket.

    `words`: of SCOPES, with commas.  A process that is kept so cannot trace, or look into the memory of, one outside either
    (ptrace(2)).  `is_nested`: rules about files may be in force already, and let the program move files from one folder to
    another, which takes the consent of each ruleset (landlock(7), LANDLOCK_ACCESS_FS_REFER).  It takes no_new_privs.  Raises
    OSError named after the call."""
    ruleset = kernel.landlock_ruleset(linux.LANDLOCK_ACCESS_FS_REFER if is_nested else 0, 0, bits(words))
    try:
        if is_nested:
            grant_moving(ruleset)
        kernel.landlock_enter(ruleset)
    finally:
        os.close(ruleset)


def grant_moving(ruleset: int) -> None:
    """Let a ruleset permit all moves between folders, which another one decides about.  Raises OSError."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        kernel.landlock_allow_path(ruleset, linux.LANDLOCK_ACCESS_FS_REFER, root)
    finally:
        os.close(root)


_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 24, 47, 4  # linux/prctl.h
_CAPABILITIES = 64  # bits; those that the kernel does not have fail with EINVAL


class Surroundings:
    """The options of `enforce` that are not about calls, by name, each with its values.  Raises EnforceError for a bad one."""

    __slots__ = ("_options", "_parent")

    def __init__(self, options: Mapping[str, Sequence[str]]) -> None:
        self._options = options
        self._parent = os.getppid()
        if "--keep-fd" in options and "--close-fds" not in options:
            raise EnforceError("--keep-fd says what --close-fds keeps: give both")
        for text in options.get("--keep-fd", ()):
            if not text.isdecimal():
                raise EnforceError(f"--keep-fd {text}: must be the number of a descriptor")

    def settle(self) -> None:
        """Do what the options say, just before the program begins.  Raises EnforceError, or OSError named after the call."""
        steps: dict[str, Callable[[], None]] = {
            "--close-fds": lambda: _close_descriptors({int(text) for text in self._options.get("--keep-fd", ())}),
            "--die-with-parent": lambda: _die_with(self._parent),
            "--drop-caps": _drop_capabilities,  # after what capabilities may permit
        }
        for option, step in steps.items():
            if option in self._options:
                step()


def _close_descriptors(inherited: set[int]) -> None:
    """Have the execve close all but standard input, output and error, and those to be inherited: until then some are ours."""
    for number in inherited:
        try:
            os.fstat(number)
        except OSError as error:
            raise EnforceError(f"--keep-fd {number}: {error.strerror}") from error
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in inherited:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the one that listed them


def _die_with(parent: int) -> None:
    _prctl("prctl(PR_SET_PDEATHSIG)", _PR_SET_PDEATHSIG, linux.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), linux.SIGKILL)


def _drop_capabilities() -> None:
    """Drop all capabilities from all sets: an execve cannot give back what the bounding set lacks, nor any under
    no_new_privs."""
    _prctl("prctl(PR_CAP_AMBIENT)", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        try:
            _prctl("prctl(PR_CAPBSET_DROP)", _PR_CAPBSET_DROP, capability)
        except OSError:
            break  # there are no more, or CAP_SETPCAP is missing
    kernel.set_capabilities(0)


def _prctl(call: str, *arguments: int) -> None:
    kernel.syscall(call, *arguments, *[0] * (5 - len(arguments)))
