"""What commands read, from files, standard input and git, and what they say if they cannot."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.policygen.language.document import PolicyError
from callfence.shared import inputs
from callfence.tracer.abi import Arch
from callfence.tracer.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def standard_input(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(b"x" * (1 << 20), monkeypatch)
    assert inputs.content("-", 1 << 20) == b"x" * (1 << 20)
    standard_input(b"x" * ((1 << 20) + 1), monkeypatch)
    with pytest.raises(UserError, match=r"^-: standard input has more than 1 MiB$"):
        inputs.content("-", 1 << 20)


def test_standard_input_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("here", "wb") as file, open(file.fileno(), "rb", closefd=False) as closed:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(closed))
        with pytest.raises(OSError, match="-") as raised:
            inputs.content("-")
    assert (raised.value.errno, raised.value.filename) == (errno.EBADF, "-")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("wrong"), "callfence it: wrong"),
        (UserError("a:1:1: wrong\n  line"), "a:1:1: wrong\n  line"),
        (OSError(errno.ENOENT, "No such file or directory", "a\nb"), "callfence it: a\\x0ab: No such file or directory"),
        (OSError(errno.ENOENT, "No such file or directory", ""), "callfence it: '': No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "callfence it: standard output: No space left on device"),
        (OSError(errno.EBADF, "Bad file descriptor"), "callfence it: standard output: Bad file descriptor"),
        (OSError(errno.EPERM, "Operation not permitted"), "callfence it: Operation not permitted"),
    ],
)
def test_messages(error: UserError | OSError, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise error

    assert inputs.message("it", error) == said
    assert (inputs.run_command("it", work), inputs.run_command("it", lambda: 7)) == (2, 7)
    assert capsys.readouterr().err == f"{said}\n"


def test_a_message_about_a_policy_begins_with_its_position() -> None:
    with pytest.raises(PolicyError) as raised:
        inputs.parse_entries("read: allow\nopne: allow", Arch.X86_64)
    assert inputs.message("it", raised.value).startswith("LINE:2:1: x86_64 has no syscall opne")


def test_entries_of_a_line() -> None:
    assert set(inputs.parse_entries("read: allow", Arch.AARCH64).entries) == {Arch.AARCH64}
    assert set(inputs.parse_entries("  arch i386\nread: allow", Arch.AARCH64).entries) == {Arch.I386}
    assert inputs.parse_entries("path /a: read", Arch.X86_64).files.paths is not None
    for text in ("", "# nothing", "arch i386"):
        with pytest.raises(PolicyError, match="LINE:1:1: no entry is given"):
            inputs.parse_entries(text, Arch.X86_64)


def test_filters_and_policies() -> None:
    allow = b"\x06\0\0\0\0\0\xff\x7f"
    Path("it.bpf").write_bytes(allow)
    assert inputs.is_program(allow) and not inputs.is_program(b"read: allow\n")
    assert inputs.program("it.bpf") == allow
    with pytest.raises(UserError, match=r"^no.bpf: the kernel would not load this filter: 7 bytes"):
        inputs.program("no.bpf", allow[1:])


def git(*words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *words], check=True, capture_output=True, timeout=60)


@pytest.fixture
def repository(folder: Path) -> Path:
    """A repository whose first revision has a mistake, the second a policy with an include, in a folder."""
    git("init")
    (folder / "in").mkdir()
    Path("in/app.policy").write_text("opne: allow\n")
    git("add", ".")
    git("commit", "-m", "one")
    Path("in/app.policy").write_text("arch x86_64\ninclude base.policy\nread: allow\n")
    Path("in/base.policy").write_text("arch x86_64\nwrite: allow\n")
    git("add", ".")
    git("commit", "-m", "two")
    Path("in/app.policy").write_text("chroot: allow\n")
    Path("in/base.policy").unlink()
    return folder


@pytest.mark.parametrize("below", [".", "in"])
def test_a_policy_of_a_revision_has_the_includes_of_that_revision(
    below: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / below)
    name = os.path.relpath(repository / "in/app.policy")
    found = inputs.document_at("HEAD", name).policy.entries[Arch.X86_64]
    assert len(found) == 2
    assert inputs.document_at("HEAD", f"{name}.none").policy.entries.get(Arch.X86_64, {}) == {}
    with pytest.raises(PolicyError) as raised:
        inputs.document_at("HEAD~1", name)
    assert str(raised.value).startswith(f"HEAD~1:{name}:1:1: ")


@pytest.mark.parametrize(
    ("revision", "name", "said"),
    [
        ("--output=x", "in/app.policy", "^--output=x is not a git revision$"),
        ("none", "in/app.policy", "^none is not a revision of a git repository in the current folder; fetch it"),
        ("HEAD:in", "in/app.policy", "^HEAD:in is not a revision"),
        ("HEAD", "../app.policy", r"^\.\./app.policy is not in the git repository of the current folder$"),
    ],
)
def test_what_git_does_not_know(revision: str, name: str, said: str, repository: Path) -> None:
    with pytest.raises(UserError, match=said):
        inputs.document_at(revision, name)
    assert not Path("x").exists()


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"^--git needs git, which is not installed$"):
        inputs.git("status")
