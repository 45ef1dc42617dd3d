"""The process that passes the helper's questions on to a person or a program, and writes policies.

It is forked before the program runs, and imports nothing afterwards: the program may be able to change our files.  It is not
confined, so it takes only question numbers and answers from whoever answers, and from the helper only what that has judged.
If it ends, the answer to every question is no.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, Protocol

from callfence.asking.questions import Given, Question, parsed
from callfence.enforcer import helper, kernel
from callfence.enforcer.reporting.asker import ALWAYS, ANSWERS, NO
from callfence.policygen.language.document import PolicyError, parse
from callfence.policygen.model import Policy
from callfence.tracer.errors import CallfenceError

_MAX_QUESTION = 1 << 20
"""The most bytes of a question."""
_IGNORED = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP, signal.SIGTERM,
    signal.SIGPIPE,
)  # fmt: skip
"""Signals of the terminal, which are meant for the program, and others."""


_WRITING = 1 << 0 | 1 << 1 | 1 << 3  # linux/capability.h
"""The capabilities that it retains if it has them, to write policies: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER."""


class Front(Protocol):
    """Where questions are put: a terminal, or a program."""

    at_once: int
    """How many questions may be put before one is answered."""
    outlives: bool
    """Whether what counts from the next start is still asked when the program has ended."""
    name: str
    """Who answers, if the answer does not say so."""

    def rehearse(self) -> None:
        """Do once what imports modules when it is first done."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when `read` has something to do."""

    @property
    def is_behind(self) -> bool:
        """Whether there are messages that could not be sent without waiting."""

    def send(self) -> None:
        """Send of these what can be sent without waiting."""

    def finish(self) -> None:
        """Send the rest of them."""

    def descriptors(self) -> tuple[int, ...]:
        """Return all descriptors that it needs."""

    def put(self, question: Question, timeout: float) -> None:
        """Put a question, which is open for `timeout` seconds."""

    def read(self) -> list[Given]:
        """Return answers that have come.  Raises EOFError if there will be none any more."""

    def done(self, question: Question, answer: str, problem: str) -> None:
        """Report what became of a question: the answer that took effect, or `problem`, why an answer did not."""

    def expired(self, question: Question) -> None:
        """Report that a question was not answered in time, or that the program has ended."""


class Companion:
    """Questions that are open, and those that wait until they are put."""

    def __init__(
        self, helper_: socket.socket, front: Front, timeout: float, base: Policy | None, allowed: Sequence[str]
    ) -> None:
        self._helper = helper_
        self._front = front
        self._timeout = timeout
        self._base = base
        self._allowed = allowed
        self._waiting: list[Question] = []
        self._open: dict[int, tuple[Question, float]] = {}
        """By number: the question, and until when (monotonic seconds) it may be answered."""
        self._is_over = False
        """Whether the helper has ended."""

    def run(self) -> None:
        """Work until the helper has ended and nothing is asked any more, or until the front ends."""
        poller = select.poll()
        poller.register(self._helper, select.POLLIN)
        poller.register(self._front.fileno(), select.POLLIN)
        while not self._is_over or self._open or self._waiting:
            soonest = min((until for _, until in self._open.values()), default=None)
            # What is typed while nothing is asked is the program's.
            events = select.POLLIN if self._open or self._front.outlives else 0
            poller.modify(self._front.fileno(), events | (select.POLLOUT if self._front.is_behind else 0))
            pause = None if soonest is None else max(0.0, soonest - time.monotonic()) * 1000 + 1
            ready = dict(poller.poll(pause))
            if self._helper.fileno() in ready and not self._receive():
                poller.unregister(self._helper)
                self._end()
            what = ready.get(self._front.fileno(), 0)
            if what & select.POLLOUT:
                self._front.send()
            if what & ~select.POLLOUT:
                for given in self._front.read():
                    self._take(given)
            self._expire()
            self._put()
        self._front.finish()

    def _receive(self) -> bool:
        message = self._helper.recv(_MAX_QUESTION)
        if message:
            self._waiting.append(parsed(message, self._allowed))
        return bool(message)

    def _end(self) -> None:
        """The helper has ended: withdraw the questions that this leaves without a meaning."""
        self._is_over = True
        self._waiting = [question for question in self._waiting if self._front.outlives and not question.holds]
        for question, _ in [*self._open.values()]:
            if question.holds or not self._front.outlives:
                del self._open[question.id]
                self._front.expired(question)

    def _put(self) -> None:
        while self._waiting and len(self._open) < self._front.at_once:
            at = next((place for place, question in enumerate(self._waiting) if question.holds), 0)  # what waits comes first
            question = self._waiting.pop(at)
            self._open[question.id] = question, time.monotonic() + self._timeout
            self._front.put(question, self._timeout)

    def _take(self, given: Given) -> None:
        question, _ = self._open.get(given.id, (None, 0))
        if question is None:
            missing = Question(given.id, (), holds=False, record={}, answers=())
            self._front.done(missing, "", "no question of this number is open")
        elif given.answer not in question.answers:
            self._front.done(question, "", f"this question takes only: {', '.join(question.answers)}")
        else:
            name = given.name or self._front.name
            if given.answer == ALWAYS and (problem := self._write(question, given.reason, name)):
                self._front.done(question, "", problem)
                return
            self._send(question, given.answer, name)
            self._front.done(question, given.answer, "")

    def _write(self, question: Question, reason: str, name: str) -> str:
        """Write the lines into their policies; return why that failed, "" if it did not."""
        from callfence.asking import writing

        why = f"{reason} ({name})" if reason else f"answered by {name}"
        try:
            for each in question.lines:
                writing.write(each.file, each.line, why, self._base)
        except CallfenceError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or 'the policy'}: {error.strerror}"
        return ""

    def _expire(self) -> None:
        for question, until in [*self._open.values()]:
            if time.monotonic() >= until:
                self._send(question, NO, "nobody, in time")
                self._front.expired(question)

    def _send(self, question: Question, answer: str, name: str) -> None:
        del self._open[question.id]
        with suppress(BrokenPipeError):  # the helper has ended: what counts from the next start counts all the same
            self._helper.send(f"{question.id} {answer} {name}".encode(errors="replace"))


def start(front: Callable[[], Front], timeout: float, base: Policy | None, *, writes: bool, in_session: bool) -> int:
    """Fork the process; return the descriptor of its socket, for the helper, once it is ready.

    `front` makes, in that process, what questions are put to.  `base` bounds what is written.  `writes`: `always` can be
    answered.  `in_session`: it stays in this session, since it needs the terminal.  Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    allowed = [answer for answer in ANSWERS if writes or answer != ALWAYS]
    if kernel.clone_orphan():
        helper.guarded(lambda: _work(theirs, front, timeout, base, allowed, in_session=in_session))
    theirs.close()
    message = ours.recv(1000)
    if message != b"ready":
        raise OSError(0, message.decode() or "the process that asks ended before it was ready")
    ours.setblocking(False)
    return ours.detach()


def _work(
    socket_: socket.socket,
    front: Callable[[], Front],
    timeout: float,
    base: Policy | None,
    allowed: Sequence[str],
    *,
    in_session: bool,
) -> NoReturn:
    if not in_session:
        os.setsid()
    for ignored in _IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    kernel.set_undumpable()
    kernel.raise_limits()
    try:
        made = front()
    except OSError as error:
        socket_.send(str(error.strerror or error).encode()[:1000])
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    helper.close_all_but((0, 1, 2, socket_.fileno(), *made.descriptors()))
    kernel.set_capabilities(kernel.capabilities()[1] & _WRITING)
    if ALWAYS in allowed:
        _rehearse()
    made.rehearse()
    sys.meta_path.clear()
    socket_.send(b"ready")
    with suppress(EOFError, OSError):
        Companion(socket_, made, timeout, base, allowed).run()
    os._exit(0)


def _rehearse() -> None:
    """Do once what writing a policy imports when it is first done, which takes 80 ms."""
    from callfence.asking import writing

    document = parse("callfence 1\nread: fd == 0\npath /a: read\n")
    for line in ("read: fd == 1", "path /b: read", "tcp connect a.example: 443", "tcp connect: 1", "unix connect /a"):
        with suppress(CallfenceError):
            writing.require_within(document.policy, line, document.policy)
        writing.with_line(document, line, "x (y)", "it")
    try:
        parse("x y z")
    except PolicyError as error:
        str(error)
