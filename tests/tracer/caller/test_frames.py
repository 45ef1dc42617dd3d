"""Unwind tables: those of libc are read, and damaged ones end a walk and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.caller.frames import Tables

LIBC = Path("/proc/self/maps").read_text()
PATH = next((line.split()[-1] for line in LIBC.splitlines() if "/libc.so" in line and "r-xp" in line), "")
REFUSED = (OSError, ValueError, StopIteration, struct.error)


@pytest.mark.skipif(not PATH, reason="this interpreter runs without glibc")
def test_the_tables_of_libc_are_understood() -> None:
    """Nearly all of its code: what is left is its start, signal frames and a little assembly."""
    tables = Tables(PATH)
    start, size = next((offset, length) for kind, offset, _, length in tables._segments() if kind == 1 and offset > 4096)
    rows = [tables.row(offset) for offset in range(start, start + size, size // 500)]
    assert sum(row is not None for row in rows) > 450
    assert all(row is None or (row.ra == -8 and row.offset >= 8) for row in rows)


@pytest.mark.skipif(not PATH, reason="this interpreter runs without glibc")
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=400), st.integers(0, 1 << 30))
def test_damaged_tables_do_no_harm(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(Path(PATH).read_bytes())
    index = next(offset for kind, offset, _, _ in Tables(PATH)._segments() if kind == 0x6474E550)
    for place, byte in changes:
        data[index + place % (len(data) - index)] = byte
    path = tmp_path_factory.mktemp("damaged") / "libc"
    path.write_bytes(data[: index + cut % (len(data) - index)] if changes[0][1] % 2 else data)
    try:
        tables = Tables(str(path))
    except REFUSED:
        return
    for offset in range(0, len(data), len(data) // 200):
        tables.row(offset)
    path.unlink()


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x01" + bytes(60), b"\x7fELF\x02" + bytes(60), bytes(5000)])
def test_a_file_without_tables_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(REFUSED):
        Tables(str(tmp_path / "file"))
