"""Where files are written: never through another user's link, never with more rights than the old file's."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callfence.policygen.recording import atomic

USER, OTHER = 4321, 4322
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of several users take root")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What was opened is closed, also where it fails."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def link(path: Path, target: Path, owner: int) -> Path:
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


@pytest.mark.parametrize("mode", [0o4777, 0o2755, 0o6711, 0o1666, 0o640])
def test_only_the_permission_bits_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "app.policy"
    path.write_bytes(b"old")
    path.chmod(mode)
    atomic.write(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode & 0o777)


@as_root
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "app.policy"
    path.write_bytes(b"old")
    os.chown(path, USER, OTHER)
    path.chmod(0o4751)
    atomic.write(path, b"new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, OTHER, 0o751)


def test_the_folder_of_recordings_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / atomic.OURS).symlink_to("elsewhere")
    path = tmp_path / atomic.OURS / "app.rec"
    for use in (atomic.check_writable, lambda path: atomic.write(path, b"new"), lambda path: atomic.locked(path).__enter__()):
        with pytest.raises(OSError, match="is a symbolic link"):
            use(path)
    assert not list((tmp_path / "elsewhere").iterdir())


@as_root
def test_a_users_link_leads_only_to_that_users_folders(tmp_path: Path) -> None:
    for owner in (0, USER, OTHER):
        (tmp_path / str(owner)).mkdir()
        os.chown(tmp_path / str(owner), owner, owner)
        for by in (0, USER):
            through = link(tmp_path / f"{by}-to-{owner}", tmp_path / str(owner), by)
            again = link(tmp_path / f"again-{by}-to-{owner}", through, 0)
            for path in (through / "a.policy", again / ".." / str(owner) / "b.policy"):
                if by in (0, owner):
                    atomic.write(path, b"new")
                else:
                    with pytest.raises(OSError, match="another user"):
                        atomic.write(path, b"new")
        written = {name.name for name in (tmp_path / str(owner)).iterdir()}
        assert written == {"a.policy", "b.policy"}


def test_a_folder_replaced_while_a_file_is_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    for one in (work, other):
        one.mkdir()
    sync = os.fsync

    def replace(descriptor: int) -> None:
        if work.exists() and not work.is_symlink():
            work.rename(tmp_path / "moved")
            work.symlink_to(other)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", replace)
    atomic.write(work / "app.policy", b"new")
    assert not list(other.iterdir())
    assert (tmp_path / "moved" / "app.policy").read_bytes() == b"new"


def test_links_that_lead_nowhere_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic link"):
        atomic.write(tmp_path / "a" / "app.policy", b"new")


def test_a_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.open(tmp_path / ".app.rec.lock", os.O_WRONLY | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            os.close(other)

    monkeypatch.setattr(time, "sleep", sleep)
    with atomic.locked(tmp_path / "app.rec"):
        assert len(sleeps) == 3
    assert not [*tmp_path.iterdir()]


def test_a_lock_whose_file_its_last_holder_removed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, sleep = tmp_path / ".app.rec.lock", time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (lock.unlink(), sleep(0)))
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with atomic.locked(tmp_path / "app.rec"):
            assert lock.exists()
    assert not [*tmp_path.iterdir()]


def test_a_link_in_the_place_of_the_lock_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others would not take it: it would hold nobody off."""
    lock, moved = tmp_path / ".app.rec.lock", tmp_path / "moved"

    def sleep(seconds: float) -> None:
        lock.rename(moved)
        lock.symlink_to(moved)
        fcntl.flock(other, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", sleep)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="symbolic link"), atomic.locked(tmp_path / "app.rec"):
            pass


def test_a_lock_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to the folder can hold it."""
    monkeypatch.setattr(atomic, "MAX_WAIT", 0.0)
    path, lock = tmp_path / "app.rec", tmp_path / ".app.rec.lock"
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another process has held this lock") as error, atomic.locked(path):
            pass
    assert error.value.filename == str(lock)


def test_whoever_may_only_read_cannot_hold_the_lock(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with atomic.locked(tmp_path / "app.rec"):
            assert stat.S_IMODE((tmp_path / ".app.rec.lock").stat().st_mode) == 0o222
    finally:
        os.umask(before)


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".app.rec.lock")
    with pytest.raises(OSError, match=r"app\.rec"), atomic.locked(tmp_path / "app.rec"):
        pass


def test_a_name_without_room_for_those_of_files_beside_it_is_refused_before_the_run(tmp_path: Path) -> None:
    """A run that is not added to the recording is in a file with a longer name, which a still longer one replaces."""
    longest = "a" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 39 - len(".rec"))
    atomic.check_writable(tmp_path / f"{longest}.rec")
    atomic.write(tmp_path / f"{longest}-0123456789abcdef.rec", b"")
    with atomic.locked(tmp_path / f"{longest}.rec"), pytest.raises(OSError, match="no room") as error:
        atomic.check_writable(tmp_path / f"{longest}a.rec")
    assert error.value.filename == str(tmp_path / f"{longest}a.rec")
