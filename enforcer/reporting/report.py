"""Violations, as text for a person or a JSON line for a machine.  Loaded at the first one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from enforcer.reporting.advice import Advice, advise
from enforcer.reporting.callsite import call_site
from enforcer.reporting.output import Output
from enforcer.text import printable
from policygen.evaluate import evaluate
from policygen.language.naming import format_call
from policygen.learning.extend import allowing_line
from policygen.model import Action, ActionKind, strictest
from tracer.abi import Arch, Event, constants

if TYPE_CHECKING:
    from collections.abc import Callable

    from enforcer.kernel import Notification
    from enforcer.reporting.reporter import Reporter
    from policygen.model import Policy

_DISTINCT = 1000
"""Different violations that are described; a program that makes up more of them must not fill memory and log."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One call that was not allowed."""

    event: Event
    action: Action
    audit: bool
    process: int
    executable: str
    site: str
    call: str
    advice: tuple[Advice, ...]
    """What would allow the call, for each policy that does not."""

    def text(self) -> str:
        """Several lines for a person."""
        verb = "would deny" if self.audit else "denied"
        lines = [
            f"enforce: {verb} {self.call}: {_consequence(self.action, self.event, audit=self.audit)}",
            f"  by {self.executable} (pid {self.process}) at {self.site}",
        ]
        for advice in self.advice:
            lines += [f"  {advice.what}", *(f"    {part}" for part in advice.line.splitlines())]
            if advice.command:
                lines.append(f"  or run: {advice.command}")
        return "".join(f"{printable(line)}\n" for line in lines)

    def json(self, count: int) -> str:
        """One line: names as in the policy language, numbers as the kernel has them, registers in hexadecimal."""
        arch = Arch.from_audit(self.event.arch)
        return json.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "call": self.call,
                "arch": str(arch) if arch else f"{self.event.arch:#x}",
                "number": self.event.number,
                "arguments": [f"{register:#x}" for register in self.event.arguments],
                "action": _action(self.action, self.event),
                "audit": self.audit,
                "pid": self.process,
                "executable": self.executable,
                "site": self.site,
                "allow": [{"file": advice.file, "line": advice.line} for advice in self.advice],
                "count": count,
            }
        ) + "\n"


class Reports:
    """Judges calls, tells each distinct violation once, and counts."""

    def __init__(self, reporter: Reporter, is_waiting: Callable[[Notification], bool]) -> None:
        self._reporter = reporter
        self._is_waiting = is_waiting
        self._policies = reporter.policies()
        self._output = Output(reporter)
        self._counts: dict[tuple[object, ...], int] = {}
        self._latest: dict[tuple[object, ...], Violation] = {}
        self._undescribed = 0

    def judge(self, asked: Notification) -> Action:
        """The strictest action of all policies for the call.  Tells about it, but trouble with that changes nothing."""
        event = Event(asked.arch, asked.number, tuple(asked.arguments), asked.ip, asked.task)
        verdicts = [evaluate(policy, event) for _, policy in self._policies]
        action = strictest(reversed(verdicts))  # of several errors the first, as the chain of their filters answers
        judged = zip(self._policies, verdicts, strict=True)
        denying = [one for one, verdict in judged if not verdict.lets_run]
        try:
            self._tell(asked, event, action, denying)
        except Exception as error:
            self._write(f"enforce: denied call number {event.number}, which could not be described: {error!r}\n", 0)
        return action

    def summarise(self) -> None:
        """Tell the counts that have not been told."""
        for key, violation in self._latest.items():
            count = self._counts[key]
            if not _is_power_of_ten(count):
                self._publish(violation, count)
        self._latest.clear()

    def conclude(self) -> None:
        """Say all that is left to say."""
        self.summarise()
        if self._undescribed or self._output.dropped:
            more = self._undescribed + self._output.dropped
            self._write(f"enforce: {more} more violations were not described\n", 0)

    def _tell(self, asked: Notification, event: Event, action: Action, denying: list[tuple[str, Policy]]) -> None:
        process = _process(asked.task)
        executable = _executable(process)
        key = (executable, event.arch, event.number, allowing_line(event))
        count = self._counts.get(key, 0) + 1
        if count == 1 and len(self._counts) >= _DISTINCT:
            self._undescribed += 1
            return
        self._counts[key] = count
        if count > 1 and not _is_power_of_ten(count):
            return
        site = call_site(process, asked.ip)
        if not self._is_waiting(asked):  # what was read may have been about another process with that pid
            executable, site = "a process that has ended", f"{asked.ip:#x}"
        advice = tuple(advise(policy, file, event) for file, policy in denying)
        call = format_call(event)
        violation = Violation(event, action, self._reporter.audit, process, executable, site, call, advice)
        self._latest[key] = violation
        self._publish(violation, count)

    def _publish(self, violation: Violation, count: int) -> None:
        if self._reporter.json:
            text = violation.json(count)
        elif count == 1:
            text = violation.text()
        else:
            verb = "would have denied" if violation.audit else "denied"
            text = printable(f"enforce: {verb} {count} times, by {violation.executable}: {violation.call}") + "\n"
        self._write(text, violation.process)

    def _write(self, text: str, process: int) -> None:
        self._output.write(text, process)


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


def _process(task: int) -> int:
    """The process that a thread belongs to; the thread itself if it has gone."""
    try:
        with open(f"/proc/{task}/status", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
    except (OSError, StopIteration):
        return task


def _executable(process: int) -> str:
    try:
        return os.readlink(f"/proc/{process}/exe")
    except OSError:
        return "an unknown program"
