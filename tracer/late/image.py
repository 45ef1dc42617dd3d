"""What one process is while it runs one executable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NEVER: Final = 1 << 62
"""More calls than a process makes."""


class Plan:
    """A filter that is being put into a process."""

    __slots__ = ("area", "code", "filter", "is_installed", "is_refused")

    def __init__(self, filter_: bytes, code: Sequence[tuple[int, int]] = (), copied: int = 0) -> None:
        """`copied` is memory that was mapped for it in the process that this one was forked from: it is to be unmapped."""
        self.filter = filter_
        self.code = code
        """The code that it is for (`late.code.spans`); all if there is none."""
        self.is_refused = False
        """Whether the kernel has refused it."""
        self.area = copied
        """Memory that was mapped for it in the process; 0 for none."""
        self.is_installed = bool(copied)
        """Whether only unmapping is left to be done."""


class Image:
    """Mutable; shared by the threads of the process."""

    __slots__ = (
        "barred",
        "calls",
        "code",
        "left",
        "maker",
        "news",
        "news_at_start",
        "plan",
        "quiet",
        "since",
        "starts",
        "stops",
        "strict",
        "synchronised",
        "threads",
        "used",
        "whole",
    )

    def __init__(self, left: int = NEVER, maker: Image | None = None) -> None:
        self.maker = maker
        """That of the process which has forked it, until its execve."""
        self.starts = 0
        """How many processes that it has made have executed something."""
        self.left = left
        """How many more calls under PTRACE_SYSCALL there are until `Late` looks at the process."""
        self.calls = 0
        """Calls when it was last looked at."""
        self.quiet = 0
        """How many of them, the last ones, have brought no observation."""
        self.since = 0.0
        """When that was (time.monotonic)."""
        self.used = 0.0
        """Processor time that the process had used by then."""
        self.news = 0
        """Observations of the executable at that time."""
        self.news_at_start = 0
        self.stops = 0
        """Calls that its task had made when it began."""
        self.whole = False
        """Whether it began with an execve, so that it shows what the executable does from its start on."""
        self.threads = 1
        self.synchronised = False
        """Whether a thread has put a filter into the others, which may have been forking at that moment."""
        self.plan: Plan | None = None
        self.code: Sequence[tuple[int, int]] = ()
        """The code that its filter is for: calls by other code are not seen, so it may not get any; all if there is none."""
        self.strict = False
        """Whether its next filter is to be one for all code."""
        self.barred = False
        """Whether it gets no filter of ours any more."""
