"""Call sites: who called libc, not libc's own wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from callfence.judging.symbols import Symbols
from policygen.recording import recording_file
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

SOURCE = Path(__file__).parent / "programs" / "callers.c"


def test_a_call_site_is_the_caller_of_libc(commands: Commands, compile_c: Callable[..., Path], tmp_path: Path) -> None:
    program = compile_c(SOURCE)
    ran = commands.learn(tmp_path / "p.policy", [program], tmp_path)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, set[str]] = {}
    for seen in recording_file.load(tmp_path / ".callfence" / "p.rec").observations:
        if seen.executable == str(program):
            name = table(Arch.X86_64).by_number[seen.number].name
            found.setdefault(name, set()).add(Symbols().describe(seen.site).partition("(")[2].partition("+")[0])
    assert found["mkdir"] == {"directly"}
    assert "by_printing" in found["write"]
    assert {"by_a_stream", "by_a_folder"} <= found["openat"]
    assert "by_a_command" in found["wait4"]


def test_without_a_caller_it_is_the_call_itself(commands: Commands, compile_c: Callable[..., Path], tmp_path: Path) -> None:
    """As in the dynamic loader, and in programs of which nothing else is."""
    program = compile_c(SOURCE, "-static")
    commands.learn(tmp_path / "p.policy", [program], tmp_path)
    observations = recording_file.load(tmp_path / ".callfence" / "p.rec").observations
    assert all(seen.site.startswith(f"{program}+0x") for seen in observations if seen.executable == str(program))
