"""Violations, as text for a person or a JSON line for a machine.  Loaded at the first one."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from enforcer.reporting.advice import Advice, advise, granting
from enforcer.reporting.caller import Caller
from enforcer.reporting.output import Output
from enforcer.reporting.process import executable, owner
from policygen.evaluate import evaluate
from policygen.evidence.facts import Places, Union, Varying, facts, resolved
from policygen.evidence.pointed import pointed
from policygen.language.naming import format_call
from policygen.learning.extend import allowing_line
from policygen.model import Action, ActionKind, strictest
from policygen.phases import START, in_phase, phase_policies
from policygen.text import printable
from policygen.values import frozen
from tracer.abi import Arch, Event, constants, table

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
_PATH = 256
"""Characters of a path that are shown."""


@frozen
class Violation:
    """One call that was not allowed."""

    event: Event
    action: Action
    audit: bool
    process: int
    executable: str
    site: str
    pointed: Mapping[int, Value]
    """What its arguments point to."""
    advice: tuple[Advice, ...]
    """What would allow the call, for each policy that does not."""
    phase: str
    """The phase of the process; "" where there are none."""
    ungranted: tuple[Ungranted, ...] = ()
    """What the policies do not grant of files and ports; then all of them allow the call itself."""

    @property
    def call(self) -> str:
        return format_call(self.event, {index: str(value) for index, value in self.pointed.items()})

    def text(self) -> str:
        """Several lines for a person, without the last line's end."""
        verb = "would deny" if self.audit else "denied"
        lines = [
            f"enforce: {verb} {self.call}{self._where}: {self._consequence}",
            f"  by {self.executable} (pid {self.process}) at {self.site}",
        ]
        for value in self.pointed.values():
            if not value.parts[0].startswith("/") and (path := resolved(value)):
                lines.append(f"  {value} is {path[:_PATH]}")
        for one in self.ungranted:
            lines.append(f"  {one.line}: not granted{one.why and f': {one.why}'}")
        for advice in self.advice:
            lines.append(f"  {advice.what}")
        return "\n".join(printable(line) for line in lines)

    @property
    def _consequence(self) -> str:
        if self.ungranted:
            return f"it {'would fail' if self.audit else 'fails'} with {self.error}"
        return _consequence(self.action, self.event, audit=self.audit)

    @property
    def error(self) -> str:
        """The errno of a call that Landlock denies: what a folder lacks comes before what a move lacks."""
        return min(one.error for one in self.ungranted)

    @property
    def _where(self) -> str:
        return f" in {self.phase}" if self.phase else ""

    def json(self, count: int, evidence: Union) -> str:
        """One line without its end: names as in the policy language, the call's number, registers in hexadecimal.

        `evidence`: facts about this violation and those that are like it."""
        arch = Arch.from_audit(self.event.arch)
        return json.dumps(
            {
                "time": _now(),
                "call": self.call,
                "arch": str(arch) if arch else f"{self.event.arch:#x}",
                "number": self.event.number,
                "arguments": [f"{register:#x}" for register in self.event.arguments],
                "action": f"errno {self.error}" if self.ungranted else _action(self.action, self.event),
                **({"ungranted": [*dict.fromkeys(one.line for one in self.ungranted)]} if self.ungranted else {}),
                "audit": self.audit,
                **({"phase": self.phase} if self.phase else {}),
                "pid": self.process,
                "executable": self.executable,
                "site": self.site,
                "evidence": evidence.texts(),
                "allow": [{"file": advice.file, "line": advice.line} for advice in self.advice],
                "count": count,
            }
        )


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
        self._counts: dict[tuple[object, ...], int] = {}
        self._latest: dict[tuple[object, ...], Violation] = {}
        self._evidence: dict[tuple[object, ...], Union] = {}
        self._distinct: Counter[str] = Counter()
        self._undescribed: Counter[str] = Counter()
        self._lost = 0
        self.has_lost = False
        """Whether a report could not be written, ever."""

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
        event = _event(asked)
        return all(evaluate(policy, event).lets_run for _, policy in self._in(phase or self._start))

    def judge(self, asked: Notification, phase: str = "") -> Action:
        """The strictest action of all policies for the call.  It is reported too; if that fails, the action stays the same."""
        phase = phase or self._start
        policies = self._in(phase)
        event = _event(asked)
        verdicts = [evaluate(policy, event) for _, policy in policies]
        action = strictest(verdicts)
        denying = [one for one, verdict in zip(policies, verdicts, strict=True) if not verdict.lets_run]
        try:
            if not denying and self._judge and self._judge.asks(event.arch, event.number):
                if ungranted := self._judge.ungranted(event):
                    self._tell(asked, event, action, denying, phase, ungranted)
            elif denying or not self._reporter.audit:  # under --audit, exits that are allowed are asked about too
                self._tell(asked, event, action, denying, phase)
        except Exception as error:
            self.say(f"denied call number {event.number}, which could not be described: {error!r}")
        return action

    def say(self, text: str) -> None:
        """Report something else than a violation."""
        self._write(json.dumps({"time": _now(), "message": text}) if self._reporter.json else f"enforce: {printable(text)}", 0)

    def summarise(self) -> None:
        """Report what has not been reported: counts, calls that were not described, and how much could not be written."""
        for key, violation in self._latest.items():
            count = self._counts[key]
            if not _is_power_of_ten(count):
                self._publish(violation, count, self._evidence[key])
        self._latest.clear()
        for call, count in sorted(self._undescribed.items()):
            self.say(f"{count} more violations of {call} were not described")
        self._undescribed.clear()
        if self._lost:
            text = f"{self._lost} reports of violations could not be written"
            self._reporter.complain(text)
            if self._reporter.json:
                self.say(text)
            self._lost = 0

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
        count = self._counts.get(key, 0) + 1
        if count == 1:
            call = call_name(event)
            if self._distinct[call] >= _DISTINCT:
                self._undescribed[call] += 1
                return
            self._distinct[call] += 1
        self._counts[key] = count
        is_told = count == 1 or _is_power_of_ten(count)
        if not is_told and count > _LOOKS:
            return
        caller = Caller(event.task, pid)
        try:
            values = pointed(event, caller) if self._reporter.evidence else {}
            site = caller.site(event.arch, asked.ip) if is_told else ""
        finally:
            caller.close()
        if not self._is_waiting(asked):  # what was read may have been about another process with that pid
            path, site, values = "a process that has ended", f"{asked.ip:#x}", {}
        evidence = self._evidence.setdefault(key, Union())
        for fact in facts(event, values, Places(), Varying((event.task, pid))):
            evidence.add(fact)
        if not is_told:
            return
        advice = tuple(advise(policy, file, event, self._until.get(phase, "")) for file, policy in denying)
        for file in dict.fromkeys(one.file for one in ungranted):
            advice += (granting(file, [one.line for one in ungranted if one.file == file]),)
        violation = Violation(event, action, self._reporter.audit, pid, path, site, values, advice, phase, tuple(ungranted))
        self._latest[key] = violation
        self._publish(violation, count, evidence)

    def _publish(self, violation: Violation, count: int, evidence: Union) -> None:
        if self._reporter.json:
            text = violation.json(count, evidence)
        elif count == 1:
            text = violation.text()
            if self._reporter.colour:
                first, _, rest = text.partition("\n")
                text = f"\x1b[1;31m{first}\x1b[0m\n{rest}"
        else:
            verb = "would have denied" if violation.audit else "denied"
            text = printable(f"enforce: {verb} {count} times, by {violation.executable}: {violation.call}")
        self._write(text, violation.process)

    def _write(self, text: str, process: int) -> None:
        if not self._output.write(f"{text}\n", process):
            self._lost += 1
            self.has_lost = True


def _event(asked: Notification) -> Event:
    return Event(asked.arch, asked.number, tuple(asked.arguments), asked.ip, asked.task)


def call_name(event: Event) -> str:
    """The name of a call; one name for all numbers that no call has."""
    arch = Arch.from_audit(event.arch)
    call = table(arch).by_number.get(event.number) if arch else None
    return f"{call.name} ({arch})" if call else "unknown calls"


def _now() -> str:
    """UTC, ISO 8601 with milliseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 10**6:03}+00:00"


def _is_power_of_ten(count: int) -> bool:
    return str(count).strip("0") == "1"


def _action(action: Action, event: Event) -> str:
    """The action as the policy language writes it."""
    return f"errno {_errno(action, event)}" if action.kind is ActionKind.ERRNO else str(action.kind)


def _errno(action: Action, event: Event) -> str:
    arch = Arch.from_audit(event.arch) or Arch.X86_64
    return constants.family("errno", arch).format(action.errno)


def _consequence(action: Action, event: Event, *, audit: bool) -> str:
    match action.kind:
        case ActionKind.ERRNO:
            return f"it {'would fail' if audit else 'fails'} with {_errno(action, event)}"
        case ActionKind.NOTIFY:
            return f"it {'would fail' if audit else 'fails'} with ENOSYS"
        case ActionKind.TRAP:
            return f"SIGSYS {'would be' if audit else 'is'} sent"
        case _:
            return f"the process {'would be' if audit else 'is'} killed"
