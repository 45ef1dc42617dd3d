"""The start policies, with which `learn --from NAME` begins (docs/start-policies.md); they are installed with callfence."""

from __future__ import annotations

from pathlib import Path

from callfence.policygen.recording import atomic
from callfence.tracer.errors import UserError

FOLDER = Path(__file__).parent.parent / "start_policies"
"""NAME.policy for each name; samples/start is a link to it."""


def names() -> list[str]:
    """Return the names of the start policies, ascending."""
    return sorted(path.stem for path in FOLDER.glob("*.policy"))


def begin(name: str, policy: Path) -> None:
    """Write the start policy `name` to `policy`.  Raises UserError if there is none, or if `policy` exists."""
    if name not in names():
        raise UserError(f"--from {name}: there is no such start policy; there are {', '.join(names())}")
    if policy.exists():
        raise UserError(f"{policy}: --from begins a policy, and this one exists; without --from, learn adds to it")
    atomic.write(policy, (FOLDER / f"{name}.policy").read_bytes())
