"""What shellcodes ask for, under the implied set alone, and under policies learned with it and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shellcodes import SHELLCODES, Shellcode

from callfence.policygen.language.document import parse, parse_file

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Commands

PROGRAMS = {
    "cat": ("cat", "/etc/hostname"),
    "sort": ("sort", "-o", "sorted", "/etc/passwd"),
    "sh": ("sh", "-c", "echo one > made; ls | sort"),
    "python": ("python3", "-c", "import json; open('made', 'w').write(json.dumps([1]))"),
}


@pytest.mark.parametrize("code", SHELLCODES, ids=lambda code: code.name)
def test_the_implied_set_alone_stops_it(code: Shellcode) -> None:
    assert code.is_stopped(parse("implied 1\n").policy)


@pytest.mark.parametrize("program", PROGRAMS)
def test_as_much_is_stopped_as_by_an_exact_policy(program: str, commands: Commands, tmp_path: Path) -> None:
    """But for those that only read or write files, of which a program that does so may be learned to do more."""
    policies = []
    for flags in (("--exact",), ()):
        file = tmp_path / f"{program}{len(policies)}.policy"
        assert commands.learn(file, PROGRAMS[program], tmp_path, *flags).returncode == 0
        policies.append(parse_file(file).policy)
    exact, implied = ({code.name for code in SHELLCODES if code.is_stopped(one)} for one in policies)
    assert policies[1].implied
    assert len(exact) > 30
    assert exact - implied <= {code.name for code in SHELLCODES if code.only_reads_or_writes}
