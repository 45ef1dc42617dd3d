"""The errors that prevent the program from running, and their exit statuses (env(1), POSIX XCU 2.8.2).

If the kernel refuses something, that is a KernelError, with the status FAILED.
"""

from __future__ import annotations

from callfence.tracer.errors import KernelError, UserError

FAILED = 125
"""Exit status: `enforce` failed before the program's first instruction."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SHORT = (12, 23, 24)
"""The errnos for a lack of memory or descriptors: ENOMEM, ENFILE, EMFILE (asm-generic/errno-base.h)."""
BUSY = (
    "another filter has a listener already (a container's, or that of an outer enforce), and the kernel permits only one, so "
    "violations cannot be reported; --quiet-kernel runs the program without reports"
)
"""The message for EBUSY of seccomp(2)."""


class EnforceError(UserError):
    """The program was not run.  `str()` is one line for the user, without the command's name."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class ArmError(UserError):
    """The program cannot be confined, because of what it did before its filter was installed."""


class GoneError(KernelError):
    """The process died while the helper worked on it; its exit status has the reason."""

    def __init__(self, signal: int = 0) -> None:
        super().__init__("the process died", "ptrace", 3)  # ESRCH
        self.signal = signal
        """The signal that ended it; 0 if that is not known."""


def refused(error: OSError) -> KernelError:
    """Return the KernelError for an OSError; that of `enforcer.kernel` has the call's name in `filename`."""
    where = f"{error.filename}: " if error.filename else ""
    return KernelError(f"{where}{error.strerror}", str(error.filename or ""), error.errno or 0)


def too_long(error: ValueError, policies: int) -> EnforceError:
    """Return the error for a filter that is too long for the kernel (`enforcer.bpf.chain`), of so many policies."""
    return EnforceError(f"{error}{'; `callfence merge --intersect` makes one policy of two' * (policies > 1)}")


class HeldUpError(ArmError):
    """The helper killed a process, because a call that it made in the process did not end."""
