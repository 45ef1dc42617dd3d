"""What can go wrong: one base class and its three kinds, never mixed.  Every package's exceptions derive from these.

`str()` of each is the message for the user, without the command's name.
"""

from __future__ import annotations


class CallfenceError(Exception):
    """An error that callfence expects and explains; any other exception is a bug."""


class UserError(CallfenceError):
    """The user's: a file, a policy, a command line or an environment that cannot be used as it is."""


class KernelError(CallfenceError):
    """The kernel refused: which call, and with which errno."""

    def __init__(self, message: str, call: str = "", errno: int = 0) -> None:
        super().__init__(message)
        self.call = call
        """The system call or ptrace request; "" if there was more than one."""
        self.errno = errno
        """0 if the refusal has none."""


class InternalError(CallfenceError):
    """Ours: callfence contradicts itself, or what it is built on gave a wrong answer."""


class TracerError(KernelError):
    """The kernel does not let us trace, or not to the end.  `str()` is one line for the user."""


class PtraceError(KernelError):
    """A ptrace request failed: mostly with ESRCH, because the task is dying."""


class StartError(KernelError):
    """The execve of the program failed, with this errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(str(errno), "execve", errno)
