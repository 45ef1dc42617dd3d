"""What can go wrong before the program runs, and the exit status that each kind has (env(1), POSIX XCU 2.8.2).

A refusal of the kernel's is a KernelError, whose status is FAILED.
"""

from __future__ import annotations

from tracer.errors import KernelError, UserError

FAILED = 125
"""callfence did not run the program, or did not let it begin."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127
BUSY = (
    "another filter has a listener already (a container's, or enforce within enforce); without reports: --quiet-kernel"
)
"""EBUSY of seccomp(2)."""


class EnforceError(UserError):
    """The program was not run.  `str()` is one line for the user, without the command's name."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class ArmError(UserError):
    """The program did something before it was confined that could not be confined, and must not run on."""


class GoneError(KernelError):
    """The process died while the helper worked on it: its own status says why."""

    def __init__(self) -> None:
        super().__init__("the process died", "ptrace", 3)  # ESRCH


def refused(error: OSError) -> KernelError:
    """Return the KernelError for what `enforcer.kernel` raises, which has the call's name in `filename`."""
    return KernelError(f"{error.filename}: {error.strerror}", str(error.filename), error.errno or 0)


class HeldUpError(ArmError):
    """A process was killed, for a call that the helper made in it did not end."""
