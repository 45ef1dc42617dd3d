"""Policies with implied sets, reduced, united, merged, exported and linted: by what they mean."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from calls import parse

from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.comparing.reducing import reduce
from callfence.policygen.implied.resolve import narrowed, resolved
from callfence.policygen.language.normal import normal
from callfence.policygen.lint.findings import lint
from callfence.policygen.merging import merge_documents, unite
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch

if TYPE_CHECKING:
    from pathlib import Path

    from callfence.policygen.model import Policy

TEXTS = (
    "implied 1\n",
    "implied 1\nopenat: flags == O_RDONLY\nexecve: allow\n",
    "implied 1\numask: deny\nread: fd == 0 else kill\naccept4: flags == 0\n",
    "umask: allow\nexecve: allow\nlseek: whence == SEEK_SET\n",
    "umask: deny\nopenat: flags == O_RDONLY|O_CLOEXEC\nread: fd <= 9\n",
)
PAIRS = [(a, b) for a in TEXTS for b in TEXTS if a != b and "implied" in a + b]


def policy(text: str) -> Policy:
    return parse(text).policy


def less(old: Policy, new: Policy) -> list[str]:
    return [str(one.example) for one in compare(old, new).differences if one.change is Change.LESS]


@pytest.mark.long
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_reduced_policy_means_what_its_expansion_reduced_does(a: str, b: str) -> None:
    one, by = policy(a), policy(b)
    made = reduce(one, by)
    assert made.implied == one.implied
    assert not compare(made, reduce(resolved(one).written(), resolved(by).written())).differences
    assert reduce(made, by) == made


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_union_allows_what_either_does(a: str, b: str) -> None:
    made = unite(parse(a), parse(b)).policy
    assert made.implied == 1
    assert not less(policy(a), made)
    assert not less(policy(b), made)


@pytest.mark.parametrize(("base", "changed"), PAIRS)
def test_a_change_of_one_side_alone_is_the_merge(base: str, changed: str) -> None:
    """Also one that adds the line or takes it out."""
    for ours, theirs in ((changed, base), (base, changed), (changed, changed)):
        merged, conflicts = merge_documents(parse(base), parse(ours), parse(theirs))
        assert not conflicts
        assert merged.policy == policy(changed)


def test_changes_of_both_sides_are_merged() -> None:
    base = "umask: allow\nopenat: flags == O_RDONLY|O_CLOEXEC\n"
    ours, theirs = f"implied 1\n{base}", base.replace("umask: allow", "umask: deny") + "execve: allow\n"
    merged, conflicts = merge_documents(parse(base), parse(ours), parse(theirs))
    assert not conflicts
    meant = "implied 1\numask: deny\nopenat: flags == O_RDONLY|O_CLOEXEC\nexecve: allow\n"
    assert not compare(merged.policy, policy(meant)).differences


@pytest.mark.parametrize(
    ("own", "meant", "entries"),
    [
        ("", "umask: deny", ["umask: deny"]),
        ("", "umask: errno EPERM", ["umask: errno EPERM"]),
        ("", "lseek: whence == SEEK_SET", ["lseek: whence == SEEK_SET else kill"]),
        ("openat: flags == O_RDONLY", "access: deny", ["access: deny", "openat: flags == O_RDONLY"]),
    ],
)
def test_narrowed_denies_what_is_not_meant_and_nothing_else(own: str, meant: str, entries: list[str]) -> None:
    whole = policy(f"implied 1\n{own}\n")
    less_of = policy(f"{meant}\n").entries[Arch.X86_64]
    target = resolved(whole)
    target = replace(target, entries={Arch.X86_64: {**target.entries[Arch.X86_64], **less_of}})
    made = normal(narrowed(whole, target))
    assert not compare(made, target.written()).differences
    assert made == normal(policy("\n".join(("implied 1", *entries, ""))))


@pytest.mark.parametrize("name", ["oci", "systemd", "kafel"])
def test_an_export_is_that_of_the_expansion(name: str, tmp_path: Path) -> None:
    document = parse(TEXTS[1])
    found = []
    whole = document.with_policy(resolved(document.policy).written())
    for folder, text in (("plain", document.text()), ("whole", whole.text())):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "it.policy").write_text(text)
        words = [sys.executable, "-m", "callfence", "export", "--to", name, "it.policy"]
        ran = subprocess.run(words, cwd=tmp_path / folder, capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stdout != "") == (0, True), ran.stderr
        found.append((ran.stdout, ran.stderr))
    assert found[0] == found[1]
    assert "getppid" in found[0][0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("implied 1\nwrite: fd == 2\n", ["write"]),
        ("implied 1\numask: allow\n", ["umask"]),
        ("implied 1\nwrite: fd == 2 else kill\numask: deny\ngetpid: errno EPERM\n", []),
        ("implied 1\nmmap: prot == PROT_READ|PROT_WRITE|PROT_EXEC\n", []),
        ("implied 1\nopenat: flags == O_RDONLY\n", []),
        ("implied 1\nopenat: flags == O_RDONLY\nnewfstatat: flag == 0\n", ["newfstatat"]),
        ("implied 1\nnewfstatat: flag == 0\n", []),
        ("write: fd == 2\n", []),
    ],
)
def test_entries_that_look_like_limits_are_found(text: str, found: list[str]) -> None:
    assert [one.name for one in lint(parse(text)) if one.rule == "implied-entry"] == found
