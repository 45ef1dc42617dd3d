"""What a program is given, or not, besides calls: session, descriptors, environment, limits, capabilities, reach of signals.

Loaded only where one of these is asked for.  Nothing of it can be undone by the program.
"""

from __future__ import annotations

import os
import resource

from enforcer import ffi, kernel
from enforcer.errors import EnforceError
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SYS_CAPSET, _SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_RESTRICT_SELF = 126, 444, 446  # asm/unistd_64.h
_SYS_PRCTL = 157
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 24, 47, 4  # linux/prctl.h
_SIGKILL = 9
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_CAPABILITIES = 64  # bits; those that the kernel does not have fail with EINVAL
_LANDLOCK_CREATE_RULESET_VERSION = 1  # linux/landlock.h
_SCOPES = {"abstract sockets": 1 << 0, "signals": 1 << 1}  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, _SIGNAL
_SCOPES_SINCE = 6  # the ABI of Linux 6.12


class Surroundings:
    """The options of `enforce` that are not about calls, by name, each with its values.  Raises EnforceError for a bad one."""

    __slots__ = ("_limits", "_options", "_parent")

    def __init__(self, options: Mapping[str, Sequence[str]]) -> None:
        self._options = options
        self._parent = os.getppid()
        self._limits = [_limit(text) for text in options.get("--rlimit", ())]
        for needed, option in (("--close-fds", "--keep-fd"), ("--clear-env", "--keep-env")):
            if option in options and needed not in options:
                raise EnforceError(f"{option} says what {needed} keeps: give both")
        for text in options.get("--keep-fd", ()):
            if not text.isdecimal():
                raise EnforceError(f"--keep-fd {text}: must be the number of a descriptor")
        for text in options.get("--scope", ()):
            if not {*_words(text)} <= {*_SCOPES, "none"}:
                raise EnforceError(f"--scope {text}: must be signals, sockets, both or none")

    def environment(self, given: list[bytes]) -> list[bytes]:
        """What the program gets of the environment."""
        if "--clear-env" not in self._options:
            return given
        kept = {os.fsencode(name) for name in self._options.get("--keep-env", ())}
        return [entry for entry in given if entry.partition(b"=")[0] in kept]

    def enter_session(self) -> None:
        """What has to be done while this process may still start another."""
        if "--new-session" in self._options:
            _new_session()

    def settle(self) -> None:
        """Do all else, last before the program takes over.  Raises EnforceError, or OSError named after the call."""
        steps: dict[str, Callable[[], None]] = {
            "--close-fds": lambda: _close_descriptors({int(text) for text in self._options.get("--keep-fd", ())}),
            "--die-with-parent": lambda: _die_with(self._parent),
            "--scope": self._scope,
            "--rlimit": self._set_limits,  # after what opens files
            "--drop-caps": _drop_capabilities,  # after what capabilities may permit
        }
        for option, step in steps.items():
            if option in self._options:
                step()

    def _scope(self) -> None:
        if bits := sum(_SCOPES.get(word, 0) for word in _words(self._options["--scope"][-1])):
            _keep_inside(bits)

    def _set_limits(self) -> None:
        for name, number, value in self._limits:
            try:
                resource.setrlimit(number, (value, value))
            except (OSError, ValueError) as error:
                raise EnforceError(f"--rlimit {name}: {error}") from error


def _words(text: str) -> list[str]:
    """What of _SCOPES an option or a policy's scope means."""
    short = {"sockets": "abstract sockets", "both": "signals, abstract sockets"}
    return short.get(text, text).split(", ")


def _limit(text: str) -> tuple[str, int, int]:
    """The name, number and value of `NAME=N`."""
    name, _, value = text.partition("=")
    number = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if number is None:
        known = ", ".join(sorted(one.removeprefix("RLIMIT_") for one in dir(resource) if one.startswith("RLIMIT_")))
        raise EnforceError(f"--rlimit {text}: must be NAME=N, with one of {known}")
    if value == "unlimited":
        return text, number, resource.RLIM_INFINITY
    if not value.isdecimal():
        raise EnforceError(f"--rlimit {text}: {value or 'nothing'} is neither a number nor `unlimited`")
    return text, number, int(value)


def _new_session() -> None:
    """Leave the terminal.  A leader of a process group cannot (setsid(2)), so it enters the group of a child first."""
    if os.getpgrp() == os.getpid():
        ready, done = os.pipe(), os.pipe()
        child = kernel.clone()  # which sends no SIGCHLD that the program might get
        if child == 0:
            os.setpgid(0, 0)
            os.write(ready[1], b"!")
            os.close(done[1])
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        try:
            os.setpgid(0, child)
        finally:
            for descriptor in (*ready, *done):
                os.close(descriptor)
            os.waitpid(child, linux.WALL)
    try:
        os.setsid()
    except PermissionError:
        hint = "its process group has other members, as in a pipeline: start it with setsid(1)"
        raise EnforceError(f"--new-session: {hint}") from None


def _close_descriptors(kept: set[int]) -> None:
    """All but standard input, output and error, and those kept, at the execve: until then some are ours."""
    for number in kept:
        try:
            os.fstat(number)
        except OSError as error:
            raise EnforceError(f"--keep-fd {number}: {error.strerror}") from error
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the one that listed them


def _die_with(parent: int) -> None:
    _prctl("prctl(PR_SET_PDEATHSIG)", _PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), _SIGKILL)


def _drop_capabilities() -> None:
    """From all sets: an execve cannot give back what the bounding set lacks, nor anything under no_new_privs."""
    _prctl("prctl(PR_CAP_AMBIENT)", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        try:
            _prctl("prctl(PR_CAPBSET_DROP)", _PR_CAPBSET_DROP, capability)
        except OSError:
            break  # there are no more, or CAP_SETPCAP is missing
    header, data = (ffi.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ffi.c_uint32 * 6)()
    kernel.syscall("capset", _SYS_CAPSET, ffi.byref(header), ffi.byref(data))


def has_scopes() -> bool:
    """Whether this kernel can keep signals and abstract sockets among a program's processes."""
    return _landlock() >= _SCOPES_SINCE


def _landlock() -> int:
    """The version of Landlock's ABI; 0 if there is none."""
    try:
        return kernel.syscall("landlock", _SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def _keep_inside(scopes: int) -> None:
    """Only processes that the program starts can be signalled, or connected to by an abstract unix socket (landlock(7)): a
    ruleset that restricts nothing else."""
    version = _landlock()
    if version < _SCOPES_SINCE:
        raise EnforceError(f"--scope needs Landlock's ABI {_SCOPES_SINCE} (Linux 6.12), and this kernel has {version}")
    attributes = (ffi.c_uint64 * 3)(0, 0, scopes)  # struct landlock_ruleset_attr
    size = ffi.sizeof(attributes)
    ruleset = kernel.syscall("landlock_create_ruleset", _SYS_LANDLOCK_CREATE_RULESET, ffi.byref(attributes), size, 0)
    kernel.syscall("landlock_restrict_self", _SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _prctl(call: str, *arguments: int) -> None:
    kernel.syscall(call, _SYS_PRCTL, *arguments, *[0] * (5 - len(arguments)))
