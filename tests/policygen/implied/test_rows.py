"""The implied set and the capabilities, as data."""

from __future__ import annotations

import pytest

from policygen.implied.rows import capabilities, rows
from policygen.model import IMPLIED
from tracer.abi import Arch


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("version", IMPLIED)
def test_every_row_is_read_and_has_a_reason(version: int, arch: Arch) -> None:
    found = rows(version, arch)
    assert all(row.why for row in found)
    assert len(found) > 100


@pytest.mark.parametrize("arch", Arch)
def test_every_capability_says_what_it_gives(arch: Arch) -> None:
    assert all(one.why for one in capabilities(arch))
