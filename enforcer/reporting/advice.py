"""What to change in a policy for a call that it did not allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enforcer.text import file_word, word
from policygen.language.naming import format_entry
from policygen.learning.extend import Options, extend
from policygen.learning.scope import SENDING
from policygen.model import ALLOW, SIGNALS, Entry, Or, constrained, scopes
from policygen.recording.model import Observation, recorded_values
from tracer.abi import Arch, Event, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.model import Policy


class Advice(NamedTuple):
    """How a call is allowed."""

    file: str
    what: str
    """One line for a person."""
    line: str
    """The entry to add to the policy, or to join with the one that it has, on one line; after a line `arch NAME` if it belongs
    to another section than the first; "" if none would help."""
    command: str = ""
    """The shell command that does it; '' likewise."""
    note: str = ""
    """What else it takes; '' if nothing."""


def advise(policy: Policy, file: str, event: Event, until: str = "") -> Advice:
    """The entry that allows the call and its like besides all that the policy allows already.

    It is what `learn` would write, which generalises: pointers and sizes are free, for instance, unless the entry
    constrains them already.
    """
    arch = Arch.from_audit(event.arch)
    if arch is None or event.number not in table(arch).by_number:
        return Advice(file, "no policy can allow it", "")
    calls, number = table(arch), event.number
    section = policy.entries.get(arch)
    present = section.get(number) if section else None
    held = constrained(present.expression) if present else frozenset()
    plain = calls.by_number[number].arguments
    values = zip(plain, event.arguments, recorded_values(calls, event), strict=False)
    arguments = (
        argument.value(register) if value is None and index in held else value
        for index, (argument, register, value) in enumerate(values)
    )
    observation = Observation(event.arch, number, tuple(arguments), "", (1,), "", event.arguments)
    options = Options(allow_opaque=(calls.by_number[number].name,), implied=policy.implied)
    extended = extend(present, policy.default, (observation,), calls, options)
    if extended.refused or extended.entry is None:
        return Advice(file, f"{file} denies it explicitly", "")
    entry = extended.entry
    if extended.added and entry.action == ALLOW and entry.otherwise is None:
        entry = Entry(Or(extended.added) if len(extended.added) > 1 else extended.added[0])
    line = " ".join(format_entry(arch, number, entry).split())
    option = "" if arch is next(iter(policy.entries), None) else f"--arch {arch} "
    option += f"--until {until} " if until else ""
    command = f"callfence allow {option}{file_word(file)} {word(line)}"
    note = ""
    if calls.by_number[number].name in SENDING and SIGNALS in scopes(policy.scope):
        note = f"to a process that it has not started, with the line `scope none` in {file}, too"
    return Advice(file, f"to allow it: {command}", f"arch {arch}\n{line}" if option else line, command, note)


def granting(file: str, lines: Sequence[str]) -> Advice:
    """The lines about files and ports that grant what a call wants."""
    command = f"callfence allow {file_word(file)} {' '.join(word(line) for line in lines)}"
    return Advice(file, f"to grant it: {command}", "\n".join(lines), command)
