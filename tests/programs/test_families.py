"""Families of calls that grant nothing: a program that is learned with one member may make the others, but not what does more.

`policygen/implied/implied1.tsv` says why; tests/policygen/implied/test_families.py has more members, without a program.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

SOURCE = Path(__file__).parent / "families" / "families.c"
NO_SOCKET, NO_TERMINAL = "ENOTSOCK", "ENOTTY"
FAMILIES = (
    ("nothing", "peer", (NO_SOCKET,), "peer-descriptor"),
    ("nothing", "sectors read-only physical drive", (NO_TERMINAL,) * 4, "discard"),
    ("nothing", "drain", (NO_TERMINAL,), "break"),
    ("nothing", "not-dumpable", ("0",), "dumpable"),
    ("nothing", "no-timer signals", ("EINVAL", "0"), "processor-timer"),
    ("tcp", "linger no-delay only-6 is-only-6", ("0", "0", "0", NO_SOCKET), "tls"),
    ("tcp", "linger", ("0",), "filter"),
    ("routes", "extended strict", ("0", "0"), "join"),
    ("routes", "index", ("0",), "set-flags"),
    ("reads creates writes", "ignored both", ("0", "0"), "set-id"),
    ("reads creates writes", "ignored", ("0",), "direct"),
    ("creates folder", "sticky", ("0",), "set-id"),
    ("creates", "sticky", ("0",), "direct"),
    ("reads writes attribute", "named-attribute link-attribute", ("0", "0"), "direct"),
)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: f"{one[1]}, not {one[3]}")
def test_other_members_run_and_what_does_more_is_denied(
    commands: Commands, compile_c: Callable[..., Path], tmp_path: Path, family: tuple[str, str, tuple[str, ...], str]
) -> None:
    learned, others, results, more = family
    program, policy = compile_c(SOURCE), tmp_path / "families.policy"
    assert commands.learn(policy, [program, *learned.split()], tmp_path).returncode == 0
    enforced = commands.enforce(policy, [program, *learned.split(), *others.split()], tmp_path)
    assert [one["call"] for one in enforced.violations] == []
    printed = enforced.ran.stdout.decode().splitlines()[len(learned.split()) :]
    assert printed == [f"{word} {result}" for word, result in zip(others.split(), results, strict=True)]
    denied = commands.enforce(policy, [program, more], tmp_path)
    assert len(denied.violations) == 1
    assert denied.ran.returncode < 0
