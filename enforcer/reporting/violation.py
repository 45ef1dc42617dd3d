"""A violation, as text for people or as the fields of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callfence.enforcer.reporting.events import shown
from callfence.policygen.evidence.facts import Union, resolved
from callfence.policygen.language.naming import format_call
from callfence.policygen.model import Action, ActionKind
from callfence.policygen.recording.log_records import DENIED
from callfence.policygen.text import printable
from callfence.policygen.values import frozen
from callfence.tracer import proc
from callfence.tracer.abi import NATIVE, Arch, Event, constants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callfence.enforcer.files.ungranted import Ungranted
    from callfence.enforcer.reporting.verdict import Advice
    from callfence.policygen.evidence.pointed import Value

REFUSED = "REFUSED"
"""The response code of a name server (RFC 1035, 4.1.1) with which a look-up is denied."""
_PATH = 256
"""How many characters of a path are printed."""


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
    """What the arguments point to, by their index."""
    advice: tuple[Advice, ...]
    """How to allow the call, for each policy that denies it."""
    phase: str
    """The phase of the process; "" where there are none."""
    caller: Mapping[str, Any]
    """What a record has of the process besides (`caller_fields`)."""
    ungranted: tuple[Ungranted, ...] = ()
    """The files and ports that the call needs and policies do not grant; with any, all policies allow the call itself."""

    @property
    def call(self) -> str:
        """The call as the policy language names it, with what its arguments point to."""
        return format_call(self.event, {index: str(value) for index, value in self.pointed.items()})

    def text(self) -> str:
        """Return the report for people: several lines, without a newline at the end."""
        verb = "would deny" if self.audit else "denied"
        lines = [
            f"enforce: {verb} {self.call}{self._where}: {self._consequence}",
            f"  by {self.executable} (pid {self.process}) at {self.site}",
        ]
        for value in self.pointed.values():
            if not value.parts[0].startswith("/") and (path := resolved(value)):
                lines.append(f"  {value} is {path[:_PATH]}")
        for lack in self.ungranted:
            lines.append("  " + ": ".join(part for part in (lack.line, "not granted" * bool(lack.line), lack.why) if part))
        for advice in self.advice:
            lines.append(f"  {advice.what}")
            lines += [f"  {advice.note}"] * bool(advice.note)
        return "\n".join(printable(line) for line in lines)

    @property
    def _consequence(self) -> str:
        if self.error == REFUSED:
            return f"the look-up {'would be' if self.audit else 'is'} {REFUSED.lower()}"
        if self.error:
            return f"it {'would fail' if self.audit else 'fails'} with {self.error}"
        return _consequence(self.action, self.event, audit=self.audit)

    @property
    def error(self) -> str:
        """The errno with which the call fails, Landlock's EACCES before EXDEV, by name; "" if the policies' action does."""
        return min((lack.error for lack in self.ungranted), default="")

    @property
    def _where(self) -> str:
        return f" in {self.phase}" if self.phase else ""

    def fields(self, count: int, evidence: Union) -> dict[str, Any]:
        """Return the fields of the report's record (docs/events.schema.json): names as in the policy language, and registers in
        hexadecimal.  `count` is how often the violation has been met, `evidence` has facts about these calls."""
        arch = Arch.from_audit(self.event.arch)
        return {
            "call": self.call,
            "arch": str(arch) if arch else f"{self.event.arch:#x}",
            "number": self.event.number,
            "arguments": [f"{register:#x}" for register in self.event.arguments],
            "verdict": AUDITED if self.audit else DENIED,
            "action": f"errno {self.error}" if self.error else _action(self.action, self.event),
            "ungranted": [*dict.fromkeys(lack.line for lack in self.ungranted if lack.line)],
            "ungrantable": [*dict.fromkeys(lack.why for lack in self.ungranted if not lack.line)],
            "phase": self.phase or None,
            "pid": self.process,
            **self.caller,
            "executable": self.executable,
            "site": self.site,
            "evidence": [*evidence.texts()],
            "allow": [advice.fields() for advice in self.advice],
            "count": count,
        }


AUDITED = "audited"
"""The verdict on a call that ran because of --audit, in its record."""
_OF_CALLS = ("call", "arch", "number", "arguments", "phase", "pid", "parent", "command", "folder", "executable", "site")


@frozen
class Recorded:
    """A file or port that Landlock denied, as the kernel's audit records it: the call and its process are not known."""

    lack: Ungranted
    advice: Advice

    def fields(self, count: int, evidence: Union) -> dict[str, Any]:
        """Return the fields of the record of a violation; null is what is not known."""
        return {
            **dict.fromkeys(_OF_CALLS),
            "verdict": DENIED,
            "action": f"errno {self.lack.error}",
            "ungranted": [self.lack.line],
            "ungrantable": [],
            "evidence": [*evidence.texts()],
            "allow": [self.advice.fields()],
            "count": count,
        }


def caller_fields(process: int) -> dict[str, Any]:
    """Return the fields of a record about a process: its parent, its command line without secrets, and its working folder; null
    for what cannot be read."""
    command, parent, folder = proc.command_of(process), proc.kin_of(process)[1], proc.folder_of(process)
    return {"parent": parent or None, "command": shown(command) or None, "folder": folder or None}


def _action(action: Action, event: Event) -> str:
    """Return the action as the policy language writes it."""
    return f"errno {_errno(action, event)}" if action.kind is ActionKind.ERRNO else str(action.kind)


def _errno(action: Action, event: Event) -> str:
    arch = Arch.from_audit(event.arch) or NATIVE
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
