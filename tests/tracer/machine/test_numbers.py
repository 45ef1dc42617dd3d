"""The numbers of system calls that are written down for `enforce`, against the tables."""

from __future__ import annotations

import pytest

from callfence.tracer.abi import Arch, table
from callfence.tracer.machine.numbers import ARCHITECTURES, NUMBERS, column
from callfence.tracer.machine.x86_64 import X86


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_that_of_the_table(name: str) -> None:
    tables = [table(arch).by_name for arch in map(Arch.from_audit, ARCHITECTURES) if arch]
    assert NUMBERS[name] == tuple(known[name].number if name in known else -1 for known in tables)


def test_calls_that_an_architecture_lacks_are_left_out() -> None:
    assert "waitpid" not in column(Arch.X86_64.audit)
    assert X86().numbers_by_arch("waitpid", "write") == {Arch.X86_64.audit: (1,), Arch.I386.audit: (7, 4)}
    assert X86().calls("waitpid") == {(Arch.I386.audit, 7)}


def test_a_call_whose_number_is_not_written_down_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="io_uring_register"):
        X86().calls("write", "io_uring_register")
