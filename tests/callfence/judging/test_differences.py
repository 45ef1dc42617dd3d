"""The text of `callfence diff`, whole: what is said first, and how long differences are abbreviated."""

from __future__ import annotations

import pytest

from callfence.judging.differences import as_text
from callfence.policygen.language.document import parse
from callfence.policygen.review.judgement import judge

READ = ("read: allow",)
PARTLY = tuple(f"{name}: fd == 3" for name in ("fallocate", "fchdir", "flock", "ftruncate", "getdents64", "syncfs"))
WHOLE = tuple(f"{line.partition(':')[0]}: allow" for line in PARTLY)
MORE = ("shutdown: fd == 3", "sync_file_range: fd == 3", "bind: fd == 3", "copy_file_range: fd_in == 3", "fchown: fd == 3")
IDS = tuple(f"{name}: %s" for name in ("getpid", "getuid", "times", "uname"))
RISKY = ("accept: allow", "add_key: allow", "bpf: allow", "chroot: allow", "ptrace: allow")


def text(old: tuple[str, ...], new: tuple[str, ...], *, full: bool = False) -> str:
    policies = (parse("\n".join(("arch x86_64", *lines, ""))) for lines in (old, new))
    return "".join(f"{line}\n" for line in as_text(judge(*policies), full=full))


def failing(error: str) -> tuple[str, ...]:
    return tuple(line % f"errno {error}" for line in IDS)


WIDER = "wider: NEW allows every call that OLD allows, and more\nNEW allows no known risk that OLD denies\n"
FULL = "--full shows each difference with its rules and an example\n"
SIX = "".join(f"  + {line}\n" for line in PARTLY)
END = "\n"
RISKS = """\
wider: danger: ptrace: it puts code into other processes of its user [inject]
danger: ptrace: it newly reads and changes the memory and registers of other processes [ptrace]
danger: bpf: it newly loads programs into the kernel [bpf]
danger: add_key: it newly uses the kernel's keyrings [keyrings]
warning: chroot: it newly changes its root folder [chroot]
"""
SIGNALS = tuple(
    f"SIG{name}"
    for name in (
        "ABRT", "ALRM", "BUS", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL",
        "PIPE", "PROF", "PWR", "QUIT", "SEGV", "STKFLT",
    )
)
CASES = {
    "equal": (READ, READ, "equal: both policies answer every call in the same way\n"),
    "redundant": (
        (*READ, "times: allow"),
        (*READ, "getpid: allow", "getuid: allow"),
        "incomparable: NEW allows some calls that OLD denies, and denies some that OLD allows\n"
        "NEW allows no known risk that OLD denies\n"
        "+ grants nothing beyond the rest (2 calls): getpid, getuid\n"
        "- no longer allowed, and granted nothing beyond the rest (1 call): times\n",
    ),
    "another answer": (
        (*READ, *failing("EPERM")[:1]),
        (*READ, *failing("ENOENT")[:1]),
        "different: NEW allows the same calls as OLD, but answers some of them, or some denied ones, differently\n"
        "arch x86_64\n  ~ getpid: whatever the arguments\n      errno EPERM -> errno ENOENT, for example getpid()\n",
    ),
    "fifteen lines": (
        READ,
        (*READ, *PARTLY),
        f"{WIDER}arch x86_64\n"
        "  + fallocate: fd == 3\n"
        "      kill -> allow, for example fallocate(fd=3, mode=FALLOC_FL_ALLOCATE_RANGE, offset=0, len=0)\n"
        "  + fchdir: fd == 3\n      kill -> allow, for example fchdir(fd=3)\n"
        "  + flock: fd == 3\n      kill -> allow, for example flock(fd=3, cmd=0)\n"
        "  + ftruncate: fd == 3\n      kill -> allow, for example ftruncate(fd=3, length=0)\n"
        "  + getdents64: fd == 3\n      kill -> allow, for example getdents64(fd=3, dirent=NULL, count=0)\n"
        "  + syncfs: fd == 3\n      kill -> allow, for example syncfs(fd=3)\n",
    ),
    "sixteen lines": (
        READ,
        (*READ, *PARTLY, "times: allow"),
        f"{WIDER}arch x86_64\n{SIX}+ grants nothing beyond the rest (1 call): times\n{FULL}",
    ),
    "as many lines as there is room for": (
        READ,
        (*READ, *sorted((*PARTLY, *MORE))),
        f"{WIDER}arch x86_64\n{''.join(f'  + {line}{END}' for line in sorted((*PARTLY, *MORE)))}{FULL}",
    ),
    "no room for the conditions": (
        READ,
        (*READ, *PARTLY, *MORE, "getpid: allow", "chdir: allow", "dup3: allow"),
        f"{WIDER}arch x86_64\n"
        "  + chdir, dup3: allow\n"
        "  + bind, copy_file_range, fallocate, fchdir, fchown, flock, ftruncate, getdents64, shutdown, sync_file_range,"
        " syncfs:\n    allowed under conditions\n"
        f"+ grants nothing beyond the rest (1 call): getpid\n{FULL}",
    ),
    "less": (
        (*READ, *WHOLE[:4], *PARTLY[4:], "chdir: allow", *failing("EPERM")),
        (*READ, *PARTLY[:4], *failing("ENOENT")),
        "narrower: NEW allows only calls that OLD allows, but not all of them\narch x86_64\n"
        "  ~ getpid, getuid, times, uname: errno EPERM -> errno ENOENT\n"
        "  - chdir: no longer allowed\n"
        f"  - fallocate, fchdir, flock, ftruncate, getdents64, syncfs: less than before\n{FULL}",
    ),
    "risks": (
        READ,
        (*READ, *RISKY),
        f"{RISKS}... and 1 more risk\narch x86_64\n  + add_key: allow\n  + bpf: allow\n  + ptrace: allow\n"
        f"  + chroot: allow\n  + accept: allow\n{FULL}",
    ),
    "risks and others": (
        READ,
        (*READ, *RISKY, *PARTLY),
        f"{RISKS}... and 1 more risk\narch x86_64\n  + add_key: allow\n  + bpf: allow\n  + ptrace: allow\n"
        "  + chroot: allow\n  + accept: allow\n"
        f"  + fallocate, fchdir, flock, ftruncate, getdents64, syncfs: allowed under conditions\n{FULL}",
    ),
    "risks by name": (
        READ,
        (*READ, *RISKY, *PARTLY, *MORE, "getpid: allow", f"kill: {' || '.join(f'sig == {name}' for name in SIGNALS)}"),
        f"{RISKS}... and 2 more risks\narch x86_64\n"
        "  + add_key, bpf, ptrace, chroot, kill, accept: allowed, at the risks above\n"
        "  + bind, copy_file_range, fallocate, fchdir, fchown, flock, ftruncate, getdents64, sync_file_range, syncfs: allowed\n"
        f"    under conditions\n+ grants nothing beyond the rest (2 calls): getpid, shutdown\n{FULL}",
    ),
    "as many rules as fit": (
        READ,
        (*READ, *PARTLY, *MORE[:4], f"kill: {' || '.join(f'sig == {name}' for name in SIGNALS)}"),
        "wider: NEW allows every call that OLD allows, and more\n"
        "warning: kill: it newly sends signals to any process of its user [signals-to-others]\n"
        "arch x86_64\n"
        "  + kill: sig == SIGABRT || sig == SIGALRM || sig == SIGBUS || sig == SIGCONT || sig == SIGFPE || sig == SIGHUP ||"
        " 10 more\n"
        "  + bind, copy_file_range, fallocate, fchdir, flock, ftruncate, getdents64, shutdown, sync_file_range, syncfs:"
        f" allowed\n    under conditions\n{FULL}",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text(name: str) -> None:
    old, new, expected = CASES[name]
    assert text(old, new) == expected


def test_the_full_text_has_each_rule_on_a_line() -> None:
    said = text(READ, (*READ, "kill: sig == SIGTERM || sig == SIGKILL", "times: allow", *PARTLY), full=True)
    assert "arch x86_64\n  + kill: sig == SIGKILL\n       || sig == SIGTERM\n      kill -> allow, for example kill(" in said
    assert "  + times: allow\n      kill -> allow, for example times(" in said
    assert (said.count(", for example "), FULL in said) == (8, False)


def test_more_names_than_fit_are_left_out() -> None:
    names = ("getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid", "gettid", "getuid", "times", "uname", "umask")
    said = text((*READ, *WHOLE), (*READ, *(f"{name}: allow" for name in names)))
    assert said.splitlines()[-2] == (
        "+ grants nothing beyond the rest (11 calls): getegid, geteuid, getgid, getpgrp, getpid, getppid, gettid, getuid, ..."
    )
