"""The tables of system calls: complete, every argument with a kind somebody chose, joint meanings that refer to what exists."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needed import require

from callfence.tracer.abi import Arch, Argument, Kind, constants, table

ROOT = Path(__file__).resolve().parents[3]
HEADERS = {
    Arch.X86_64: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    Arch.I386: "/usr/include/x86_64-linux-gnu/asm/unistd_32.h",
    Arch.AARCH64: "/usr/include/aarch64-linux-gnu/asm/unistd_64.h",
    Arch.ARM: "/usr/include/arm-linux-gnueabihf/asm/unistd-eabi.h",
}
NUMBER = r"^#define __NR_(\w+) (?:\(__NR_SYSCALL_BASE \+ )?(\d+)\)?$"

JOINT = {"protocol", "optname"}
"""Arguments whose constants depend on another's value: joint.tsv."""
NAMELESS = {"sysfs option", "modify_ldt func", "iopl level", "ioperm turn_on", "vm86 cmd"}
"""Selectors whose values have no C names in the headers."""
FIELDLESS = {"ioprio_set ioprio"}
"""The class is shifted by a macro; no constant has the shifted value."""
RESERVED = {
    *("process_vm_readv", "process_vm_writev", "sched_setattr", "sched_getattr", "copy_file_range", "pkey_alloc"),
    *("pidfd_getfd", "process_madvise", "listns", "fchroot", "process_mrelease", "set_mempolicy_home_node"),
    *("cachestat", "lsm_set_self_attr", "lsm_list_modules", "mseal", "cacheflush"),
}
"""Calls for whose `flags` no bit is defined in Linux 7.3."""


def argument(arch: Arch, call: str, name: str, *registers: int) -> Argument:
    """An argument as the registers give it meaning."""
    syscalls = table(arch)
    number = syscalls.by_name[call].number
    meanings = syscalls.arguments(number, (*registers, *(0,) * (6 - len(registers))))
    return next(meaning for meaning in meanings if meaning.name == name)


@pytest.mark.parametrize("arch", Arch)
def test_every_number_of_the_headers_has_a_row(arch: Arch) -> None:
    path = Path(HEADERS[arch])
    require("linux-libc-dev")
    found = {
        name: int(number)
        for name, number in re.findall(NUMBER, path.read_text(), re.MULTILINE)
        if name != "syscalls"
    }
    rows = {name: call.number for name, call in table(arch).by_name.items()}
    own = 0xF0000  # __ARM_NR_BASE: the numbers that only arm has
    newest = max(number for number in rows.values() if number < own)
    known = {name: number for name, number in found.items() if number <= newest or number >= own}  # headers may be newer
    assert len(known) > 300
    assert {name: rows.get(name) for name in known} == known


@pytest.mark.parametrize("arch", Arch)
def test_numbers_are_those_of_libseccomp(arch: Arch) -> None:
    """libseccomp generates its numbers from the kernel's tables too, but on its own."""
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    wrong = {}
    for name, call in table(arch).by_name.items():
        number = resolve(arch.audit, name.encode())
        if number >= 0 and number != call.number:
            wrong[name] = (number, call.number)
    assert not wrong


@pytest.mark.parametrize("arch", Arch)
def test_rows_are_consistent(arch: Arch) -> None:
    syscalls = table(arch)
    assert len(syscalls.by_number) == len(syscalls.by_name)
    for call in syscalls.by_number.values():
        names = [one.name for one in call.arguments]
        assert len(names) <= 6 and len(set(names)) == len(names), call
        for one in call.arguments:
            assert one.width in (8, 16, 32, 64) and one.width <= arch.bits, (call.name, one)
            assert not one.exact & ~one.mask, (call.name, one)
            assert bool(one.exact) or one.kind is not Kind.FIELD, (call.name, one)
            if "*" in one.ctype:
                assert one.kind.is_pointer and one.width == arch.bits, (call.name, one)


@pytest.mark.parametrize("arch", Arch)
def test_what_has_names_has_a_family_of_constants(arch: Arch) -> None:
    named = {family for family in constants.families() if any(constants.family(family, one).names for one in Arch)}
    nameless = set()
    for call in table(arch).by_number.values():
        for one in call.arguments:
            if one.constants:
                assert constants.family(one.constants, arch) and one.constants in named, (call.name, one.name)
            elif one.kind.is_constrained and one.kind is not Kind.TASK and one.name not in JOINT:
                nameless.add(f"{call.name} {one.name}")
    assert nameless <= NAMELESS | FIELDLESS | {f"{call} flags" for call in RESERVED}


def joint_rows() -> list[list[str]]:
    lines = (ROOT / "tracer/abi/joint.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")][1:]


@pytest.mark.parametrize("row", joint_rows(), ids=lambda row: " ".join(row[:4]))
def test_a_joint_meaning_refers_to_what_exists(row: list[str]) -> None:
    calls, selector, values, targets, kind, *rest = row
    for call in calls.split(","):
        arches = [arch for arch in Arch if call in table(arch).by_name]
        names = [[one.name for one in table(arch).by_name[call].arguments] for arch in arches]
        assert any({selector, *targets.split(",")} <= set(known) for known in names), call
    assert Kind(kind)
    if rest and rest[0]:
        assert all(constants.family(rest[0], arch) for arch in Arch)
    for value in values.split(","):
        name = value.removeprefix("&")
        assert name.isdigit() or any(constants.value(name, arch) is not None for arch in Arch), value


@pytest.mark.parametrize("arch", Arch)
def test_a_call_has_one_selector_and_no_value_twice(arch: Arch) -> None:
    rows = joint_rows()
    for call in table(arch).by_name:
        mine = [row for row in rows if call in row[0].split(",")]
        assert len({row[1] for row in mine}) <= 1, call
        said = [(value, target) for row in mine for value in row[2].split(",") for target in row[3].split(",")]
        assert len(said) == len(set(said)), call


@pytest.mark.parametrize("arch", Arch)
def test_joint_meaning_changes_no_type(arch: Arch) -> None:
    syscalls = table(arch)
    for number, call in syscalls.by_number.items():
        variants = syscalls.variants(number)
        assert variants[0] == call.arguments
        for variant in variants:
            assert [(one.name, one.ctype, one.width, one.signed) for one in variant] == [
                (one.name, one.ctype, one.width, one.signed) for one in call.arguments
            ]


@pytest.mark.parametrize("arch", Arch)
def test_variants_are_all_that_arguments_can_answer(arch: Arch) -> None:
    syscalls = table(arch)
    values = {one for row in joint_rows() for value in row[2].split(",") if (one := constants.value(value, arch))}
    for number, call in syscalls.by_number.items():
        variants = set(syscalls.variants(number))
        answers = {syscalls.arguments(number, (value,) * 6) for value in (0, *values)}
        assert answers <= variants, call.name


PLAIN = [
    # arch, call, argument, C type, width, signed, kind, constants, exact.  The types are the kernel's SYSCALL_DEFINEs.
    ("x86_64", "openat", "dfd", "int", 32, True, "dirfd", "dirfd", 0),
    ("x86_64", "openat", "flags", "int", 32, True, "flags", "open_flags", 3),
    ("x86_64", "read", "count", "size_t", 64, False, "size", "", 0),
    ("x86_64", "lseek", "offset", "off_t", 64, True, "offset", "", 0),
    ("x86_64", "mprotect", "prot", "unsigned long", 64, False, "protection", "prot", 0),
    ("x86_64", "clone", "clone_flags", "unsigned long", 32, False, "protection", "clone_flags", 0),
    ("x86_64", "clock_gettime", "which_clock", "const clockid_t", 32, True, "clock", "clock", 0),
    ("x86_64", "fchmodat", "mode", "umode_t", 16, False, "field", "file_mode", 0o7000),
    ("x86_64", "mknodat", "mode", "umode_t", 16, False, "field", "file_mode", 0o177000),
    ("x86_64", "tgkill", "sig", "int", 32, True, "signal", "signal", 0),
    ("x86_64", "rt_sigaction", "sig", "int", 32, True, "number", "signal", 0),
    ("x86_64", "rseq", "sig", "u32", 32, False, "number", "", 0),
    ("x86_64", "ioctl", "cmd", "unsigned int", 32, False, "selector", "ioctl", 0),
    ("x86_64", "writev", "fd", "unsigned long", 32, False, "fd", "", 0),
    ("x86_64", "mmap", "fd", "unsigned long", 32, True, "fd", "", 0),
    ("x86_64", "shmat", "shmflg", "int", 32, True, "protection", "shmat_flags", 0),
    ("x86_64", "kexec_file_load", "flags", "unsigned long", 64, False, "flags", "kexec_file_flags", 0),
    ("x86_64", "file_setattr", "at_flags", "unsigned int", 32, False, "flags", "at_flags", 0),
    ("i386", "mmap", "arg", "struct mmap_arg_struct32 *", 32, False, "pointer", "", 0),
    ("i386", "mmap2", "prot", "unsigned long", 32, False, "protection", "prot", 0),
    ("i386", "setuid", "uid", "old_uid_t", 16, False, "id", "", 0),
    ("i386", "setuid32", "uid", "uid_t", 32, False, "id", "", 0),
    ("i386", "socketcall", "call", "int", 32, True, "selector", "socketcall", 0),
    ("i386", "_llseek", "offset_high", "unsigned long", 32, False, "offset", "", 0),
    ("aarch64", "fadvise64", "len", "loff_t", 64, True, "size", "", 0),
    ("aarch64", "mprotect", "prot", "unsigned long", 64, False, "protection", "prot", 0),
    ("aarch64", "clone", "clone_flags", "unsigned long", 32, False, "protection", "clone_flags", 0),
    ("arm", "openat", "flags", "int", 32, True, "flags", "open_flags", 3),
    ("arm", "mmap2", "prot", "unsigned long", 32, False, "protection", "prot", 0),
    ("arm", "mmap2", "fd", "unsigned long", 32, True, "fd", "", 0),
    ("arm", "setuid", "uid", "old_uid_t", 16, False, "id", "", 0),
    ("arm", "send", "flags", "unsigned int", 32, False, "flags", "msg_flags", 0),
    ("arm", "arm_fadvise64_64", "advice", "int", 32, True, "selector", "fadvise", 0),
    ("arm", "pread64", "__pad", "u32", 32, False, "number", "", 0),
    ("arm", "set_tls", "tls", "unsigned long", 32, False, "address", "", 0),
]


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: " ".join(row[:3]))
def test_an_argument(row: tuple[str, str, str, str, int, bool, str, str, int]) -> None:
    arch, call, name, ctype, width, signed, kind, family, exact = row
    one = next(one for one in table(Arch(arch)).by_name[call].arguments if one.name == name)
    assert one == Argument(name, ctype, width, signed, Kind(kind), family, exact)


ORDERS = {
    ("x86_64", "clone"): "clone_flags newsp parent_tidptr child_tidptr tls",
    ("aarch64", "clone"): "clone_flags newsp parent_tidptr tls child_tidptr",
    ("i386", "clone"): "clone_flags newsp parent_tidptr tls child_tidptr",
    ("i386", "pread64"): "fd ubuf count poslo poshi",
    ("i386", "fallocate"): "fd mode offset_lo offset_hi len_lo len_hi",
    ("i386", "fcntl64"): "fd cmd arg",
    ("x86_64", "tuxcall"): "",
    # 64-bit values of arm are in an even register and the next: arch/arm64/kernel/sys32.c, COMPAT_SYSCALL_DEFINE*(aarch32_*)
    ("arm", "pread64"): "fd buf count __pad pos_lo pos_hi",
    ("arm", "pwrite64"): "fd buf count __pad pos_lo pos_hi",
    ("arm", "truncate64"): "pathname __pad length_lo length_hi",
    ("arm", "ftruncate64"): "fd __pad length_lo length_hi",
    ("arm", "readahead"): "fd __pad offset_lo offset_hi count",
    ("arm", "arm_fadvise64_64"): "fd advice offset_lo offset_hi len_lo len_hi",
    ("arm", "arm_sync_file_range"): "fd flags offset_lo offset_hi nbytes_lo nbytes_hi",
    ("arm", "fallocate"): "fd mode offset_lo offset_hi len_lo len_hi",
    ("arm", "fanotify_mark"): "fanotify_fd flags mask_low mask_high dfd pathname",
    ("arm", "preadv"): "fd vec vlen pos_l pos_h",
    ("arm", "preadv2"): "fd vec vlen pos_l pos_h flags",
    ("arm", "mmap2"): "addr len prot flags fd pgoff",
    ("arm", "clone"): "clone_flags newsp parent_tidptr tls child_tidptr",
    ("arm", "cacheflush"): "start end flags",
    ("arm", "get_tls"): "",
}


@pytest.mark.parametrize(("arch", "call"), ORDERS)
def test_the_order_of_arguments(arch: str, call: str) -> None:
    assert " ".join(one.name for one in table(Arch(arch)).by_name[call].arguments) == ORDERS[arch, call]


JOINTS = [
    # call, registers, argument, kind, constants
    ("fcntl", (3, "F_SETFL"), "arg", "flags", "open_flags"),
    ("fcntl", (3, "F_SETLK"), "arg", "pointer", ""),
    ("fcntl", (3, "F_GETFD"), "arg", "number", ""),
    ("fcntl", (3, "F_DUPFD_CLOEXEC"), "arg", "fd", ""),
    ("setsockopt", (3, "SOL_SOCKET"), "optname", "selector", "so_options"),
    ("setsockopt", (3, "SOL_TCP"), "optname", "selector", "tcp_options"),
    ("getsockopt", (3, 9999), "optname", "selector", ""),
    ("socket", ("AF_NETLINK",), "protocol", "selector", "netlink_protocol"),
    ("socket", ("AF_INET6",), "protocol", "selector", "ip_protocol"),
    ("socket", ("AF_UNIX",), "protocol", "selector", ""),
    ("prctl", ("PR_SET_NAME",), "arg2", "pointer", ""),
    ("prctl", ("PR_SET_PDEATHSIG",), "arg2", "signal", "signal"),
    ("prctl", ("PR_CAP_AMBIENT",), "arg3", "selector", "capability"),
    ("prctl", ("PR_SET_NO_NEW_PRIVS",), "arg3", "number", ""),
    ("openat", (0, 0, "O_CREAT"), "mode", "field", "file_mode"),
    ("openat", (0, 0, "O_TMPFILE"), "mode", "field", "file_mode"),
    ("openat", (0, 0, "O_DIRECTORY"), "mode", "number", "file_mode"),
    ("mknodat", (0, 0, "S_IFBLK"), "dev", "selector", ""),
    ("mknodat", (0, 0, "S_IFIFO"), "dev", "number", ""),
    ("ptrace", ("PTRACE_SEIZE",), "data", "flags", "ptrace_options"),
    ("fcntl", (3, 0xFFFFFFFF), "arg", "number", ""),
]


@pytest.mark.parametrize("row", JOINTS, ids=str)
def test_a_joint_meaning(row: tuple[str, tuple[str | int, ...], str, str, str]) -> None:
    call, given, name, kind, family = row
    registers = []
    for value in given:
        known = constants.value(value, Arch.X86_64) if isinstance(value, str) else value
        assert known is not None, value
        registers.append(known)
    found = argument(Arch.X86_64, call, name, *registers)
    assert (found.kind, found.constants) == (Kind(kind), family)


@pytest.mark.parametrize(
    ("call", "dependents"),
    [("fcntl", [(), (2,), ()]), ("setsockopt", [(), (2,), (), (), ()]), ("read", [(), (), ()])],
)
def test_whose_meaning_depends_on_an_argument(call: str, dependents: list[tuple[int, ...]]) -> None:
    calls = table(Arch.X86_64)
    number = calls.by_name[call].number
    assert [(*sorted(calls.dependents(number, index)),) for index in range(len(dependents))] == dependents


def test_the_selector_is_read_at_its_width() -> None:
    dirty = 0xDEADBEEF << 32 | constants.value("F_SETFL", Arch.X86_64)  # type: ignore[operator]
    assert argument(Arch.X86_64, "fcntl", "arg", 3, dirty).kind is Kind.FLAGS


@pytest.mark.parametrize(
    ("version", "number"),
    [((5, 4), 435), ((5, 8), 439), ((5, 15), 448), ((6, 1), 450), ((6, 7), 456), ((6, 12), 462), ((6, 18), 469), ((7, 2), 471)],
)
def test_the_newest_number_of_a_kernel(version: tuple[int, int], number: int) -> None:
    assert {table(arch).newest(version) for arch in Arch} == {number}


@pytest.mark.parametrize("arch", [arch for arch in Arch if arch.bits == 32])
def test_halves_of_a_64_bit_value_stand_together(arch: Arch) -> None:
    """Low half first, as all of these architectures are little-endian; on arm in an even register, as its ABI has it."""
    apart = ("_llseek", "preadv", "pwritev", "preadv2", "pwritev2")  # the halves are arguments of their own everywhere
    for call in table(arch).by_number.values():
        names = [one.name for one in call.arguments]
        for index, name in enumerate(names):
            for low, high in (("lo", "hi"), ("_low", "_high")):
                other = name.removesuffix(low) + high
                if call.name not in apart and name.endswith(low) and other in names:
                    assert names[index + 1] == other, call.name
                    assert arch is not Arch.ARM or index % 2 == 0, call.name


def test_private_calls_are_in_every_version() -> None:
    calls = table(Arch.ARM)
    assert [calls.by_number[number].name for number in calls.private] == [
        "breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls",
    ]  # fmt: skip
    assert (calls.private[0], len(calls.private)) == (0xF0001, 6)
    assert not any(calls.is_newer(number, version) for number in calls.private for version in calls.versions())
    assert calls.is_newer(0xF0000, (6, 18)) and calls.is_newer(0xF0007, (6, 18)) and calls.is_newer(470, (6, 18))
    assert not any(table(arch).private for arch in Arch if arch is not Arch.ARM)


def test_an_architecture_can_be_late() -> None:
    """glibc's history of syscall-names.list: 6.7 "enables map_shadow_stack for architectures previously missing it"."""
    assert [table(arch).newest((6, 6)) for arch in Arch] == [453, 452, 452, 452]


def test_an_architecture_can_lack_a_call() -> None:
    """arch/arm64/tools/syscall_32.tbl reserves 447, memfd_secret."""
    assert [447 in table(arch).by_number for arch in Arch] == [True, True, True, False]


@pytest.mark.parametrize("version", [(4, 19), (7, 4), (8, 0)])
def test_a_kernel_that_the_table_does_not_know(version: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"5\.1 to 7\.3"):
        table(Arch.X86_64).newest(version)


@pytest.mark.parametrize(
    ("call", "version"),
    [
        *(("read", (5, 1)), ("mseal", (6, 10)), ("file_setattr", (6, 17)), ("listns", (6, 19))),
        *(("rseq_slice_yield", (7, 0)), ("fchroot", (7, 3))),
    ],
)
def test_since_when_there_is_a_call(call: str, version: tuple[int, int]) -> None:
    assert {table(arch).since(table(arch).by_name[call].number) for arch in Arch} == {version}


def test_no_version_has_a_newer_call() -> None:
    with pytest.raises(ValueError, match="newer than the table"):
        table(Arch.X86_64).since(5000)


KERNEL = """
import ctypes, os, tempfile
libc = ctypes.CDLL(None, use_errno=True)
high = 1 << 40
def call(number, *arguments):
    ctypes.set_errno(0)
    return libc.syscall(*(ctypes.c_long(one) for one in (number, *arguments))), ctypes.get_errno()
class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
with tempfile.NamedTemporaryFile() as file:
    text = ctypes.create_string_buffer(b"12345678")
    vector = iovec(ctypes.addressof(text), 8)
    print("writev", call(20, file.fileno() | high, ctypes.addressof(vector), 1))
    at, error = call(9, 0, 4096, 1, 2, file.fileno() | high, 0)
    print("mmap", error)
    print("mprotect", call(10, at, 4096, 1 | high))
    path = ctypes.create_string_buffer(os.fsencode(file.name))
    print("chmod", call(90, ctypes.addressof(path), 0o600 | 1 << 16), oct(os.stat(file.name).st_mode & 0o7777))
pid, error = call(56, 17 | high, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
print("clone", pid > 0 and os.waitpid(pid, 0)[1])
"""


@pytest.mark.only_on("x86_64")  # by whose numbers the calls are made
def test_the_kernel_reads_as_many_bits_as_the_table_says() -> None:
    """Bits above the width are set in each call: all are ignored but in mprotect's `prot`, which has 64."""
    done = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        "writev (8, 0)",
        "mmap 0",
        "mprotect (-1, 22)",
        "chmod (0, 0) 0o600",
        "clone 0",
    ]


def test_what_a_pointer_of_these_kinds_points_to_is_evident() -> None:
    """An address of the program's own memory tells a reader nothing."""
    assert not any(argument.kind.is_evident for argument in table(Arch.X86_64).by_name["write"].arguments)
    kinds = {argument.name: argument.kind.is_evident for argument in table(Arch.X86_64).by_name["execve"].arguments}
    assert kinds == {"filename": True, "argv": True, "envp": False}
