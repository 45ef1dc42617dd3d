"""What a program is given, or not, besides calls: session, descriptors, environment, limits, capabilities.

Loaded only where one of these is asked for.  Nothing of it can be undone by the program.
"""

from __future__ import annotations

import os
import resource

from enforcer import kernel
from enforcer.errors import EnforceError
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 24, 47, 4  # linux/prctl.h
_SIGKILL = 9
_CAPABILITIES = 64  # bits; those that the kernel does not have fail with EINVAL


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
            "--rlimit": self._set_limits,  # after what opens files
            "--drop-caps": _drop_capabilities,  # after what capabilities may permit
        }
        for option, step in steps.items():
            if option in self._options:
                step()

    def _set_limits(self) -> None:
        for name, number, value in self._limits:
            try:
                resource.setrlimit(number, (value, value))
            except (OSError, ValueError) as error:
                raise EnforceError(f"--rlimit {name}: {error}") from error


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
    kernel.set_capabilities(0)


def _prctl(call: str, *arguments: int) -> None:
    kernel.syscall(call, *arguments, *[0] * (5 - len(arguments)))
