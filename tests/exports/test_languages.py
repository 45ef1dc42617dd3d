"""minijail's and Kafel's languages: what texts mean to the readers that hold exports, and the texts that callfence writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import format_options, parse
from exported_languages import read_kafel, read_minijail
from installed import PROBE_POLICY

from callfence.policygen import formats
from callfence.policygen.comparing.compare import compare
from callfence.policygen.formats import ExportError, ImportFormatError

if TYPE_CHECKING:
    from callfence.policygen.model import Policy

MINIJAIL = [
    ("read: 1", "read: allow"),
    ("# a comment\nread: 1", "read: allow"),
    ("clone3: return ENOSYS", "clone3: errno ENOSYS"),
    ("clone3: return 0x26", "clone3: errno ENOSYS"),
    ("lseek: arg2 == 0x0 || arg2 == 0x1", "lseek: whence == SEEK_CUR\n    || whence == SEEK_SET"),
    ("mmap: arg2 in 0xfffffffffffffffb || arg2 in 0xfffffffffffffffd", "mmap: !(prot has PROT_WRITE|PROT_EXEC)"),
    ("mprotect: arg2 in 0x3", "mprotect: prot in PROT_READ|PROT_WRITE"),
    ("mmap: arg2 == 0x1 && arg3 & 0x2", "mmap: prot == PROT_READ && flags has MAP_PRIVATE"),
    ("mprotect: arg2 == 0x1; return EPERM", "mprotect: prot == PROT_READ else errno EPERM"),
]
KAFEL = [
    ("  ALLOW {\n    read\n  }", "read: allow"),
    ("  ERRNO(38) {\n    read\n  }", "read: errno ENOSYS"),
    ("  ALLOW {\n    SYSCALL[5]\n  }", "fstat: allow"),
    ("  ALLOW {\n    mprotect(start, len, prot) { (prot & 0x4) == 0 }\n  }", "mprotect: prot & PROT_EXEC == 0"),
    (
        "  ALLOW {\n    mprotect(a, b, prot) { prot == 1 },\n    mprotect(a, b, prot) { a == 0 && prot == 2 }\n  }",
        "mprotect: prot == PROT_READ\n    || start == 0 && prot == PROT_WRITE",
    ),
    (
        "  ERRNO(1) {\n    mprotect(start, len, prot) { prot == 4 }\n  },\n  ALLOW {\n    mprotect\n  }",
        "mprotect: errno EPERM if prot == PROT_EXEC else allow",
    ),
    ("  ALLOW {\n    read\n  },\n  ERRNO(1) {\n    read\n  }", "read: allow"),
]


def check(policy: Policy, expected: str) -> None:
    """The policy is the expected entries; where they say nothing, other and newer calls are killed."""
    assert compare(parse(f"default kill\nunknown kill\n{expected}").policy, policy).differences == ()


@pytest.mark.parametrize(("text", "expected"), MINIJAIL)
def test_minijail(text: str, expected: str) -> None:
    check(read_minijail(text), expected)


@pytest.mark.parametrize(("text", "expected"), KAFEL)
def test_kafel(text: str, expected: str) -> None:
    defines = "#define mprotect 10\n#define read 0\n"
    check(read_kafel(f"{defines}\nPOLICY it {{\n{text}\n}}\n\nUSE it\nDEFAULT KILL_PROCESS\n"), expected)


def test_a_filter_that_the_kernel_would_not_load() -> None:
    with pytest.raises(ImportFormatError, match="it: the kernel would not load this filter"):
        formats.reader("bpf")(b"no filter", "it", format_options())


def test_a_policy_that_is_too_large_for_minijail_is_refused() -> None:
    text = "ioctl: " + " || ".join(f"cmd == {number}" for number in range(0x5400, 0x5880, 3)) + "\n"
    with pytest.raises(ExportError, match="minijail permits 4096; use `--to bpf`, which has no such limit"):
        formats.exporter("minijail")(parse(text).policy, format_options())


def test_many_excluded_values() -> None:
    """Each excluded value is an alternative for each of its bits, and these would be multiplied with one another."""
    text = "dup: " + " && ".join(f"fildes != {number}" for number in range(40)) + "\n"
    made = formats.exporter("minijail")(parse(text).policy, format_options())
    back = read_minijail(made.data.decode())
    assert {one.number for one in compare(parse(text).policy, back).differences} == {None}


def test_minijail_word_for_word() -> None:
    text = PROBE_POLICY.replace("niceval >= -3 && ", "")
    made = formats.exporter("minijail")(parse(text).policy, format_options(name="probe"))
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
    made = formats.exporter("firejail")(parse(PROBE_POLICY).policy, format_options(name="probe"))
    assert made.data.decode() == """\
# System calls of probe, made by `callfence export --to firejail` for firejail 0.9.74.
seccomp.keep clone,clone3:ENOSYS,execve,execveat,exit_group,$472:ENOSYS,$449,getppid:EACCES,getuid,ioctl,$470:ENOSYS,\
lseek,pause,prctl,$471:ENOSYS,setpriority,socket,write
seccomp.block-secondary
seccomp-error-action kill
"""
    denying = parse("default allow\nunknown allow\nptrace: kill\nbpf: errno EPERM\n").policy
    made = formats.exporter("firejail")(denying, format_options(name="it"))
    assert made.data.decode().splitlines()[1] == "seccomp.drop bpf:EPERM,ptrace:kill"


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        ("kill", "seccomp.keep execve,execveat,prctl,read,uname:EIO"),
        ("errno EPERM", "seccomp.keep execve,execveat,prctl,read,uname:EIO"),
        ("allow", "seccomp.drop getpid:kill,uname:EIO"),
    ],
)
def test_firejail_denies_what_it_cannot_express_as_it_denies_the_rest(default: str, expected: str) -> None:
    """Or kills, where the rest is allowed."""
    text = f"table 6.1\ndefault {default}\nunknown {default}\nread: allow\ngetpid: trap\nuname: errno EIO\n"
    made = formats.exporter("firejail")(parse(text).policy, format_options(name="it"))
    assert made.data.decode().splitlines()[1] == expected


def test_kafel_word_for_word() -> None:
    text = "clone3: errno ENOSYS\nmprotect: prot == PROT_READ\nfsconfig: cmd == FSCONFIG_SET_FLAG\nread: allow\n"
    made = formats.exporter("kafel")(parse(text).policy, format_options(name="a-b"))
    assert made.data.decode() == """\
// System calls of a-b, made by `callfence export --to kafel` for nsjail 3.6 on x86_64.
#define clone3 435
#define execve 59
#define fchroot 472
#define fsconfig 431
#define listns 470
#define mprotect 10
#define read 0
#define rseq_slice_yield 471

POLICY callfence_a_b {
  ALLOW {
    fsconfig(fd, cmd, key, value, aux) { (cmd & 0xffffffff) == 0 },
    mprotect(start, len, prot) { prot == 1 }
  },
  ERRNO(38) {
    clone3,
    fchroot,
    listns,
    rseq_slice_yield
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
    (tmp_path / "it.policy").write_text(f"arch x86_64\n{PROBE_POLICY}")
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
        back = {"minijail": read_minijail, "kafel": read_kafel}[name]((tmp_path / "out").read_text())
    changed = {one.number for one in compare(parse(PROBE_POLICY).policy, back).differences}
    assert changed == {"minijail": {None}, "kafel": {None, 59}, "bpf": set()}[name]


@pytest.mark.parametrize("name", ["c", "systemd"])
def test_strict_refuses_what_the_target_adds(name: str, tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(f"arch x86_64\n{PROBE_POLICY}")
    export = [Path(sys.executable).parent / "callfence", "export", "--to", name, "--strict", "-o", "out", "it.policy"]
    ran = subprocess.run(export, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "execve" in ran.stderr
    assert not (tmp_path / "out").exists()
