"""The exceptions that callfence reports: a base class, and one class each for errors of the user, the kernel and callfence.
Every package's exceptions derive from these.

`str()` of each is the message for the user, without the command's name.
"""

from __future__ import annotations


class CallfenceError(Exception):
    """An error that callfence expects and explains; any other exception is a bug."""


class UserError(CallfenceError):
    """The user has to change something: a file, a policy, a command line or the environment cannot be used."""


class KernelError(CallfenceError):
    """The kernel refused a system call or a ptrace request."""

    def __init__(self, message: str, call: str = "", errno: int = 0) -> None:
        super().__init__(message)
        self.call = call
        """The system call or ptrace request; "" if there was more than one."""
        self.errno = errno
        """The errno of the refusal; 0 if it has none."""


class InternalError(CallfenceError):
    """A bug of callfence or of a library that it uses: results contradict each other."""


class TracerError(KernelError):
    """The kernel does not permit tracing the program, or the tracer could not start or follow it.  `str()` is one line for the
    user."""


class PtraceError(KernelError):
    """A ptrace request failed: mostly with ESRCH, because the task is dying."""


class StartError(KernelError):
    """The execve of the program failed with `errno`; `str()` is that number."""

    def __init__(self, errno: int) -> None:
        super().__init__(str(errno), "execve", errno)
