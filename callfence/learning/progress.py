"""What `learn` prints while the program runs: a line on the terminal below the program's output, and what `--pid` follows."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from policygen.text import printable
from tracer.proc import executable_of, numbers_in, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from callfence.learning.options import LearnOptions
    from tracer.loop import Loop
    from tracer.running.session import Outcome

REFRESH: Final = 0.25
"""Seconds between two updates."""
PLAIN_REFRESH: Final = 10.0
"""Seconds between two lines where nothing is drawn."""
LOCAL_MODES: Final = 3
"""Where c_lflag is in what termios.tcgetattr returns."""
ICANON: Final = 2  # asm-generic/termbits.h

# ECMA-48 and DEC's VT100, which the terminals of today and Linux's console understand.
ERASE_BELOW: Final = "\x1b[J"
ROOM_BELOW: Final = "\x1bD\x1bM"
"""Down and up again, which scrolls at the bottom, and keeps the column."""
_MAX_NAMED: Final = 8
"""Processes that are named."""
SAVE, RESTORE, NEXT_LINE, DIM, PLAIN = "\x1b7", "\x1b8", "\x1bE", "\x1b[2m", "\x1b[m"


def say(text: str) -> None:
    """Print a line on standard error, if that is possible."""
    if sys.stderr is not None:
        with suppress(OSError):  # it has hung up, or is a full disk
            print(printable(text), file=sys.stderr, flush=True)


class _Line:
    """The line, drawn by one thread and erased by another.  The cursor stays where the program has left it."""

    def __init__(self, distinct: Callable[[], int], started: float) -> None:
        import termios

        self._modes, self._error = termios.tcgetattr, termios.error
        self._distinct = distinct
        self._started = started
        self._shares_terminal = os.isatty(1)
        self._is_interactive = False
        """Whether the program draws by itself."""
        self._visible = False
        self._drawn = time.monotonic()
        self._lock = threading.Lock()

    def tick(self, loop: Loop) -> None:
        """Draw the line if it is time to, after the tracer has arranged that it is erased before the program writes.

        If it cannot, because writes may run without a stop, draw only if they do not go to a terminal."""
        loop.calls.draws = self._shares_terminal
        if time.monotonic() - self._drawn < REFRESH:
            return
        if self._is_hidden():
            self.erase()
            return
        text = _text(loop, self._distinct(), self._started)
        with self._lock:
            if loop.calls.before_output(self.erase) or not os.isatty(1):
                room = (os.get_terminal_size(2).columns or 80) - 1  # 0: not known
                self._write(f"{ERASE_BELOW}{ROOM_BELOW}{SAVE}{NEXT_LINE}{DIM}{text[:room]}{PLAIN}{RESTORE}")
                self._visible = True

    def erase(self) -> None:
        """Erase the line, if it is there."""
        with self._lock:
            if self._visible:
                self._write(ERASE_BELOW)
            self._visible = False

    def _is_hidden(self) -> bool:
        try:
            self._is_interactive |= not self._modes(2)[LOCAL_MODES] & ICANON
            return self._is_interactive or os.tcgetpgrp(2) != os.getpgrp()
        except (OSError, self._error):  # it has hung up
            return True

    def _write(self, text: str) -> None:
        self._drawn = time.monotonic()
        with suppress(OSError):  # it has hung up
            os.write(2, text.encode())


@contextmanager
def progress(
    distinct: Callable[[], int], *, quiet: bool, warm: bool, plainly: bool = False
) -> Iterator[Callable[[Loop], None]]:
    """Yield a function for the tracer to call several times a second: it draws if we are in the foreground of a terminal.

    `distinct` is how many observations there are.  When `warm`, the program's writes are known and do not stop, so that
    the line could not be erased in time; nothing is drawn then if they may go to a terminal.  Where there is no terminal,
    `plainly` writes a line now and then: only for a program that does not write to our standard error.
    """
    started = time.monotonic()
    is_terminal = sys.stderr is not None and os.environ.get("TERM", "dumb") not in ("dumb", "unknown") and sys.stderr.isatty()
    if quiet or sys.stderr is None or (is_terminal and warm and os.isatty(1)):
        yield lambda loop: None
    elif not is_terminal:
        yield plain_lines(distinct, started) if plainly else lambda loop: None
    else:
        line = _Line(distinct, started)
        try:
            yield line.tick
        finally:
            line.erase()


def plain_lines(
    distinct: Callable[[], int], started: float, now: Callable[[], float] = time.monotonic
) -> Callable[[Loop], None]:
    """Return a function for the tracer to call several times a second, which writes a line each PLAIN_REFRESH seconds."""
    printed = started

    def tick(loop: Loop) -> None:
        nonlocal printed
        if now() - printed >= PLAIN_REFRESH:
            printed = now()
            say(f"learn: {_text(loop, distinct(), started, printed)}")

    return tick


def _text(loop: Loop, distinct: int, started: float, now: float | None = None) -> str:
    seconds = (time.monotonic() if now is None else now) - started
    processes, calls = loop.family.processes, loop.family.calls
    return (
        f"learning  {seconds:.0f} s  {processes} process{'' if processes == 1 else 'es'}  "
        f"{calls:,} call{'' if calls == 1 else 's'}  {distinct} distinct"
    )


class Attached:
    """Reports which processes `--pid` follows, and notes in the recording which it does not."""

    def __init__(self, options: LearnOptions, gap: Callable[[str], None]) -> None:
        self._options = options
        self._gap = gap
        self._since = 0.0

    def begin(self, loop: Loop) -> None:
        """Report what was attached to, and which processes that it has started are not followed."""
        from callfence.shared.text import plural
        from tracer.running.attach import descendants

        self._since = time.monotonic()
        pids = self._options.pids
        names = ", ".join(f"{os.path.basename(executable_of(pid))} (pid {pid})" for pid in pids)
        if not self._options.quiet:
            threads = plural(len(loop.tasks), "thread")
            say(f"learn: attached to {names}: {plural(loop.family.processes, 'process', 'processes')}, {threads}; ^C lets go")
        missed = {} if self._options.tree else descendants(pids)
        if missed:
            started = "it has started" if len(pids) == 1 else "they have started"
            processes = plural(len(missed), "process", "processes")
            say(f"learn: not followed: {processes} that {started} before; --tree follows them")
            programs = ", ".join(sorted({executable_of(pid) for pid in missed} - {"?"}))
            self._gap(f"processes that were started before learn attached: {programs} (--tree follows them)")

        followed = {task.tgid for task in loop.tasks.values()} | missed.keys()
        if others := _similar(pids, followed):
            named = ", ".join(map(str, others[:_MAX_NAMED])) + (" ..." if len(others) > _MAX_NAMED else "")
            what = f"{plural(len(others), 'other process', 'other processes')} of the same program ({named})"
            say(f"learn: not followed: {what}; --pid can be given several times")

    def end(self, outcome: Outcome) -> None:
        """Note if what was attached to made hardly any calls."""
        seconds = time.monotonic() - self._since
        if outcome.calls < seconds:
            few = f"{outcome.calls} in {seconds:.0f} seconds" if outcome.calls else "none was made while learn was attached"
            self._gap(f"calls: {few}; perhaps other processes do the work")


def _similar(pids: tuple[int, ...], followed: Collection[int]) -> list[int]:
    """Return the processes that are not followed, execute the same files, and belong together with one that is: by their
    session or their control group, unless that is this process's, too, which may hold anything of the same interpreter."""
    programs = {executable_of(pid) for pid in pids} - {"?"}
    groups = {group for pid in pids for group in _groups(pid)}.difference(_groups(os.getpid()))
    others = sorted(numbers_in("") - {*followed})
    return [pid for pid in others if executable_of(pid) in programs and groups & set(_groups(pid))]


def _groups(pid: int) -> list[object]:
    """Return the session of a process, and its control group unless that is the root."""
    groups: list[object] = []
    with suppress(OSError):
        groups.append(os.getsid(pid))
    with suppress(OSError):
        group = Path(f"{proc()}/{pid}/cgroup").read_text(errors="replace").strip()
        groups += [] if group.endswith(":/") else [group]
    return groups
