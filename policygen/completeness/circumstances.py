"""What all runs had in common, and what to run next: a policy learned from runs that are alike fits only runs like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.completeness.confidence import Unseen, unseen
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.recording.runs import Recording, Run

_STREAMS = (("input", "standard input"), ("output", "standard output"), ("error", "standard error"))
_OUTPUTS = ("a terminal", "a file", "a pipe", "/dev/null")
"""What programs write to, that behave differently on it, the commonest first."""
_PEERS = ("accept", "accept4", "connect", "socketpair")


def seen_only(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what was the same in every run, of what is known of them; none of no runs."""
    found = []
    by_kind: dict[str, list[str]] = {}
    for name, says in _STREAMS:
        (kind, *others) = sorted({getattr(run.circumstances, name) for run in runs}) or ("",)
        if kind and not others:
            by_kind.setdefault(kind, []).append(says)
    found += [f"{', '.join(says).replace(f', {says[-1]}', f' and {says[-1]}')} {kind}" for kind, says in by_kind.items()]
    users, locales = ({getattr(run.circumstances, name) for run in runs} for name in ("user", "locale"))
    if len(users) == 1 and "" not in users:
        found.append("as root" if users == {"root"} else "not as root")
    if len(locales) == 1 and "" not in locales:
        found.append(f"locale {min(locales)}")
    if len(runs) == 1 and runs[0].complete:
        found.append("one start")
    return tuple(found)


def run_next(recording: Recording) -> tuple[str, ...]:
    """Return what to run next, the most useful first: each follows `run it`.

    Whether a peer hung up, or a call failed, no recording knows: it has the calls, not their results."""
    runs, missing = recording.runs, unseen(recording)
    if not runs:
        return ()
    steps = {
        "from its start": Unseen.START in missing,
        "to its own exit": Unseen.SHUTDOWN in missing,
        "again, on the data that it left": len(runs) == 1,
        "with other arguments": Unseen.VARIETY in missing,
        "so that it fails": Unseen.FAILURE in missing,
        "with a peer that hangs up": _has_peers(recording),
        "with signals that it handles": Unseen.SIGNAL in missing,
        **dict.fromkeys(_other_outputs(runs), True),
        "as another user than root": {run.circumstances.user for run in runs} == {"root"},
        "in another locale": len({run.circumstances.locale for run in runs}) == 1 and runs[0].circumstances.locale != "",
    }
    return tuple(step for step, is_useful in steps.items() if is_useful)


def _other_outputs(runs: Sequence[Run]) -> tuple[str, ...]:
    """What standard output has not been, if it is known what it was."""
    outputs = {run.circumstances.output for run in runs}
    others = [kind for kind in _OUTPUTS if kind not in outputs]
    return (f"with its output to {', '.join(others)}",) if others and "" not in outputs else ()


def _has_peers(recording: Recording) -> bool:
    """Whether it had connections: an error of one is a result, which is not recorded."""
    for seen in recording.observations:
        arch = Arch.from_audit(seen.arch)
        call = table(arch).by_number.get(seen.number) if arch else None
        if call is not None and call.name in _PEERS:
            return True
    return False
