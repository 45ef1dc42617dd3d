"""What the tally remembers is bounded, whatever a program does."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.tracer import tally
from callfence.tracer.abi import NATIVE, Event
from callfence.tracer.linux import PT_NOTE
from callfence.tracer.tally import Tally
from callfence.tracer.unwinding import site
from callfence.tracer.unwinding.maps import Maps


class Recorder:
    """One counter a call; each is the first of a new generation."""

    generation = 0

    def hot_mask(self, arch: int, number: int) -> int:
        return (1 << 448) - 1

    def counter(self, executable: str, event: Event, site: Any) -> list[Any]:
        self.generation += event.number % 3 == 0
        return [0, set()]

    def look(self, counter: list[Any], event: Event, caller: Any) -> bool:
        return event.number % 2 == 0


def test_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_KEYS", 32)
    counters = Tally(Recorder())  # type: ignore[arg-type]
    task: Any = SimpleNamespace(executable="/app", entered=0, tid=1, tgid=1, hot=counters.hot("/app", 0))
    for number in range(5000):
        arguments = (number, 0, 0, 0, 0, 0)
        info = bytearray(struct.pack("<4xIQ8xQ6Q", NATIVE.audit, 0, 1_000_000 + number, *arguments))
        counters.count(task, NATIVE.audit, 1_000_000 + number, info)
        kept = (task.hot, counters._to_look["/app"], counters._former["/app"])
        assert max(map(len, kept)) <= 2 * tally.MAX_KEYS
    assert counters.counts("/app")


def test_what_was_counted_under_masks_that_are_no_longer_valid_counts() -> None:
    counters = Tally(recorder := Recorder())  # type: ignore[arg-type]
    task: Any = SimpleNamespace(executable="/app", entered=0, tid=1, tgid=1, hot=counters.hot("/app", 0))

    def count(number: int) -> None:
        counters.count(task, NATIVE.audit, number, bytearray(struct.pack("<4xIQ8xQ6Q", NATIVE.audit, 0, number, *(0,) * 6)))

    for _ in range(7):
        count(1_000_000)
    before = counters.counts("/app")
    assert [*before.values()] == [7]
    count(1_000_002)  # the first of a new generation
    assert recorder.generation == 1 and counters.counts("/app").items() > before.items()


def test_build_ids_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "_builds", builds := {})
    for inode in range(5000):
        maps = Maps(f"1000-2000 r-xp 00000000 00:01 {inode}                  /no/such/file\n")
        assert site._named(1, maps, 0x1500) == "/no/such/file+0x500"
        assert len(builds) <= site._MAX_BUILDS


def test_a_build_id_is_found_behind_other_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(site, "_builds", {})
    notes = b"".join(
        struct.pack("<III", 4, len(content), kind) + b"GNU\0" + content.ljust(8, b"\0")
        for kind, content in ((1, b"12345"), (3, bytes.fromhex("abcdef0123")))
    )
    header = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", PT_NOTE, 4, 120, 120, 120, len(notes), len(notes), 4)
    (tmp_path / "app").write_bytes(header + notes)
    maps = Maps(f"1000-2000 r-xp 00000000 00:01 7                  {tmp_path}/app\n")
    assert site._named(os.getpid(), maps, 0x1500) == f"{tmp_path}/app+0x500 (abcdef0123)"
