"""The start policies, with which `learn --from NAME` begins (docs/start-policies.md); they are installed with callfence."""

from __future__ import annotations

from pathlib import Path

from callfence.policygen.recording import atomic
from callfence.tracer.abi import NATIVE, Arch
from callfence.tracer.errors import UserError

FOLDER = Path(__file__).parent.parent / "start_policies"
"""NAME.policy for each name; samples/start is a link to it."""


def names() -> list[str]:
    """Return the names of the start policies, ascending."""
    return sorted(path.stem for path in FOLDER.glob("*.policy"))


def begin(name: str, policy: Path) -> None:
    """Write the start policy `name` to `policy`: carried to this machine, if it is none of x86_64, for which they are.  Raises
    UserError if there is none, or if `policy` exists."""
    if name not in names():
        raise UserError(f"--from {name}: there is no such start policy; there are {', '.join(names())}")
    if policy.exists():
        raise UserError(f"{policy}: --from begins a policy, and this one exists; without --from, learn adds to it")
    start = FOLDER / f"{name}.policy"
    atomic.write(policy, start.read_bytes() if NATIVE is Arch.X86_64 else carried(start, NATIVE).encode())


def carried(start: Path, target: Arch) -> str:
    """Return the text of a start policy with the section of another architecture in place of its own."""
    from callfence.policygen.equivalents.carry import carry
    from callfence.policygen.language.document import Document, parse_file
    from callfence.policygen.values import replace
    from callfence.shared.carried import with_comments

    before = parse_file(start)
    after = with_comments(before, carry(before.policy, Arch.X86_64, target))
    policy = replace(after.policy, entries={target: after.policy.entries[target]})
    return Document(policy, replace(after.layout, sections={target: after.layout.sections[target]})).with_policy(policy).text()
