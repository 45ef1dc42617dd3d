"""Audit records of seccomp: names of calls, and no guesses."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from calls import format_options

from callfence.policygen.formats import FormatOptions, ImportFormatError, logs
from callfence.policygen.formats.logs import strace
from callfence.policygen.formats.logs.audit import audit
from callfence.policygen.learning.generate import generate
from callfence.tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.policygen.recording.model import Recording

RECORD = (
    "type=SECCOMP msg=audit(1700000000.123:{serial}): auid=1000 uid=1000 gid=1000 ses=1 subj=unconfined pid=7 "
    'comm="app" exe={exe} sig=31 arch={arch} syscall={syscall} compat=0 ip=0x7f12 code=0x80000000'
)


def record(data: bytes, filename: str, options: FormatOptions) -> Recording:
    return audit(BytesIO(data), filename, options)


def line(syscall: object, exe: str = '"/usr/bin/app"', arch: str = "c000003e", serial: int = 1) -> str:
    return RECORD.format(syscall=syscall, exe=exe, arch=arch, serial=serial)


def read(*lines: str, program: str = "") -> list[tuple[int, int, str, int]]:
    recording = record("\n".join(lines).encode(), "audit.log", format_options(program=program))
    return [(one.arch, one.number, one.executable, one.calls) for one in recording.observations]


@pytest.mark.parametrize("read_log", [audit, strace.record])
def test_a_line_without_an_end_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, read_log: Callable[[BytesIO, str, FormatOptions], Recording]
) -> None:
    """A sparse file has a terabyte of NULs in no block."""
    monkeypatch.setattr(logs, "MAX_LINE", 1 << 20)
    with pytest.raises(ImportFormatError, match=r"big\.log:2: a line of more than 1 MiB"):
        read_log(BytesIO(b"\n" + bytes(2 << 20)), "big.log", format_options())


def test_records_are_counted_by_call_and_program() -> None:
    x86_64, i386 = Arch.X86_64.audit, Arch.I386.audit
    assert read(
        line(41),
        "type=SYSCALL msg=audit(1700000000.123:1): arch=c000003e syscall=41 a0=2 a1=1",
        "kernel: [   12.5] audit: type=1326 " + line(41, serial=2).removeprefix("type=SECCOMP msg="),
        line(102, arch="40000003"),
        line(42, exe="2F746D702F61206220"),
        line("connect", arch="x86_64"),
        line(983045, arch="40000028"),
        line("set_tls", arch="arm"),
        line(56, arch="c00000b7"),
    ) == [
        (i386, 102, "/usr/bin/app", 1),
        (Arch.ARM.audit, 983045, "/usr/bin/app", 2),
        (x86_64, 41, "/usr/bin/app", 2),
        (x86_64, 42, "/tmp/a b ", 1),
        (x86_64, 42, "/usr/bin/app", 1),
        (Arch.AARCH64.audit, 56, "/usr/bin/app", 1),
    ]


def test_a_call_site_is_the_instruction_pointer_if_a_record_has_it() -> None:
    lines = (line(41), line(41).replace("0x7f12", "0x7f13"), line(42).replace(" ip=0x7f12", ""))
    found = record("\n".join(lines).encode(), "audit.log", format_options()).observations
    assert [one.site for one in found] == ["[ip]+0x7f12", "?"]


def test_what_a_program_calls_itself_is_no_record() -> None:
    lines = (
        'type=PATH msg=audit(1700000000.123:1): item=0 name="/tmp/type=SECCOMP" inode=1',
        'type=EXECVE msg=audit(1700000000.123:2): argc=2 a0="echo" a1="type=1326"',
        line(41),
    )
    assert [row[1] for row in read(*lines)] == [41]


def test_one_program_of_several() -> None:
    lines = (line(41), line(42, exe='"/bin/other"'))
    assert [row[1] for row in read(*lines, program="other")] == [42]
    assert [row[1] for row in read(*lines, program="/usr/bin/app")] == [41]
    gaps = record("\n".join(lines).encode(), "a", format_options()).runs[0].gaps
    assert any("/bin/other, /usr/bin/app" in gap for gap in gaps)


def test_the_run_is_dated_and_says_what_is_missing() -> None:
    (run,) = record(line(41).encode(), "a", format_options()).runs
    assert (run.started, run.complete) == (1_700_000_000_123_000_000, False)
    assert "whatever their arguments" in run.gaps[0]


def test_many_programs_are_abbreviated() -> None:
    lines = [line(41, exe=f'"/bin/{number:03}"') for number in range(100)]
    (gap,) = [one for one in record("\n".join(lines).encode(), "audit.log", format_options()).runs[0].gaps if "programs" in one]
    assert "100 programs" in gap and "/bin/011 ..." in gap and "/bin/012" not in gap


def test_an_impossible_time_is_ignored() -> None:
    text = line(41).replace("1700000000", "1" * 5000)
    assert record(text.encode(), "audit.log", format_options()).runs[0].started == 0


def test_policies_made_of_records_have_only_names() -> None:
    document = generate(record(line(41).encode(), "a", format_options()).observations, None, name="a").document
    assert "\nsocket: allow\n" in document.text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a: it has no record of type SECCOMP"),
        ("x\n" + line(41).replace("arch=c000003e ", ""), "a:2:1: a SECCOMP record without arch="),
        (line(41, arch="zz"), "a:1:1: arch=zz is no architecture"),
        (line("frob"), "a:1:1: syscall=frob is no call"),
    ],
)
def test_a_bad_record_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ImportFormatError) as error:
        record(text.encode(), "a", format_options())
    assert str(error.value).startswith(message)


def landlock(blockers: str, rest: str, serial: int = 1, kind: str = "LANDLOCK_ACCESS") -> str:
    return f"type={kind} msg=audit(1700000000.123:{serial}): domain=1a blockers={blockers} {rest}"


def syscall(exe: str, serial: int = 1) -> str:
    return f'type=SYSCALL msg=audit(1700000000.123:{serial}): arch=c000003e syscall=257 exit=-13 exe="{exe}" key=(null)'


def uses(*lines: str, program: str = "") -> tuple[tuple[str, str, str], ...]:
    (run,) = record("\n".join(lines).encode(), "audit.log", format_options(program=program)).runs
    return run.files


def test_records_of_landlock_are_files_and_ports() -> None:
    lines = (
        landlock("fs.read_file", 'path="/srv/a" dev="vda" ino=1'),
        syscall("/usr/bin/app"),
        landlock("fs.make_reg,fs.refer", "path=2F7372762F6120 dev=\"vda\"", 2, kind="1423"),
        landlock("net.connect_tcp", "daddr=10.0.0.1 dest=443", 3),
        landlock("fs.read_file", 'path="/proc/71/maps"', 4),
        landlock("ptrace", 'opid=1 ocomm="init"', 5),
        "type=LANDLOCK_DOMAIN msg=audit(1700000000.123:5): domain=1a status=deallocated denials=4",
        "type=PATH msg=audit(1700000000.123:1): path=\"/no\"",
    )
    assert uses(*lines) == (
        ("/proc", "read", "?"),
        ("/srv/a", "read", "/usr/bin/app"),
        ("/srv/a ", "create, move", "?"),
        ("tcp connect", "443", "?"),
    )
    assert uses(*lines, program="app") == (("/srv/a", "read", "/usr/bin/app"),)
    (run,) = record("\n".join(lines).encode(), "audit.log", format_options(program="app")).runs
    why = "where calls are audited, a SYSCALL record says so"
    assert run.gaps == (f"records of Landlock that do not say of which program: 3; {why}",)
    assert run.started == 1_700_000_000_123_000_000


def test_records_of_both_kinds_are_one_run() -> None:
    (run,) = record("\n".join((line(41), landlock("fs.execute", 'path="/bin/a"', 2))).encode(), "a", format_options()).runs
    assert run.files == (("/bin/a", "execute", "?"),)
    assert "whatever their arguments" in run.gaps[0]


def test_a_long_log_takes_no_memory() -> None:
    number = 10_000
    lines = [landlock("fs.read_file", f'path="/srv/{serial % 9}" dev="vda" ino=1', serial) for serial in range(number)]
    data = BytesIO("\n".join([*lines, syscall("/usr/bin/app", number - 1)]).encode())
    tracemalloc.start()
    (run,) = audit(data, "audit.log", format_options()).runs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    executables = {executable for _, _, executable in run.files}
    assert (len(run.files), executables, peak < 2 << 20) == (10, {"?", "/usr/bin/app"}, True)
