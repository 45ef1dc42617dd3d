"""The names that /etc/hosts gives to addresses, for `enforce` and for `learn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from callfence.enforcer.hosts.names import known
from callfence.learning.hosts.names import LOOPBACK, _names_of

if TYPE_CHECKING:
    from pathlib import Path

V4, V6 = LOOPBACK


@pytest.mark.parametrize(
    ("text", "of_v4", "of_v6"),
    [
        ("127.0.0.1 localhost\n127.0.0.1 vm\n", ["localhost", "vm"], ["localhost"]),
        ("::1 ip6-localhost localhost\n", ["localhost"], ["ip6-localhost", "localhost"]),
        ("127.0.0.1 localhost\n::1 localhost\n", ["localhost"], ["localhost"]),
        ("127.0.0.1 vm\n192.0.2.1 localhost\n", ["vm"], []),
        ("", [], []),
    ],
)
def test_both_loopback_addresses_are_localhost_if_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, of_v4: list[str], of_v6: list[str]
) -> None:
    """Otherwise `enforce` denies what `learn` has written `tcp connect localhost` for: curl tries ::1 in any case."""
    file = tmp_path / "hosts"
    file.write_text(text)
    monkeypatch.setattr(known, "_HOSTS", str(file))
    names = known.Names(())
    assert (names.of(V4), names.of(V6)) == (of_v4, of_v6)
    learned = _names_of([line.split() for line in text.splitlines()])
    assert all(learned.get(address, "") in (*names.of(address), "") for address in LOOPBACK)
