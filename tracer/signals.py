"""Signals that are sent to learn: the program gets those that it would get without learn.

The terminal's SIGINT, SIGQUIT and SIGTSTP reach the whole foreground group, hence the program too, and so does a signal
to the group: they are not passed on.  A signal to learn alone is.  All are blocked here, and one thread takes them with
sigtimedwait(2), because siginfo tells their sender.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from typing import Final, Protocol

from tracer import kernel
from tracer.errors import TracerError

TERMINAL_STOPS: Final = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
FROM_TERMINAL: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH))
"""Signals that the kernel sends for a terminal, besides TERMINAL_STOPS."""
TAKEN: Final = frozenset(range(1, signal.SIGRTMAX + 1)) - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,  # our own children's
    signal.SIGURG,  # ours, in an attached session; ignored by default
    *range(32, signal.SIGRTMIN),  # glibc's
}
"""All others, so that no signal to the group ends us.  A fault of our own kills us although it is blocked."""
GROUP_DELAY: Final = 0.02
"""Seconds within which a signal to the whole group reaches the program."""


class Target(Protocol):
    """The program, as a target of signals.  Called from the signal thread."""

    def send(self, signum: int, *, from_terminal: bool) -> None:
        """Pass a signal on.  `from_terminal`: processes in the terminal's foreground group have it already."""

    def reached(self, signum: int, sender: int, since: float) -> bool:
        """Whether the program itself got `signum` from process `sender` (0: the kernel) since then (time.monotonic)."""

    def has(self, pid: int) -> bool:
        """Whether `pid` is one of its tasks."""

    def stopped(self) -> int:
        """The signal of the group-stop that its initial process is in, or 0."""

    def tick(self) -> None:
        """Called again and again."""


class Dispositions:
    """The signal state that this process was started with, which its child restores; here the signals are blocked."""

    def __init__(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        self.handlers: dict[int, signal.Handlers] = {
            # CPython ignores these two at its start, and children would inherit it (PEP 11 has no switch for it).
            # Whether they were ignored before cannot be known.
            signal.SIGPIPE: signal.SIG_DFL,
            signal.SIGXFSZ: signal.SIG_DFL,
        }

    def restore(self) -> None:
        """In this process, at the end.  Discard signals that came too late for the program: they must not end us."""
        while kernel.wait_for_signal(TAKEN, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def restore_in_child(self) -> None:
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


class SignalThread(threading.Thread):
    """Takes the signals of `TAKEN`, which the caller has blocked in every thread, and calls the target's `tick`."""

    def __init__(self, target: Target, interval: float) -> None:
        """`target.tick()` is called every `interval` seconds."""
        super().__init__(daemon=True)
        self._target = target
        self._interval = interval
        self._ended = False
        self._stop_asked = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Raises TracerError."""
        try:
            super().start()
        except RuntimeError:
            message = "no thread can be started: the limit of processes (ulimit -u) or of memory (ulimit -v) is reached"
            raise TracerError(message, "clone", errno.EAGAIN) from None

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # signals are no longer passed on
            sys.excepthook(type(error), error, error.__traceback__)

    def _run(self) -> None:
        self._target.tick()
        while not self._ended:
            info = kernel.wait_for_signal(TAKEN, self._interval)
            if info is None:
                self._target.tick()
            elif not self._ended:
                self._take(*info)

    def _take(self, signum: int, code: int, sender: int) -> None:
        """Pass a signal on or not.  `code` > 0: the kernel sent it."""
        if signum == signal.SIGCONT:
            # A shell continues the whole group, hence the program too; a signal to us alone does not reach it.
            time.sleep(GROUP_DELAY)
            if self._target.stopped():
                self._target.send(signum, from_terminal=False)
        elif signum in TERMINAL_STOPS and code > 0:
            self._stop_asked = True
            self.stop_with_program()
        elif code > 0 and signum in FROM_TERMINAL and not (signum == signal.SIGHUP and os.getsid(0) == os.getpid()):
            self._target.send(signum, from_terminal=True)
        elif not self._target.has(sender):
            # From the kernel: a hangup reaches only the leader of the session, an alarm(2) from before the execve only us.
            # Counted from now: on a busy machine the sleep takes much longer.
            since = time.monotonic() - GROUP_DELAY
            time.sleep(GROUP_DELAY)
            if not self._target.reached(signum, 0 if code > 0 else sender, since):
                self._target.send(signum, from_terminal=False)
            if signum in TERMINAL_STOPS:
                self._stop_asked = True
                self.stop_with_program()

    def stop_with_program(self) -> None:
        """If we have been asked to stop and the program has stopped, stop as it did, which the shell waits for.

        Never before the program: while we are stopped, its tasks cannot get past a system call.
        """
        with self._lock:  # both threads call this
            signum = self._target.stopped()
            if not self._stop_asked or not signum:
                return
            self._stop_asked = False
        if signum != signal.SIGSTOP and signal.getsignal(signum) is signal.SIG_DFL:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
            signal.pthread_kill(threading.get_ident(), signum)  # not to the process: sigtimedwait could take it
            signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
        else:
            os.kill(os.getpid(), signal.SIGSTOP)

    def end(self) -> None:
        """Take no more signals, and wait until none is being taken."""
        self._ended = True
        signal.pthread_kill(self.ident or 0, signal.SIGCONT)
        self.join()
