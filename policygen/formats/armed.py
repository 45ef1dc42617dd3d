"""Filters for programs that load one and then execute another program: bubblewrap, and the loader that `c` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats import ExportError
from policygen.formats.bpf import compiled
from policygen.formats.effect import NATIVE, losses, with_calls
from policygen.model import ENOSYS, Action, ActionKind
from policygen.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.formats import Addition, Loss
    from policygen.model import Policy


def armed(policy: Policy, target: str, calls: Mapping[str, str]) -> tuple[bytes, tuple[Loss, ...], tuple[Addition, ...]]:
    """Return the policy's filter, which also allows the target's own `calls` (name -> reason), its losses, and additions."""
    if NATIVE not in policy.entries:
        raise ExportError(f"the policy has no entries for {NATIVE}, and {target} is a program of that architecture")
    effect, added = with_calls(unheard(policy), calls)
    return compiled(effect), losses(policy, effect, target, added), added


def unheard(policy: Policy) -> Policy:
    """Return the policy as it works without a listener: `notify` becomes ENOSYS, as in the kernel (seccomp_unotify(2))."""

    def said(action: Action) -> Action:
        return ENOSYS if action.kind is ActionKind.NOTIFY else action

    entries = {
        arch: {
            number: replace(entry, action=said(entry.action), otherwise=entry.otherwise and said(entry.otherwise))
            for number, entry in section.items()
        }
        for arch, section in policy.entries.items()
    }
    return replace(policy, entries=entries, default=said(policy.default), unknown=said(policy.unknown))
