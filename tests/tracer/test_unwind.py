"""Unwind tables: those of libc are read, and damaged ones end a walk and nothing else."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from callfence.tracer.unwinding import callers, tables
from callfence.tracer.unwinding.callers import Registers, outside
from callfence.tracer.unwinding.maps import Maps
from callfence.tracer.unwinding.tables import Row, Tables

LINES = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line]
REFUSED = (ValueError, LookupError, StopIteration, struct.error)
needs_glibc = pytest.mark.skipif(not LINES, reason="this interpreter runs without glibc")


def span(line: list[str]) -> tuple[int, int]:
    start, end = (int(part, 16) for part in line[0].split("-"))
    return start, end


def image(lines: list[list[str]]) -> bytearray:
    """What of a library is mapped and may be read, by address from its beginning."""
    begin = span(lines[0])[0]
    found = bytearray(span(lines[-1])[1] - begin)
    for line in lines:
        start, end = span(line)
        if line[1].startswith("r"):
            found[start - begin : end - begin] = ctypes.string_at(start, end - start)
    return found


def reading(data: bytes | bytearray) -> Callable[[int, int], bytes]:
    return lambda at, length: bytes(data[at : at + length]) if at >= 0 else b""


def code() -> range:
    """Places all over libc's code."""
    begin = span(LINES[0])[0]
    start, end = next(span(line) for line in LINES if "x" in line[1])
    return range(start - begin, end - begin, (end - start) // 500)


WHOLE = image(LINES) if LINES else bytearray()


@needs_glibc
def test_a_program_that_calls_from_everywhere_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_ROWS", 100)
    read = reading(WHOLE)
    of_libc = Tables(read)
    assert [of_libc.row(place, read) for place in code()] == [of_libc.row(place, read) for place in code()]
    assert len(of_libc._rows) <= 100


@needs_glibc
def test_the_tables_of_libc_are_understood() -> None:
    """Nearly all of its code: what is left is its start, signal frames and a little assembly."""
    read = reading(WHOLE)
    tables = Tables(read)
    rows = [tables.row(place, read) for place in code()]
    assert sum(row is not None for row in rows) > 450
    assert all(row is None or (row.ra == -8 and row.offset >= 8) for row in rows)


STEPS: list[tuple[str, Row | None]] = [
    ("", Row(True, 8, None, -8)),
    (".cfi_def_cfa_offset 16; .cfi_offset 6, -16", Row(True, 16, -16, -8)),
    (".cfi_remember_state; .cfi_def_cfa_register 6", Row(False, 16, -16, -8)),
    (".cfi_same_value 6", Row(False, 16, None, -8)),
    (".cfi_restore_state", Row(True, 16, -16, -8)),
    (".cfi_undefined 6", Row(True, 16, None, -8)),
    (".cfi_escape 0x05, 6, 5", Row(True, 16, -40, -8)),  # DW_CFA_offset_extended
    (".cfi_def_cfa 6, 32", Row(False, 32, -40, -8)),
    (".cfi_restore 6", Row(False, 32, None, -8)),
    (".cfi_undefined 16", None),
    (".cfi_escape 0x06, 16", Row(False, 32, None, -8)),  # DW_CFA_restore_extended
    (".skip 100, 0x90; .cfi_offset 6, -24", Row(False, 32, -24, -8)),
    (".skip 1000, 0x90; .cfi_offset 6, -32", Row(False, 32, -32, -8)),
    (".skip 100000, 0x90; .cfi_offset 6, -40", Row(False, 32, -40, -8)),
    (".cfi_escape 0x2e, 16; .cfi_escape 0x10, 3, 1, 0x30", Row(False, 32, -40, -8)),  # GNU_args_size, an expression for rbx
    (".cfi_def_cfa 3, 32", None),  # only rsp and rbp are followed
    (".cfi_def_cfa 7, 200", Row(True, 200, -40, -8)),
    (".cfi_escape 0x10, 6, 1, 0x30", None),  # rbp is where an expression says
]
"""Directives of the assembler, and what holds at the instruction after them."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, compile_c: Callable[..., Path]) -> tuple[bytearray, list[int]]:
    """A library of these steps, as it is mapped, and the place of each step."""
    lines = [f"{directives}\np{number}: .globl p{number}; nop" for number, (directives, _) in enumerate(STEPS)]
    source = tmp_path_factory.mktemp("steps") / "steps.s"
    source.write_text("\n".join([".cfi_startproc", *lines, ".cfi_endproc", '.section .note.GNU-stack,"",@progbits', ""]))
    library = compile_c(source, "-shared")
    code = ctypes.CDLL(str(library))
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(library) in line]
    addresses = [ctypes.cast(code[f"p{number}"], ctypes.c_void_p).value or 0 for number in range(len(STEPS))]
    return image(mapped), [address - span(mapped[0])[0] for address in addresses]


@pytest.mark.only_on("x86_64")
def test_each_instruction_of_tables_is_followed(steps: tuple[bytearray, list[int]]) -> None:
    data, places = steps
    of_library = Tables(reading(data))
    for place, (directives, row) in zip(places, STEPS, strict=True):
        assert of_library.row(place, reading(data)) == row, directives


COMMON = {
    4: 1,  # this is no CIE
    8: 3,  # its version
    9: ord("x"),  # its augmentation, "zR"
    10: ord("S"),  # of a signal handler's frame
    13: 0x7C,  # the factor of offsets, -4
    14: 15,  # the column of the return address
    16: 0x1C,  # how places are encoded
}
"""What is wrong with a Common Information Entry whose byte at an index is this one."""


@pytest.mark.only_on("x86_64")
def test_entries_of_another_kind_are_not_decoded(steps: tuple[bytearray, list[int]]) -> None:
    data, places = steps
    at = data.index(struct.pack("<IB", 0, 1) + b"zR\0\x01\x78\x10\x01\x1b") - 4
    assert Tables(reading(data)).row(places[0], reading(data)) == STEPS[0][1]
    for index, byte in COMMON.items():
        changed = bytearray(data)
        changed[at + index] = byte
        assert Tables(reading(changed)).row(places[0], reading(changed)) is None, index


@pytest.mark.only_on("x86_64")
def test_a_page_that_could_not_be_read_is_read_again(steps: tuple[bytearray, list[int]]) -> None:
    """The task was dying, and another one has the same library."""
    data, places = steps
    of_library, whole = Tables(reading(data)), reading(data)
    of_library._pages.clear()
    assert of_library.row(places[0], lambda at, size: b"") is None
    assert [of_library.row(place, whole) for place in places[1:]] == [row for _, row in STEPS[1:]]


@needs_glibc
@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=400), st.integers(0, 1 << 30))
def test_damaged_tables_do_no_harm(changes: list[tuple[int, int]], cut: int) -> None:
    """Also where the program unmaps them while they are read."""
    data = bytearray(WHOLE)
    index = Tables(reading(data))._index
    for place, byte in changes:
        data[index + place % (len(data) - index)] = byte
    read = reading(data[: index + cut % (len(data) - index)] if changes[0][1] % 2 else data)
    try:
        tables = Tables(read)
    except REFUSED:
        return
    for place in code():
        row = tables.row(place, read)
        assert row is None or isinstance(row.offset, int)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x01" + bytes(5000), b"\x7fELF\x02" + bytes(5000), bytes(5000)])
def test_memory_without_tables_is_refused(content: bytes) -> None:
    with pytest.raises(REFUSED):
        Tables(reading(content))


words = st.integers(0, (1 << 64) - 1)
in_libc = st.integers(0, 1 << 21).map(lambda at: span(LINES[0])[0] + at)


@needs_glibc
@given(st.integers(0, 499), st.lists(words | in_libc, max_size=64), words)
def test_a_stack_of_any_content_is_walked_to_an_end(step: int, values: list[int], bp: int) -> None:
    begin, top = span(LINES[0])[0], 1 << 40
    stack = struct.pack(f"<{len(values)}Q", *values)

    def read(at: int, length: int) -> bytes:
        return stack[at - top : at - top + length] if at >= top else reading(WHOLE)(at - begin, length)

    found = outside(Maps(Path("/proc/self/maps").read_text()), Registers(begin + code()[step], top + 64, bp), read)
    assert found == 0 or found in values, "a return address that is on the stack"


def test_a_line_is_one_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    """The kernel escapes only the line feed (fs/proc/task_mmu.c); after the carriage return the name looks like a line."""
    path = tmp_path / "a\r7f0000000000-7f0000001000 r-xp 00000000 00:00 0 b\x1c\x85.so"
    path.write_bytes(b"x")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ):
        names = [mapped.file[2] for mapped in Maps.of(os.getpid()).all()]
    assert names.count(str(path)) == 1


def test_where_the_beginning_of_a_file_is_mapped() -> None:
    """Near before the mapping: a file that is mapped a second time, far above, begins there."""
    lines = [
        "1000-2000 r--p 00000000 00:01 1 /app",
        "2000-3000 r-xp 00001000 00:01 1 /app",
        "3000-4000 r-xp 00001000 00:01 2 /other",
        "9000-a000 r--p 00000000 00:01 1 /app",
    ]
    maps = Maps("".join(f"{line}\n" for line in lines))
    assert [maps.begin(mapped) for mapped in maps.all()] == [0x1000, 0x1000, 0, 0x9000]


def test_a_caller_outside_of_libc_is_found_by_the_frame_pointer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word of the stack is read alone: those beside it are not 0."""
    maps = Maps(
        "0000000000001000-0000000000002000 r-xp 00000000 00:01 1 /lib/libc.so.6\n"
        "0000000000005000-0000000000006000 r-xp 00000000 00:01 2 /bin/app\n"
    )
    rows = {0x1100: Row(True, 32, -24, -8), 0x1500: Row(False, 16, None, -8)}
    monkeypatch.setattr(callers, "_row", lambda _maps, _mapped, ip, _read: rows.get(ip + 1))
    top = 0x7000
    words = {top: 7, top + 8: top + 0x60, top + 16: 7, top + 24: 0x1500, top + 32: 7, top + 0x68: 0x5100, top + 0x70: 7}
    stack = b"".join(words.get(at, 0xAB).to_bytes(8, "little") for at in range(top, top + 0x100, 8))
    found = outside(maps, Registers(0x1100, top, 0), lambda at, length: stack[at - top : at - top + length])
    assert found == 0x5100
