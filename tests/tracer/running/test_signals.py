"""Which of the signals that learn gets are passed on; none is sent here."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from callfence.tracer.loop import Initial
from callfence.tracer.running.launch import TAKEN
from callfence.tracer.running.session import LINGERING, Hooks, SignalThread

FROM_KERNEL, FROM_PROCESS = 0x80, 0  # SI_KERNEL, SI_USER
PROGRAM, SHELL = 1000, 1


class Signals(SignalThread):
    def __init__(self, has_reached=()):
        super().__init__(SimpleNamespace(tasks={PROGRAM: None}), Hooks())
        self.sent = []
        self.has_reached = has_reached

    def send(self, signum, *, from_terminal):
        self.sent.append((signum, from_terminal))

    def reached(self, signum, sender, since):
        return (signum, sender) in self.has_reached

    def stopped(self):
        return 0


@pytest.mark.parametrize(
    ("signum", "code", "sender", "reached", "sent"),
    [
        (signal.SIGINT, FROM_KERNEL, 0, (), [(signal.SIGINT, True)]),
        (signal.SIGTERM, FROM_PROCESS, SHELL, (), [(signal.SIGTERM, False)]),
        (signal.SIGTERM, FROM_PROCESS, SHELL, [(signal.SIGTERM, SHELL)], []),
        (signal.SIGTERM, FROM_PROCESS, SHELL, [(signal.SIGTERM, SHELL + 1)], [(signal.SIGTERM, False)]),
        (signal.SIGUSR1, FROM_PROCESS, PROGRAM, (), []),
        (signal.SIGALRM, FROM_KERNEL, 0, (), [(signal.SIGALRM, False)]),
        (signal.SIGTSTP, FROM_KERNEL, 0, (), []),
        (signal.SIGCONT, FROM_PROCESS, SHELL, (), []),
    ],
)
def test_what_is_passed_on(signum, code, sender, reached, sent):
    signals = Signals(reached)
    signals._take(signum, code, sender)
    assert signals.sent == sent


def test_a_signal_to_the_group_is_not_passed_on_however_late_this_thread_wakes_up(monkeypatch):
    sent = []
    monkeypatch.setattr("callfence.tracer.running.session.send", lambda pid, signum: sent.append((pid, signum)))
    loop = SimpleNamespace(initial=Initial(PROGRAM, started=True), tasks={})

    def oversleep(seconds):
        loop.initial.delivered[signal.SIGTERM] = (SHELL, time.monotonic())
        woken.wait(10 * seconds)

    woken = threading.Event()
    monkeypatch.setattr("callfence.tracer.running.session.time", SimpleNamespace(sleep=oversleep, monotonic=time.monotonic))
    SignalThread(loop, Hooks())._take(signal.SIGTERM, FROM_PROCESS, SHELL)
    assert sent == []


def test_a_hangup_is_passed_on_by_the_leader_of_a_session(monkeypatch):
    signals = Signals()
    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid())
    signals._take(signal.SIGHUP, FROM_KERNEL, 0)
    assert signals.sent == [(signal.SIGHUP, False)]


@pytest.mark.parametrize("signum", [signal.SIGTSTP, signal.SIGTTOU])
def test_this_process_stops_by_the_program_s_signal_which_waits_again_after_it(signum, monkeypatch):
    """Else the next one would stop this process before the program."""
    killed = []
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: killed.append((thread, number, waits())))
    monkeypatch.setattr(os, "kill", lambda *words: killed.append(words))

    def waits():
        return signum in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    signals = Signals()
    signals.stopped = lambda: signum
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
    try:
        signals.stop_with_program()
        assert not killed, "nothing asks this process to stop"
        signals._take(signal.SIGTSTP, FROM_KERNEL, 0)
        assert killed == [(threading.get_ident(), signum, False)]
        assert waits()
        signals.stop_with_program()
        assert len(killed) == 1
        signals.stopped = lambda: signal.SIGSTOP
        signals._take(signal.SIGTSTP, FROM_KERNEL, 0)
        assert killed[1:] == [(os.getpid(), signal.SIGSTOP)]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_cannot_be_taken_is_not():
    assert not TAKEN & {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33}
    assert {signal.SIGABRT, signal.SIGTRAP, signal.SIGRTMAX} <= TAKEN


def test_that_others_go_on_is_said_once_a_while_after_the_end():
    said = []
    loop = SimpleNamespace(initial=Initial(PROGRAM, started=True), processor=SimpleNamespace(tick=lambda: None))
    thread = SignalThread(loop, Hooks(exited=said.append))
    thread.tick()
    loop.initial.status, loop.initial.ended = 0, time.monotonic()
    thread.tick()
    assert not said
    loop.initial.ended -= 2 * LINGERING
    thread.tick()
    thread.tick()
    assert said == [loop]
