"""The progress of learning: a line on the terminal below the program's output."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracer.loop import Loop

REFRESH: Final = 0.25
"""Seconds between two updates."""
PLAIN_REFRESH: Final = 10.0
"""Seconds between two lines where nothing is drawn."""
LOCAL_MODES: Final = 3
"""Where c_lflag is in what termios.tcgetattr returns."""

# ECMA-48 and DEC's VT100, which the terminals of today and Linux's console understand.
ERASE_BELOW: Final = "\x1b[J"
ROOM_BELOW: Final = "\x1bD\x1bM"
"""Down and up again, which scrolls at the bottom, and keeps the column."""
SAVE, RESTORE, NEXT_LINE, DIM, PLAIN = "\x1b7", "\x1b8", "\x1bE", "\x1b[2m", "\x1b[m"


class _Line:
    """The line, drawn by one thread and erased by another.  The cursor stays where the program has left it."""

    def __init__(self) -> None:
        self._visible = False
        self._drawn = time.monotonic()
        self._lock = threading.Lock()

    def due(self) -> bool:
        return time.monotonic() - self._drawn >= REFRESH

    def draw(self, text: str, watch: Callable[[], bool]) -> None:
        """Draw the line, after `watch` has arranged that it is erased before the program writes.  If it cannot, because writes
        may run unseen, draw only if they do not go to a terminal."""
        with self._lock:
            if not watch() and os.isatty(1):
                return
            room = (os.get_terminal_size(2).columns or 80) - 1  # 0: not known
            self._say(f"{ERASE_BELOW}{ROOM_BELOW}{SAVE}{NEXT_LINE}{DIM}{text[:room]}{PLAIN}{RESTORE}")
            self._visible = True

    def erase(self) -> None:
        with self._lock:
            if self._visible:
                self._say(ERASE_BELOW)
            self._visible = False

    def _say(self, text: str) -> None:
        self._drawn = time.monotonic()
        with suppress(OSError):  # it has hung up
            os.write(2, text.encode())


@contextmanager
def progress(
    distinct: Callable[[], int], *, quiet: bool, warm: bool, plainly: bool = False
) -> Iterator[Callable[[Loop], None]]:
    """A function for the tracer to call several times a second: draws if we are in the foreground of a terminal.

    `distinct` is how many observations there are.  When `warm`, the program's writes are known and do not stop, so that
    the line could not be erased in time; nothing is drawn then if they may go to a terminal.  Where there is no terminal,
    `plainly` writes a line now and then: only for a program that does not write to our standard error.
    """
    is_dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    started = time.monotonic()
    if quiet or sys.stderr is None:
        yield lambda loop: None
        return
    if is_dumb or not sys.stderr.isatty():
        yield plain_lines(distinct, started) if plainly else lambda loop: None
        return
    if warm and os.isatty(1):
        yield lambda loop: None
        return
    import termios

    line = _Line()
    interactive = False
    shares_terminal = os.isatty(1)

    def hidden() -> bool:
        nonlocal interactive
        try:
            interactive |= not termios.tcgetattr(2)[LOCAL_MODES] & termios.ICANON  # a program that draws by itself
            return interactive or os.tcgetpgrp(2) != os.getpgrp()
        except (OSError, termios.error):  # it has hung up
            return True

    def tick(loop: Loop) -> None:
        loop.calls.draws = shares_terminal
        if not line.due():
            return
        if hidden():
            line.erase()
            return
        line.draw(_text(loop, distinct(), started), lambda: loop.calls.before_output(line.erase))

    try:
        yield tick
    finally:
        line.erase()


def plain_lines(
    distinct: Callable[[], int], started: float, now: Callable[[], float] = time.monotonic
) -> Callable[[Loop], None]:
    """A function for the tracer to call several times a second, which writes a line each PLAIN_REFRESH seconds."""
    told = started

    def tick(loop: Loop) -> None:
        nonlocal told
        if now() - told >= PLAIN_REFRESH and sys.stderr is not None:
            told = now()
            with suppress(OSError):  # its reader has gone
                print(f"learn: {_text(loop, distinct(), started, told)}", file=sys.stderr, flush=True)

    return tick


def _text(loop: Loop, distinct: int, started: float, now: float | None = None) -> str:
    seconds = (time.monotonic() if now is None else now) - started
    processes, calls = loop.family.processes, loop.family.calls
    return (
        f"learning  {seconds:.0f} s  {processes} process{'' if processes == 1 else 'es'}  "
        f"{calls:,} call{'' if calls == 1 else 's'}  {distinct} distinct"
    )
