"""What is wrong is said in one message with the way out, status 125-127, and nothing is lost or half-written."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from needed import needs_root

from callfence.commands import diff, lint
from callfence.tracer.abi import NATIVE

CALLFENCE = (sys.executable, "-m", "callfence")
POLICY = "read: allow\nwrite: allow\n"


def run(folder: Path, *command: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "LC_ALL": "C.UTF-8"}
    command = (*before, *CALLFENCE, *command)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [
    ("show",), ("show", "--implied"), ("lint",), ("allow",), ("review", "--against", "b.policy"), ("export",), ("doctor",)
])
@pytest.mark.parametrize("text", [POLICY, f"arm exec\narm now\n{POLICY}"])
def test_the_name_of_a_file_cannot_fake_a_line_or_control_the_terminal(
    tmp_path: Path, command: tuple[str, ...], text: str
) -> None:
    name = "a\nb\x1b[31m.policy"
    (tmp_path / name).write_text(text)
    (tmp_path / "b.policy").write_text(POLICY)
    done = run(tmp_path, *command, name, *(("read: allow",) if command == ("allow",) else ()))
    lines = (done.stdout + done.stderr).splitlines()
    assert lines
    assert not [line for line in lines if "\x1b" in line or line.strip().startswith("b\\x1b")]


@pytest.fixture(params=["learn", "enforce"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "it.policy").write_text(POLICY)
    return (request.param, "-o" if request.param == "learn" else "-p", "it.policy")


@pytest.mark.parametrize(
    ("program", "status", "says"),
    [
        ("no-such-program", 127, "no-such-program: not found"),
        ("./no-such-program", 127, "./no-such-program: not found"),
        ("./text", 126, "./text: Permission denied"),
        ("./folder", 126, "./folder: is a directory"),
        ("./script", 127, "./script: its interpreter (first line of a script) or its dynamic loader was not found"),
        ("./text/x", 127, "./text/x: not found"),
        ("text", 127, "text: not found; the file of this folder is ./text"),
        ("", 127, "'': not found"),
        ("a\nb", 127, "a\\x0ab: not found"),
    ],
)
def test_a_program_that_cannot_run(command: tuple[str, ...], tmp_path: Path, program: str, status: int, says: str) -> None:
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    done = run(tmp_path, *command, "--", program)
    assert (done.returncode, done.stderr) == (status, f"{command[0]}: {says}\n")
    assert (tmp_path / "it.policy").read_text() == POLICY


def test_a_program_that_the_kernel_kills_in_its_execve(tmp_path: Path) -> None:
    """Its segment is where only the kernel's memory can be, which is found out when the old program is gone already."""
    program = tmp_path / "impossible"
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x401000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0xFFFF_8000_0000_0000, 0, 0x1000, 0x1000, 0x1000)
    program.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + header + segment + bytes(4096))
    program.chmod(0o755)
    plain = subprocess.run([program], check=False)
    assert plain.returncode == -signal.SIGSEGV
    done = run(tmp_path, "learn", "./impossible")
    assert done.returncode == plain.returncode
    assert done.stderr == "learn: ./impossible was killed during its execve, before it could make a call; nothing was learned\n"
    assert not (tmp_path / "impossible.policy").exists()


MISTAKES = [
    ("opne: allow", f"it.policy:1:1: {NATIVE} has no syscall opne"),
    ("read: fb == 1", "it.policy:1:7: read has no argument fb"),
    ("mmap: prot == PROT_RAED", "it.policy:1:15:"),
    ("read: allow\nread: allow", "it.policy:2:1:"),
    ("fchmod: mode == 0x10000", "it.policy:1:17:"),
    ("read: buf == 1", "it.policy:1:7:"),
    ("callfence 2", "it.policy:1:11:"),
    ("read: (fd == 1", "it.policy:1:"),
    ("include it.policy", "it.policy:1:9:"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES)
def test_a_mistake_in_a_policy(command: tuple[str, ...], tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "it.policy").write_text(text + "\n")
    done = run(tmp_path, *command, "touch", "ran")
    assert done.returncode == 125
    assert done.stderr.startswith(f"{command[0]}: {says}")
    assert "^" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "it.policy").read_text() == text + "\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ".callfence/it.rec:1: not a callfence recording"),
        (b"\x7fELF\x00", ".callfence/it.rec:1: not a callfence recording"),
        (b'{"callfence recording": 9}\n', ".callfence/it.rec:1: a recording whose version 9 is of a newer callfence"),
        (b'{"callfence recording": 1, "runs": 1, "observations": 1}\n', ".callfence/it.rec:2: truncated"),
    ],
)
def test_a_recording_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    recording = tmp_path / ".callfence" / "it.rec"
    recording.parent.mkdir()
    recording.write_bytes(content)
    done = run(tmp_path, "learn", "-o", "it.policy", "touch", "ran")
    assert done.returncode == 125
    assert done.stderr.startswith(f"learn: {says}")
    assert recording.read_bytes() == content
    assert not (tmp_path / "ran").exists()


def mounted(options: str, script: str) -> tuple[str, ...]:
    """Words that run `script`, in which "$@" is the command, in a file system of its own over the current folder."""
    return ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs {options} none . && cd "$PWD" && {script}', "sh")


@needs_root
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    done = run(tmp_path, "learn", "true", before=mounted("-o ro", '"$@"'))
    assert done.returncode == 125
    assert "Read-only file system" in done.stderr


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    """The policy that was there is whole, and no temporary file is left."""
    fill = "echo 'read: allow' > it.policy; mkdir .callfence; dd if=/dev/zero of=fill bs=1k count=100 2>&-"
    script = f'{fill}; "$@"; status=$?; cat it.policy; ls -A . .callfence; exit $status'
    done = run(tmp_path, "learn", "-o", "it.policy", "true", before=mounted("-o size=32k", script))
    assert done.returncode == 125
    assert "No space left on device" in done.stderr
    assert set(done.stdout.split()) <= {"read:", "allow", ".:", ".callfence:", ".callfence", "fill", "it.policy", "cache"}
    assert done.stdout.startswith("read: allow\n")


@needs_root
def test_no_libseccomp(command: tuple[str, ...], tmp_path: Path) -> None:
    hide = "for f in /usr/lib/*-linux-gnu/libseccomp.so.2*; do mount --bind /dev/null $f; done; exec \"$@\""
    done = run(tmp_path, *command, "touch", "ran", before=("unshare", "--mount", "sh", "-ec", hide, "sh"))
    assert done.returncode == 125
    assert "libseccomp is missing" in done.stderr
    assert "libseccomp2" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_ptrace_is_not_permitted(command: tuple[str, ...], tmp_path: Path) -> None:
    """A container's filter that refuses ptrace, as Docker's did before Linux 4.8."""
    (tmp_path / "outer.policy").write_text("default allow\nptrace: errno EPERM\n")
    outer = (*CALLFENCE, "enforce", "--quiet-kernel", "-p", "outer.policy", "--")
    done = run(tmp_path, *command, "touch", "ran", before=outer)
    assert done.returncode == 125
    assert "ptrace" in done.stderr
    assert "--arm now" in done.stderr or "callfence doctor" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_another_architecture(command: tuple[str, ...], tmp_path: Path) -> None:
    """What it would say on one that has tables only; uname's answer is what tells."""
    script = (
        "import os, sys, importlib; from callfence.cli import module_of; real = os.uname();"
        "os.uname = lambda: os.uname_result((real[0], real[1], real[2], real[3], 'riscv64'));"
        "sys.exit(importlib.import_module(module_of(sys.argv[1])).main(sys.argv[2:]))"
    )
    arguments = [sys.executable, "-c", script, *command, "true"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert done.stderr == f"{command[0]}: {command[0]} needs Linux on x86_64 or aarch64, and this is Linux on riscv64\n"


@pytest.mark.parametrize("content", ["hunter2", "token=hunter2\n", "x\0hunter2", "path hunter2: read\n"])
@pytest.mark.parametrize("words", [("lint",), ("diff", "it.policy"), ("review", "--no-terminal"), ("enforce", "-p")])
def test_a_link_to_a_file_elsewhere_shows_nothing_of_it(tmp_path: Path, words: tuple[str, ...], content: str) -> None:
    """A change that is reviewed may make the policy one, and its check prints what is wrong."""
    secret, here = tmp_path / "secret", tmp_path / "here"
    secret.write_text(content)
    here.mkdir()
    (here / "it.policy").write_text(POLICY)
    (here / "app.policy").symlink_to(secret)
    done = run(here, *words, "app.policy", *(("true",) if words[0] == "enforce" else ()))
    assert "hunter2" not in done.stdout + done.stderr
    assert "app.policy:1:" in done.stderr and "symbolic link" in done.stderr


def test_an_unreadable_policy(tmp_path: Path) -> None:
    done = run(tmp_path, "enforce", "-p", "none.policy", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "none.policy cannot be read: No such file or directory; `learn` writes a policy" in done.stderr


def test_what_could_not_be_read_is_not_praised(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(POLICY)
    assert run(tmp_path, "lint", "it.policy").stdout == "no findings\n"
    assert run(tmp_path, "lint", "none.policy", "it.policy").stdout == ""


def test_the_way_out_of_a_broken_recording(tmp_path: Path) -> None:
    assert run(tmp_path, "learn", "-q", "true").returncode == 0
    policy, recording = tmp_path / "true.policy", tmp_path / ".callfence/true.rec"
    before = policy.read_text()
    recording.write_text("garbage\n")
    done = run(tmp_path, "learn", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("learn: .callfence/true.rec:1: not a callfence recording\n  remove the file, or start over")
    assert (policy.read_text(), recording.read_text()) == (before, "garbage\n")
    assert run(tmp_path, "learn", "-q", "--fresh", "true").returncode == 0
    assert (policy.read_text(), recording.read_text() != "garbage\n") == (before, True)


@pytest.mark.parametrize(("name", "replaced"), [("app.py", False), ("app.policy", True), ("policy", True)])
def test_starting_over_replaces_no_program(tmp_path: Path, name: str, replaced: bool) -> None:
    """`-o app.py`, as one names the output of a compiler, would be the end of the source."""
    before = POLICY if name == "policy" else "print('hello')\n"
    (tmp_path / name).write_text(before)
    done = run(tmp_path, "learn", "-q", "--fresh", "-o", name, "true")
    assert (done.returncode == 0, (tmp_path / name).read_text() != before) == (replaced, replaced)
    if not replaced:
        assert done.stderr.startswith(f"learn: {name} is not a policy, so --fresh does not replace it: -o names the policy")
        assert f"{name}:1:7: " in done.stderr


@needs_root
def test_a_folder_that_its_user_cannot_write_to(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(POLICY)
    user = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--")  # root without capabilities
    tmp_path.chmod(0o555)
    said = "callfence allow: it.policy: is in a folder that cannot be written to\n"
    assert run(tmp_path, "allow", "it.policy", "mkdirat: allow", before=user).stderr == said
    assert (tmp_path / "it.policy").read_text() == POLICY


@needs_root
def test_a_folder_that_its_user_cannot_read(tmp_path: Path) -> None:
    user = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--")
    tmp_path.chmod(0o300)
    done = run(tmp_path, "learn", "-q", "true", before=user)
    assert (done.returncode, done.stderr, (tmp_path / ".callfence/true.rec").exists()) == (0, "", True)


def test_a_folder_that_has_been_deleted(tmp_path: Path) -> None:
    deleted = ("sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh")
    done = run(tmp_path, "learn", "true", before=deleted)
    said = "learn: true.policy: the current folder has been deleted; -o names a policy elsewhere, by its whole path\n"
    assert (done.returncode, done.stderr) == (125, said)
    assert run(tmp_path, "learn", "-q", "-o", str(tmp_path / "it.policy"), "true", before=deleted).returncode == 0


def test_starting_over_keeps_the_recording_until_there_is_another(tmp_path: Path) -> None:
    assert run(tmp_path, "learn", "-q", "true").returncode == 0
    before = (tmp_path / ".callfence/true.rec").read_bytes()
    done = run(tmp_path, "learn", "--fresh", "true", before=("prlimit", "--fsize=100", "--"))
    assert done.returncode == 125
    assert "true.policy: File too large" in done.stderr
    assert (tmp_path / ".callfence/true.rec").read_bytes() == before


def test_a_symbolic_link_is_not_followed_when_writing(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text(POLICY)
    (tmp_path / "it.policy").symlink_to(target)
    done = run(tmp_path, "learn", "-o", "it.policy", "true")
    assert done.returncode == 125
    assert "is a symbolic link" in done.stderr
    assert target.read_text() == POLICY


def test_the_mode_of_a_policy_is_kept(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(POLICY)
    (tmp_path / "it.policy").chmod(0o640)
    assert run(tmp_path, "learn", "-o", "it.policy", "true").returncode == 0
    assert stat.S_IMODE((tmp_path / "it.policy").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["shwo"], 2, "callfence: unknown command 'shwo': did you mean show?\n"),
        (["learn"], 125, "learn: no program given; see learn --help\n"),
        (["learn", "--frsh", "true"], 125, "learn: unrecognized arguments: --frsh; did you mean --fresh? see learn --help\n"),
        (["learn", "--pid", "1", "true"], 125, "learn: a program and --pid PID cannot be given together; -o names the policy; "
            "see learn --help\n"),
        (["learn", "-o", "none/it.policy", "true"], 125, "learn: none/it.policy: the folder none does not exist\n"),
        (["learn", "-o", "/dev/full", "true"], 125, "learn: /dev/full: the policy is not a regular file\n"),
        (["learn", "--within", "none.policy", "true"], 125, "learn: --within none.policy: No such file or directory\n"),
        (["learn", "--check", "--write-recording", "none/it.rec", "touch", "ran"], 125, "learn: --write-recording none/it.rec: "
            "none: No such file or directory\n"),
        (["enforce", "--ask", "unix:/x", "true"], 125, "enforce: --ask unix:/x: write --ask=unix:/x; without `=` it would be "
            "the program\n"),
        (["diff", "-", "-"], 2, "callfence diff: OLD and NEW cannot both be standard input\n"),
        (["lint", "none.policy"], 2, "callfence lint: none.policy: No such file or directory\n"),
        (["learn", "--pid", "999999999"], 125, "learn: process 999999999 does not exist\n"),
        (["show", "none.policy"], 2, "callfence show: none.policy: No such file or directory\n"),
        (["show", "--write", "none.policy"], 2, "callfence show: none.policy: No such file or directory\n"),
    ],
)
def test_a_mistake_in_the_command_line(tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", says)


def test_a_policy_with_a_similar_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "run.sh.policy").write_text("read: allow\n")
    (tmp_path / "tests" / "run.sh").touch()
    (tmp_path / "tests" / "a-link-to-nowhere.policy").symlink_to("nowhere")
    for name, says in (
        ("run.policy", "; did you mean run.sh.policy?"), ("run.s", ""), ("other.policy", ""), ("a-link-to-nowhere.policy", "")
    ):  # fmt: skip
        done = run(tmp_path, "lint", f"tests/{name}")
        assert (done.returncode, done.stderr) == (2, f"callfence lint: tests/{name}: No such file or directory{says}\n")


@pytest.mark.parametrize("command", ["learn", "enforce"])
def test_help_on_a_full_disk(tmp_path: Path, command: str) -> None:
    with open("/dev/full", "wb") as full:
        words = (*CALLFENCE, command, "--help")
        done = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr.endswith(b": standard output: No space left on device\n")) == (125, True)


@pytest.mark.parametrize("command", ["", "learn", "enforce", "show", "merge", "doctor"])
def test_help_whose_reader_has_gone(tmp_path: Path, command: str) -> None:
    words = (*CALLFENCE, *filter(None, [command]), "--help")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode in (128 + signal.SIGPIPE, -signal.SIGPIPE), done.stderr) == (True, b"")


@pytest.mark.parametrize("command", ["", "learn", "enforce", "show", "merge", "doctor"])
def test_help(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *filter(None, [command]), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("content", ["ptrace: allow\n", "zzz: allow\n", '{"x"', None])
def test_a_files_name_writes_no_line_of_the_output(
    tmp_path: Path, content: str | None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a check of somebody's change, the names of files are theirs."""
    name = "x\x1b[2J\n::error ::it.policy"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.policy").write_text(POLICY)
    if content is not None:
        (tmp_path / name).write_text(content)
    lint.main([name])
    diff.main(["it.policy", name])
    out, err = capfd.readouterr()
    assert "::error ::it.policy" in out + err
    assert not [line for line in (out + err).split("\n") if line.startswith("::") or "\x1b" in line]


def test_a_bare_repository_among_the_files_of_a_change_runs_no_program(tmp_path: Path) -> None:
    """Its configuration has git fetch a missing file, by any program."""

    def git(folder: Path, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, check=True, timeout=60, capture_output=True, text=True)
        return done.stdout.strip()

    above, within, ran = tmp_path / "above", tmp_path / "above/within", tmp_path / "ran"
    above.mkdir()
    git(above, "init", "-q")
    (above / "it.policy").write_text(POLICY)
    git(above, "add", ".")
    git(above, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "1")
    blob = git(above, "rev-parse", "HEAD:it.policy")
    git(above, "clone", "-q", "--bare", ".", "within")
    (within / "it.policy").write_text(POLICY)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n: > {ran}\n")
    program.chmod(0o755)
    (within / "objects" / blob[:2] / blob[2:]).unlink()
    for setting in (
        "core.repositoryFormatVersion=1",
        "core.bare=false",
        "core.worktree=.",
        f"core.fsmonitor={program}",
        "extensions.partialClone=origin",
        "remote.origin.promisor=true",
        f"remote.origin.url={above}",
        f"remote.origin.uploadpack={program}",
    ):
        git(within, "config", "-f", "config", *setting.split("=", 1))
    for words in (("lint",), ("diff",), ("review", "--no-terminal")):
        assert run(within, *words, "--git", "HEAD", "it.policy").returncode == 2
    assert not ran.exists()
