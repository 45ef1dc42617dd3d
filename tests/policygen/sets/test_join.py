"""Joining two entries of a call: what either allows, and nothing else."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.language.naming import format_entry
from callfence.policygen.sets.join import JoinError, join_entries
from callfence.tracer.abi import Arch, table

READ = table(Arch.X86_64).by_name["read"].number


def joined(a: str, b: str, default: str) -> str:
    """The entry of both, as text."""
    one, other = (parse(f"default {default}\nread: {text}\n").policy for text in (a, b))
    entries = [policy.entries[Arch.X86_64][READ] for policy in (one, other)]
    entry = join_entries(Arch.X86_64, READ, *entries, one.default)
    assert entry is not None
    whole = parse(f"default {default}\n{format_entry(Arch.X86_64, READ, entry)}\n").policy
    for policy in (one, other):
        assert Change.MORE not in [each.change for each in compare(whole, policy).differences]
    return format_entry(Arch.X86_64, READ, entry)


@pytest.mark.parametrize(
    ("a", "b", "default", "expected"),
    [
        ("fd == 1", "fd == 2", "kill", "read: fd == 1\n   || fd == 2"),
        ("errno EPERM if fd == 1", "errno EPERM if fd == 1 || fd == 2", "allow", "read: errno EPERM if fd == 1"),
        ("errno EPERM if fd == 1", "errno EPERM if fd == 2", "allow", "read: allow"),
        ("deny", "kill", "allow", "read: deny"),  # the default action, which allows
        ("kill if fd == 1", "deny", "allow", "read: deny"),
    ],
)
def test_join(a: str, b: str, default: str, expected: str) -> None:
    assert joined(a, b, default) == expected


@pytest.mark.parametrize(
    ("a", "b", "default"),
    [
        ("errno EPERM if fd == 1", "errno EACCES if fd == 2", "allow"),
        ("log if fd == 1", "fd == 2", "kill"),
        ("errno EPERM if fd == 1", "fd == 2", "kill"),
    ],
)
def test_what_must_be_joined_by_hand(a: str, b: str, default: str) -> None:
    with pytest.raises(JoinError):
        joined(a, b, default)
