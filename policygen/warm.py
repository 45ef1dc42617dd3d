"""The filter for recording a program whose policy is known: what the policy allows runs, all else stops for the tracer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policygen import bpf
from policygen.compile import compile_policy
from policygen.floor import OPAQUE
from policygen.model import ALLOW, ENOSYS, Action, ActionKind, Always, Entry, Policy
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Mapping

WATCHED = ("clone", "ptrace", "prctl", "sched_getaffinity", "sched_setaffinity", "seccomp")
"""Calls at which a tracer has something to do, known or not."""

_NOTIFY = Action(ActionKind.NOTIFY)


def recording_filter(policy: Policy, stop: int) -> bytes:
    """The filter, as an array of struct sock_filter (8 bytes each, host byte order).  Raises CompileError.

    `stop` is what it returns for a call that is to be recorded (32 bits).

    What it lets run is exactly what the policy allows, less WATCHED; opaque calls that the policy fails with ENOSYS fail
    so without a stop.  Nothing else is answered here, so that the program runs as it would without a policy.
    """
    entries = {arch: _known(arch, section) for arch, section in policy.entries.items()}
    stopping = replace(policy, entries=entries, default=_NOTIFY, unknown=_NOTIFY)
    instructions = bpf.decode(compile_policy(stopping, report=True))
    notify = bpf.ret(_NOTIFY)
    return bpf.encode(
        [one._replace(k=stop) if one.code == bpf.RET | bpf.K and one.k == notify else one for one in instructions]
    )


def _known(arch: Arch, section: Mapping[int, Entry]) -> dict[int, Entry]:
    names = {number: table(arch).by_number[number].name for number in section}
    known = {}
    for number, entry in section.items():
        opaque = names[number] in OPAQUE and entry == Entry(Always(True), ENOSYS)
        if opaque or (entry.action == ALLOW and names[number] not in WATCHED):
            known[number] = entry if opaque else Entry(entry.expression)
    return known
