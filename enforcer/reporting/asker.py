"""Ask about denied calls, while they wait for the answer: one question a rule, however many calls wait for it.

The questions go through a socket to the process that `callfence.asking.companion` runs, which shows them to a person, or passes
them on to a program, and writes the policy.  This process knows only what an answer means for the calls that wait.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from callfence.enforcer.hub import READABLE
from callfence.enforcer.pending import RESTART_ALWAYS, Pending, Rule
from callfence.enforcer.reporting.events import encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from callfence.enforcer.listener import Request

ONCE, RUN, ALWAYS, NO, KILL = "once", "run", "always", "no", "kill"
"""The answers: the calls that wait now may run; the rule holds until the program ends; it was also written to the policy; the
calls are denied, and the rule is not asked about again; their processes are killed."""
ANSWERS = (ONCE, RUN, ALWAYS, NO, KILL)
LASTING = (RUN, ALWAYS)
GRANTING = (ONCE, *LASTING)
_REMEMBERED = (*LASTING, NO)
_OF_LOOKUPS = (*LASTING, NO)
_OF_FILES = (ALWAYS, NO)
"""The answers to questions for which no call waits: look-ups, which a program makes again, and files and ports, which cannot be
granted to a program that runs."""
_MAX_QUESTIONS = 1000
"""The most questions of one start about calls that wait, and the most about others; the answer to further ones is no.  A
program has as many of the others as it has names of files and hosts: they must not use up those of the first kind."""
_MAX_ANSWER = 1 << 16
"""The most bytes of an answer."""
_PAUSE = 0.05
"""Seconds until a question that the socket does not take is sent again."""


class Asker:
    """The questions that are open, and the answers that hold until the program ends."""

    def __init__(
        self, descriptor: int, pending: Pending, decided: Callable[[Rule, str, str, int], None], ended: Callable[[], None]
    ) -> None:
        """`descriptor`: of a socket that keeps messages apart; `pending` has the calls that wait.  `decided(rule, answer, who,
        calls)` is called for each answer, before the calls that wait for it; `ended` when there will be no answers any more."""
        self._descriptor = descriptor
        self._pending = pending
        self._decided = decided
        self._ended = ended
        self._open: dict[Rule, list[Callable[[str], None]]] = {}
        """What to call with the answer, by rule."""
        self._rules: dict[int, Rule] = {}
        """The rule of each question that is open, by the question's number."""
        self._remembered: dict[Rule, str] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        """The numbers of questions and their messages."""
        self._counts = {True: 0, False: 0}
        """How many questions there were on which a call waits, and how many others."""
        pending.hub.watch(descriptor, READABLE, self._read)

    def ask(
        self, request: Request, rule: Rule, describe: Callable[[], Mapping[str, Any]], answered: Callable[[str], None]
    ) -> None:
        """Ask whether a call that lacks `rule` may run; call `answered` once, now or later, with one of ANSWERS.

        `describe` returns the fields of the record of the call (docs/events.schema.json).  While the call waits, a signal that
        its task handles comes first, and then the call is made again."""
        if (answer := self.remembered(rule, holds=True)) is not None:
            answered(answer)
            return
        is_open = [True]

        def once(answer: str) -> None:
            if is_open:
                is_open.clear()
                self._pending.remove(request)
                answered(answer)

        def interrupt(result: int) -> None:
            if is_open:
                is_open.clear()
                self._pending.remove(request)
                try:
                    request.finish(result)
                except OSError:
                    return

        self._pending.add(request, interrupt, RESTART_ALWAYS)
        self._put(rule, describe, once, ANSWERS)

    def suggest(self, rule: Rule, describe: Callable[[], Mapping[str, Any]], *, is_lookup: bool = False) -> None:
        """Ask about a rule; no call waits for the answer.  It takes effect at the next start, or, for a look-up, at once."""
        if self.remembered(rule) is None:
            self._put(rule, describe, lambda _answer: None, _OF_LOOKUPS if is_lookup else _OF_FILES)

    def remembered(self, rule: Rule, *, holds: bool = False) -> str | None:
        """Return the answer that a further question about a rule gets at once; None if it is asked, or waits.  `holds`: a call
        waits for it."""
        if rule in self._remembered:
            return self._remembered[rule]
        return NO if self._descriptor < 0 or (self._counts[holds] >= _MAX_QUESTIONS and rule not in self._open) else None

    def _put(
        self, rule: Rule, describe: Callable[[], Mapping[str, Any]], answered: Callable[[str], None], answers: Sequence[str]
    ) -> None:
        if rule in self._open:
            self._open[rule].append(answered)
            return
        record = dict(describe())  # first, as it may fail
        self._counts[answers == ANSWERS] += 1
        number = sum(self._counts.values())
        self._open[rule] = [answered]
        self._rules[number] = rule
        lines = [{"file": file, "line": line} for file, line in rule]
        question = {"id": number, "rule": lines, "answers": [*answers], "record": record}
        self._unsent.append((number, encoded(question).encode()))
        if len(self._unsent) == 1:  # else `later` sends it after those before it
            self._send()

    def _send(self) -> None:
        while self._unsent and self._descriptor >= 0:
            try:
                os.write(self._descriptor, self._unsent[0][1])
                self._unsent.popleft()
            except BlockingIOError:
                self._pending.hub.after(_PAUSE, self._send)
                return
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self._close()
                    return
                number, _ = self._unsent.popleft()  # several policies, and files with long names
                self._answer(self._rules.pop(number), NO, "")

    def _read(self) -> None:
        """Read one answer: the question's number, the answer and who gave it, with spaces between them."""
        try:
            message = os.read(self._descriptor, _MAX_ANSWER)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._close()
            return
        number, _, rest = message.decode(errors="replace").partition(" ")
        answer, _, who = rest.partition(" ")
        rule = self._rules.pop(int(number), None) if number.isdecimal() else None
        if rule is not None:
            self._answer(rule, answer if answer in ANSWERS else NO, who)

    def _answer(self, rule: Rule, answer: str, who: str) -> None:
        if answer in _REMEMBERED:
            self._remembered[rule] = answer
        waiting = self._open.pop(rule, [])
        self._decided(rule, answer, who, len(waiting))
        for answered in waiting:
            answered(answer)

    def _close(self) -> None:
        """The process at the other end has ended: the answer to all questions is no."""
        if self._descriptor >= 0:
            self._pending.hub.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._ended()
            for rule in [*self._open]:
                self._answer(rule, NO, "")
