"""Judge a call by the policies, given only the call and the phase of its process; and find the policy line that would allow
it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from callfence.policygen.evaluate import OPENING, evaluate, opens_others, unnamed
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse
from callfence.policygen.language.naming import format_entry
from callfence.policygen.learning.extend import Options, extend, sort_out
from callfence.policygen.learning.scope import SENDING
from callfence.policygen.model import ALLOW, SIGNALS, Action, Entry, Or, Policy, constrained, mentioned, scopes, strictest
from callfence.policygen.phases import START, in_phase, phase_policies
from callfence.policygen.recording.model import Observation, recorded_values
from callfence.policygen.text import file_word, word
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcer.pending import Rule
    Files = tuple[tuple[str, Policy], ...]
    """Policies as they are in one phase, each with its file."""


_MAX_REMEMBERED = 4096
"""The most verdicts that are remembered."""


class Verdict(NamedTuple):
    """The judgement of one call by all policies."""

    event: Event
    phase: str
    """The phase of the process; "" where there are none."""
    until: str
    """The next phase, which ends that one; "" if there is none."""
    action: Action
    """The strictest action of all policies."""
    policies: Files
    denying: Files
    """The policies that deny the call."""
    is_free: bool
    """Whether no policy denies the call explicitly, and all have `implied`: then the call may be answered if that grants
    nothing beyond their entries."""

    def allows(self, event: Event) -> bool:
        """Return whether all policies allow another call of the same process."""
        return all(evaluate(policy, event).allows for _, policy in self.policies)

    @property
    def confines_files(self) -> bool:
        """Whether a policy has lines about files."""
        return any(policy.files.paths is not None for _, policy in self.policies)


class Verdicts:
    """Judges calls by the policies of a program."""

    def __init__(self, policies: Sequence[tuple[str, Policy]]) -> None:
        self._policies = policies
        names = [name for _, policy in policies for name, _ in phase_policies(policy) if policy.phases]
        self._start = START if names else ""
        self._until = dict(pairwise(names))
        """The next phase, by the name of each phase."""
        self._compared: dict[tuple[str, int, int], tuple[int, ...]] = {}
        """(phase, AUDIT_ARCH_*, number) -> the indexes of the arguments that the policies compare."""
        self._granted: dict[str, list[Policy]] = {}
        """By file: policies of the lines that were granted since the program began."""
        self._known: dict[tuple[object, ...], Verdict] = {}
        """(phase, AUDIT_ARCH_*, number, these arguments) -> the verdict on such calls."""

    @property
    def policies(self) -> list[Policy]:
        """The policies, with all their phases."""
        return [policy for _, policy in self._policies]

    def grant(self, rule: Rule) -> None:
        """Allow what lines of policies would allow, in every phase, until the program ends."""
        for file, line in rule:
            policy = parse(f"{line}\n").policy
            if policy.entries:
                self._granted.setdefault(file, []).append(policy)
        self._compared.clear()
        self._known.clear()

    def of(self, event: Event, phase: str) -> Verdict:
        """Judge a call of a process in a phase; "" means the start, or that there are no phases."""
        phase = phase or self._start
        call = phase, event.arch, event.number
        if call not in self._compared:
            self._compared[call] = self._compared_by(event, phase)
        arguments = event.arguments
        key = (*call, *[arguments[index] for index in self._compared[call]])
        verdict = self._known.get(key)
        if verdict is None:
            if len(self._known) >= _MAX_REMEMBERED:  # a program may vary the arguments
                self._known.clear()
            verdict = self._known[key] = self._judged(event, phase)
        return Verdict(event, *verdict[1:])

    def _compared_by(self, event: Event, phase: str) -> tuple[int, ...]:
        """Return the indexes of the arguments that the policies compare at calls of this number, in ascending order."""
        arch, indexes = Arch.from_audit(event.arch), set[int]()
        granted = [policy for policies in self._granted.values() for policy in policies]
        for policy in [*(policy for _, policy in self._in(phase)), *granted]:
            entry = resolved(policy).entries.get(arch, {}).get(event.number) if arch else None
            indexes |= mentioned(entry.expression) if entry else set()
        return tuple(sorted(indexes))

    def _in(self, phase: str) -> Files:
        return tuple((file, in_phase(policy, phase) if policy.phases else policy) for file, policy in self._policies)

    def _judged(self, event: Event, phase: str) -> Verdict:
        policies = self._in(phase)
        actions = [self._action(file, policy, event) for file, policy in policies]
        denying = tuple(policy for policy, action in zip(policies, actions, strict=True) if not action.allows)
        free = all(is_free(policy, event) for _, policy in policies)
        return Verdict(event, phase, self._until.get(phase, ""), strictest(actions), policies, denying, free)

    def _action(self, file: str, policy: Policy, event: Event) -> Action:
        granted = self._granted.get(file, ())
        return ALLOW if any(evaluate(added, event).allows for added in granted) else evaluate(policy, event)


def is_free(policy: Policy, event: Event) -> bool:
    """Return whether a policy has an implied set, and does not deny the call explicitly."""
    arch = Arch.from_audit(event.arch)
    if arch is None or not policy.implied or arch not in policy.entries:
        return False
    entry = policy.entries[arch].get(event.number)
    return entry is None or entry.only_allows


class Advice(NamedTuple):
    """How to allow a call in one policy."""

    file: str
    """The path of the policy."""
    what: str
    """The advice as one line for a person."""
    line: str
    """The entry to add to the policy, on one line; after a line `arch NAME` if it does not belong to the first section; "" if
    no entry would allow the call."""
    until: str = ""
    """The phase that ends what `line` allows; "" for none."""
    command: str = ""
    """The shell command that adds the entry; "" if there is none."""
    note: str = ""
    """What has to be changed besides; "" for nothing."""

    def fields(self) -> dict[str, Any]:
        """Return the fields of a record: the policy, the line, and what the catalogue of lint says of it, null if nothing."""
        granted = self.line.replace(f" until {self.until}", "") if self.until else self.line  # no phase has to be declared
        return {"file": self.file, "line": self.line, "risk": risk_of(granted)}


def advise(policy: Policy, file: str, event: Event, until: str = "") -> Advice:
    """Return the advice how to allow a call in a policy, whose path is `file`; only until the phase `until`, if that is not "".

    The entry is the one that `learn` would write, which generalises: pointers and sizes, for instance, may have any value
    unless the policy's entry constrains them already."""
    arch = Arch.from_audit(event.arch)
    if arch is None or event.number not in table(arch).by_number:
        return Advice(file, "no policy can allow it", "")
    calls, number = table(arch), event.number
    if opens_others(policy, arch, number):
        return Advice(file, f"to allow it, edit {file} by hand: {OPENING}", "")
    section = policy.entries.get(arch)
    present = section.get(number) if section else None
    held = constrained(present.expression) if present else frozenset()
    plain = calls.by_number[number].arguments
    arguments = (
        argument.value(register) if value is None and index in held else value
        for index, (argument, register, value) in enumerate(
            zip(plain, event.arguments, recorded_values(calls, event), strict=False)
        )
    )
    observation = Observation(event.arch, number, tuple(arguments), "", (1,), "", event.arguments)
    learning = Options(allow_opaque=(calls.by_number[number].name,), implied=policy.implied)
    judged = sort_out(present, unnamed(policy, arch, number), (observation,), calls)
    extended = extend(present, judged, calls, learning)
    if extended.refused or extended.entry is None:
        return Advice(file, f"{file} denies it explicitly", "")
    entry = extended.entry
    if extended.added and entry.action == ALLOW and entry.otherwise is None:
        entry = Entry(Or(extended.added) if len(extended.added) > 1 else extended.added[0])
    line, staged = (" ".join(format_entry(arch, number, entry, phase).split()) for phase in ("", until))
    is_first = arch is next(iter(policy.entries), None)
    options = ("" if is_first else f"--arch {arch} ") + (f"--until {until} " if until else "")
    command = f"callfence allow {options}{file_word(file)} {word(line)}"
    note = ""
    if calls.by_number[number].name in SENDING and SIGNALS in scopes(policy.scope):
        note = f"to signal processes that the program has not started, also write `scope none` in {file}"
    return Advice(file, f"to allow it: {command}", staged if is_first else f"arch {arch}\n{staged}", until, command, note)


def rule_of(verdict: Verdict) -> Rule:
    """Return the lines that would allow a denied call: one for each policy that denies it; () if a policy denies it explicitly,
    or no line would allow it."""
    advice = [advise(policy, file, verdict.event, verdict.until) for file, policy in verdict.denying]
    return tuple((each.file, each.line) for each in advice) if all(each.line for each in advice) else ()


def granting(file: str, lines: Sequence[str]) -> Advice:
    """Return the advice to add lines about files and ports to a policy, whose path is `file`."""
    command = f"callfence allow {file_word(file)} {' '.join(word(line) for line in lines)}"
    return Advice(file, f"to grant it: {command}", "\n".join(lines), command=command)


def risk_of(line: str) -> dict[str, str] | None:
    """Return what the catalogue of lint says of a line that is added to a policy: level and id of the most serious row, and
    what it grants; None if there is none, or if the line cannot be judged."""
    from callfence.policygen.lint.files import risks_of
    from callfence.policygen.lint.findings import about_files, grants
    from callfence.policygen.sets.algebra import TooComplexError
    from callfence.policygen.sets.region import Budget

    try:
        document = parse(f"{line}\n")
        findings = [*grants(document, Budget()), *about_files(document, risks_of(document.policy.files))]
    except (UserError, TooComplexError):
        return None
    if not findings:
        return None
    worst = max(findings, key=lambda finding: finding.level.rank)
    return {"level": str(worst.level), "rule": worst.rule, "grants": worst.grants}
