"""What shellcodes ask for, under the implied set alone, and under policies learned with it and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from calls import event
from shellcodes import SHELLCODES, Shellcode

from policygen.evaluate import evaluate
from policygen.language.document import parse, parse_file

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Commands

    from policygen.model import Policy

PROGRAMS = {
    "cat": ("cat", "/etc/hostname"),
    "sort": ("sort", "-o", "sorted", "/etc/passwd"),
    "sh": ("sh", "-c", "echo one > made; ls | sort"),
    "python": ("python3", "-c", "import json; open('made', 'w').write(json.dumps([1]))"),
}


def is_stopped(policy: Policy, code: Shellcode) -> bool:
    return any(not evaluate(policy, event(call)).lets_run for call in code.calls)


@pytest.mark.parametrize("code", SHELLCODES, ids=lambda code: code.name)
def test_the_implied_set_alone_stops_it(code: Shellcode) -> None:
    assert is_stopped(parse("implied 1\n").policy, code)


@pytest.mark.parametrize("program", PROGRAMS)
def test_as_much_is_stopped_as_by_an_exact_policy(program: str, commands: Commands, tmp_path: Path) -> None:
    """But for those that only read or write files, of which a program that does so may be learned to do more."""
    policies = []
    for flags in (("--exact",), ()):
        file = tmp_path / f"{program}{len(policies)}.policy"
        assert commands.learn(file, PROGRAMS[program], tmp_path, *flags).returncode == 0
        policies.append(parse_file(file).policy)
    exact, implied = ({code.name for code in SHELLCODES if is_stopped(one, code)} for one in policies)
    assert policies[1].implied
    assert len(exact) > 30
    assert exact - implied <= {code.name for code in SHELLCODES if code.only_reads_or_writes}
