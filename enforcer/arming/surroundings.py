"""What a program is given, or not, besides calls: descriptors, capabilities, an end with its parent.

Loaded only where one of these is asked for.  Nothing of it can be undone by the program.
"""

from __future__ import annotations

import os

from enforcer import kernel
from enforcer.errors import EnforceError
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        """Do what they say, last before the program takes over.  Raises EnforceError, or OSError named after the call."""
        steps: dict[str, Callable[[], None]] = {
            "--close-fds": lambda: _close_descriptors({int(text) for text in self._options.get("--keep-fd", ())}),
            "--die-with-parent": lambda: _die_with(self._parent),
            "--drop-caps": _drop_capabilities,  # after what capabilities may permit
        }
        for option, step in steps.items():
            if option in self._options:
                step()


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
    _prctl("prctl(PR_SET_PDEATHSIG)", _PR_SET_PDEATHSIG, linux.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), linux.SIGKILL)


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
