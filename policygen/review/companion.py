"""The companion of a policy, `NAME.evidence`: what its recording says, in a form that can be committed and reviewed.

    # What the calls of app.policy were seen to do: for people, never a rule.
    callfence evidence 1
    x86_64 openat(flags=O_RDONLY|O_CLOEXEC) by "/usr/bin/app": at="libc.so.6/openat64"
    x86_64 openat(flags=O_RDONLY|O_CLOEXEC) by "/usr/bin/app": filename="/etc/app.conf"

A line is one fact about the calls of one executable: where they came from (file and function), or what a pointer points to.
It has no dates, counts, pids and addresses, and names that vary are patterns, so the same behaviour gives the same bytes.
Lines may come in any order, and twice, so that git can merge two files by taking the lines of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from callfence.policygen.evidence.facts import join, parse, without_secrets
from callfence.policygen.evidence.words import SECRET
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_value
from callfence.policygen.recording.fold import arguments_given_up, without
from callfence.policygen.recording.model import Observation, Recording, Run, recorded_values
from callfence.policygen.review.why import parse_call, provenance
from callfence.policygen.versions import EVIDENCE, unknown
from callfence.tracer.abi import Arch, Argument, Event, Kind, name_of, table, table_of
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

MAGIC = f"callfence evidence {EVIDENCE}"
_VERSION = re.compile(r"callfence evidence ([0-9]{1,9})")
_LINE = re.compile(r'(?P<arch>\w+) (?P<call>\w+\([^"]*\)) by "(?P<executable>[^"]*)": (?P<fact>.*)')
_AT = "at="
"""Begins a fact about a call's place."""
_RUN = Run("", 0, (), None, False)
"""The only run of a companion's recording: a companion has no runs or counts, so each observation is counted once."""


class Companion(NamedTuple):
    """The content of a companion file."""

    observations: tuple[Observation, ...]
    """The observations, with the calls' places among their evidence, and only the bits of registers that a policy can
    compare."""
    unread: tuple[int, ...]
    """The numbers of lines that could not be read."""

    @property
    def recording(self) -> Recording:
        """The companion as a recording of one run without a name or counts."""
        return Recording((_RUN,) if self.observations else (), tuple(map(_shown, self.observations)))


def is_companion(recording: Recording) -> bool:
    """Return whether a recording was read from a companion, so that its counts and its run mean nothing."""
    return any(not run.id for run in recording.runs)


def read(text: str, filename: str) -> Companion:
    """Return the companion in a file's text.  Raises UserError if the text is not a companion."""
    lines = text.splitlines()
    versions = [int(match[1]) for match in map(_VERSION.fullmatch, map(str.strip, lines)) if match]
    if other := [version for version in versions if version != EVIDENCE]:
        raise UserError(f"{filename}: evidence whose {unknown(other[0], EVIDENCE)}")
    if not versions:
        what = "is not a file of evidence, which `learn --write-evidence` writes"
        raise UserError(f"{filename}: {what}: it has no line `{MAGIC}`")
    observations, unread = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#") or line.strip() == MAGIC:
            continue
        observation = _observation(line)
        if observation is None:
            unread.append(number)
        else:
            observations.append(observation)
    return Companion(united(observations), tuple(unread))


def text(observations: Iterable[Observation], name: str) -> str:
    """Return the content of NAME.evidence: what `observations` were seen to do, one sorted line each.  `name` is the policy's,
    for the first line."""
    lines = sorted(line for observation in observations for line in _lines(observation))
    head = (f"# What the calls of {name} were seen to do: for people, never a rule.  `learn` keeps it up to date.", MAGIC)
    note = f"# {SECRET} replaces what looks like a key, a token or a password."
    notes = [note] if any(SECRET in line for line in lines) else []
    return "".join(f"{line}\n" for line in (*head, *notes, *lines))


def reduced(observation: Observation, executable: str, place: str) -> Observation | None:
    """Return the observation as a companion keeps it; None if the tables do not have the call.  `executable` and `place`, its
    call site's file and function, are the same from run to run."""
    calls = table_of(observation.arch, observation.number)
    if calls is None:
        return None
    registers = []
    for argument, value in zip(
        calls.arguments(observation.number, observation.example), observation.fitted(calls).arguments, strict=True
    ):
        if argument.kind is Kind.TASK:
            registers.append(0 if value == 0 else argument.mask)  # the caller, or another, whose number varies
        else:
            registers.append(value & argument.mask if value is not None and argument.kind.is_constrained else 0)
    a, b, c, d, e, f = (*registers, *(0,) * (6 - len(registers)))
    event = Event(observation.arch, observation.number, (a, b, c, d, e, f))
    evidence = join((*map(without_secrets, observation.evidence), f'{_AT}"{place}"'))
    arguments = without(recorded_values(calls, event), arguments_given_up(observation.fitted(calls), calls))
    return Observation(observation.arch, observation.number, arguments, executable, (1,), "", event.arguments, evidence)


def united(observations: Iterable[Observation]) -> tuple[Observation, ...]:
    """Return the observations joined to one for each call and executable, in order."""
    by_key: dict[object, Observation] = {}
    for observation in observations:
        other = by_key.get(observation.key)
        by_key[observation.key] = (
            observation._replace(evidence=join((*other.evidence, *observation.evidence))) if other else observation
        )
    return tuple(sorted(by_key.values(), key=lambda observation: observation.order))


def fitting(document: Document, observations: Sequence[Observation]) -> tuple[Observation, ...]:
    """Return those of the united observations that a rule of the policy may come from."""
    recording = Recording((_RUN,) if observations else (), tuple(observations))
    used = {
        observation.key
        for arch, number, _ in document.policy.each()
        for source in provenance(document, recording, arch, number)
        if source.rule.action.allows
        for observation in source.observations
    }
    return tuple(observation for observation in observations if observation.key in used)


def _observation(line: str) -> Observation | None:
    """Return the observation of a line; None if the line cannot be read."""
    match = _LINE.fullmatch(line.strip())
    if match is None or match["arch"] not in [*Arch] or not line.isprintable() or parse(match["fact"]) is None:
        return None
    arch = Arch(match["arch"])
    try:
        event = parse_call(match["call"], arch)
    except ValueError:
        return None
    arguments = without(
        recorded_values(table(arch), event), _unwritten(match["call"], table(arch).by_number[event.number].arguments)
    )
    return Observation(arch.audit, event.number, arguments, match["executable"], (1,), "", event.arguments, (match["fact"],))


def _unwritten(call: str, arguments: Sequence[Argument]) -> list[int]:
    """Return the indexes of the arguments that the text of a call does not name: their values are not kept."""
    return [index for index, argument in enumerate(arguments) if not re.search(rf"[(, ]{argument.name}=", call)]


def _lines(observation: Observation) -> Iterator[str]:
    arch = Arch.from_audit(observation.arch)
    assert arch is not None
    call = _call(arch, observation, named=True)
    values = without(recorded_values(table(arch), parse_call(call, arch)), arguments_given_up(observation, table(arch)))
    is_right = values == observation.arguments
    call = call if is_right else _call(arch, observation, named=False)
    yield from (f'{arch} {call} by "{observation.executable}": {fact}' for fact in observation.evidence)


def _call(arch: Arch, observation: Observation, *, named: bool) -> str:
    """Return the text of the call with the arguments that are kept."""
    shown = []
    for argument, value in zip(
        table(arch).arguments(observation.number, observation.example), observation.arguments, strict=True
    ):
        if argument.kind is Kind.TASK and value is None:
            shown.append(f"{argument.name}=-1" if argument.signed else f"{argument.name}={argument.mask}")
        elif value is not None:
            shown.append(f"{argument.name}={format_value(arch, argument, value) if named else value}")
    return f"{name_of(arch, observation.number)}({', '.join(shown)})"


def _shown(observation: Observation) -> Observation:
    """Return the observation with its places as its call site: `libc.so.6 (openat64)`."""
    places = [parse(fact) for fact in observation.evidence if fact.startswith(_AT)]
    site = ", ".join(f"{place[2][0]} ({'/'.join(place[2][1:])})" if place[2][1:] else place[2][0] for place in places if place)
    return observation._replace(
        site=site or "?", evidence=tuple(fact for fact in observation.evidence if not fact.startswith(_AT))
    )
