"""`callfence carry`: what it writes and prints, its exit statuses, and `--check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from callfence.policygen.equivalents.compare import gaps
from callfence.policygen.language.document import parse, parse_file
from callfence.policygen.lint.findings import lint
from callfence.tracer.abi import Arch
from tests.formats.outputs import check_output

TEXT = """\
# callfence policy for: app
callfence 1
arch x86_64
default kill

clone3: errno ENOSYS           # opaque: flags behind a pointer
execve: allow                  # why: it starts the pager
iopl: allow
open: flags == O_RDONLY|O_DIRECTORY
   || flags == O_WRONLY|O_CREAT && mode & 07000 == 0  # why: its journal
poll: allow
unlink: allow
"""


def callfence(folder: Path, *words: str, text: str = TEXT, given: str = "") -> tuple[int, str, str]:
    (folder / "app.policy").exists() or (folder / "app.policy").write_text(text)
    command = [sys.executable, "-m", "callfence", *words]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=100)
    return done.returncode, done.stdout, done.stderr


def test_the_section_is_added_and_reported(tmp_path: Path) -> None:
    status, said, error = callfence(tmp_path, "carry", "app.policy", "--to", "aarch64")
    assert (status, error) == (0, "")
    assert said.splitlines() == [
        "app.policy: arch aarch64: 4 calls carried from x86_64, 3 as other calls",
        "  open -> openat",
        "  poll -> ppoll",
        "  unlink -> unlinkat",
        "proved: aarch64 allows no effect that x86_64 denies",
        "proved: the same effects for 4 of 4 calls",
        "wider: poll -> ppoll: ppoll also blocks signals while it waits, which the program can do by rt_sigprocmask",
        "not carried: iopl: allow: aarch64 has no call for it",
        "next: on aarch64, let `learn -o app.policy` run what needs the calls that were not carried",
    ]
    text = (tmp_path / "app.policy").read_text()
    assert parse(text).text() == text
    assert text.partition("\narch aarch64")[2].splitlines()[1:] == [
        "",
        "clone3: errno ENOSYS           # opaque: flags behind a pointer",
        "# why: it starts the pager",
        "execve: allow",
        "openat: dfd == AT_FDCWD && flags == O_RDONLY|O_DIRECTORY",
        "     # why: its journal",
        "     || dfd == AT_FDCWD && flags == O_WRONLY|O_CREAT && mode & S_ISUID|S_ISGID|S_ISVTX == 0",
        "ppoll: allow",
        "unlinkat: dfd == AT_FDCWD && flag == 0",
    ]


PHASED = """\
phase serving after epoll_wait

path /usr/lib/x86_64-linux-gnu: read
path /var/x86_64-linux-gnu: read, write

arch_prctl: option == ARCH_SET_FS
bind: allow until serving
epoll_wait: allow
"""


def test_phases_places_and_what_needs_no_call_are_reported(tmp_path: Path) -> None:
    status, said, error = callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", text=PHASED)
    assert (status, error) == (0, "")
    assert said.splitlines()[1:] == [
        "  epoll_wait -> epoll_pwait",
        "proved: aarch64 allows no effect that x86_64 denies",
        "proved: the same effects for 2 of 2 calls",
        "wider: epoll_wait -> epoll_pwait: epoll_pwait also blocks signals while it waits, which the program can do by "
        "rt_sigprocmask",
        "needs no call there: arch_prctl: option == ARCH_SET_FS: elsewhere a register that the program sets itself holds the "
        "address of thread-local storage",
        "phase serving: begins after epoll_pwait, too",
        "added: path /usr/lib/aarch64-linux-gnu: read",
        "not added, because it permits changes: path /var/aarch64-linux-gnu: read, write, "
        "beside path /var/x86_64-linux-gnu: read, write",
    ]


def test_a_container_profile_is_not_replaced_by_a_policy(tmp_path: Path) -> None:
    profile = '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}'
    status, said, error = callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", text=profile)
    refused = "app.policy is a container profile, not a policy: write the policy to another file, by -o OUT"
    assert (status, said, error) == (2, "", f"callfence carry: {refused}\n")
    assert (tmp_path / "app.policy").read_text() == profile
    assert callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", "-o", "out.policy")[0] == 0
    assert parse_file(tmp_path / "out.policy").policy.entries[Arch.AARCH64]


def test_reasons_accept_the_same_findings_there(tmp_path: Path) -> None:
    callfence(tmp_path, "carry", "app.policy", "--to", "aarch64")
    findings = [finding for finding in lint(parse_file(tmp_path / "app.policy")) if finding.rule == "execute"]
    assert {finding.arch: finding.accepted for finding in findings} == dict.fromkeys(
        (Arch.X86_64, Arch.AARCH64), "it starts the pager"
    )


def test_an_existing_section_needs_update(tmp_path: Path) -> None:
    callfence(tmp_path, "carry", "app.policy", "--to", "aarch64")
    before = (tmp_path / "app.policy").read_text()
    status, said, error = callfence(tmp_path, "carry", "app.policy", "--to", "aarch64")
    assert (status, said) == (2, "")
    assert error.startswith("callfence carry: app.policy already has a section for aarch64: --update adds to it")
    assert callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", "--update")[0] == 0
    assert (tmp_path / "app.policy").read_text() == before
    (tmp_path / "app.policy").write_text(before.replace("unlink: allow\n", "unlink: allow\nread: allow\n"))
    assert callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", "--update")[0] == 0
    assert "\nread: allow\n" in (tmp_path / "app.policy").read_text().partition("arch aarch64")[2]


@pytest.mark.long
def test_check_compares_two_sections(tmp_path: Path) -> None:
    assert callfence(tmp_path, "carry", "--check", "app.policy")[0] == 2
    callfence(tmp_path, "carry", "app.policy", "--to", "aarch64")
    assert callfence(tmp_path, "carry", "--check", "app.policy") == (
        0, "app.policy: x86_64 and aarch64 allow the same effects\n", "",
    )  # fmt: skip
    with (tmp_path / "app.policy").open("a") as policy:
        policy.write("socket: family == AF_UNIX\n")
    status, said, _ = callfence(tmp_path, "carry", "--check", "app.policy")
    assert status == 1
    assert said == (
        "aarch64 allows socket: family == AF_UNIX; x86_64 allows nothing that does this\n"
        "  for example socket(family=AF_UNIX, type=0, protocol=0)\n"
    )
    status, said, _ = callfence(tmp_path, "carry", "--check", "--format", "json", "app.policy")
    (difference,) = check_output("check", said)["differences"]
    assert (status, difference["arch"], difference["call"], difference["missing_on"]) == (1, "aarch64", "socket", "x86_64")
    status, said, _ = callfence(tmp_path, "lint", "app.policy")
    assert "socket: it allows on this architecture what the section for x86_64 allows by no call [sections-differ]" in said


def test_check_compares_a_section_of_32_bits_only_if_both_are_named(tmp_path: Path) -> None:
    text = "default kill\narch x86_64\n\ngetpid: allow\n\narch i386\n\ngetpid: allow\ngetuid: allow\n"
    status, _, error = callfence(tmp_path, "carry", "--check", "app.policy", text=text)
    assert (status, "app.policy has no two sections to compare" in error) == (2, True)
    status, said, _ = callfence(tmp_path, "carry", "--check", "--from", "x86_64", "--to", "i386", "app.policy")
    assert (status, said) == (1, "i386 allows getuid: allow; x86_64 allows nothing that does this\n  for example getuid()\n")


def test_output_and_standard_input(tmp_path: Path) -> None:
    status, said, _ = callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", "-o", "both.policy")
    assert (status, said.partition(":")[0]) == (0, "both.policy")
    assert (tmp_path / "app.policy").read_text() == TEXT
    both = (tmp_path / "both.policy").read_text()
    assert callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", "-o", "-")[1] == both
    assert callfence(tmp_path, "carry", "-", "--to", "aarch64", given=TEXT)[1] == both
    status, said, _ = callfence(tmp_path, "carry", "both.policy", "--to", "i386", "--from", "x86_64", "--format", "json")
    report = check_output("carry", said)
    assert (status, report["from"], report["to"]) == (0, "x86_64", "i386")
    found = gaps(parse_file(tmp_path / "both.policy").policy, Arch.X86_64, Arch.I386)
    assert not [gap for gap in found if gap.arch is Arch.I386]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["app.policy"], "--to ARCH is missing"),
        (["--check", "-o", "x", "app.policy"], "--check writes nothing"),
        (["app.policy", "--to", "x86_64"], "app.policy has no section but that for x86_64: say with --from ARCH"),
        (["app.policy", "--to", "aarch64", "--from", "i386"], "the policy has no section `arch i386` to be carried to aarch64"),
        (["absent.policy", "--to", "aarch64"], "absent.policy: No such file or directory"),
        (["--check", "--to", "aarch64", "app.policy"], "sections for x86_64 only: `callfence carry app.policy --to aarch64`"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], error: str) -> None:
    status, said, printed = callfence(tmp_path, "carry", *words)
    assert (status, said) == (2, "")
    assert error in printed


def test_a_default_that_allows(tmp_path: Path) -> None:
    text = "arch x86_64\ndefault allow\niopl: kill\n"
    assert "make its default deny" in callfence(tmp_path, "carry", "app.policy", "--to", "aarch64", text=text)[2]
