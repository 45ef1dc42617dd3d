"""Reporting each kind of violation once, and then how often it was met.  Loaded at the first one."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import TYPE_CHECKING

from enforcer.reporting.output import Output
from enforcer.reporting.verdict import advise, granting
from enforcer.reporting.violation import Violation, now
from enforcer.waiting import WaitingTask
from policygen.evidence.facts import Places, Union, Varying, facts
from policygen.evidence.pointed import pointed
from policygen.learning.extend import allowing_line
from policygen.text import printable
from tracer.abi import Arch, table
from tracer.proc import owner, proc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from enforcer.files.unreachable import Judge, Ungranted
    from enforcer.listener import Request
    from enforcer.reporting.reporter import Reporter
    from enforcer.reporting.verdict import Verdict
    from policygen.evidence.pointed import Value
    from tracer.abi import Event

_DISTINCT = 50
"""Different violations of one call that are described.  A program that makes up more must not fill memory and log, nor keep
other calls from being described."""
_LOOKS = 32
"""Violations that are alike whose pointers are followed."""


class Reports:
    """Reports each distinct violation once, and counts."""

    def __init__(self, reporter: Reporter, program: int = 0) -> None:
        """`program`: the id of the process whose exit status is that of `enforce`."""
        self._reporter = reporter
        self._judge: Judge | None = None
        if reporter.reach:
            from enforcer.files.unreachable import Judge

            self._judge = Judge(reporter.reach, program)
        self._output = Output(reporter)
        self._run = os.urandom(4).hex()
        self._counts = Counts()
        self._distinct: Counter[str] = Counter()
        self._undescribed: Counter[str] = Counter()
        self._lost = 0
        """Reports that were lost, as far as that has been reported."""

    def report(self, request: Request, verdict: Verdict) -> None:
        """Report a call that a policy denies, or whose files or ports no policy grants; nothing for any other."""
        event = verdict.event
        try:
            if verdict.denying:  # the helper is notified of exits, under --audit, and of listen though they are allowed
                self._describe(request, verdict)
            elif self._judge and (ungranted := self._judge.ungranted(event)):
                self._describe(request, verdict, ungranted)
        except Exception as error:
            self.say(f"denied call number {event.number}, which could not be described: {error!r}")

    def report_port(self, request: Request, verdict: Verdict) -> None:
        """Report a listen(2) that would take a port which a policy does not grant."""
        why = "listen(2) on a socket without a port takes any"
        from enforcer.files.unreachable import Ungranted

        ungranted = [
            Ungranted(file, "tcp bind", "0", "EACCES", why)
            for file, policy in verdict.policies
            if policy.files.bind is not None and all(first > 0 for first, _ in policy.files.bind)
        ]
        try:
            self._describe(request, verdict, ungranted)
        except Exception as error:
            self.say(f"denied call number {verdict.event.number}, which could not be described: {error!r}")

    def say(self, text: str) -> None:
        """Report something else than a violation."""
        self._write(json.dumps({"time": now(), "message": text}) if self._reporter.json else f"enforce: {printable(text)}", 0)

    @property
    def has_lost(self) -> bool:
        """Whether a report could not be written, ever."""
        return self._output.lost > 0

    def pause(self) -> float | None:
        """Return seconds without a call after which `quiet` has something to do; None if it has not."""
        pauses = [pause for pause in (self._counts.pause(), self._output.pause()) if pause is not None]
        return min(pauses, default=None)

    def quiet(self) -> None:
        """Report how often violations were met, after a burst, and what could not be written before."""
        self._output.flush()
        for repeated in self._counts.due():
            self._publish(repeated)

    def summarise(self) -> None:
        """Report what has not been reported: counts, calls that were not described, and how much could not be written."""
        for repeated in self._counts.rest():
            self._publish(repeated)
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

    def _describe(self, request: Request, verdict: Verdict, ungranted: Sequence[Ungranted] = ()) -> None:
        event, phase = verdict.event, verdict.phase
        pid = owner(event.task)
        path = _executable(pid)
        lines = tuple(lack.line for lack in ungranted) or allowing_line(event)
        key = (path, event.arch, event.number, lines, phase)
        repeated = self._counts.again(key, pid)
        if repeated is not None:
            if repeated.count <= _LOOKS:
                self._look(repeated.evidence, request, verdict, pid)
            for due in self._counts.due_in_a_burst():
                self._publish(due)
            return
        call = call_name(event)
        if self._distinct[call] >= _DISTINCT:
            self._undescribed[call] += 1
            return
        self._distinct[call] += 1
        evidence = Union()
        values, site = self._look(evidence, request, verdict, pid, with_site=True)
        if not site:
            path, site = "a process that has ended", f"{event.ip:#x}"
        advice = tuple(advise(policy, file, event, verdict.until) for file, policy in verdict.denying)
        for file in dict.fromkeys(lack.file for lack in ungranted):
            advice += (granting(file, [lack.line for lack in ungranted if lack.file == file]),)
        audit = self._reporter.audit
        violation = Violation(event, verdict.action, audit, pid, path, site, values, advice, phase, tuple(ungranted))
        repeated = Repeated(violation, evidence, pid)
        self._counts.add(key, repeated)
        self._publish(repeated)

    def _look(
        self, evidence: Union, request: Request, verdict: Verdict, process: int, *, with_site: bool = False
    ) -> tuple[Mapping[int, Value], str]:
        """What the call's pointers point to, also added to the evidence, and where it came from; "" if its task has ended."""
        event = verdict.event
        caller = WaitingTask(event.task, process)
        try:
            values = pointed(event, caller) if self._reporter.evidence else {}
            site = caller.site(event.arch, event.ip) if with_site else ""
        finally:
            caller.close()
        if not request.is_waiting():  # what was read may have been about another process with that pid
            return {}, ""
        for fact in facts(event, values, Places(), Varying((event.task, process))):
            evidence.add(fact)
        return values, site

    def _publish(self, repeated: Repeated) -> None:
        violation = repeated.first
        if self._reporter.json:
            text = violation.json(self._run, repeated.count, repeated.evidence)
        elif repeated.count == 1:
            text = violation.text()
            if self._reporter.colour:
                first, _, rest = text.partition("\n")
                text = f"\x1b[1;31m{first}\x1b[0m\n{rest}"
        else:
            verb = "would have denied" if violation.audit else "denied"
            text = printable(f"enforce: {verb} {repeated.count} times, by {violation.executable}: {violation.call}")
        self._write(text, repeated.process)

    def _write(self, text: str, process: int) -> None:
        self._output.write(f"{text}\n", process)


def _executable(process: int) -> str:
    """The path of the file that a process executes."""
    try:
        return os.readlink(f"{proc()}/{process}/exe")
    except OSError:
        return "an unknown program"


def call_name(event: Event) -> str:
    """Return the name of a call; one name for all numbers that no call has."""
    arch = Arch.from_audit(event.arch)
    call = table(arch).by_number.get(event.number) if arch else None
    return f"{call.name} ({arch})" if call else "unknown calls"


QUIET = 1.0
"""Seconds without any violation after which counts are reported; the next count of a violation comes after twice as long."""
LONG = 60.0
"""Seconds after which counts are reported though violations go on; the same holds for the next count."""
_MOST = 3600.0
"""Most seconds between two counts of one violation, if it is met in between."""


class Repeated:
    """A violation that has been reported, and how many like it there were since."""

    __slots__ = ("at", "count", "evidence", "first", "process", "wait")

    def __init__(self, first: Violation, evidence: Union, process: int) -> None:
        self.first = first
        self.evidence = evidence
        """Facts about the first ones."""
        self.process = process
        """That of the latest one."""
        self.count = 1
        self.at = time.monotonic()
        """The time of its last report."""
        self.wait = QUIET
        """Seconds before its next report."""


class Counts:
    """The violations that have been reported, by what makes violations alike."""

    def __init__(self) -> None:
        self._all: dict[tuple[object, ...], Repeated] = {}
        self._more: dict[tuple[object, ...], Repeated] = {}
        """Those of which there were more since their last report."""
        self._looked = time.monotonic()

    def add(self, key: tuple[object, ...], repeated: Repeated) -> None:
        """Add a violation that is reported now."""
        self._all[key] = repeated

    def again(self, key: tuple[object, ...], process: int) -> Repeated | None:
        """Count a violation, and return what was reported of one like it; None if nothing was."""
        repeated = self._all.get(key)
        if repeated is not None:
            repeated.count += 1
            repeated.process = process
            self._more[key] = repeated
        return repeated

    def pause(self) -> float | None:
        """Return seconds of quiet after which there will be counts to report; None if there are none."""
        if not self._more:
            return None
        return max(QUIET, min(repeated.at + repeated.wait for repeated in self._more.values()) - time.monotonic())

    def due(self, least: float = 0.0) -> Iterator[Repeated]:
        """Yield what is to be reported now, of what was reported `least` seconds ago or before; the caller reports it."""
        now = time.monotonic()
        for key, repeated in [*self._more.items()]:
            if now >= repeated.at + max(repeated.wait, least):
                yield self._begin(key, now)

    def due_in_a_burst(self) -> Iterator[Repeated]:
        """Yield the same, at a violation."""
        now = time.monotonic()
        if now >= self._looked + LONG:
            self._looked = now
            yield from self.due(LONG)

    def rest(self) -> Iterator[Repeated]:
        """Yield all that has not been reported."""
        for key in [*self._more]:
            yield self._begin(key, time.monotonic())

    def _begin(self, key: tuple[object, ...], now: float) -> Repeated:
        repeated = self._more.pop(key)
        repeated.at, repeated.wait = now, min(2 * repeated.wait, _MOST)
        return repeated
