"""What the tracer says when it cannot do its work."""


class TracerError(Exception):
    """The kernel does not let us trace.  `str()` is one line for the user."""


class StartError(Exception):
    """The execve of the program failed, with this errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno
