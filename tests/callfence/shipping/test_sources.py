"""Logs are followed through rotation, truncation and restarts: each line once."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from callfence.shipping import sources
from callfence.shipping.records import MAX_LINE
from callfence.shipping.sources import LogFile
from callfence.tracer.errors import UserError
from tests.callfence.shipping.conftest import append, rotate


def lines(log: LogFile) -> list[str]:
    """All that it has now."""
    read = []
    while more := log.read():
        read += [line.text.decode() for line in more]
    return read


def reopened(log: LogFile) -> LogFile:
    """The log, followed on from a position that was saved."""
    position: Any = json.loads(json.dumps(log.position()))
    log.close()
    return LogFile(log.name, position)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_lines_have_places_and_partial_ones_wait(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(str(path))
    assert (lines(log), lines(log)) == ([], [])
    assert capsys.readouterr().err == f"callfence ship: {path} does not exist yet; it is read once it does\n"
    append(path, b"one\n\ntwo\nthr")
    assert [(line.text, line.where) for line in log.read()] == [(b"one", f"{path}:1"), (b"two", f"{path}:3")]
    assert lines(log) == []
    log = reopened(log)
    append(path, b"ee\n")
    assert [(line.text, line.where) for line in log.read()] == [(b"three", f"{path}:4")]
    log.close()


def test_what_a_saved_position_has(path: Path) -> None:
    """Another callfence may have saved it: the digest of what begins the file is of as many bytes."""
    log = LogFile(str(path))
    for count, line in enumerate((b"x" * 100, b"y" * 200, b"z" * 300), 1):
        append(path, line + b"\n")
        assert lines(log) == [line.decode()]
        status, head = path.stat(), sha256(path.read_bytes()[:256]).hexdigest()[:16]
        assert log.position()["files"] == [[status.st_dev, status.st_ino, status.st_size, count, head]]
    log.close()


def test_a_log_that_is_begun_and_moved_before_the_next_look(path: Path) -> None:
    log = LogFile(str(path))
    append(path, b"1\n")
    rotate(path)
    append(path, b"2\n")
    assert lines(log) == ["1", "2"]
    log.close()


def test_rotation(path: Path) -> None:
    append(path, b"1\n2")
    log = LogFile(str(path))
    assert lines(log) == ["1"]
    path.rename(f"{path}.1")
    append(path, b"3\n")
    append(path.with_name("log.1"), b"\n")
    assert lines(log) == ["2", "3"]
    append(path.with_name("log.1"), b"late, of a program that could not begin a new log\n")
    assert lines(log) == ["late, of a program that could not begin a new log"]
    path.rename(f"{path}-20260301")
    assert lines(log) == []
    append(path, b"4\n")
    assert lines(log) == ["4"]
    path.unlink()
    append(path, b"5\n")
    assert lines(log) == ["5"]
    log.close()


def test_a_moved_log_is_given_up_when_it_is_quiet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, b"1\nno newline")
    log = LogFile(str(path))
    assert lines(log) == ["1"]
    path.rename(f"{path}.1")
    append(path, b"2\n")
    assert lines(log) == ["2"]
    monkeypatch.setattr(sources, "_QUIET", 0.0)
    assert lines(log) == ["no newline"]
    append(path.with_name("log.1"), b" to be seen\n")
    assert lines(log) == []
    assert len(log.position()["files"]) == 1
    log.close()


def test_two_rotations_between_two_looks(path: Path) -> None:
    append(path, b"1\n")
    log = LogFile(str(path))
    assert lines(log) == ["1"]
    for number in (2, 3, 4):
        rotate(path)
        append(path, f"{number}\n".encode())
    assert lines(log) == ["2", "3", "4"]
    log.close()


@pytest.mark.parametrize("rotations", [0, 1, 3])
def test_rotations_while_nothing_follows(path: Path, rotations: int) -> None:
    append(path.with_name("log.7"), b"from before the first start\n")
    os.utime(path.with_name("log.7"), (1, 1))
    append(path, b"1\n2\n")
    log = LogFile(str(path))
    assert lines(log) == ["1", "2"]
    append(path, b"3\n")
    for number in range(rotations):
        rotate(path)
        append(path, f"{number + 4}\n".encode())
    log = reopened(log)
    assert lines(log) == ["3", *(str(number + 4) for number in range(rotations))]
    log = reopened(log)
    assert lines(log) == []
    log.close()


def test_other_files_are_not_taken_for_rotated_ones(path: Path) -> None:
    append(path, b"1\n")
    log = LogFile(str(path))
    assert lines(log) == ["1"]
    for name in ("log.gz", "log.1.gz", "log.bak", "log2", "other.1"):
        append(path.with_name(name), b"other\n")
    path.with_name("log.3").mkdir()
    log = reopened(log)
    assert lines(log) == []
    log.close()


def test_truncation_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(path, b"1\n2\n3\n")
    log = LogFile(str(path))
    assert lines(log) == ["1", "2", "3"]
    path.write_bytes(b"4\n")
    assert lines(log) == ["4"]
    path.write_bytes(b"another one of the same length or more\n")
    assert lines(log) == ["another one of the same length or more"]
    assert capsys.readouterr().err.splitlines() == [
        f"callfence ship: {path}: truncated after line {line}: it is read from its beginning" for line in (3, 1)
    ]
    log.close()


def test_copytruncate_while_nothing_follows(path: Path) -> None:
    append(path, b"1\n2\n")
    log = LogFile(str(path))
    assert lines(log) == ["1", "2"]
    append(path, b"3\n")
    path.with_name("log.1").write_bytes(path.read_bytes())
    path.write_bytes(b"4\n")
    log = reopened(log)
    assert lines(log) == ["3", "4"]
    log.close()


def test_a_log_that_has_gone_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(path, b"1\n2\n")
    log = LogFile(str(path))
    assert lines(log) == ["1", "2"]
    os.rename(path, path.with_name("log.1.gz"))
    append(path, b"3\n")
    log = reopened(log)
    assert lines(log) == ["3"]
    assert f"{path}: the file that was read up to line 2 has gone" in capsys.readouterr().err
    log.close()


def test_another_file_with_the_inode_is_another_file(path: Path) -> None:
    append(path, b"1\n2\n")
    log = LogFile(str(path))
    assert lines(log) == ["1", "2"]
    position = log.position()
    log.close()
    path.write_bytes(b"3\n4\n5\n")
    log = LogFile(str(path), position)
    assert lines(log) == ["3", "4", "5"]
    log.close()


def test_a_line_without_end_is_not_kept(path: Path) -> None:
    append(path, b"x" * (MAX_LINE + 1))
    log = LogFile(str(path))
    assert [len(line) for line in lines(log)] == [MAX_LINE + 1]
    append(path, b"\nnext\n")
    assert lines(log) == ["next"]
    log.close()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(UserError, match="is not a regular file: read a FIFO by"):
            LogFile(str(tmp_path / name))


def test_a_spool_is_read_from_its_moved_file_on(path: Path) -> None:
    append(path, b"1\n")
    rotate(path)
    append(path, b"2\n")
    log = LogFile(str(path), is_spool=True)
    assert lines(log) == ["1", "2"]
    position = log.position()
    assert len(position["files"]) == 1
    log.close()
    log = LogFile(str(path), position, is_spool=True)
    assert lines(log) == []
    log.close()


def test_any_number_of_moved_files(path: Path) -> None:
    """Who may write to the folder of one log must not end the shipper of all."""
    log = LogFile(str(path))
    append(path, b"1\n")
    assert lines(log) == ["1"]
    append(path, b"2\n")
    for number in range(2, 1200):
        path.with_name(f"log.{number}").touch()
    path.rename(path.with_name("log.1200"))
    append(path, b"3\n")
    before = len(os.listdir("/proc/self/fd"))
    assert lines(log) == ["2", "3"]
    assert len(os.listdir("/proc/self/fd")) < before + 50
    log.close()


def test_a_link_that_leads_nowhere_hides_no_moved_log(path: Path) -> None:
    log = LogFile(str(path))
    path.with_name("log.0").symlink_to("nowhere")
    append(path, b"1\n")
    rotate(path)
    append(path, b"2\n")
    assert lines(log) == ["1", "2"]
    log.close()
