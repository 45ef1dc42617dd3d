"""Confine the helper to few capabilities and calls, and the program in its access to other processes; carry out the options of
`enforce` about descriptors, capabilities and the end of the parent.

The helper is in no Landlock domain, since a process in one cannot inspect processes outside it (ptrace(2)): then no report
could name the executable that made a call, and the call site.
"""

from __future__ import annotations

import os

from callfence.enforcer import kernel
from callfence.enforcer.errors import EnforceError
from callfence.enforcer.importer import read_file
from callfence.tracer import TYPE_CHECKING, linux, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_FILTERS = f"{os.path.dirname(__file__)}/filters/{machine.NAME}"

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_KILL, _CAP_SYS_PTRACE = 1 << 1, 1 << 2, 1 << 5, 1 << 19  # linux/capability.h
_CAP_SETGID, _CAP_SETUID, _CAP_NET_ADMIN, _CAP_AUDIT_WRITE, _CAP_AUDIT_CONTROL = 1 << 6, 1 << 7, 1 << 12, 1 << 29, 1 << 30
_HELPERS = _CAP_KILL | _CAP_SYS_PTRACE
"""The capabilities that the helper retains if it has them: without the first, root's helper could not kill a program that has
changed its user; without the second, it could not find out which executable made a call."""
ACTING = _CAP_SETGID | _CAP_SETUID
"""Which it retains besides where it makes calls for the program, to make them as its user."""
CONNECTING = ACTING | _CAP_DAC_OVERRIDE | _CAP_NET_ADMIN | _CAP_AUDIT_WRITE | _CAP_AUDIT_CONTROL
"""Where it makes calls to hosts and unix sockets, and sends the program's messages to the kernel (netlink): PAM tells its audit
of logins.  Those beyond `ACTING` take effect only for a call of a process that has them."""
FINDING = _CAP_DAC_READ_SEARCH
"""Where it judges files: else those of a program that has changed its user would be reported as denied."""


def read(*, renews_log: bool = False, makes_calls: bool = False) -> bytes:
    """Read the filter for the helper, which was compiled from helper.policy when callfence was built.  With `renews_log`, it
    also allows what helper-log.policy does: opening the log again; with `makes_calls`, what helper-hosts.policy does: making
    the program's calls to other hosts.  Raises OSError."""
    return read_file(f"{_FILTERS}/helper{'-hosts' if makes_calls else '-log' if renews_log else ''}.filter")


def read_follower(*, makes_calls: bool = False) -> bytes:
    """Read the filter of a helper that follows the program through phases: `read`, and follower.policy.  Raises OSError."""
    return read_file(f"{_FILTERS}/follower{'-hosts' if makes_calls else ''}.filter")


def may_look() -> bool:
    """Return whether the helper of this process may look into processes that are not dumpable (prctl(2))."""
    return bool(kernel.capabilities()[1] & _CAP_SYS_PTRACE)


def drop_capabilities(more: int = 0, *, traces: bool = False) -> None:
    """Drop all capabilities of this process except CAP_KILL, CAP_SYS_PTRACE and `more`.  Raises OSError.

    With `traces`, drop none if CAP_SYS_PTRACE is missing: without it, a process can only trace processes that have no
    capability beyond its own (capabilities(7))."""
    _, permitted, _ = kernel.capabilities()
    if not traces or permitted & _CAP_SYS_PTRACE:
        permitted &= _HELPERS | more
    kernel.set_capabilities(permitted, permitted & ~(CONNECTING & ~ACTING) if more & _CAP_DAC_OVERRIDE else None)


def confine(filter_: bytes, more: int = 0, *, listens: bool = False, traces: bool = False) -> None:
    """Drop capabilities of this process (`drop_capabilities`), and install `filter_` on it unless that is b"".  Raises OSError.

    With `listens`, EBUSY means that a filter which this process shares with the program has a listener already, so that the
    program cannot have another."""
    drop_capabilities(more, traces=traces)
    kernel.set_no_new_privs()
    if filter_ and listens:
        os.close(kernel.install(filter_, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER))
    elif filter_:
        kernel.install(filter_, 0)


ABSTRACT = "abstract sockets"
SCOPES = {ABSTRACT: linux.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, "signals": linux.LANDLOCK_SCOPE_SIGNAL}
SINCE = 6
"""The version of Landlock's ABI that has these scopes (Linux 6.12)."""


def bits(words: str) -> int:
    """Return the LANDLOCK_SCOPE_* bits for keys of SCOPES that are separated by commas."""
    return sum(SCOPES[word] for word in words.split(", ")) if words else 0


def keep_inside(words: str, *, is_nested: bool) -> None:
    """Confine this process, and what it starts, so that its signals, or its connections to abstract unix sockets, reach only
    processes that it starts.

    A process that is confined so cannot trace or read processes outside either (ptrace(2)).  The parameters are those of
    `scope_ruleset`.  Needs no_new_privs.  Raises OSError with the call's name in `filename`."""
    ruleset = scope_ruleset(words, is_nested=is_nested)
    try:
        kernel.landlock_enter(ruleset)
    finally:
        os.close(ruleset)


def scope_ruleset(words: str, *, is_nested: bool) -> int:
    """Create the Landlock ruleset of `keep_inside` and return its descriptor.

    `words`: keys of SCOPES, separated by commas.  `is_nested`: Landlock rules may be in force already and let the program move
    files between folders; the new ruleset must permit that, too (landlock(7), LANDLOCK_ACCESS_FS_REFER).  Raises OSError."""
    ruleset = kernel.landlock_ruleset(linux.LANDLOCK_ACCESS_FS_REFER if is_nested else 0, 0, bits(words))
    if is_nested:
        try:
            grant_moving(ruleset)
        except OSError:
            os.close(ruleset)
            raise
    return ruleset


def grant_moving(ruleset: int) -> None:
    """Make a ruleset permit all moves of files between folders, so that another alone decides them.  Raises OSError."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        kernel.landlock_allow_path(ruleset, linux.LANDLOCK_ACCESS_FS_REFER, root)
    finally:
        os.close(root)


_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 24, 47, 4  # linux/prctl.h
_CAPABILITIES = 64  # bits; those that the kernel does not have fail with EINVAL


class Surroundings:
    """The options of `enforce` about descriptors, capabilities and the parent, by name, each with its values.  Raises
    EnforceError for a wrong value."""

    __slots__ = ("_options", "_parent")

    def __init__(self, options: Mapping[str, Sequence[str]]) -> None:
        self._options = options
        self._parent = os.getppid()
        if "--keep-fd" in options and "--close-fds" not in options:
            raise EnforceError("--keep-fd requires --close-fds: give both, or none")
        for text in options.get("--keep-fd", ()):
            if not text.isdecimal():
                raise EnforceError(f"--keep-fd {text}: the value must be the number of a descriptor")

    def settle(self) -> None:
        """Carry out the options just before the execve.  Raises EnforceError, or OSError with a call's name in `filename`."""
        steps: dict[str, Callable[[], None]] = {
            "--close-fds": lambda: _close_descriptors({int(text) for text in self._options.get("--keep-fd", ())}),
            "--die-with-parent": lambda: _die_with(self._parent),
            "--drop-caps": _drop_capabilities,  # after what capabilities may permit
        }
        for option, step in steps.items():
            if option in self._options:
                step()


def _close_descriptors(inherited: set[int]) -> None:
    """Mark all descriptors above 2, except `inherited`, to be closed by the execve; until then this process uses some."""
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
    """Drop all capabilities from all sets of this process, so that no execve restores any.  Raises OSError."""
    _prctl("prctl(PR_CAP_AMBIENT)", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        try:
            _prctl("prctl(PR_CAPBSET_DROP)", _PR_CAPBSET_DROP, capability)
        except OSError:
            break  # there are no more, or CAP_SETPCAP is missing
    kernel.set_capabilities(0)


def _prctl(call: str, *arguments: int) -> None:
    kernel.syscall(call, *arguments, *[0] * (5 - len(arguments)))
