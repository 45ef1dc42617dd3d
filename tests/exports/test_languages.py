"""minijail's and Kafel's languages: what texts mean to the readers that hold exports, and the texts that callfence writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import read_kafel
import read_minijail
from installed import PROBE_POLICY

from policygen import formats
from policygen.comparing.compare import compare
from policygen.formats import Direction, ExportError, FormatOptions, ImportFormatError
from policygen.language.document import parse

MINIJAIL = [
    ("read: 1", "read: allow"),
    ("  read:1  \n\n# a comment\n@frequency ./f", "read: allow"),
    ("clone3: return ENOSYS", "clone3: errno ENOSYS"),
    ("clone3: return 0x26", "clone3: errno ENOSYS"),
    ("ptrace: return", "ptrace: deny"),
    ("dup: arg0 == 0x5", "dup: fildes == 5"),
    ("lseek: arg2 == 0 || arg2 == 1", "lseek: whence == SEEK_CUR\n    || whence == SEEK_SET"),
    ("write: arg2 <= 4096", "write: count <= 4096"),
    ("mmap: arg2 in ~PROT_EXEC || arg2 in ~PROT_WRITE", "mmap: !(prot has PROT_WRITE|PROT_EXEC)"),
    ("mprotect: arg2 in PROT_READ|PROT_WRITE", "mprotect: prot in PROT_READ|PROT_WRITE"),
    ("mprotect: arg2 in ~(PROT_EXEC|0x7000000)", "mprotect: prot & 0x7000004 == 0"),
    ("mmap: arg2 == 1 && arg3 & MAP_PRIVATE", "mmap: prot == PROT_READ && flags has MAP_PRIVATE"),
    ("mprotect: arg2 \\\nin \\\n  5", "mprotect: prot in PROT_READ|PROT_EXEC"),
    ("mprotect: arg2 == 1; return EPERM", "mprotect: prot == PROT_READ else errno EPERM"),
    ("lseek: arg1 >= -1", "lseek: offset == -1"),
]
KAFEL = [
    ("ALLOW { read }", "read: allow"),
    ("POLICY a { ALLOW { read } } USE a DEFAULT KILL", "read: allow"),
    ("POLICY a { ERRNO(38) { clone3 } } POLICY b { USE a } USE b DEFAULT KILL_PROCESS", "clone3: errno ENOSYS"),
    ("#define one 1\nALLOW { dup { fildes == one } }", "dup: fildes == 1"),
    ("ALLOW { newfstat }", "fstat: allow"),
    ("ALLOW { SYSCALL[5] }", "fstat: allow"),
    ("#define stat_of 5\nALLOW { stat_of(fd, buf) { fd == 3 } }", "fstat: fd == 3"),
    ("ALLOW { read ON x86_64, write ON arm, close ON {i386, amd64} }", "close: allow\nread: allow"),
    ("ALLOW { lseek { whence == 0, whence == 1 } }", "lseek: whence == SEEK_CUR\n    || whence == SEEK_SET"),
    ("ALLOW { mprotect { (prot & 4) == 0 } }", "mprotect: prot & PROT_EXEC == 0"),
    ("ALLOW { mprotect { !((prot & 6) == 6) } }", "mprotect: !(prot has PROT_WRITE|PROT_EXEC)"),
    ("ALLOW { mprotect { prot == 1|2 /* both */ } } // no more", "mprotect: prot == PROT_READ|PROT_WRITE"),
    ("ALLOW { lseek { ((whence == 0) || (whence) == 1) && offset < 2 } }", "lseek: whence in {0, 1} && offset in {0, 1}"),
    ("ERRNO(1) { mprotect { prot == 4 } }, ALLOW { mprotect }", "mprotect: errno EPERM if prot == PROT_EXEC else allow"),
    ("ALLOW { read }, ERRNO(1) { read }", "read: allow"),
    ("LOG { read } DEFAULT ERRNO(1)", "default errno EPERM\nunknown errno EPERM\nread: log"),
]


READERS = {"minijail": read_minijail.read, "kafel": read_kafel.read}


def check(name: str, text: str, expected: str) -> None:
    """The text means the expected entries; where they say nothing, other and newer calls are killed."""
    imported = READERS[name](text.encode(), "it", FormatOptions())
    settings = "" if "default" in expected else "default kill\nunknown kill\n"
    assert compare(parse(settings + expected).policy, imported.policy).differences == ()


@pytest.mark.parametrize(("text", "expected"), MINIJAIL)
def test_minijail(text: str, expected: str) -> None:
    check("minijail", text, expected)


@pytest.mark.parametrize(("text", "expected"), KAFEL)
def test_kafel(text: str, expected: str) -> None:
    check("kafel", text, expected)


def test_lines_that_minijails_two_compilers_read_differently_are_reported() -> None:
    losses = read_minijail.read(b"mprotect: arg2 == 1; return EPERM", "it", FormatOptions()).losses
    assert [loss.calls for loss in losses if "other way round" in loss.what] == [("mprotect",)]


def test_upper_halves_of_registers_are_reported() -> None:
    """The kernel looks at the lower half of an int; minijail compares all of the register."""
    losses = read_minijail.read(b"dup: arg0 == 5", "it", FormatOptions()).losses
    assert [loss.direction for loss in losses if loss.calls == ("dup",)] == [Direction.WIDER]


def test_a_filter_that_the_kernel_would_not_load() -> None:
    with pytest.raises(ImportFormatError, match="it: not a filter that the kernel would load"):
        formats.reader("bpf")(b"no filter", "it", FormatOptions())


def test_a_policy_that_is_too_large_for_minijail_is_refused() -> None:
    text = "ioctl: " + " || ".join(f"cmd == {number}" for number in range(0x5400, 0x5880, 3)) + "\n"
    with pytest.raises(ExportError, match="takes 4096; `--to bpf` has no such limit"):
        formats.exporter("minijail")(parse(text).policy, FormatOptions())


def test_many_excluded_values() -> None:
    """Each excluded value is an alternative for each of its bits, and these would be multiplied with one another."""
    text = "dup: " + " && ".join(f"fildes != {number}" for number in range(40)) + "\n"
    made = formats.exporter("minijail")(parse(text).policy, FormatOptions())
    back = read_minijail.read(made.data, "it", FormatOptions()).policy
    assert {one.number for one in compare(parse(text).policy, back).differences} == {None}


def test_minijail_word_for_word() -> None:
    text = PROBE_POLICY.replace("niceval >= -3 && ", "")
    made = formats.exporter("minijail")(parse(text).policy, FormatOptions(name="probe"))
    assert made.data.decode() == """\
# System calls of probe, made by `callfence export --to minijail` for x86_64.
# clone: clone_flags == CLONE_VM|CLONE_SIGHAND|CLONE_THREAD
clone: arg0 == 0x10900
clone3: return ENOSYS
exit_group: 1
futex_waitv: 1
getppid: return EACCES
getuid: 1
# ioctl: !(cmd == TIOCSTI)
ioctl: arg1 & 0xffffabed || arg1 in 0xfffffffffffffffd || arg1 in 0xffffffffffffffef || arg1 in 0xfffffffffffffbff \
|| arg1 in 0xffffffffffffefff || arg1 in 0xffffffffffffbfff
# lseek: offset > 0 && whence == SEEK_SET
lseek: arg1 in 0x7fffffffffffffff && arg2 == 0x0 && arg1 & 0x7fffffffffffffff
pause: 1
# setpriority: niceval < 5
setpriority: arg2 in 0xffffffff80000004 || arg2 in 0xffffffff80000003 || arg2 & 0x80000000
# socket: family == AF_INET && protocol in {IPPROTO_IP, IPPROTO_TCP} || family == AF_UNIX
socket: arg0 == 0x1 || arg0 == 0x2 && arg2 == 0x0 || arg0 == 0x2 && arg2 == 0x6
write: 1
"""


def test_firejail_word_for_word() -> None:
    made = formats.exporter("firejail")(parse(PROBE_POLICY).policy, FormatOptions(name="probe"))
    assert made.data.decode() == """\
# System calls of probe, made by `callfence export --to firejail` for firejail 0.9.74.
seccomp.keep clone,clone3:ENOSYS,execve,execveat,exit_group,$449,getppid:EACCES,getuid,ioctl,lseek,pause,\
prctl,setpriority,socket,write
seccomp.block-secondary
seccomp-error-action kill
"""
    denying = parse("default allow\nunknown allow\nptrace: kill\nbpf: errno EPERM\n").policy
    made = formats.exporter("firejail")(denying, FormatOptions(name="it"))
    assert made.data.decode().splitlines()[1] == "seccomp.drop bpf:EPERM,ptrace:kill"


def test_kafel_word_for_word() -> None:
    text = "clone3: errno ENOSYS\nmprotect: prot == PROT_READ\nfsconfig: cmd == FSCONFIG_SET_FLAG\nread: allow\n"
    made = formats.exporter("kafel")(parse(text).policy, FormatOptions(name="a-b"))
    assert made.data.decode() == """\
// System calls of a-b, made by `callfence export --to kafel` for nsjail 3.6 on x86_64.
#define clone3 435
#define execve 59
#define fsconfig 431
#define mprotect 10
#define read 0

POLICY callfence_a_b {
  ALLOW {
    fsconfig(fd, cmd, key, value, aux) { (cmd & 0xffffffff) == 0 },
    mprotect(start, len, prot) { prot == 1 }
  },
  ERRNO(38) {
    clone3
  },
  ALLOW {
    execve,
    read
  }
}

USE callfence_a_b
DEFAULT KILL_PROCESS
"""


@pytest.mark.parametrize("name", ["minijail", "kafel", "bpf"])
def test_the_commands_write_what_reads_back(name: str, tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(PROBE_POLICY)
    callfence = Path(sys.executable).parent / "callfence"
    strict = ["--strict"] if name != "kafel" else []  # nsjail needs its execve
    export = [callfence, "export", "--to", name, *strict, "-o", "out", "it.policy"]
    subprocess.run(export, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    if name == "bpf":
        importing = [callfence, "import", "--from", name, "-o", "back.policy", "out"]
        ran = subprocess.run(importing, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
        assert "differs" not in ran.stderr
        back = parse((tmp_path / "back.policy").read_text()).policy
    else:
        back = READERS[name]((tmp_path / "out").read_bytes(), "it", FormatOptions()).policy
    changed = {one.number for one in compare(parse(PROBE_POLICY).policy, back).differences}
    assert changed == {"minijail": {None}, "kafel": {None, 59}, "bpf": set()}[name]


@pytest.mark.parametrize("name", ["c", "systemd"])
def test_strict_refuses_what_the_target_adds(name: str, tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(PROBE_POLICY)
    export = [Path(sys.executable).parent / "callfence", "export", "--to", name, "--strict", "-o", "out", "it.policy"]
    ran = subprocess.run(export, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "execve" in ran.stderr
    assert not (tmp_path / "out").exists()
