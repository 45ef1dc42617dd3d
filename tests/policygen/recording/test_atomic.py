"""Where files are written: never through another user's link, never with more rights than the old file's."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from callfence.policygen.recording import atomic

if TYPE_CHECKING:
    from pathlib import Path

USER, OTHER = 4321, 4322
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of several users take root")


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
