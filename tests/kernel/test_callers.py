"""Call sites: who called libc, not libc's own wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import native

from callfence.judging.sites import Symbols
from callfence.policygen.recording import recording_file
from callfence.tracer.abi import NATIVE, Arch, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

INOTIFY = "inotify_init()" if native("inotify_init") == "inotify_init" else "inotify_init1(flags=0)"
SOURCE = Path(__file__).parent / "programs" / "callers.c"


def test_a_call_site_is_the_caller_of_libc(commands: Commands, compile_c: Callable[..., Path], tmp_path: Path) -> None:
    program = compile_c(SOURCE)
    ran = commands.learn(tmp_path / "p.policy", [program], tmp_path)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, set[str]] = {}
    for seen in recording_file.load(tmp_path / ".callfence" / "p.rec").observations:
        if seen.executable == str(program):
            name = table(NATIVE).by_number[seen.number].name
            found.setdefault(name, set()).add(Symbols().describe(seen.site).partition("(")[2].partition("+")[0])
    assert found[native("mkdir")] == {"directly"}
    assert "by_printing" in found["write"]
    assert {"by_a_stream", "by_a_folder"} <= found["openat"]
    assert "by_a_command" in found["wait4"]


def test_without_a_caller_it_is_the_call_itself(commands: Commands, compile_c: Callable[..., Path], tmp_path: Path) -> None:
    """As in the dynamic loader, and in programs of which nothing else is."""
    program = compile_c(SOURCE, "-static")
    commands.learn(tmp_path / "p.policy", [program], tmp_path)
    observations = recording_file.load(tmp_path / ".callfence" / "p.rec").observations
    assert all(seen.site.startswith(f"{program}+0x") for seen in observations if seen.executable == str(program))


def denying(commands: Commands, folder: Path) -> Path:
    """A policy that fails nearly all calls that come after the dynamic loader's."""
    policy = folder / "p.policy"
    commands.learn(policy, ["/bin/true"], folder, "--default", "errno EPERM")
    return policy


@pytest.mark.parametrize("flags", [(), ("--audit",), ("--no-evidence",)])
def test_enforce_names_the_caller_of_libc(
    commands: Commands, compile_c: Callable[..., Path], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    program, policy = compile_c(SOURCE), denying(commands, tmp_path)
    commands.learn(tmp_path / "all.policy", [program], tmp_path)
    learned = {
        (table(NATIVE).by_number[seen.number].name, seen.site.rpartition("/")[2].partition(" ")[0])
        for seen in recording_file.load(tmp_path / ".callfence" / "all.rec").observations
        if program.name in seen.site
    }
    log = commands.enforce(policy, [program], tmp_path, *flags).violations
    found = {one["call"].partition("(")[0]: one["site"] for one in log if one["executable"] == str(program)}
    assert ("openat", found["openat"]) in learned
    if NATIVE is Arch.AARCH64:  # libc's function calls no other: who called it is in a register
        assert found[native("mkdir")].startswith("libc.so.6+")
    else:
        assert (native("mkdir"), found[native("mkdir")]) in learned


def test_a_library_that_is_cut_short_does_not_end_the_helper(
    commands: Commands, compile_c: Callable[..., Path], tmp_path: Path
) -> None:
    """The program has a file of libc's name mapped, makes a call from it, and has cut the file to nothing before."""
    program, policy = compile_c(SOURCE.with_name("cut.c")), denying(commands, tmp_path)
    ran = commands.enforce(policy, [program, tmp_path / "libc.so.6"], tmp_path, "--audit")
    assert ran.ran.returncode == 0, ran.ran.stderr
    assert {one["call"]: one["site"].partition("+")[0] for one in ran.violations}[INOTIFY] == "libc.so.6"
    assert b"replaced" not in ran.ran.stderr
