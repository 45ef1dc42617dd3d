"""Recordings as rows of the tables `runs`, `calls` and `observations`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from functools import lru_cache

from callfence.lake import keys
from callfence.lake.identity import Identity
from callfence.policygen.completeness import needed_by
from callfence.policygen.language.naming import format_expression
from callfence.policygen.learning.generalise import is_address
from callfence.policygen.learning.rule import expression
from callfence.policygen.model import Always
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.tracer.abi import Arch, table
from callfence.tracer.named import NamedTuple

Row = tuple[object, ...]
MAX_CACHED = 200_000
"""The most calls that are cached."""


class Call(NamedTuple):
    """What all observations of one call have in common, as columns."""

    call: str
    executable: str
    rule: str


class Calls:
    """A cache of the calls of recordings, and those that are new since `new` was read."""

    def __init__(self) -> None:
        self._calls: dict[object, Call] = {}
        self._new: dict[str, Row] = {}

    def of(self, observation: Observation) -> Call:
        arch = Arch.from_audit(observation.arch)
        # what learning takes for an address in a register of flags gives no rule: else that depends on the key
        key = (observation[:4], *[is_address(register, arch) for register in observation.example])
        known = self._calls.get(key)
        if known is None:
            if len(self._calls) >= MAX_CACHED:
                self._calls.clear()
            executable = keys.text(observation.executable)
            known = self._calls[key] = Call(keys.call_key(observation.key), executable, rule(observation))
        if known.call not in self._new:
            self._new[known.call] = call_row(known, observation)
        return known

    def new(self) -> list[Row]:
        """Return the rows of `calls` since the last time, and begin anew."""
        rows, self._new = [*self._new.values()], {}
        return rows


def rule(observation: Observation) -> str:
    """Return the rule that an observation needs, in the policy language; for other architectures than x86_64 with its name
    before it.  Empty for a call that every learned policy allows; any arguments for values that no call passes."""
    arch = Arch.from_audit(observation.arch)
    section = "" if arch is Arch.X86_64 else f"{arch or hex(observation.arch)} "
    if arch is None or observation.number not in table(arch).by_number:
        return f"{section}{observation.number}: allow"
    call = table(arch).by_number[observation.number]
    try:
        elements = needed_by(observation)
    except ValueError:
        elements = ()
    if elements is None:
        return ""
    condition = expression(elements, call.arguments)
    what = "allow" if condition == Always(True) else format_expression(arch, observation.number, condition)
    return f"{section}{call.name}: {what}"


def call_row(call: Call, observation: Observation) -> Row:
    where = str(Arch.from_audit(observation.arch) or hex(observation.arch))
    details = (observation.number, observation.name, observation.arguments, call.executable, observation.example)
    return (call.call, where, *details)


def run_row(run: Run, identity: Row) -> Row:
    line = recording_file.run_line(run).decode("ascii")
    details = (run.status, run.complete, run.warm, keys.text(run.rehearsed), len(run.gaps))
    command = keys.text(shlex.join(run.command))
    return (keys.text(run.id), run.started, *identity, command, *details, keys.completeness(run), line)


def observation_rows(recording: Recording, identity: Row, calls: Calls) -> Iterator[Row]:
    """Yield a row for each run that has made an observation's call."""
    heads = [(keys.text(run.id), run.started, *identity, keys.text(run.rehearsed)) for run in recording.runs]
    for observation in recording.observations:
        call = calls.of(observation)
        tail = (keys.text(observation.site), observation.example, _as_json(observation.evidence), _as_json(observation.after))
        for head, count in zip(heads, observation.counts, strict=True):
            if count:
                yield (call.call, *head, call.executable, call.rule, count, *tail)


@lru_cache(1 << 14)
def _as_json(values: tuple[object, ...]) -> str:
    return json.dumps(values)


def identity_row(identity: Identity) -> Row:
    """Return the columns of an identity."""
    host, version, policy = map(keys.text, identity)
    return (host, version, keys.version_order(identity.version), policy)
