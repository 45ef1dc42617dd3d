"""What is read of /proc."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callfence.tracer import proc

GROUPS = """
import os
os.setgroups(range(4_000_000_000, 4_000_065_536))
from callfence.tracer.proc import fields_of
fields = fields_of(os.getpid())
print(len(fields["Groups"].split()), "SigIgn" in fields, "Seccomp" in fields)
"""
ME, NOBODY = os.getpid(), 1 << 22
"""This process, and one that there is not: the number is above any pid."""


@pytest.mark.skipif(os.getuid() != 0, reason="setting groups takes root")
def test_no_number_of_groups_hides_a_field() -> None:
    """What comes after them in `status` is what filters, signals and namespaces a task has."""
    done = subprocess.run([sys.executable, "-c", GROUPS], capture_output=True, text=True, check=False)
    assert done.stdout == "65536 True True\n", done.stderr


@pytest.mark.parametrize(("size", "most", "length"), [(0, 10, 0), (9, 10, 9), (200_000, 10, 10), (200_000, 1 << 20, 200_000)])
def test_content_is_read_to_its_end_or_to_the_limit(tmp_path: Path, size: int, most: int, length: int) -> None:
    (tmp_path / "it").write_bytes(b"x" * size)
    assert proc.content(str(tmp_path / "it"), most) == b"x" * length


def test_content_has_little_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"x" * 400_000)
    assert 100_000 <= len(proc.content(str(tmp_path / "it"), 100_000)) <= 200_000


def test_fields_and_states_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "status").write_bytes(b"Name:\ta\xff: b\nno field\nSigCgt:\t0000000000004000\nSigIgn:\t0000000000000001\n")
    (tmp_path / "stat").write_bytes(b"7 (a) R (b) S 1 7")
    fields = proc.fields(str(tmp_path))
    assert fields == {"Name": "a\ufffd: b", "SigCgt": "0000000000004000", "SigIgn": "0000000000000001"}
    assert proc.state(str(tmp_path)) == "S"
    assert proc.handles(fields, signal.SIGTERM, "SigCgt") and proc.handles(fields, signal.SIGHUP, "SigCgt", "SigIgn")
    assert not proc.handles(fields, signal.SIGHUP, "SigCgt") and not proc.handles(fields, signal.SIGTERM, "SigBlk")
    assert proc.signals(fields, "SigCgt", "SigIgn", "SigBlk") == 0x4001
    assert (proc.fields(f"{tmp_path}/none"), proc.state(f"{tmp_path}/none")) == ({}, "")


def test_a_proc_of_another_namespace_is_not_read(tmp_path: Path) -> None:
    assert proc.is_own("/proc") and not proc.is_own(str(tmp_path))
    (tmp_path / "self").symlink_to(str(ME + 1))
    assert not proc.is_own(str(tmp_path))


def test_this_process() -> None:
    own = os.stat("/proc/self/exe")
    assert os.path.samestat(os.stat(proc.executable_of(ME)), own)
    assert proc.folder_of(ME) == os.getcwd()
    assert proc.kin_of(ME) == (ME, os.getppid()) and proc.owner(ME) == ME
    assert ME in proc.numbers_in("") and ME in proc.numbers_in(f"{ME}/task")
    assert proc.has_as_many_filters(ME, ME) and proc.is_in_own_user_namespace(ME)
    assert proc.namespaces_of(ME) == 1
    assert proc.processor_time(ME) > 0
    assert proc.wait_status_of(ME) is None
    assert (proc.is_caught(ME, signal.SIGINT), proc.is_caught(ME, signal.SIGKILL)) == (True, False)
    assert proc.privilege_lost(ME) == ""


def test_when_a_process_was_started() -> None:
    before = time.time()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    after = time.time()
    try:
        assert before - 0.02 <= proc.begin_of(child.pid) <= after + 0.02
        assert proc.begin_of(os.getpid()) < before
    finally:
        child.communicate(b"\n")
    assert proc.begin_of(child.pid) == float("inf")


def test_how_many_descriptors_a_task_may_have() -> None:
    assert proc.open_files_limit(ME) == resource.getrlimit(resource.RLIMIT_NOFILE)[0] < proc.open_files_limit(NOBODY)


def test_a_process_that_there_is_not() -> None:
    assert (proc.executable_of(NOBODY), proc.folder_of(NOBODY), proc.command_of(NOBODY)) == ("?", "", [])
    assert (proc.kin_of(NOBODY), proc.numbers_in(f"{NOBODY}/task"), proc.state_of(NOBODY)) == ((NOBODY, 0), set(), "R")
    assert proc.has_filter(NOBODY), "to be safe"
    assert not proc.has_as_many_filters(NOBODY, NOBODY) and not proc.is_in_own_user_namespace(NOBODY)
    assert (proc.namespaces_of(NOBODY), proc.processor_time(NOBODY), proc.wait_status_of(NOBODY)) == (0, 0.0, None)
    assert not proc.is_caught(NOBODY, signal.SIGINT) and proc.privilege_lost(NOBODY) == ""


@pytest.mark.parametrize(
    ("namespaces", "caught", "dies"),
    [
        ("7 1", 0, True),
        ("7 5 1", 0, True),
        ("7 1", 1 << signal.SIGSEGV - 1, False),
        ("7 1", 1 << signal.SIGBUS - 1, True),
        ("7 2", 0, False),
        ("7 1 2", 0, False),
        ("1", 0, False),
        ("", 0, False),
    ],
)
def test_only_process_1_of_another_namespace_survives_a_fault(
    namespaces: str, caught: int, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "fields_of", {7: {"NSpid": namespaces, "SigCgt": f"{caught:016x}"}}.__getitem__)
    assert proc.dies_only_untraced(7, signal.SIGSEGV) is dies


def test_the_process_of_a_descriptor(program: Path) -> None:
    with cat(program, "-") as child:
        descriptor = os.pidfd_open(child.pid)
        assert proc.process_of(descriptor) == child.pid
        child.kill()
    assert proc.process_of(descriptor) == -1
    os.close(descriptor)
    with Path("/dev/null").open() as file:
        assert proc.process_of(file.fileno()) == 0


def cat(program: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start cat as a child, and return it once it runs: the kernel has no command line of it before."""
    child = subprocess.Popen([program, *words], cwd=program.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdin and child.stdout
    child.stdin.write(b"x")
    assert child.stdout.read(1) == b"x"
    return child


@pytest.fixture
def program(tmp_path: Path) -> Path:
    shutil.copy("/bin/cat", tmp_path)
    return tmp_path / "cat"


def test_a_child_until_it_is_waited_for(program: Path) -> None:
    with cat(program, "-", "") as child:
        assert proc.executable_of(child.pid) == str(program)
        program.unlink()
        assert proc.executable_of(child.pid) == str(program)
        assert proc.command_of(child.pid) == [str(program), "-", ""]
        assert proc.folder_of(child.pid) == str(program.parent)
        assert proc.kin_of(child.pid) == (child.pid, ME)
        assert child.pid in proc.children()
        child.terminate()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert (proc.wait_status_of(child.pid), proc.state_of(child.pid)) == (signal.SIGTERM, "Z")
    assert child.pid not in proc.children()


def test_of_a_long_command_line_the_beginning_is_read(program: Path) -> None:
    with cat(program, "-", "x" * 8000) as child:
        assert proc.command_of(child.pid) == [str(program), "-", "x" * (4096 - len(f"{program} - "))]


def test_process_of_a_pidfd():
    child = subprocess.Popen(["sleep", "60"])
    pidfd, file = os.pidfd_open(child.pid), os.open(os.devnull, os.O_RDONLY)
    try:
        assert (proc.process_of(pidfd), proc.process_of(file)) == (child.pid, 0)
        child.kill()
        child.wait()
        assert proc.process_of(pidfd) == -1
    finally:
        os.close(pidfd)
        os.close(file)
