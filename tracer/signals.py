"""Signals that are sent to learn itself, so that the program gets what it would get without learn.

The terminal's SIGINT, SIGQUIT and SIGTSTP reach the whole foreground group, hence the program too: they are not passed on.
What somebody sends to learn alone is.  All of them are blocked here and taken by one thread with sigtimedwait(2), because
only siginfo tells the two apart (si_code > 0: from the kernel, so from the terminal).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TERMINAL_STOPS: Final = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
TAKEN: Final = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGCONT,
        *TERMINAL_STOPS,
        *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
    }
)


class Dispositions:
    """The signal state that this process was started with, for its child; this process takes the signals itself."""

    def __init__(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        self.handlers: dict[int, signal.Handlers] = {
            # CPython ignores these two at its start, and children would inherit it (PEP 11 has no switch for it).
            # Whether they were ignored before can't be seen any more.
            signal.SIGPIPE: signal.SIG_DFL,
            signal.SIGXFSZ: signal.SIG_DFL,
        }
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            # With SIGCHLD ignored the kernel reaps our children itself and their statuses are lost.
            self.handlers[signal.SIGCHLD] = signal.SIG_IGN
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def restore(self) -> None:
        """In this process, at the end."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def restore_in_child(self) -> None:
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


class SignalThread(threading.Thread):
    """Takes the signals of `TAKEN`, which the caller has blocked in every thread, and keeps the clock."""

    def __init__(
        self,
        target: Callable[[int, bool], None],
        is_ours: Callable[[int], bool],
        program_stopped: Callable[[], bool],
        tick: Callable[[], None],
        interval: float,
    ) -> None:
        """`target(signum, from_terminal)` acts on a signal; `is_ours(pid)`: was it the program itself that sent it (to its
        group, hence to us too); `program_stopped()`: is the program in a group-stop; `tick()`: every `interval` seconds."""
        super().__init__(daemon=True)
        self._target = target
        self._is_ours = is_ours
        self._program_stopped = program_stopped
        self._tick = tick
        self._interval = interval
        self._ended = False
        self._stop_asked = False

    def run(self) -> None:
        while not self._ended:
            info = signal.sigtimedwait(TAKEN, self._interval)
            if info is None:
                self._tick()
            elif not self._ended:
                self._take(info.si_signo, info.si_code, info.si_pid)

    def _take(self, signum: int, code: int, sender: int) -> None:
        if signum == signal.SIGCONT:
            time.sleep(0.02)  # a shell continues the whole group, so the program too; who sends to us alone does not
            if self._program_stopped():
                self._target(signum, False)
            return
        if not self._is_ours(sender) or code > 0:
            self._target(signum, code > 0)
        if signum in TERMINAL_STOPS:
            self._stop_asked = True
            self.stop_with_program()

    def stop_with_program(self) -> None:
        """If the terminal has asked us to stop and the program is stopped, stop: the shell is waiting to see it.

        Never before the program: while we are stopped, none of its tasks gets past a system call.
        """
        if self._stop_asked and self._program_stopped():
            self._stop_asked = False
            os.kill(os.getpid(), signal.SIGSTOP)

    def end(self) -> None:
        self._ended = True
        signal.pthread_kill(self.ident or 0, signal.SIGCONT)
        self.join()
