"""An export differs from its policy exactly as its losses say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.formats import Direction
from callfence.policygen.model import Always, Entry
from callfence.policygen.values import replace
from callfence.tracer.abi import table

if TYPE_CHECKING:
    from callfence.policygen.formats import Exported
    from callfence.policygen.model import Policy

DIRECTIONS = {Change.MORE: Direction.WIDER, Change.LESS: Direction.NARROWER, Change.OTHER: Direction.OTHER}


def check(policy: Policy, exported: Exported, real: Policy) -> None:
    """Each difference between the policy and what its export really is must be in a loss, and each loss that names calls
    in a difference.  A loss without names may be about calls for which the policy has no entry."""
    told = {(loss.direction, call) for loss in exported.losses for call in loss.calls}
    unnamed = {loss.direction for loss in exported.losses if not loss.calls}
    found = set()
    for one in compare(policy, _explicit(real)).differences:
        direction, calls = DIRECTIONS[one.change], table(one.arch).by_number
        call = calls.get(one.example.number)
        if call is None or one.arch not in real.entries:
            no_call = call is None and one.example.number < max(calls)
            assert direction in unnamed or no_call, f"not told: {one}"
            continue
        found.add((direction, call.name))
        named = one.example.number in policy.entries[one.arch]
        assert (direction, call.name) in told or (direction in unnamed and not named), f"not told: {one}"
    upper = {(loss.direction, call) for loss in exported.losses if "an upper half" in loss.what for call in loss.calls}
    assert not told - upper - found, f"told, but not so: {sorted(told - upper - found)}"


def _explicit(policy: Policy) -> Policy:
    """The policy with an entry for every call of its table."""
    entries = {}
    for arch, section in policy.entries.items():
        known = [number for number in table(arch).by_number if not table(arch).is_newer(number, policy.table)]
        entries[arch] = {number: Entry(Always(True), policy.default) for number in known} | dict(section)
    return replace(policy, entries=entries)
