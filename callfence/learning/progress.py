"""What `learn` prints while the program runs: a line below the program's output, and which processes `--pid` traces."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from callfence.policygen.text import printable
from callfence.tracer.proc import executable_of, numbers_in, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from callfence.learning.options import LearnOptions
    from callfence.tracer.loop import Loop
    from callfence.tracer.running.session import Outcome

REFRESH: Final = 0.25
"""Seconds between two updates."""
PLAIN_REFRESH: Final = 10.0
"""Seconds between two progress lines if standard error is no terminal."""
LOCAL_MODES: Final = 3
"""The index of c_lflag in the list that termios.tcgetattr returns."""
ICANON: Final = 2  # asm-generic/termbits.h

# ECMA-48 and DEC's VT100, which the terminals of today and Linux's console understand.
ERASE_BELOW: Final = "\x1b[J"
ROOM_BELOW: Final = "\x1bD\x1bM"
"""Move the cursor down and up, which scrolls if it is in the last row, and keeps its column."""
_MAX_NAMED: Final = 8
"""The most processes that a message names."""
SAVE, RESTORE, NEXT_LINE, DIM, PLAIN = "\x1b7", "\x1b8", "\x1bE", "\x1b[2m", "\x1b[m"


def say(text: str) -> None:
    """Print a line on standard error, if that is possible."""
    if sys.stderr is not None:
        with suppress(OSError):  # it has hung up, or is a full disk
            print(printable(text), file=sys.stderr, flush=True)


class _Line:
    """The progress line.  One thread draws it and another erases it; the cursor stays where the program left it."""

    def __init__(self, distinct: Callable[[], int], started: float) -> None:
        import termios

        self._modes, self._error = termios.tcgetattr, termios.error
        self._distinct = distinct
        self._started = started
        self._shares_terminal = os.isatty(1)
        self._is_interactive = False
        """Whether the program has turned off the terminal's canonical mode, so that it draws on the terminal itself."""
        self._visible = False
        self._drawn = time.monotonic()
        self._lock = threading.Lock()

    def tick(self, loop: Loop) -> None:
        """Draw the line if REFRESH seconds have passed, and have the tracer erase it before the program writes.  If writes may
        run without a stop, so that the tracer cannot erase it in time, draw only if standard output is no terminal."""
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
        """Erase the line if it is drawn."""
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
    """Yield a function for the tracer to call several times a second, which draws the progress line if this process is in the
    foreground of a terminal.

    `distinct` returns the number of observations.  With `warm` (incremental learn), the program's writes do not stop, so that
    the line could not be erased in time: nothing is drawn if standard output is a terminal.  With `plainly`, a line is printed
    every PLAIN_REFRESH seconds if standard error is no terminal; the program must not write there."""
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
    """Return a function for the tracer to call several times a second, which prints a line each PLAIN_REFRESH seconds."""
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
    """Prints which processes `--pid` traces and which related ones it does not.  Notes in the recording which children were not
    traced, and whether the traced processes made less than one call a second."""

    def __init__(self, options: LearnOptions, gap: Callable[[str], None]) -> None:
        self._options = options
        self._gap = gap
        self._since = 0.0

    def begin(self, loop: Loop) -> None:
        """Print the processes that learn attached to, and which of their children or of the same program it did not."""
        from callfence.shared.text import plural
        from callfence.tracer.running.attach import descendants

        self._since = time.monotonic()
        pids = self._options.pids
        names = ", ".join(f"{os.path.basename(executable_of(pid))} (pid {pid})" for pid in pids)
        if not self._options.quiet:
            threads = plural(len(loop.tasks), "thread")
            say(f"learn: attached to {names}: {plural(loop.family.processes, 'process', 'processes')}, {threads}; ^C detaches")
        missed = {} if self._options.tree else descendants(pids)
        if missed:
            started = "it has started" if len(pids) == 1 else "they have started"
            processes = plural(len(missed), "process", "processes")
            say(f"learn: not traced: {processes} that {started} before; --tree traces them too")
            programs = ", ".join(sorted({executable_of(pid) for pid in missed} - {"?"}))
            self._gap(f"processes that were started before learn attached: {programs} (--tree traces them)")

        followed = {task.tgid for task in loop.tasks.values()} | missed.keys()
        if others := _similar(pids, followed):
            named = ", ".join(map(str, others[:_MAX_NAMED])) + (" ..." if len(others) > _MAX_NAMED else "")
            what = f"{plural(len(others), 'other process', 'other processes')} of the same program ({named})"
            say(f"learn: not traced: {what}; give --pid for each of them to trace them too")

    def end(self, outcome: Outcome) -> None:
        """Note in the recording if the processes made less than one call a second."""
        seconds = time.monotonic() - self._since
        if outcome.calls < seconds:
            few = f"{outcome.calls} in {seconds:.0f} seconds" if outcome.calls else "none was made while learn was attached"
            self._gap(f"calls: {few}; perhaps other processes of the program do the work")


def _similar(pids: tuple[int, ...], followed: Collection[int]) -> list[int]:
    """Return the pids that are not in `followed` but execute the same file as one of `pids`, in the same session or control
    group.

    The session and control group of this process do not count: unrelated programs of the same interpreter may be there."""
    programs = {executable_of(pid) for pid in pids} - {"?"}
    groups = {group for pid in pids for group in _groups(pid)}.difference(_groups(os.getpid()))
    others = sorted(numbers_in("") - {*followed})
    return [pid for pid in others if executable_of(pid) in programs and groups & set(_groups(pid))]


def _groups(pid: int) -> list[object]:
    """Return the session id of a process, and the text of its cgroup file unless it is in the root control group."""
    groups: list[object] = []
    with suppress(OSError):
        groups.append(os.getsid(pid))
    with suppress(OSError):
        group = Path(f"{proc()}/{pid}/cgroup").read_text(errors="replace").strip()
        groups += [] if group.endswith(":/") else [group]
    return groups
