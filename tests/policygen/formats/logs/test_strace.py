"""strace's output back into registers, line by line, and the processes of a log."""

from __future__ import annotations

import subprocess
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from calls import format_options
from hypothesis import given, settings, strategies as st

from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.formats.logs import strace
from callfence.policygen.formats.logs.strace_call import UnnamedError, UnreadableError, event, parse, unquoted, value
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from callfence.policygen.recording.model import Recording

START = '7 execve("/bin/app", ["app", "-x"], 0x7ffe /* 3 vars */) = 0\n'


def record(data: bytes, filename: str, options: FormatOptions) -> Recording:
    return strace.record(BytesIO(data), filename, options)


def read(*lines: str) -> Recording:
    return record((START + "".join(f"{line}\n" for line in lines)).encode(), "app.log", format_options())


def calls(recording: Recording) -> list[str]:
    names = table(Arch.X86_64).by_number
    return [names[one.number].name for one in recording.observations]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("-1", -1),
        ("0x80000 /* O_RDONLY|O_CLOEXEC */", 0x80000),
        ("O_RDONLY|O_CLOEXEC", 0x80000),
        ("AT_FDCWD", -100),
        ("AT_FDCWD</home/a, b>", -100),
        ("3<TCP:[127.0.0.1:1->127.0.0.1:2]>", 3),
        ("1</dev/pts/0<char 136:0>>", 1),
        ("4</tmp/a->", 4),
        ("NULL", 0),
        ('"/etc/passwd"', None),
        ("{st_mode=S_IFREG|0644, ...}", None),
        ("[{iov_base=\"a\", iov_len=1}]", None),
        ("~[RTMIN RT_1]", None),
        ("0x7f0000001000 /* 5 entries */", 0x7F0000001000),
        ("S_IFCHR|0666", 0o20666),
        ("makedev(0x1, 0x3)", 0x103),
        ("makedev(0x1, 0x1003)", 0x1000103),
        ("_IOC(_IOC_READ|_IOC_WRITE, 0x54, 0x1, 0x20)", 0xC0205401),
        ("IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 4)", 2 << 13 | 4),
        ("TCGETS or SNDCTL_TMR_TIMEBASE", 0x5401),
        ("SIGRT_1", 33),
        ("21<<MAP_HUGE_SHIFT", 21 << 26),
        ("PROT_READ|0x8", 9),
        ("CLONE_CHILD_CLEARTID|SIGCHLD", 0x200011),
        ("|0x900", 0x900),
        ("AT_SYMLINK_NOFOLLOW|AT_STATX_SYNC_AS_STAT", 0x100),
        ("_IOC(_IOC_NONE, 0x12, 0x60, 0)", 0x1260),
    ],
)  # fmt: skip
def test_values(text: str, expected: int | None) -> None:
    assert value(text, Arch.X86_64) == expected


NAMES = (
    "AT_STATX_SYNC_AS_STAT", "AT_STATX_SYNC_TYPE", "FUTEX_BITSET_MATCH_ANY", "IPC_64", "IOPRIO_CLASS_NONE", "IOPRIO_CLASS_RT",
    "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE", "KEYCTL_MOVE_EXCL", "MAP_HUGE_SHIFT", "MFD_HUGE_SHIFT", "SHM_HUGE_SHIFT",
    "MS_MGC_VAL", "OPEN_TREE_CLOEXEC", "SCHED_OTHER",
)  # fmt: skip
HEADERS = ("fcntl", "futex", "ipc", "ioprio", "keyctl", "mman", "memfd", "shm", "mount", "stat")


NESTED = ("0<<{}", "makedev({}, 1)", "makedev(1, {})", "IOPRIO_PRIO_VALUE({}, 1)", "IOPRIO_PRIO_VALUE(1, {})",
          "_IOC(_IOC_NONE, {}, 1, 1)", "_IOC(_IOC_NONE, 1, {}, 1)", "_IOC(_IOC_NONE, 1, 1, {})")  # fmt: skip


@pytest.mark.parametrize("form", NESTED)
def test_terms_within_terms_are_read_to_a_depth(form: str) -> None:
    def nested(depth: int) -> str:
        return form.format(nested(depth - 1)) if depth else "0"

    assert value(nested(7), Arch.X86_64) is not None
    with pytest.raises(UnnamedError):
        value(nested(8), Arch.X86_64)


def test_names_that_our_tables_lack_are_those_of_the_headers(compile_c: Callable[..., Path], tmp_path: Path) -> None:
    lines = [f"#include <linux/{header}.h>" for header in HEADERS]
    lines += ["#include <stdio.h>", "#define SCHED_OTHER 0 /* sched.h */", "int main(void) {"]
    lines += [f'printf("%llu\\n", (unsigned long long)(unsigned){name});' for name in NAMES]
    (tmp_path / "names.c").write_text("\n".join([*lines, "return 0; }\n"]))
    printed = subprocess.run([compile_c(tmp_path / "names.c")], capture_output=True, text=True, check=True).stdout
    assert [value(name, Arch.X86_64) for name in NAMES] == [int(line) for line in printed.split()]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("MSG_NO_SHARED_FRAGS", 0x80000), ("MSG_SENDPAGE_NOTLAST", 0x20000), ("PTRACE_PEEKUSER", 3), ("PTRACE_POKEUSER", 6),
        ("SUID_DUMP_DISABLE", 0), ("SUID_DUMP_USER", 1), ("SUID_DUMP_ROOT", 2),
    ],
)  # fmt: skip
def test_names_that_are_the_kernels_own(name: str, number: int) -> None:
    """linux/socket.h, asm/ptrace-abi.h and linux/sched/coredump.h of its source."""
    assert value(name, Arch.X86_64) == number


@pytest.mark.parametrize(
    "text", ["_IOC(_IOC_NONE, 1, 1)", "other(_IOC_NONE, 1, 1, 1)", "makedev(1)", "other(1, 2)", "IOPRIO_PRIO_VALUE(1, 2, 3)"]
)
def test_a_function_with_other_arguments_has_no_value(text: str) -> None:
    with pytest.raises(UnnamedError):
        value(text, Arch.X86_64)


def test_a_name_without_a_value_is_none() -> None:
    with pytest.raises(UnnamedError, match="PROT_NOSUCH"):
        value("PROT_READ|PROT_NOSUCH", Arch.X86_64)


@pytest.mark.parametrize(
    ("line", "registers", "missing"),
    [
        ('openat(AT_FDCWD, "a,b)\\"", O_RDONLY|O_CLOEXEC) = 3', ((1 << 64) - 100, 0, 0x80000, 0, 0, 0), {1, 3, 4, 5}),
        ("openat(0xffffff9c, 0x7f01, 0x80000, 0) = 0x3", (0xFFFFFF9C, 0x7F01, 0x80000, 0, 0, 0), {4, 5}),
        ("clone(child_stack=NULL, flags=CLONE_VM|17, child_tidptr=0x9) = 5", (0x111, 0, 0, 9, 0, 0), {2, 4, 5}),
        ("clone(0x1200011, 0, 0, 0x7f01, 0) = 0x18", (0x1200011, 0, 0, 0x7F01, 0, 0), {5}),
        ("futex(0x10, FUTEX_WAIT_BITSET_PRIVATE, 2, NULL, FUTEX_BITSET_MATCH_ANY) = 0", (16, 0x89, 2, 0, 0, 0), {4, 5}),
        ("preadv2(3, [], 1, 0, RWF_NOWAIT) = 0", (3, 0, 1, 0, 0, 8), {1, 3, 4}),
        ("mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f",
         (0, 8192, 3, 0x22, (1 << 64) - 1, 0), set()),
        ("rt_sigreturn({mask=[]}) = 0", (0, 0, 0, 0, 0, 0), {0, 1, 2, 3, 4, 5}),
    ],
)  # fmt: skip
def test_registers(line: str, registers: tuple[int, ...], missing: set[int]) -> None:
    seen, unknown = event(parse(line), Arch.X86_64)
    assert (seen.arguments, unknown) == (registers, missing)


@pytest.mark.parametrize(
    ("arch", "line", "registers"),
    [
        (Arch.X86_64, "futex(1, FUTEX_WAIT, 3, 4, 5, 6)", (1, 0, 3, 4, 5, 6)),
        (Arch.X86_64, "futex(1, FUTEX_WAIT, 3, 4, 5)", (1, 0, 3, 4, None, None)),
        (Arch.X86_64, "preadv(1, 2, 3, 4)", (1, 2, 3, None, None, None)),
        (Arch.X86_64, "pwritev(1, 2, 3, 4)", (1, 2, 3, None, None, None)),
        (Arch.X86_64, "preadv2(1, 2, 3, 4, 5)", (1, 2, 3, None, None, 5)),
        (Arch.X86_64, "pwritev2(1, 2, 3, 4, 5)", (1, 2, 3, None, None, 5)),
        (Arch.X86_64, "pread64(1, 2, 3, 4)", (1, 2, 3, 4, None, None)),
        (Arch.X86_64, "fallocate(1, 2, 3, 4)", (1, 2, 3, 4, None, None)),
        (Arch.I386, "pread64(1, 2, 3, 4)", (1, 2, 3, None, None, None)),
        (Arch.I386, "pwrite64(1, 2, 3, 4)", (1, 2, 3, None, None, None)),
        (Arch.I386, "fallocate(1, 2, 3, 4)", (1, 2, None, None, None, None)),
        (Arch.I386, "truncate64(1, 2)", (1, None, None, None, None, None)),
        (Arch.I386, "ftruncate64(1, 2)", (1, None, None, None, None, None)),
        (Arch.I386, "readahead(1, 2, 3)", (1, None, None, None, None, None)),
        (Arch.I386, "_llseek(1, 2, 3, 4)", (1, None, None, 3, 4, None)),
        (Arch.I386, "mmap2(1, 2, 3, 4, 5, 4096)", (1, 2, 3, 4, 5, None)),
        (Arch.ARM, "fadvise64_64(1, 2, 3, 4)", (1, 4, None, None, None, None)),
        (Arch.ARM, "sync_file_range2(1, 2, 3, 4)", (1, 2, None, None, None, None)),
    ],
)
def test_printed_arguments_are_placed(arch: Arch, line: str, registers: tuple[int | None, ...]) -> None:
    """None: a register whose value is not printed."""
    seen, unknown = event(parse(f"{line} = 0"), arch)
    assert tuple(None if index in unknown else value for index, value in enumerate(seen.arguments)) == registers


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        ("fanotify_mark(1, 2, 3, 4, 5)", "mask_low"),
        ("fadvise64(1, 2, 3, 4)", "advice"),
        ("fadvise64_64(1, 2, 3, 4)", "advice"),
        ("sync_file_range(1, 2, 3, 4)", "flags"),
    ],
)
def test_arguments_after_those_of_64_bits_are_not_guessed(line: str, argument: str) -> None:
    with pytest.raises(UnreadableError, match=f": {argument}: its value is not printed"):
        event(parse(f"{line} = 0"), Arch.I386)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ioctl(1, NOSUCHCMD, 0x1) = 0", "ioctl: cmd: NOSUCHCMD has no value here"),
        ("ioctl(1) = 0", "ioctl: cmd: its value is not printed"),
        ("frobnicate(1) = 0", "frobnicate: no call of x86_64 has that name"),
    ],
)
def test_a_call_with_unknown_values_is_not_an_observation(line: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        event(parse(line), Arch.X86_64)
    recording = read(f"7 {line}", f"7 {line}", "7 getpid() = 7")
    assert calls(recording) == ["getpid"]
    assert recording.runs[0].gaps == (f"{message} (2 in the log, first in line 2)",)


def test_i386_calls_that_share_a_name_are_not_guessed() -> None:
    log = read("7 [ Process PID=7 runs in 32 bit mode. ]", "7 socket(AF_UNIX, SOCK_STREAM, 0) = 3", "7 getpid() = 7")
    assert [(one.arch, one.number) for one in log.observations] == [(Arch.I386.audit, 20)]
    assert "socketcall" in log.runs[0].gaps[0]


def arm_calls(*lines: str) -> list[tuple[str, tuple[int, ...]]]:
    """The calls, with their registers, in a log of an arm64 machine whose process runs in 32 bit mode."""
    text = START + "".join(f"7 {line}\n" for line in ("[ Process PID=7 runs in 32 bit mode. ]", *lines))
    log = record(text.encode(), "app.log", format_options(arch=Arch.AARCH64))
    assert {one.arch for one in log.observations} == {Arch.ARM.audit}
    names = table(Arch.ARM).by_number
    return [(names[one.number].name, one.example) for one in log.observations]


def test_modes_are_those_of_the_machine() -> None:
    text = START + "".join(f"7 [ Process PID=7 runs in {bits} bit mode. ]\n7 getpid() = 7\n" for bits in (32, 64))
    log = record(text.encode(), "app.log", format_options(arch=Arch.AARCH64))
    assert sorted((one.arch, one.number) for one in log.observations) == [(Arch.ARM.audit, 20), (Arch.AARCH64.audit, 172)]


def test_calls_of_arm() -> None:
    assert arm_calls(
        "set_tls(0xf7ff1ed0)  = 0",
        "cacheflush(0x10000, 0x11000, 0) = 0",
        'openat(AT_FDCWD, "a", O_RDONLY|O_DIRECTORY) = 3',
        'pread64(3, "x", 1, 4096) = 1',
        "fadvise64_64(3, 0, 4096, POSIX_FADV_WILLNEED) = 0",
        "sync_file_range2(3, SYNC_FILE_RANGE_WRITE, 0, 4096) = 0",
        "socket(AF_UNIX, SOCK_STREAM, 0) = 4",
    ) == [
        ("pread64", (3, 0, 1, 0, 0, 0)),
        ("arm_fadvise64_64", (3, 3, 0, 0, 0, 0)),
        ("socket", (1, 1, 0, 0, 0, 0)),
        ("openat", (0xFFFFFF9C, 0, 0x4000, 0, 0, 0)),
        ("arm_sync_file_range", (3, 2, 0, 0, 0, 0)),
        ("cacheflush", (0x10000, 0x11000, 0, 0, 0, 0)),
        ("set_tls", (0xF7FF1ED0, 0, 0, 0, 0, 0)),
    ]


def test_the_start_is_not_part_of_the_run_and_names_it() -> None:
    log = read("7 getpid() = 7", "7 +++ exited with 3 +++")
    assert calls(log) == ["getpid"]
    (run,) = log.runs
    assert (run.command, run.status, run.complete) == (("app", "-x"), 3, True)
    assert read("7 +++ killed by SIGKILL +++").runs[0].status == -9
    assert read("7 getpid() = 7").runs[0].complete is False


def test_the_status_of_a_run_is_that_of_its_first_process() -> None:
    log = read("7 clone(child_stack=NULL, flags=SIGCHLD) = 8", "7 +++ exited with 3 +++", "8 +++ exited with 0 +++")
    assert (log.runs[0].status, log.runs[0].complete) == (3, True)
    log = read("7 clone(child_stack=NULL, flags=SIGCHLD) = 8", "8 +++ killed by SIGTERM +++")
    assert (log.runs[0].status, log.runs[0].complete) == (None, False)


def test_two_halves_of_a_call_are_one() -> None:
    log = read(
        '7 openat(AT_FDCWD, "a", O_RDONLY <unfinished ...>',
        "8 getpid() = 8",
        "7 <... openat resumed>) = 3",
        "7 exit_group(0 <unfinished ...>",
        "7 +++ exited with 0 +++",
    )
    assert sorted(calls(log)) == ["exit_group", "getpid", "openat"]
    late = record(b'7 <... read resumed>"", 1) = 0\n7 getpid() = 7\n', "a", format_options())
    assert "beginning is not in the log" in late.runs[0].gaps[0]


def test_children_have_their_parents_executable_until_they_execute() -> None:
    log = read(
        "7 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        "8 getpid() = 8",
        "7 <... clone resumed>, child_tidptr=0x1) = 8",
        '8 execve("/bin/caf\\303\\251", ["c"], 0x1) = 0',
        "8 getppid() = 7",
        "8 +++ exited with 0 +++",
        "7 wait4(-1, NULL, 0, NULL) = 8",
    )
    names = table(Arch.X86_64).by_number
    found = {names[one.number].name: one.executable for one in log.observations}
    assert found == {
        "clone": "/bin/app", "getpid": "/bin/app", "execve": "/bin/app", "getppid": "/bin/café", "wait4": "/bin/app",
    }  # fmt: skip
    assert log.runs[0].executed == (("", "/bin/app"), ("/bin/app", "/bin/café"))


@pytest.mark.parametrize("name", ["clone", "fork", "vfork", "clone3"])
def test_what_a_fork_returns_is_a_process_of_the_same_executable(name: str) -> None:
    log = read(f"7 {name}() = 8", "8 getppid() = 7", "7 getpid() = 9", "9 gettid() = 9", f"8 {name}() = -1", "10 getuid() = 0")
    names = table(Arch.X86_64).by_number
    found = {names[one.number].name: one.executable for one in log.observations}
    assert {name: found[name] for name in ("getppid", "gettid", "getuid")} == {
        "getppid": "/bin/app", "gettid": "?", "getuid": "?",
    }  # fmt: skip


def test_executables_are_not_guessed() -> None:
    log = read(
        '8 execve("/bin/a", ["a"], 0x1) = 0',  # of a process that nothing is known of
        '8 execveat(3, "", ["b"], 0x1, AT_EMPTY_PATH) = 0',
        '8 execve("/bin/c", ["c"], 0x1) = 0',
        '8 execve("/bin/d", ["d"], 0x1) = -1 ENOENT (No such file or directory)',
    )
    assert log.runs[0].executed == (("", "/bin/app"),)


def test_a_fork_that_is_not_over_may_be_the_first_line_of_a_process() -> None:
    """As in a log of `strace -f -p PID`."""
    lines = "8 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n9 getpid() = 9\n8 <... clone resumed>) = 9\n"
    found = record(lines.encode(), "app.log", format_options())
    assert sorted(calls(found)) == ["clone", "getpid"]
    assert {one.executable for one in found.observations} == {"?"}


def test_many_forks_that_are_not_over_are_read_in_time() -> None:
    lines = [f"{number} vfork( <unfinished ...>" for number in range(100, 30100)]
    assert calls(read(*lines)) == ["vfork"]


def test_lines_that_are_not_calls_are_ignored() -> None:
    log = read(
        "7 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---",
        "strace: Process 8 attached",
        "[pid     7] getpid() = 7",
        "7 10:11:12.123456 gettid() = 7 <0.000010>",
        "7      0.000012 getuid() = 0",
        "7 restart_syscall(<... resuming interrupted read ...>) = 0",
        "",
    )
    assert sorted(calls(log)) == ["getpid", "gettid", "getuid", "restart_syscall"]


def test_the_run_has_the_dates_of_the_log() -> None:
    log = record(b"1700000000.250000 getpid() = 7\n", "a", format_options())
    assert log.runs[0].started == 1_700_000_000_250_000_000


def test_opaque_calls_are_reported() -> None:
    hidden = read("7 clone3({flags=CLONE_VM}, 88) = 8").runs[0].gaps
    assert any("inject=clone3:error=ENOSYS" in gap for gap in hidden)
    refused = read("7 clone3({flags=CLONE_VM}, 88) = -1 ENOSYS (Function not implemented) (INJECTED)").runs[0].gaps
    assert not any("inject" in gap for gap in refused)


def test_the_same_log_is_the_same_run() -> None:
    assert read("7 getpid() = 7") == read("7 getpid() = 7")
    assert read("7 getpid() = 7").runs[0].id != read("7 gettid() = 7").runs[0].id


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("7 getpid() = 7\n7 what is this\n", "a:2:3: expected a call"),
        ("7 umask(077) = 022\n7 umask(099) = 0 0\n7 x\n", "a:3:3: expected a call"),
        ("7 getpid( = 7\n", "a:1:14: the arguments of getpid are not closed"),
        ("7 getpid() : 7\n", "a:1:11: expected ` = `"),
        ("", "a:1:1: it has no call"),
        ("7 getpid() = 7\n7 mmap2(NULL, 8192, PROT_READ, MAP_PRIVATE, -1, 0) = 0xf7f3b000\n", "a:2:3: mmap2 is a call of i386"),
    ],
)
def test_other_lines_are_errors_with_their_position(text: str, position: str) -> None:
    with pytest.raises(ImportFormatError) as error:
        record(text.encode(), "a", format_options())
    assert str(error.value).startswith(position)


@pytest.mark.parametrize(
    "line",
    [
        f"7 read({'1' * 5000}, 0, 0) = 0",
        f"7 read(1, 0, 0) = {'1' * 5000}",
        f"7 mmap(NULL, 1, {'1<<' * 2000}1, 0, 0, 0) = 0",
        f"7 mmap(NULL, 1, {'makedev(' * 500}1{',1)' * 500}, 0, 0, 0) = 0",
        f"7 read({' ' * 100_000}, 1) = 0",
        f"7 read({'/*' * 50_000}, 1) = 0",
        f"7 read({'a<' * 50_000}, 1) = 0",
    ],
    ids=["argument", "result", "shifts", "calls", "blanks", "comments", "names of files"],
)
def test_a_long_line_is_read_in_time_and_without_recursion(line: str) -> None:
    """An algorithm whose time grows with the square of these lengths takes more than a minute."""
    recording = read(line, "7 getpid() = 7")
    assert [name for name in calls(recording) if name not in ("read", "mmap")] == ["getpid"]
    assert len(recording.observations) == 2 or recording.runs[0].gaps, "it is read, or said to be left out"


@pytest.mark.parametrize("line", ['7 read(1, "a, 1) = 0', '7 read(1, "' + r"\"" * 50_000 + ", 1) = 0"])
def test_a_string_that_is_not_closed_goes_to_the_end_of_the_line(line: str) -> None:
    with pytest.raises(ImportFormatError, match="the arguments of read are not closed"):
        read(line)


def test_numbers_that_are_too_large_for_a_pid() -> None:
    with pytest.raises(ImportFormatError, match="expected a call"):
        read(f"{'1' * 5000} read(1, 0, 0) = 0")
    assert read("7 getpid() = 7", f"7 +++ exited with {'1' * 3} +++").runs[0].status == 111


def test_a_last_line_that_is_cut_off_is_a_gap() -> None:
    log = record((START + "7 getpid() = 7\n7 opena").encode(), "a", format_options())
    assert calls(log) == ["getpid"]
    assert log.runs[0].gaps[0].startswith("lines are cut off")


def test_calls_that_strace_could_not_read_are_a_gap() -> None:
    log = read("7 getpid() = 7", "7 ???( <unfinished ...>", "7 ???() = ?")
    assert calls(log) == ["getpid"]
    assert [gap for gap in log.runs[0].gaps if "could not read" in gap] == [
        "calls that strace could not read (2 in the log, first in line 4)"
    ]


def test_values_that_are_not_printed_are_not_kept_as_evidence() -> None:
    log = read('7 openat(AT_FDCWD, "a", O_RDONLY) = 3', '7 openat(AT_FDCWD, "a", O_WRONLY|O_CREAT, 0644) = 3')
    assert [one.arguments[3] for one in log.observations] == [None, 0]


def test_strings() -> None:
    assert unquoted(r'"a\n\303\251\x41\"\\"...') == "a\né" + 'A"\\...'


PIECES = st.sampled_from(
    [
        *("7 ", "openat(", "clone(", "flags=", "AT_FDCWD", "O_RDONLY|", "0", "08", "0x", "-1", '"', "\\", "(", ")", "{", "}"),
        *("[", "]", ", ", " = ", "?", "<", ">", " <unfinished ...>", "<... openat resumed>", "/*", "*/", "<<", "SIGRT_"),
        *("makedev(", "_IOC(", "\n", "...", "+++ exited with 0 +++", "[ Process PID=7 runs in 32 bit mode. ]", "execve("),
        *(" = 0", "10:11:12.5 ", "\udcff", "é"),
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_a_log_or_an_error_with_its_position(text: str) -> None:
    try:
        recording = record((START + text).encode("utf-8", "surrogateescape"), "a", format_options())
    except ImportFormatError as error:
        assert str(error).startswith("a:")
    else:
        assert len(recording.runs) == 1


@pytest.mark.parametrize("port", ["65536", "9" * 5000])
@pytest.mark.parametrize("descriptor", ["3", "9" * 5000])
def test_numbers_that_are_too_large_for_a_port_or_a_descriptor(port: str, descriptor: str) -> None:
    connect = f"1 connect({descriptor}, {{sa_family=AF_INET, sin_port=htons({port}), sin_addr=x}}, 16) = 0"
    (run,) = read("1 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3", connect).runs
    assert all(use[1] == "none" for use in run.files)


def test_the_number_of_a_call_has_32_bits() -> None:
    """strace prints `syscall(-1)` so; the kernel and filters look at the low half."""
    (one,) = read("7 syscall_0xffffffffffffffff(0x1, 0x2, 0, 0, 0, 0x1) = -1 ENOSYS (Function not implemented)").observations
    assert one.number == (1 << 32) - 1


LISTENS = (
    "1 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3",
    '1 bind(3, {sa_family=AF_INET, sin_port=htons(8080), sin_addr=inet_addr("0.0.0.0")}, 16) = 0',
    "1 listen(3, 128) = 0",
)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (LISTENS, [("tcp bind", "8080"), ("tcp connect", "none")]),
        ((LISTENS[0], LISTENS[2]), [("tcp bind", "0"), ("tcp connect", "none")]),
        (
            (LISTENS[0], LISTENS[1].replace("bind", "connect")),
            [("tcp bind", "none"), ("tcp connect", "8080")],
        ),
        ((LISTENS[0].replace("STREAM", "DGRAM"), LISTENS[1]), [("tcp bind", "none"), ("tcp connect", "none")]),
        (LISTENS[1:], [("tcp connect", "none")]),
        (("1 getppid() = 7",), [("tcp bind", "none"), ("tcp connect", "none")]),
    ],
)
def test_ports_of_tcp_are_those_of_sockets_that_the_log_shows(lines: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    (run,) = read(*lines).runs
    assert [use[:2] for use in run.files] == expected
