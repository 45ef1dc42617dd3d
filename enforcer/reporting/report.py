"""Report each distinct violation once, and then how often it is repeated.  Imported at the first violation."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from callfence.enforcer.reporting.verdict import Verdict, advise, granting
from callfence.enforcer.reporting.violation import Recorded, Violation, caller_fields
from callfence.enforcer.waiting import WaitingTask
from callfence.policygen.evidence.facts import Places, Union, Varying, facts
from callfence.policygen.evidence.pointed import Value, pointed
from callfence.policygen.language.naming import format_call
from callfence.policygen.learning.extend import allowing_line
from callfence.policygen.model import Action, ActionKind
from callfence.policygen.recording.log_records import ANSWERED, DENIED, MESSAGE
from callfence.policygen.text import printable
from callfence.tracer.abi import NATIVE, Arch, Event, Kind, constants, table
from callfence.tracer.proc import owner, proc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from callfence.enforcer.files.ungranted import Judge, Ungranted
    from callfence.enforcer.hosts.targets import Refusal
    from callfence.enforcer.listener import Request
    from callfence.enforcer.pending import Rule
    from callfence.enforcer.reporting.asker import Asker
    from callfence.enforcer.reporting.output import Output
    from callfence.enforcer.reporting.settings import Reporting

_DISTINCT = 50
"""How many distinct violations of one call are described, so that a program cannot fill the memory or the log with them."""
_MAX_FOLLOWED = 32
"""For how many repetitions of a violation pointers are followed."""


class Reports:
    """Reports each distinct violation once, and counts its repetitions."""

    def __init__(self, reporting: Reporting, output: Output, program: int = 0, judge: Judge | None = None) -> None:
        """`program`: the id of the process whose exit status is that of `enforce`.  `judge`: that of files and ports."""
        self._reporting = reporting
        self._program = program
        self._judge = judge
        self._output = output
        self.asker: Asker | None = None
        """What asks about files and ports that are not granted; None if nothing does."""
        self.denied = 0
        """How many calls were denied, or would have been."""
        self._counts = Counts()
        self._distinct: Counter[str] = Counter()
        self._undescribed: Counter[str] = Counter()
        self._ungrantable: Counter[str] = Counter()
        """How often Landlock denied what no line about files or ports grants, by Landlock's names of the rights."""
        self._failed: Counter[str] = Counter()
        """How often calls failed that were not denied, by call and errno."""
        self._lost = 0
        """How many lost reports have been mentioned already."""

    def report(self, request: Request, verdict: Verdict) -> None:
        """Report a call that a policy denies, or whose files or ports a policy does not grant; do nothing for other calls."""
        event = verdict.event
        try:
            if verdict.denying:  # the helper is notified of exits, under --audit, and of listen though they are allowed
                self._count_and_publish(request, verdict, self._unlined(event))
            if self._judge and (self._reporting.audit or not verdict.denying) and (ungranted := self._judge.ungranted(event)):
                self._count_and_publish(request, verdict, ungranted)
                rule = tuple((lack.file, lack.line) for lack in ungranted)
                if self.asker and all(line for _, line in rule):
                    self.asker.suggest(rule, lambda: self.fields(request, verdict, ungranted))
        except Exception as error:
            self.say(f"{call_name(event)} was denied, and could not be described: {error!r}")

    def _unlined(self, event: Event) -> list[Ungranted]:
        """Return why no entry would let a denied call run: it makes a socket about which there are no lines; [] for others."""
        if self._reporting.hosts is None:
            return []
        from callfence.enforcer.hosts.targets import refusal_of

        refusal = refusal_of(self._reporting.hosts, event)
        return [lack._replace(error="") for lack in ungranted_of(refusal)] if refusal else []

    def report_port(self, request: Request, verdict: Verdict, *, is_hidden: bool = False) -> None:
        """Report a listen(2) that would take a port not granted.  `is_hidden`: the helper may not look at the socket."""
        why = "listen(2) on a socket without a port takes any free port"
        if is_hidden:
            why = f"{why}, and enforce may not look at this process's: it is not dumpable (prctl(2)), or another user's"
        from callfence.enforcer.files.ungranted import Ungranted

        ungranted = [
            Ungranted(file, "tcp bind", "0", "EACCES", why)
            for file, policy in verdict.policies
            if policy.files.bind is not None and all(first > 0 for first, _ in policy.files.bind)
        ]
        try:
            self._count_and_publish(request, verdict, ungranted)
        except Exception as error:
            self.say(f"{call_name(verdict.event)} was denied, and could not be described: {error!r}")

    def report_peer(self, request: Request, verdict: Verdict, refusal: Refusal) -> None:
        """Report a call to another host, or a look-up, that policies do not grant."""
        self._count_and_publish(request, verdict, ungranted_of(refusal))

    def recorded(self, index: int, fields: Mapping[str, str]) -> None:
        """Report what Landlock denied under the policy of this index, from the fields of its audit record (`audit.Source`)."""
        from callfence.enforcer.files.ungranted import Ungranted, subject_of
        from callfence.policygen.files.records import denied

        source, what = self._reporting.records, denied(fields)
        if source is None:
            return
        if what is None:
            self._ungrantable[fields.get("blockers", "?")] += 1
            return
        subject = f"tcp {what.use}"
        if what.path:
            subject = subject_of(os.fsencode(what.path), self._program, source.environment, source.here)
        lack = Ungranted(source.files[index], subject, what.wanted, what.error)
        key = lack.file, lack.line
        self.denied += 1
        if self._counts.again(key, 0) is not None:
            for due in self._counts.due_in_a_burst():
                self._publish(due)
        elif self._has_room(f"{'files' if what.path else 'ports'} in audit records"):
            repeated = Repeated(Recorded(lack, granting(lack.file, [lack.line])), Union(), 0)
            self._counts.add(key, repeated)
            self._publish(repeated)

    def failed(self, event: Event, number: int) -> None:
        """Count a call that failed with this errno and was not denied, for `summarise` to write it to the log."""
        error, arch = constants.family("errno", NATIVE).format(number), Arch.from_audit(event.arch)
        answer = f"{selected(event)}{'' if arch is NATIVE else f' ({arch})'} with {error}"
        if answer not in self._failed and len(self._failed) >= _MAX_FAILED:  # a program may vary what it asks for
            answer = f"{call_name(event)} with {error}"
        self._failed[answer] += 1

    def say(self, text: str, level: str = "") -> None:
        """Write a message that is not about a violation.  `level`: "note" for one that tells of nothing wrong."""
        if log := self._reporting.log:
            self._output.write(log.record(MESSAGE, {"level": level or "warning", "message": text}))
        else:
            self._output.write(f"enforce: {printable(text)}\n".encode())

    def pause(self) -> float | None:
        """Return how many seconds without a call have to pass before `quiet` has something to do; None for never."""
        pauses = [pause for pause in (self._counts.pause(), self._output.pause()) if pause is not None]
        return min(pauses, default=None)

    def quiet(self) -> None:
        """Write reports that still wait, and report the counts of repeated violations that are due."""
        self._output.flush()
        for repeated in self._counts.due():
            self._publish(repeated)

    def summarise(self) -> None:
        """Report everything that has not been reported: counts, calls that were not described, and lost reports."""
        for repeated in self._counts.rest():
            self._publish(repeated)
        for call, count in sorted(self._undescribed.items()):
            self.say(f"{count} more violations of {call} were not described")
        self._undescribed.clear()
        if self._failed and (self._reporting.log or self._judge):
            counts = ", ".join(f"{answer}{f' ({count} times)' * (count > 1)}" for answer, count in sorted(self._failed.items()))
            allowing = "`enforce --audit` reports the lines that allow them"
            lacking = "not denied, but failed: calls that the policy lacks, as on a machine that does not offer them"
            self.say(f"{lacking} ({allowing}): {counts}", "note")
        self._failed.clear()
        if self._judge and (count := self._judge.unjudged):
            many = f"{count} are in no report if they were" if count > 1 else "1 is in no report if it was"
            whose = "processes into which the helper may not look (PR_SET_DUMPABLE), or which may have other files than it has"
            how = "by a handle (open_by_handle_at), or below a folder above their working folder that they may not enter"
            self.say(f"calls that name files or ports: {many} denied, of {whose}, or {how}")
            self._judge.unjudged = 0
        if self._ungrantable:
            counts = ", ".join(f"{rights} ({count} times)" for rights, count in sorted(self._ungrantable.items()))
            self.say(f"denied by Landlock, and no line about files or ports grants it: {counts}", "note")
        self._ungrantable.clear()
        self._output.flush(last=True)
        if lost := self._output.lost - self._lost:
            self._lost = self._output.lost
            what, of = ("record", "the log") if self._reporting.log else ("report", "violations")
            text = f"{lost} {what}{'s' if lost > 1 else ''} of {of} could not be written"
            self._reporting.complain(text)
            if self._reporting.log:
                self.say(text)

    def _count_and_publish(self, request: Request, verdict: Verdict, ungranted: Sequence[Ungranted] = ()) -> None:
        """Count a denied call, and report it, unless one like it has been reported shortly before or there are too many."""
        event, phase = verdict.event, verdict.phase
        pid = owner(event.task)
        path = _executable(pid)
        lines = tuple(lack.line for lack in ungranted if lack.line) or allowing_line(event)
        lacking = (lines, *(lack.why for lack in ungranted if not lack.line))
        key = (path, event.arch, event.number, lacking, phase)
        self.denied += 1
        repeated = self._counts.again(key, pid)
        if repeated is not None:
            if repeated.count <= _MAX_FOLLOWED:
                self._look(repeated.evidence, request, verdict, pid)
            for due in self._counts.due_in_a_burst():
                self._publish(due)
            return
        if not self._has_room(call_name(event)):
            return
        violation, evidence = self._description(request, verdict, pid, ungranted)
        repeated = Repeated(violation, evidence, pid)
        self._counts.add(key, repeated)
        self._publish(repeated)

    def _description(
        self, request: Request, verdict: Verdict, pid: int, ungranted: Sequence[Ungranted]
    ) -> tuple[Violation, Union]:
        """Return the description of a denied call of the process `pid`, and facts about what its pointers point to."""
        event, evidence, path = verdict.event, Union(), _executable(pid)
        values, site = self._look(evidence, request, verdict, pid, with_site=True)
        if not site:
            path, site = "a process that has ended", f"{event.ip:#x}"
        denying = () if ungranted else verdict.denying
        advice = tuple(advise(policy, file, event, verdict.until) for file, policy in denying)
        for file in dict.fromkeys(lack.file for lack in ungranted):
            if lines := tuple(lack.line for lack in ungranted if lack.file == file and lack.line):
                advice += (granting(file, lines),)
        caller = caller_fields(pid) if self._reporting.log or self._reporting.asking >= 0 else {}
        audit, phase = self._reporting.audit, verdict.phase
        action = _instead(verdict) or verdict.action
        violation = Violation(event, action, audit, pid, path, site, values, advice, phase, caller, tuple(ungranted))
        return violation, evidence

    def fields(self, request: Request, verdict: Verdict, ungranted: Sequence[Ungranted] = ()) -> dict[str, Any]:
        """Return the fields of the record of a denied call that is asked about, without counting it."""
        violation, evidence = self._description(request, verdict, owner(verdict.event.task), ungranted)
        return violation.fields(1, evidence)

    def decided(self, rule: Rule, answer: str, who: str, calls: int) -> None:
        """Write the record of an answer to a question."""
        if log := self._reporting.log:
            lines = [{"file": file, "line": line} for file, line in rule]
            fields = {"rule": lines, "answer": answer, "who": who or None, "calls": calls}
            self._output.write(log.record(ANSWERED, fields))

    def _has_room(self, call: str) -> bool:
        """Return whether another distinct violation of a call is described; count it."""
        if self._distinct[call] >= _DISTINCT:
            self._undescribed[call] += 1
            return False
        self._distinct[call] += 1
        return True

    def _look(
        self, evidence: Union, request: Request, verdict: Verdict, process: int, *, with_site: bool = False
    ) -> tuple[Mapping[int, Value], str]:
        """Return what the call's pointers point to, and with `with_site` its call site; add facts about them to the evidence.
        If the task has ended or was interrupted, return {} and ""."""
        event = verdict.event
        caller = WaitingTask(event.task, process)
        values = pointed(event, caller) if self._reporting.evidence else {}
        site = caller.site(event.arch, event.ip) if with_site else ""
        if not request.is_waiting():  # what was read may have been about another process with that pid
            return {}, ""
        for fact in facts(event, values, Places(), Varying((event.task, process))):
            evidence.add(fact)
        return values, site

    def _publish(self, repeated: Repeated) -> None:
        violation = repeated.first
        if log := self._reporting.log:
            self._output.write(log.record(DENIED, violation.fields(repeated.count, repeated.evidence)), repeated.process)
            return
        assert isinstance(violation, Violation)  # audit records are read for a log only
        if repeated.count == 1:
            text = violation.text()
            if self._reporting.colour:
                first, _, rest = text.partition("\n")
                text = f"\x1b[1;31m{first}\x1b[0m\n{rest}"
        else:
            verb = "would have denied" if violation.audit else "denied"
            text = printable(f"enforce: {verb} {repeated.count} times, by {violation.executable}: {violation.call}")
        self._output.write(f"{text}\n".encode(errors="surrogateescape"), repeated.process)


def ungranted_of(refusal: Refusal) -> list[Ungranted]:
    """Return what each policy lacks that does not grant a call to another host, or a look-up."""
    from callfence.enforcer.files.ungranted import Ungranted

    return [Ungranted(*row, refusal.error, refusal.why) for row in refusal.lacking]


def _executable(process: int) -> str:
    """Return the path of the file that a process executes; "an unknown program" if it cannot be read."""
    try:
        return os.readlink(f"{proc()}/{process}/exe")
    except OSError:
        return "an unknown program"


def call_name(event: Event) -> str:
    """Return the name of a call and its architecture; "unknown calls" for every number that no call has."""
    arch = Arch.from_audit(event.arch)
    call = table(arch).by_number.get(event.number) if arch else None
    return f"{call.name} ({arch})" if call else "unknown calls"


def selected(event: Event) -> str:
    """Return a call with the arguments that select what it does: `ioctl(cmd=TCSETSW)`; its name alone if it has none."""
    arch = Arch.from_audit(event.arch)
    call = table(arch).by_number.get(event.number) if arch else None
    if call is None:
        return call_name(event)
    hidden = [index for index, argument in enumerate(call.arguments) if argument.kind is not Kind.SELECTOR]
    return format_call(event, hidden=hidden) if len(hidden) < len(call.arguments) else call.name


_MAX_FAILED = 32
"""Number of calls that failed without being denied that are counted each by itself."""
FIRST_INTERVAL = 1.0
"""After how many seconds without violations counts are reported first; the interval doubles with each count of a violation."""
LONG = 60.0
"""After how many seconds counts are reported even while violations go on."""
_MAX_INTERVAL = 3600.0
"""The longest interval in seconds between two counts of a violation."""


class Repeated:
    """A violation that has been reported, and how often it has been met."""

    __slots__ = ("at", "count", "evidence", "first", "process", "wait")

    def __init__(self, first: Violation | Recorded, evidence: Union, process: int) -> None:
        self.first = first
        self.evidence = evidence
        """Facts about the first repetitions."""
        self.process = process
        """The process of the latest repetition."""
        self.count = 1
        self.at = time.monotonic()
        """The monotonic time of its last report."""
        self.wait = FIRST_INTERVAL
        """Seconds from its last report to the next."""


class Counts:
    """The violations that have been reported, by a key that is equal for repetitions of the same violation."""

    def __init__(self) -> None:
        self._all: dict[tuple[object, ...], Repeated] = {}
        self._more: dict[tuple[object, ...], Repeated] = {}
        """The violations that have been repeated since their last report."""
        self._looked = time.monotonic()

    def add(self, key: tuple[object, ...], repeated: Repeated) -> None:
        """Add a violation that is reported now."""
        self._all[key] = repeated

    def again(self, key: tuple[object, ...], process: int) -> Repeated | None:
        """Count a repetition, and return its violation; None if none with this key has been reported."""
        repeated = self._all.get(key)
        if repeated is not None:
            repeated.count += 1
            repeated.process = process
            self._more[key] = repeated
        return repeated

    def pause(self) -> float | None:
        """Return after how many seconds without violations there will be counts to report; None if there are none."""
        if not self._more:
            return None
        return max(FIRST_INTERVAL, min(repeated.at + repeated.wait for repeated in self._more.values()) - time.monotonic())

    def due(self, least: float = 0.0) -> Iterator[Repeated]:
        """Yield, for the caller to report, those with counts due, last reported at least `least` seconds ago."""
        now = time.monotonic()
        for key, repeated in [*self._more.items()]:
            if now >= repeated.at + max(repeated.wait, least):
                yield self._begin(key, now)

    def due_in_a_burst(self) -> Iterator[Repeated]:
        """Yield the violations whose counts are due while violations go on: every `LONG` seconds."""
        now = time.monotonic()
        if now >= self._looked + LONG:
            self._looked = now
            yield from self.due(LONG)

    def rest(self) -> Iterator[Repeated]:
        """Yield all violations that have been repeated since their last report."""
        for key in [*self._more]:
            yield self._begin(key, time.monotonic())

    def _begin(self, key: tuple[object, ...], now: float) -> Repeated:
        repeated = self._more.pop(key)
        repeated.at, repeated.wait = now, min(2 * repeated.wait, _MAX_INTERVAL)
        return repeated


def _instead(verdict: Verdict) -> Action | None:
    """Return the error with which `enforce` fails a call that is not available (unavailable.tsv), in place of the policies'
    action; None for another call.  Without --audit, such a call is in no report."""
    if not (verdict.is_free and verdict.denying):
        return None
    from callfence.policygen.implied.tables import unavailable  # not at each start

    number = unavailable(verdict.event)
    return Action(ActionKind.ERRNO, number) if number else None
