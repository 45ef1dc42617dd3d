"""Which of the signals that learn gets are passed on; none is sent here."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from callfence.tracer import linux
from callfence.tracer.abi import NATIVE, Event, table
from callfence.tracer.abi.waits import ENTER, NOTIFY
from callfence.tracer.errors import PtraceError
from callfence.tracer.loop import Initial
from callfence.tracer.running import session
from callfence.tracer.running.launch import TAKEN
from callfence.tracer.running.session import GROUP_WINDOW, LINGERING, Hooks, SignalThread

FROM_KERNEL, FROM_PROCESS = 0x80, 0  # SI_KERNEL, SI_USER
PROGRAM, SHELL = 1000, 1


class Signals(SignalThread):
    def __init__(self, has_reached=()):
        super().__init__(SimpleNamespace(tasks={PROGRAM: None}), Hooks())
        self.sent = []
        self.has_reached = has_reached

    def send(self, signum, *, from_terminal):
        self.sent.append((signum, from_terminal))

    def reaches_program(self, signum, sender):
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


class Program:
    """A program of one thread, which may be in a stop, and may have signals that are pending."""

    def __init__(self, monkeypatch, state="R", pending=0):
        self.initial = Initial(PROGRAM, started=True)
        self.state, self.pending, self.looks, self.sent = state, pending, 0, []
        thread = SimpleNamespace(tid=PROGRAM, stopped=0)
        family = SimpleNamespace(threads=lambda pid: [thread] if pid == PROGRAM else [])
        self.signals = SignalThread(SimpleNamespace(initial=self.initial, tasks={PROGRAM: thread}, family=family), Hooks())
        self.thread = thread
        monkeypatch.setattr(session, "send", lambda pid, signum: self.sent.append((pid, signum)))
        monkeypatch.setattr(session, "fields_of", lambda pid: {"ShdPnd": f"{self.pending:x}"})
        monkeypatch.setattr(session, "state_of", self.look)

    def look(self, tid):
        """It leaves its stop when it has been looked at three times; SIGTERM of the shell has been delivered then."""
        self.looks += 1
        if self.looks == 3 and self.state == "t":
            self.deliver()
            self.state = "R"
        return self.state

    def deliver(self, ago=0.0, sender=SHELL):
        self.initial.delivered[signal.SIGTERM] = (sender, time.monotonic() - ago)

    def take(self):
        self.signals._take(signal.SIGTERM, FROM_PROCESS, SHELL)
        return self.sent


@pytest.mark.parametrize(("ago", "sender"), [(0, SHELL), (0.8 * GROUP_WINDOW, SHELL), (GROUP_WINDOW, SHELL), (0, SHELL + 1)])
def test_a_signal_to_the_group_is_not_passed_on_however_late_this_thread_takes_it(monkeypatch, ago, sender):
    program = Program(monkeypatch)
    program.deliver(ago, sender)
    has_reached = sender == SHELL and ago < GROUP_WINDOW
    assert program.take() == ([] if has_reached else [(PROGRAM, signal.SIGTERM)])


def test_a_signal_to_the_group_is_not_passed_on_however_late_its_stop_is_handled(monkeypatch):
    program = Program(monkeypatch, "t")
    assert program.take() == []
    assert program.looks == 3


def test_a_stopped_program_gets_the_signal_that_it_did_not_get_with_its_group(monkeypatch):
    program = Program(monkeypatch, "t")
    program.thread.stopped = signal.SIGSTOP
    assert program.take() == [(PROGRAM, signal.SIGTERM)]
    assert program.looks == 0


def test_a_signal_that_the_program_has_not_taken_yet_is_not_sent_once_more(monkeypatch):
    program = Program(monkeypatch, pending=1 << signal.SIGTERM - 1)
    assert program.take() == []


def test_a_real_time_signal_that_is_pending_is_waited_for(monkeypatch):
    """A second one would be queued behind it."""
    number = signal.SIGRTMIN + 1
    program = Program(monkeypatch, pending=1 << number - 1)

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            program.pending = 0
            program.initial.delivered[number] = (SHELL, time.monotonic())

    slept = []
    monkeypatch.setattr(session, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    program.signals._take(number, FROM_PROCESS, SHELL)
    assert program.sent == []
    assert program.looks == 1, "not before it was no longer pending"


def test_no_signal_is_held_for_ever(monkeypatch):
    program = Program(monkeypatch, "t")
    program.looks = 3
    monkeypatch.setattr(session, "PATIENCE", 0.05)
    assert program.take() == [(PROGRAM, signal.SIGTERM)]
    assert program.looks > 4


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


@pytest.mark.parametrize(
    ("signum", "from_terminal", "status", "sent", "ended_by"),
    [
        (signal.SIGINT, True, None, [], signal.SIGINT),
        (signal.SIGINT, False, None, [PROGRAM], signal.SIGINT),
        (signal.SIGUSR1, False, None, [PROGRAM], 0),
        (signal.SIGINT, True, 0, [PROGRAM + 1, PROGRAM + 2], signal.SIGINT),
        (signal.SIGHUP, False, 0, [PROGRAM + 1, PROGRAM + 2], signal.SIGHUP),
        (signal.SIGUSR2, False, 9, [PROGRAM + 1, PROGRAM + 2], 0),
    ],
)
def test_who_gets_a_signal(monkeypatch, signum, from_terminal, status, sent, ended_by):
    """Once the initial process has ended, each of the others gets it once."""
    done = []
    monkeypatch.setattr(session, "send", lambda pid, number: done.append((pid, number)))
    tasks = {tid: SimpleNamespace(tgid=tgid) for tid, tgid in ((1, PROGRAM + 1), (2, PROGRAM + 1), (3, PROGRAM + 2))}
    loop = SimpleNamespace(initial=Initial(PROGRAM, started=True), tasks=tasks, ended_by=0)
    loop.initial.status = status
    SignalThread(loop, Hooks()).send(signum, from_terminal=from_terminal)
    assert (sorted(done), loop.ended_by) == ([(pid, signum) for pid in sent], ended_by)
    session.kill(loop)
    assert sorted(done[len(sent) :]) == [(PROGRAM + 1, signal.SIGKILL), (PROGRAM + 2, signal.SIGKILL)]


def test_the_stop_of_the_initial_process():
    tasks = {PROGRAM: SimpleNamespace(stopped=19), PROGRAM + 1: SimpleNamespace(stopped=20)}
    assert SignalThread(SimpleNamespace(initial=Initial(PROGRAM, started=True), tasks=tasks), Hooks()).stopped() == 19
    assert SignalThread(SimpleNamespace(initial=Initial(PROGRAM + 2, started=True), tasks=tasks), Hooks()).stopped() == 0


@pytest.mark.parametrize(
    ("scope", "advice"),
    [
        ("1", ": is it traced already, or is this a container without ptrace?  See `callfence doctor`"),
        ("", ": is it traced already, or is this a container without ptrace?  See `callfence doctor`"),
        ("2", ": kernel.yama.ptrace_scope is 2; an administrator can lower it to 1"),
        ("3", ": kernel.yama.ptrace_scope is 3; an administrator can lower it to 1"),
    ],
)
def test_why_ptrace_is_not_permitted(monkeypatch, scope, advice):
    monkeypatch.setattr(session.linux, "yama_scope", lambda: scope)
    reason = "the kernel does not permit ptrace here (Operation not permitted)"
    assert session.not_permitted(PtraceError("no", "ptrace", 1)) == reason + advice


@pytest.mark.parametrize(
    ("name", "call", "arguments", "begins"),
    [
        ("poll", "poll", (0,), True),
        (ENTER, "prctl", (linux.CALLFENCE_ENTER,), True),
        (ENTER, "prctl", (linux.CALLFENCE_ENTER + 1,), False),
        (NOTIFY, "write", (1, 0x1000, 7), True),
        (NOTIFY, "sendto", (1, 0x1000, 7), True),
        (NOTIFY, "write", (1, 0x1000, 6), False),
        (NOTIFY, "write", (1, 1 << 63, 7), False),
        (NOTIFY, "sendmsg", (1, 0x1000, 7), False),
        (NOTIFY, "sendmsg", (1, 0x2000, 0), True),
    ],
)
def test_which_call_begins_a_wait(monkeypatch, name, call, arguments, begins):
    message = b"".join(value.to_bytes(8, "little") for value in (0, 0, 0x2020, 1, 0x1000, 7))
    memory = {0x1000: b"READY=1", 0x2000: message}

    def read(tid, address, size):
        (start,) = (at for at, content in memory.items() if at <= address < at + 0x1000)
        return memory[start][address - start :][:size]

    monkeypatch.setattr(session.kernel, "read_memory", read)
    made = Event(NATIVE.audit, table(NATIVE).by_name[call].number, (*arguments, *[0] * 6)[:6])
    assert session._begins(name, SimpleNamespace(tid=7), made) == begins
