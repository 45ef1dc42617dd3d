"""The table of constants: it is what the kernel's headers say, and values are written so that they read back."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from needed import require

from callfence.tracer.abi import constants
from callfence.tracer.abi.model import Arch

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "tracer/abi/constants.tsv"
FAMILIES = [(name, arch) for arch in Arch for name in constants.families()]


def read(text: str, family: constants.Family) -> int:
    """A value as the policy language reads it: names and numbers joined by `|`."""
    value = 0
    for word in text.split("|"):
        known = family.value(word)
        value |= int(word, 8 if re.fullmatch("0[0-7]+", word) else 0) if known is None else known
    return value


@pytest.mark.long
def test_the_table_is_what_the_headers_say() -> None:
    version = Path("/usr/include/linux/version.h")
    require("linux-libc-dev", "gcc")
    major, minor = re.findall(r"_(?:MAJOR|PATCHLEVEL) (\d+)", version.read_text())
    if f"of Linux {major}.{minor} " not in TABLE.read_text():
        pytest.skip(f"the table was generated from other headers than those of {major}.{minor}")
    command = [sys.executable, ROOT / "tools/generate_constants.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(("family", "arch"), FAMILIES)
def test_what_is_formatted_reads_back(family: str, arch: Arch) -> None:
    known = constants.family(family, arch)
    chance = random.Random(f"{family} {arch}")
    values = list(known.names.values())
    tried = [0, 1, 0xFFFFFFFF, *values]
    for _ in range(300 if values else 0):
        value = 0
        for part in chance.choices(values, k=chance.randint(1, 5)):
            value |= part
        tried += [value, value | 1 << chance.randrange(32), chance.getrandbits(32), chance.getrandbits(64)]
    for value in tried:
        assert read(known.format(value), known) == value, (known.format(value), value)
        if value >= 0:
            assert read(known.format_bits(value), known) == value, (known.format_bits(value), value)


@pytest.mark.parametrize(("family", "arch"), FAMILIES)
def test_every_name_is_found_and_every_value_has_one_canonical_name(family: str, arch: Arch) -> None:
    known = constants.family(family, arch)
    for name, value in known.names.items():
        assert re.fullmatch(r"[A-Za-z_]\w*", name)
        assert known.value(name) == constants.value(name, arch) == value
        canonical = known.name(value)
        assert canonical is not None
        assert known.names[canonical] == value
        first = next(candidate for candidate in known.names if known.names[candidate] == value)
        assert canonical == first


def test_no_name_stands_twice_in_a_family_and_families_stand_together() -> None:
    rows = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    assert [row for row, count in Counter((row[0], row[1]) for row in rows).items() if count > 1] == []
    blocks = [row[0] for row, before in zip(rows[1:], rows, strict=False) if row[0] != before[0]]
    assert [name for name, count in Counter(blocks).items() if count > 1] == []


def test_a_name_has_one_value_on_an_architecture() -> None:
    for arch in Arch:
        seen: dict[str, int] = {}
        for family in constants.families():
            for name, value in constants.family(family, arch).names.items():
                assert seen.setdefault(name, value) == value, (family, name)


VALUES = """
O_CLOEXEC            0x80000     0x80000     0x80000      0x80000
O_DIRECTORY          0x10000     0x10000     0x4000       0x4000
O_NOFOLLOW           0x20000     0x20000     0x8000       0x8000
O_DIRECT             0x4000      0x4000      0x10000      0x10000
O_LARGEFILE          0x8000      0x8000      0x20000      0x20000
AT_FDCWD             -100        -100        -100         -100
MADV_GUARD_INSTALL   102         102         102          102
TIOCSTI              0x5412      0x5412      0x5412       0x5412
TCGETS2              0x802c542a  0x802c542a  0x802c542a   0x802c542a
BLKGETSIZE64         0x80081272  0x80041272  0x80081272   0x80041272
CLONE_NEWUSER        0x10000000  0x10000000  0x10000000   0x10000000
CLONE_IO             0x80000000  0x80000000  0x80000000   0x80000000
F_ADD_SEALS          1033        1033        1033         1033
F_GETLK64            -           12          -            12
MAP_32BIT            0x40        0x40        -            -
PROT_BTI             -           -           0x10         -
ARCH_SET_FS          0x1002      0x1002      -            -
ETH_P_ALL            0x300       0x300       0x300        0x300
Q_GETQUOTA           0x80000700  0x80000700  0x80000700   0x80000700
RUSAGE_CHILDREN      -1          -1          -1           -1
SO_RCVTIMEO          20          20          20           20
TUNSETIFF            0x400454ca  0x400454ca  0x400454ca   0x400454ca
KVM_RUN              0xae80      0xae80      0xae80       -
SECCOMP_IOCTL_NOTIF_RECV 0xc0502100 0xc0502100 0xc0502100 0xc0502100
PROT_MTE             -           -           0x20         -
O_TMPFILE            0x410000    0x410000    0x404000     0x404000
PTRACE_GETVFPREGS    -           -           -            27
"""


@pytest.mark.parametrize("row", VALUES.strip().splitlines())
def test_values(row: str) -> None:
    name, *values = row.split()
    expected = [None if text == "-" else int(text, 0) for text in values]
    assert [constants.value(name, arch) for arch in Arch] == expected


@pytest.mark.parametrize(
    "name", ["", "NO_SUCH", "O_", "0x40", "64", "~0", "open_flags", "linux/fcntl.h", "O_RDONLY\t0"]
)
def test_what_is_no_name_has_no_value(name: str) -> None:
    assert constants.value(name, Arch.X86_64) is None


def test_a_family_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        constants.family("nonsense", Arch.X86_64)


@pytest.mark.parametrize(
    ("module", "prefixes"),
    [(socket, ("AF_", "SOCK_", "MSG_", "SHUT_", "IPPROTO_")), (os, ("SCHED_", "P_", "RTLD_", "MFD_", "EFD_", "TFD_"))],
)
def test_reviewed_values_are_those_of_the_c_library(module: object, prefixes: tuple[str, ...]) -> None:
    """Python's modules have them from the C library of this machine: a second source for what no uapi header has."""
    known = {name: constants.value(name, Arch.X86_64) for name in dir(module) if name.startswith(prefixes)}
    shared = {name: value for name, value in known.items() if value is not None}
    assert len(shared) > 10
    assert shared == {name: int(getattr(module, name)) for name in shared}


def test_signals_errors_and_limits_are_those_of_this_machine() -> None:
    signals = constants.family("signal", Arch.X86_64)
    for number in signal.Signals:
        if number not in (signal.SIGRTMIN, signal.SIGRTMAX):
            assert signals.name(number) == number.name
    errors = constants.family("errno", Arch.X86_64)
    numbers = {name: number for number, name in errno.errorcode.items() if number <= 133}  # EHWPOISON; newer kernels have more
    assert {name: errors.value(name) for name in numbers} == numbers
    assert [errors.name(number) for number in (11, 35, 95)] == ["EAGAIN", "EDEADLK", "EOPNOTSUPP"]
    assert constants.value("RLIMIT_NOFILE", Arch.X86_64) == resource.RLIMIT_NOFILE


FORMATTED = """
open_flags      0           O_RDONLY
open_flags      0x80041     O_WRONLY|O_CREAT|O_CLOEXEC
open_flags      0x4a        O_RDWR|O_CREAT|0x8
open_flags      0x101002    O_RDWR|O_SYNC
open_flags      0x1002      O_RDWR|O_DSYNC
open_flags      0x410002    O_RDWR|O_TMPFILE
open_flags      3           O_ACCMODE
dirfd           -100        AT_FDCWD
dirfd           7           7
prot            0           PROT_NONE
prot            3           PROT_READ|PROT_WRITE
map_flags       0x22        MAP_PRIVATE|MAP_ANONYMOUS
map_flags       0x100003    MAP_SHARED_VALIDATE|MAP_FIXED_NOREPLACE
map_flags       0x54040022  MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|MAP_HUGE_2MB
clone_flags     0x1200011   SIGCHLD|CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID
clone_flags     0x100       CLONE_VM
socket_type     0x80801     SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK
socket_type     7           0x7
socket_family   1           AF_UNIX
futex_op        0x80        FUTEX_WAIT_PRIVATE
futex_op        0x189       FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME
sched_policy    0x40000001  SCHED_FIFO|SCHED_RESET_ON_FORK
quota_cmd       0x80000700  Q_GETQUOTA|USRQUOTA
file_mode       0o20666     S_IFCHR|0666
file_mode       0o4755      S_ISUID|0755
inotify_mask    0x18        IN_CLOSE
personality     0x40000     PER_LINUX|ADDR_NO_RANDOMIZE
personality     0xffffffff  0xffffffff
errno           11          EAGAIN
errno           4000        4000
signal          17          SIGCHLD
ioctl           0x541b      FIONREAD
ioctl           0x12345678  0x12345678
at_flags        0           0
"""


@pytest.mark.parametrize("row", FORMATTED.strip().splitlines())
def test_format(row: str) -> None:
    family, value, text = row.split()
    assert constants.family(family, Arch.X86_64).format(int(value, 0)) == text


def test_masks_tell_fields_from_bits() -> None:
    flags = constants.family("open_flags", Arch.X86_64)
    assert [flags.mask(name) for name in ("O_RDWR", "O_ACCMODE", "O_CREAT")] == [3, 0, 0]
    assert constants.family("errno", Arch.X86_64).mask("EPERM") == ~0
    with pytest.raises(KeyError):
        flags.mask("EPERM")


def test_a_mask_names_no_zero() -> None:
    assert constants.family("open_flags", Arch.X86_64).format_bits(0x80040) == "O_CREAT|O_CLOEXEC"
    assert constants.family("prot", Arch.X86_64).format_bits(0) == "0"
