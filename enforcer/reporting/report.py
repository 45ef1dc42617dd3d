"""Judging calls, and reporting each kind of violation once, and then how often it was met.  Loaded at the first one."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from enforcer.caller.caller import Caller
from enforcer.caller.process import executable, owner
from enforcer.reporting.advice import advise, granting
from enforcer.reporting.output import Output
from enforcer.reporting.repeated import Counts, Repeated
from enforcer.reporting.violation import Violation, now
from policygen.evaluate import evaluate
from policygen.evidence.facts import Places, Union, Varying, facts
from policygen.evidence.pointed import pointed
from policygen.learning.extend import allowing_line
from policygen.model import ALLOW, Action, strictest
from policygen.phases import START, in_phase, phase_policies
from policygen.text import printable
from tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from enforcer.files.unreachable import Judge, Ungranted
    from enforcer.kernel import Notification
    from enforcer.reporting.reporter import Reporter
    from policygen.evidence.pointed import Value
    from policygen.model import Policy

_DISTINCT = 50
"""Different violations of one call that are described.  A program that makes up more must not fill memory and log, nor keep
other calls from being described."""
_LOOKS = 32
"""Violations that are alike whose pointers are followed."""


class Reports:
    """Judges calls, reports each distinct violation once, and counts."""

    def __init__(self, reporter: Reporter, is_waiting: Callable[[Notification], bool], program: int = 0) -> None:
        """`program`: the id of the process whose exit status is that of `enforce`."""
        self._reporter = reporter
        self._judge: Judge | None = None
        if reporter.reach:
            from enforcer.files.unreachable import Judge

            self._judge = Judge(reporter.reach, program)
        self._is_waiting = is_waiting
        self._policies = reporter.policies()
        names = [name for _, policy in self._policies for name, _ in phase_policies(policy) if policy.phases]
        self._start = START if names else ""
        self._until = dict(pairwise(names))
        """By the name of a phase, the one that ends it."""
        self._output = Output(reporter)
        self._run = os.urandom(4).hex()
        self._counts = Counts()
        self._distinct: Counter[str] = Counter()
        self._undescribed: Counter[str] = Counter()
        self._lost = 0
        """Reports that were lost, as far as that has been reported."""

    def may_be_answered(self, asked: Notification, phase: str = "") -> bool:
        """Whether no policy denies the call explicitly, and all allow what grants nothing beyond their entries."""
        arch = Arch.from_audit(asked.arch)
        if arch is None:
            return False
        for _, policy in self._in(phase or self._start):
            entry = policy.entries.get(arch, {}).get(asked.number)
            if not policy.implied or arch not in policy.entries or not (entry is None or entry.only_allows):
                return False
        return True

    def _in(self, phase: str) -> list[tuple[str, Policy]]:
        """The policies as they are in a phase."""
        return [(file, in_phase(policy, phase) if policy.phases else policy) for file, policy in self._policies]

    def lets_run(self, asked: Notification, phase: str = "") -> bool:
        """Whether all policies allow the call itself."""
        event = event_of(asked)
        return all(evaluate(policy, event).lets_run for _, policy in self._in(phase or self._start))

    def judge(self, asked: Notification, phase: str = "") -> Action:
        """The strictest action of all policies for the call.  It is reported too; if that fails, the action stays the same."""
        phase = phase or self._start
        policies = self._in(phase)
        event = event_of(asked)
        verdicts = [evaluate(policy, event) for _, policy in policies]
        action = strictest(verdicts)
        denying = [one for one, verdict in zip(policies, verdicts, strict=True) if not verdict.lets_run]
        try:
            if not denying and self._judge and self._judge.asks(event.arch, event.number):
                if ungranted := self._judge.ungranted(event):
                    self._tell(asked, event, action, denying, phase, ungranted)
            elif denying:  # exits, under --audit, and listen are asked about though they are allowed
                self._tell(asked, event, action, denying, phase)
        except Exception as error:
            self.say(f"denied call number {event.number}, which could not be described: {error!r}")
        return action

    def deny_port(self, asked: Notification, phase: str = "") -> None:
        """Report a listen(2) that would take a port which a policy does not grant."""
        phase = phase or self._start
        why = "listen(2) on a socket without a port takes any"
        from enforcer.files.unreachable import Ungranted

        ungranted = [
            Ungranted(file, "tcp bind", "0", "EACCES", why)
            for file, policy in self._in(phase)
            if policy.files.bind is not None and all(first > 0 for first, _ in policy.files.bind)
        ]
        try:
            self._tell(asked, event_of(asked), ALLOW, [], phase, ungranted)
        except Exception as error:
            self.say(f"denied call number {asked.number}, which could not be described: {error!r}")

    def say(self, text: str) -> None:
        """Report something else than a violation."""
        self._write(json.dumps({"time": now(), "message": text}) if self._reporter.json else f"enforce: {printable(text)}", 0)

    @property
    def has_lost(self) -> bool:
        """Whether a report could not be written, ever."""
        return self._output.lost > 0

    def pause(self) -> float | None:
        """Seconds without a call after which `quiet` has something to do; None if it has not."""
        pauses = [pause for pause in (self._counts.pause(), self._output.pause()) if pause is not None]
        return min(pauses, default=None)

    def quiet(self) -> None:
        """Report how often violations were met, after a burst, and what could not be written before."""
        self._output.flush()
        for repeated in self._counts.due():
            self._publish(repeated)

    def summarise(self) -> None:
        """Report what has not been reported: counts, calls that were not described, and how much could not be written."""
        for one in self._counts.rest():
            self._publish(one)
        for call, count in sorted(self._undescribed.items()):
            self.say(f"{count} more violations of {call} were not described")
        self._undescribed.clear()
        self._output.flush(last=True)
        if lost := self._output.lost - self._lost:
            self._lost = self._output.lost
            text = f"{lost} reports of violations could not be written"
            self._reporter.complain(text)
            if self._reporter.json:
                self.say(text)

    def _tell(
        self,
        asked: Notification,
        event: Event,
        action: Action,
        denying: list[tuple[str, Policy]],
        phase: str,
        ungranted: Sequence[Ungranted] = (),
    ) -> None:
        pid = owner(asked.task)
        path = executable(pid)
        like = tuple(one.line for one in ungranted) or allowing_line(event)
        key = (path, event.arch, event.number, like, phase)
        one = self._counts.again(key, pid)
        if one is not None:
            if one.count <= _LOOKS:
                self._look(one.evidence, asked, event, pid)
            for due in self._counts.due_in_a_burst():
                self._publish(due)
            return
        call = call_name(event)
        if self._distinct[call] >= _DISTINCT:
            self._undescribed[call] += 1
            return
        self._distinct[call] += 1
        evidence = Union()
        values, site = self._look(evidence, asked, event, pid, with_site=True)
        if not site:
            path, site = "a process that has ended", f"{asked.ip:#x}"
        advice = tuple(advise(policy, file, event, self._until.get(phase, "")) for file, policy in denying)
        for file in dict.fromkeys(one.file for one in ungranted):
            advice += (granting(file, [one.line for one in ungranted if one.file == file]),)
        violation = Violation(event, action, self._reporter.audit, pid, path, site, values, advice, phase, tuple(ungranted))
        one = Repeated(violation, evidence, pid)
        self._counts.add(key, one)
        self._publish(one)

    def _look(
        self, evidence: Union, asked: Notification, event: Event, process: int, *, with_site: bool = False
    ) -> tuple[Mapping[int, Value], str]:
        """What the call's pointers point to, also added to the evidence, and where it came from; "" if its task has ended."""
        caller = Caller(event.task, process)
        try:
            values = pointed(event, caller) if self._reporter.evidence else {}
            site = caller.site(event.arch, asked.ip) if with_site else ""
        finally:
            caller.close()
        if not self._is_waiting(asked):  # what was read may have been about another process with that pid
            return {}, ""
        for fact in facts(event, values, Places(), Varying((event.task, process))):
            evidence.add(fact)
        return values, site

    def _publish(self, one: Repeated) -> None:
        violation = one.first
        if self._reporter.json:
            text = violation.json(self._run, one.count, one.evidence)
        elif one.count == 1:
            text = violation.text()
            if self._reporter.colour:
                first, _, rest = text.partition("\n")
                text = f"\x1b[1;31m{first}\x1b[0m\n{rest}"
        else:
            verb = "would have denied" if violation.audit else "denied"
            text = printable(f"enforce: {verb} {one.count} times, by {violation.executable}: {violation.call}")
        self._write(text, one.process)

    def _write(self, text: str, process: int) -> None:
        self._output.write(f"{text}\n", process)


def event_of(asked: Notification) -> Event:
    """The call of a notification."""
    return Event(asked.arch, asked.number, tuple(asked.arguments), asked.ip, asked.task)


def call_name(event: Event) -> str:
    """The name of a call; one name for all numbers that no call has."""
    arch = Arch.from_audit(event.arch)
    call = table(arch).by_number.get(event.number) if arch else None
    return f"{call.name} ({arch})" if call else "unknown calls"
