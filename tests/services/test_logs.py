"""What becomes of a unit's logs when their violations are decided."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from callfence.services.logs import NAMES, put_aside, sizes

if TYPE_CHECKING:
    from pathlib import Path


def left(folder: Path) -> dict[str, str]:
    """The logs that nobody has decided about."""
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in NAMES]
    for log in made:
        log.write_text(f"{log.name}\n")
        log.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(log, 4711, 4712)
    return made


def test_what_is_decided_is_moved(tmp_path: Path, logs: list[Path]) -> None:
    with sizes(logs) as decided:
        put_aside(logs, decided)
    assert left(tmp_path) == {}
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["enforce.log\n", "enforce.log.1\n"]


def test_what_is_logged_meanwhile_stays(tmp_path: Path, logs: list[Path]) -> None:
    before = logs[1].stat()
    with sizes(logs) as decided, logs[1].open("a") as log:
        log.write("new\n")
        log.flush()
        put_aside(logs, decided)
    assert left(tmp_path) == {"enforce.log.1": "new\n"}
    after = (tmp_path / "enforce.log.1").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_logs_are_rotated_meanwhile(tmp_path: Path, logs: list[Path]) -> None:
    with sizes(logs) as decided:
        with logs[1].open("a") as log:
            log.write("before the rotation\n")
        logs[1].rename(logs[0])
        logs[1].write_text("after it\n")
        put_aside(logs, decided)
    assert left(tmp_path) == {"enforce.log.1": "before the rotation\nafter it\n"}


def test_a_link_is_not_followed(tmp_path: Path, logs: list[Path]) -> None:
    (tmp_path / "secret").write_text("secret\n")
    logs[1].unlink()
    os.symlink("secret", logs[1])
    with pytest.raises(OSError, match=r"enforce\.log-"):
        put_aside(logs, {})
    assert logs[0].read_text() == "enforce.log.1\n"
    assert logs[1].is_symlink()


def test_on_a_full_disk_nothing_counts_as_decided(tmp_path: Path, logs: list[Path]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with sizes(logs) as decided, logs[1].open("a") as log:
        log.write("new\n")
        log.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                put_aside(logs, decided)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left(tmp_path) == {"enforce.log.1": "enforce.log.1\n", "enforce.log": "enforce.log\nnew\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("number", [0, 1])
def test_a_pipe_is_no_log(tmp_path: Path, logs: list[Path], number: int) -> None:
    logs[number].unlink()
    os.mkfifo(logs[number])
    other = os.open(logs[number], os.O_RDWR)  # so that a reader would not wait here either
    with pytest.raises(OSError, match="is not a regular file"), sizes(logs):
        pass
    with pytest.raises(OSError, match="is not a regular file"):
        put_aside(logs, {})
    os.close(other)


@pytest.mark.long
def test_a_hole_is_not_copied(tmp_path: Path, logs: list[Path]) -> None:
    with sizes(logs) as decided:
        os.truncate(logs[1], 1 << 30)
        put_aside(logs, decided)
    assert left(tmp_path) == {"enforce.log.1": ""}
