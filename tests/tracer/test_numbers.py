"""The numbers of system calls that are written down for `enforce`, against the tables."""

from __future__ import annotations

import pytest

from tracer import linux
from tracer.abi import Arch, table


@pytest.mark.parametrize("name", linux.NUMBERS)
def test_a_number_is_that_of_the_table(name: str) -> None:
    tables = [table(arch).by_name for arch in (Arch.X86_64, Arch.I386)]
    assert linux.NUMBERS[name] == tuple(known[name].number if name in known else -1 for known in tables)


def test_calls_that_an_architecture_lacks_are_left_out() -> None:
    assert linux.numbers_by_arch("waitpid", "write") == {Arch.X86_64.audit: (1,), Arch.I386.audit: (7, 4)}
    assert linux.calls("waitpid") == {(Arch.I386.audit, 7)}
