"""Abilities that are dangerous only together."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.lint.catalogue import Level, abilities, combinations, combined, completed
from callfence.policygen.lint.findings import lint
from callfence.policygen.review.judgement import judge
from callfence.tracer.abi import Arch, table

TCP = "socket: family == AF_INET && type == SOCK_STREAM && protocol == 0"
WRITE = "openat: flags == O_WRONLY"
EXEC = "execve: allow"
MAP = "mmap: prot == PROT_READ|PROT_EXEC && flags == "
# What was there, what completes it, the combination.
COMPLETED = [
    ([EXEC, "dup2: allow", TCP], "connect: allow", "reverse-shell"),
    ([EXEC, "connect: allow", TCP], "fcntl: cmd == F_DUPFD", "reverse-shell"),
    ([EXEC, "dup3: allow"], "accept4: flags == 0", "bind-shell"),
    ([TCP], EXEC, "network-programs"),
    ([WRITE], "execveat: flags == 0", "write-then-run"),
    ([EXEC], "memfd_create: allow", "memory-program"),
    ([WRITE], f"{MAP}MAP_PRIVATE", "write-then-map"),
    ([f"{MAP}MAP_SHARED"], "openat: flags in O_RDWR|O_CREAT", "shared-code"),
    (["memfd_create: allow"], f"{MAP}MAP_SHARED", "shared-memory-code"),
    (["read: allow"], "process_vm_writev: allow", "inject"),
    (["mount: allow"], "unshare: unshare_flags == CLONE_NEWUSER", "namespace-mounts"),
    (["clone: clone_flags has CLONE_NEWNS"], "pivot_root: allow", "namespace-mounts"),
]


@pytest.mark.parametrize(("before", "after", "name"), COMPLETED, ids=[f"{name}-{after}" for _, after, name in COMPLETED])
def test_a_change_that_completes_a_combination_is_told_first(before: list[str], after: str, name: str) -> None:
    old, new = parse("\n".join(before)), parse("\n".join([*before, after]))
    assert [one.row.id for one in completed(old.policy, new.policy)] == [name]
    assert completed(new.policy, new.policy) == completed(new.policy, old.policy) == ()
    first = judge(old, new).headlines[0]
    assert (first.rule, first.name) == (name, after.partition(":")[0])


def test_every_combination_is_tested() -> None:
    assert {name for _, _, name in COMPLETED} == {row.id for row in combinations()}
    assert {row.level for row in combinations()} <= {Level.DANGER, Level.WARNING}


def test_the_rows_fit_together() -> None:
    known = {row.id for row in abilities()}
    assert all({*row.parts} <= known for row in combinations())
    assert known == {part for row in combinations() for part in row.parts}
    names = {name for arch in Arch for name in table(arch).by_name}
    assert all({*row.calls} <= names for row in abilities())


@pytest.mark.parametrize(
    "text",
    [
        f"{EXEC}\nconnect: allow\nsocket: family == AF_UNIX && type == SOCK_STREAM && protocol == 0",
        f"{TCP}\nconnect: allow\ndup2: allow",
        f"openat: flags == O_RDONLY\n{EXEC}",
        "ptrace: pid == 4",
        f"{WRITE}\nmmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE|MAP_ANONYMOUS",
        "unshare: unshare_flags == CLONE_NEWUTS\nmount: allow",
        f"{EXEC}\n{TCP}\nexecve: deny".partition("\n")[2],
    ],
)
def test_a_part_is_missing(text: str) -> None:
    assert combined(parse(text).policy) == ()


def test_the_implied_set_takes_part() -> None:
    text = f"{EXEC}\n{TCP}\nconnect: allow\n"
    assert [one.row.id for one in combined(parse(text).policy)] == ["network-programs"]
    (found,) = combined(parse(f"implied 1\n{text}").policy)
    assert (found.row.id, found.calls) == ("reverse-shell", ("connect", "dup2", "execve", "socket"))


def test_on_two_architectures_it_is_told_once() -> None:
    text = "\n".join(f"arch {arch}\n{WRITE}\n{EXEC}" for arch in (Arch.X86_64, Arch.AARCH64))
    assert [one.arch for one in combined(parse(text).policy)] == [Arch.X86_64]


def test_a_default_that_allows_all_is_told_as_such() -> None:
    old, new = parse("read: allow"), parse("default allow\nread: allow")
    assert [one.rule for one in judge(old, new).headlines] == ["default-allow"]


@pytest.mark.parametrize(
    ("reason", "accepted"), [("hooks", ""), ("write-then-run: hooks", "write-then-run: hooks"), ("rewrite-then-run", "")]
)
def test_only_a_reason_that_names_it_accepts_a_combination(reason: str, accepted: str) -> None:
    found = lint(parse(f"path ./a: read\n{WRITE}\nexecve: allow  # why: {reason}"))
    assert {one.rule: one.accepted for one in found} == {"write-then-run": accepted, "execute": reason}


def test_a_reason_is_new_unless_the_old_policy_has_it() -> None:
    bare, why, other = (parse(f"{WRITE}\nexecve: allow{end}") for end in ("", "  # why: a", "  # why: b"))
    key = (Arch.X86_64, "execve", "execute")
    assert [judge(old, why).reasons[key].is_new for old in (bare, why, other)] == [True, False, True]
