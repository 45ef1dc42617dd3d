"""The kernel's constants, against its headers; and the reader of ELF headers: of both classes, and of files that only begin
like one."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from callfence.tracer import linux
from callfence.tracer.linux import PT_INTERP, PT_LOAD, PT_NOTE, elf_bits, elf_segments, privilege_lost

WIDE = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 2, 0, 0, 0)
WIDE += struct.pack("<IIQQQQQQ", PT_LOAD, 5, 0, 0x400000, 0x400000, 0x1000, 0x2000, 0x1000)
WIDE += struct.pack("<IIQQQQQQ", PT_NOTE, 4, 0x200, 0x400200, 0x400200, 0x24, 0x24, 4)
NARROW = b"\x7fELF\x01\x01\x01".ljust(28, b"\0") + struct.pack("<IIIHHHHHH", 52, 0, 0, 52, 32, 2, 0, 0, 0)
NARROW += struct.pack("<IIIIIIII", PT_LOAD, 0, 0x8000, 0x8000, 0x1000, 0x2000, 5, 0x1000)
NARROW += struct.pack("<IIIIIIII", PT_NOTE, 0x100, 0x8100, 0x8100, 0x24, 0x24, 4, 4)


def reading(content: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: content[offset : offset + size]


@pytest.mark.parametrize(
    ("content", "bits", "segments"),
    [
        (WIDE, 64, [(PT_LOAD, 0, 0x400000, 0x1000), (PT_NOTE, 0x200, 0x400200, 0x24)]),
        (NARROW, 32, [(PT_LOAD, 0, 0x8000, 0x1000), (PT_NOTE, 0x100, 0x8100, 0x24)]),
        (WIDE[:96], 64, [(PT_LOAD, 0, 0x400000, 0), (0, 0, 0, 0)]),
        (b"#!/bin/sh\n", 0, []),
        (b"\x7fELF\x03" + WIDE[5:], 0, []),
        (b"\x7fELF", 0, []),
        (b"", 0, []),
    ],
    ids=["64 bits", "32 bits", "cut off", "script", "unknown class", "four bytes", "empty"],
)
def test_segments(content: bytes, bits: int, segments: list[tuple[int, int, int, int]]) -> None:
    assert elf_bits(content) == bits
    assert list(elf_segments(reading(content))) == segments


def test_an_interpreter() -> None:
    content = Path(sys.executable).read_bytes()
    names = [content[offset : offset + size] for kind, offset, _, size in elf_segments(reading(content)) if kind == PT_INTERP]
    assert [b"/ld-" in name for name in names] == [True]


def test_many_headers_are_not_all_read() -> None:
    content = WIDE[:56] + b"\xff\xff" + WIDE[58:]
    assert len(list(elf_segments(reading(content)))) < 2000


HEADERS = (
    "stddef.h", "stdio.h", "errno.h", "elf.h", "signal.h", "sys/mman.h", "sys/socket.h", "netinet/in.h", "linux/ptrace.h",
    "linux/wait.h", "linux/seccomp.h", "linux/filter.h", "linux/prctl.h", "linux/sched.h", "linux/landlock.h", "linux/auxvec.h",
)  # fmt: skip
OTHERS = {
    "WALL": "__WALL", "INFO_SIZE": "sizeof(struct ptrace_syscall_info)", "BPF_JA": "BPF_JMP | BPF_JA",
    "INFO_IS_ERROR": "offsetof(struct ptrace_syscall_info, exit.is_error)", "BPF_INSTRUCTION": "sizeof(struct sock_filter)",
    "BPF_RET_K": "BPF_RET | BPF_K", "PROT_READ_WRITE": "PROT_READ | PROT_WRITE", "SIG_DFL": "(long)SIG_DFL",
    "MAP_SHARED_ANONYMOUS": "MAP_SHARED | MAP_ANONYMOUS", "SOCKADDR": "sizeof(struct sockaddr_storage)",
    "FAST_OPEN_ERROR": "EOPNOTSUPP", "PROTOCOL_ERROR": "EPROTONOSUPPORT", "FAMILY_ERROR": "EAFNOSUPPORT",
    "LANDLOCK_RULE_PATH_BENEATH": "LANDLOCK_RULE_PATH_BENEATH", "SIG_IGN": "(long)SIG_IGN",
}  # fmt: skip
"""Names that the headers do not have, or not as macros -> what they are there."""
OF_NO_HEADER = {
    "CALLFENCE_ENTER", "FUNCFLAG_CDECL", "FUNCFLAG_PYTHONAPI", "FUNCFLAG_USE_ERRNO", "KTHREADD", "LANDLOCK_RECORDS",
    "MAXSYMLINKS", "O_EMPTYPATH", "TYPE_CHECKING",
}  # fmt: skip


@pytest.mark.only_on("x86_64")  # signals are those of x86
def test_constants_are_those_of_the_headers(compile_c: Callable[..., Path], tmp_path: Path) -> None:
    """As far as the machine's headers have them: they may be older."""
    names = {name: value for name, value in vars(linux).items() if name.isupper() and isinstance(value, int)}
    names = {name: value for name, value in names.items() if not name.startswith("_") and name not in OF_NO_HEADER}
    names |= zip(("IPPROTO_MPTCP", "IPPROTO_SMC", "AF_SMC", "AF_RDS"), (*linux.TCP_PROTOCOLS, *linux.TCP_FAMILIES), strict=True)
    lines = ["#define _GNU_SOURCE", *(f"#include <{header}>" for header in HEADERS), "int main(void) {"]
    for name in names:
        printed = f'printf("%s %lld\\n", "{name}", (long long)({OTHERS.get(name, name)}));'
        lines += [printed] if name in OTHERS else [f"#ifdef {name}", printed, "#endif"]
    (tmp_path / "constants.c").write_text("\n".join([*lines, "return 0; }\n"]))
    done = subprocess.run([compile_c(tmp_path / "constants.c")], capture_output=True, text=True, check=True)
    found = {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}
    assert found == {name: value for name, value in names.items() if name in found}
    assert {name for name in names.keys() - found.keys() if not name.startswith(("LANDLOCK_", "SECCOMP_"))} <= {"IPPROTO_SMC"}


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "lost"),
    [
        (0o755, 1, 1, ""),
        (0o4755, 1, 0, "set-user-id"),
        (0o4755, 0, 1, ""),
        (0o6755, 1, 1, "set-user-id"),
        (0o6755, 0, 1, "set-group-id"),
        (0o2755, 0, 1, "set-group-id"),
        (0o2755, 1, 0, ""),
        (0o2745, 0, 1, ""),  # mandatory locking
        (0o2010, 0, 1, "set-group-id"),
    ],
)
def test_privilege_lost(mode: int, uid: int, gid: int, lost: str, tmp_path: Path) -> None:
    """`uid`, `gid`: what is added to the ids of the file's owner."""
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    owner = file.stat()
    assert privilege_lost(file, owner.st_uid + uid, owner.st_gid + gid) == lost
    file.unlink()
    assert privilege_lost(file, owner.st_uid + uid, owner.st_gid + gid) == ""


@pytest.mark.parametrize(
    ("register", "number"),
    [(0, 0), (7, 7), (0x7FFFFFFF, 0x7FFFFFFF), (0x80000000, -0x80000000), (0xFFFFFFFF, -1), (1 << 32, 0), (~99, -100)],
)
def test_a_register_as_an_int(register: int, number: int) -> None:
    assert linux.int_in(register) == number


@pytest.mark.parametrize("word", [-1, -2, 0, 1 << 62])
@pytest.mark.parametrize("error", [0, 3])
def test_a_word_of_ones_is_no_error(monkeypatch: pytest.MonkeyPatch, word: int, error: int) -> None:
    def requested(*words: object) -> int:
        assert words == (1, 7, 0x1000, None)
        linux.set_errno(error)
        return word

    monkeypatch.setattr(linux.functions, "ptrace", requested)
    linux.set_errno(5)
    if error and word == -1:
        with pytest.raises(ProcessLookupError):
            linux.peeked(1, 7, 0x1000)
    else:
        assert linux.peeked(1, 7, 0x1000) == word % (1 << 64)


def test_constants_that_are_newer_than_many_headers() -> None:
    """linux/landlock.h and linux/seccomp.h of Linux 6.18."""
    newer = {
        "LANDLOCK_ACCESS_FS_REFER": 1 << 13, "LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON": 1 << 1, "LANDLOCK_RULE_NET_PORT": 2,
        "LANDLOCK_RULE_PATH_BENEATH": 1, "LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET": 1 << 0, "LANDLOCK_SCOPE_SIGNAL": 1 << 1,
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
    }  # fmt: skip
    assert {name: getattr(linux, name) for name in newer} == newer
