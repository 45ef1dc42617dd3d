"""Sockets and standard input: what arrives is in the spool, and what has no room is counted."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from callfence.shipping.receiving import NOTE, Spool
from callfence.shipping.records import MAX_LINE
from tests.callfence.shipping.conftest import Place, line, total
from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Commands

KINDS = {"unix": socket.SOCK_STREAM, "unix-datagram": socket.SOCK_DGRAM, "unix-seqpacket": socket.SOCK_SEQPACKET}


@pytest.mark.parametrize("kind", KINDS)
def test_what_enforce_writes_to_a_socket(place: Place, commands: Commands, kind: str) -> None:
    process = place.start("--prometheus", "callfence.prom", "--listen", f"{kind}:socket")
    wait_until(place.file.exists)
    policy = place.folder / "app.policy"
    policy.write_text("default allow\n")
    for _ in range(2):
        command = [sys.executable, "-m", "callfence", "enforce", "--log", "unix:socket", "-p", policy, "true"]
        done = commands.plain(command, place.folder)
        assert (done.returncode, done.stderr) == (0, b"")
    place.wait_for("callfence_ends_total", 2)
    assert place.stop(process) == 0
    assert not (place.folder / "socket").exists()
    names = ("starts", "lost_records", "ship_bad_lines")
    assert [total(place.values(), f"callfence_{name}_total") for name in names] == [2, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_socket_of_systemd(place: Place, kind: str) -> None:
    """It listens on while the shipper is started again; of datagrams, none is lost."""
    with socket.socket(socket.AF_UNIX, KINDS[kind]) as listener:
        listener.bind(str(place.folder / "socket"))
        if kind != "unix-datagram":
            listener.listen()
        number = listener.fileno()
        for run in range(3):
            with socket.socket(socket.AF_UNIX, KINDS[kind]) as client:
                client.connect(str(place.folder / "socket"))
                client.send(line("start", run=f"{run:08x}"))
            process = place.start("--prometheus", "callfence.prom", "--listen", f"fd:{number}", pass_fds=[number])
            place.wait_for("callfence_starts_total", run + 1)
            assert place.stop(process, signal.SIGKILL) == -signal.SIGKILL
    assert total(place.values(), "callfence_ship_cut_runs_total") == 0


def test_abstract_sockets_and_long_lines(place: Place) -> None:
    name = f"callfence-test-{os.getpid()}"
    process = place.start("--prometheus", "callfence.prom", "--listen", f"unix:@{name}")
    wait_until(place.file.exists)
    with socket.socket(socket.AF_UNIX) as client:
        wait_until(lambda: client.connect_ex(f"\0{name}") == 0)
        text = line("start")
        client.sendall(text[:50])
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(f"\0{name}")
            other.sendall(b"x" * (MAX_LINE * 2) + b"\n" + line("start", run="1" * 8))
        place.wait_for("callfence_starts_total", 1)
        client.sendall(text[50:] + b"\0dropped 1000000 made up\n" + b"cut off")
    place.wait_for("callfence_starts_total", 2)
    wait_until(lambda: "a connection ended within a line" in place.said())
    assert place.stop(process) == 0
    assert total(place.values(), "callfence_ship_dropped_total") == 0
    assert total(place.values(), "callfence_ship_bad_lines_total") >= 2


def test_a_killed_shipper_counts_the_runs_that_it_cut(place: Place) -> None:
    """What it had received is in the spool."""
    process = place.start("--prometheus", "callfence.prom", "--listen", "unix:socket")
    wait_until(place.file.exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place.folder / "socket"))
        client.sendall(line("start") + line("denied", 2))
        place.wait_for("callfence_denials_total", 1)
        place.stop(process, signal.SIGKILL)
        with pytest.raises(BrokenPipeError):
            client.sendall(line("end", 3))
    for _ in range(2):
        place.file.unlink()
        process = place.start("--prometheus", "callfence.prom", "--listen", "unix:socket")
        place.wait_for("callfence_ship_cut_runs_total", 1)
        assert place.stop(process) == 0
    assert total(place.values(), "callfence_denials_total") == 1


def test_standard_input_to_its_end(place: Place) -> None:
    data = b"".join(line("start", run=f"{run:08x}") for run in range(3000)) + line("start", run="f" * 8)[:-1]
    command = place.command("--prometheus", "callfence.prom", "-")
    done = subprocess.run(command, cwd=place.folder, input=data, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert total(place.values(), "callfence_starts_total") == 3001


def test_standard_input_that_is_a_file(place: Place) -> None:
    (place.folder / "log").write_bytes(line("start"))
    with open(place.folder / "log") as file:
        assert place.once("--prometheus", "callfence.prom", "-", stdin=file).returncode == 0
    assert total(place.values(), "callfence_starts_total") == 1


# The spool


class Reader:
    """Whether the moved file has been read."""

    has_read = False

    def __call__(self, file: tuple[int, int]) -> bool:
        return self.has_read


def contents(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in (path.with_name("spool.1"), path) if each.exists())


def test_a_full_spool_counts_what_it_drops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader, path = Reader(), tmp_path / "spool"
    spool = Spool(path, reader, segment=10)
    for number in range(5):
        spool.append(b"record %d\n" % number + b"another\n")
    assert contents(path) == b"record 0\nanother\nrecord 1\nanother\n"
    full = f"callfence ship: {path}: the spool is full: records that arrive are dropped and counted\n"
    assert capsys.readouterr().err == full
    reader.has_read = True
    spool.append(b"record 5\n")
    assert path.read_bytes() == NOTE + b"dropped 6 the spool is full\nrecord 5\n"
    assert capsys.readouterr().err == "callfence ship: 6 records dropped: the spool is full\n"
    reader.has_read = False
    spool.append(b"record 6\n")
    spool.close()
    assert path.read_bytes().endswith(b"record 5\n" + NOTE + b"dropped 1 the spool is full\n")


def test_a_spool_without_space_keeps_whole_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit of the file's size stands for a disk that is full: a write then writes a part."""
    path = tmp_path / "spool"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    spool = Spool(path, Reader())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (25, limits[1]))
        spool.append(b"record 1\nrecord 2\nrecord 3\nrecord 4\n")
        spool.append(b"record 5\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"record 1\nrecord 2\n"
    assert spool.flush()
    spool.append(b"record 6\n")
    spool.close()
    assert path.read_bytes().startswith(b"record 1\nrecord 2\n" + NOTE + b"dropped 3 ")
    assert path.read_bytes().endswith(b"\nrecord 6\n")
    assert "3 records dropped: " in capsys.readouterr().err


def test_a_spool_that_cannot_be_begun_anew_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool"
    spool = Spool(path, Reader(), segment=5)
    spool.append(b"record 1\n")
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "_open", failing)
        spool.append(b"record 2\n")
    assert path.read_bytes() == b"record 1\n"
    spool.append(b"record 3\n")
    spool.close()
    assert contents(path) == b"record 1\n" + NOTE + b"dropped 1 the spool is full\nrecord 3\n"


def failing(_: Spool) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_line_that_a_killed_shipper_began_is_ended(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"whole\npar")
    spool = Spool(tmp_path / "spool", Reader())
    spool.append(b"next\n")
    spool.close()
    assert (tmp_path / "spool").read_bytes() == b"whole\npar\nnext\n"


def test_a_full_spool_reaches_the_counters(place: Place) -> None:
    """The destination does not take anything, so that the spool fills; then it does."""
    (place.folder / "state").mkdir()
    process = place.start("--prometheus", "callfence.prom", "--listen", "unix-seqpacket:socket")
    wait_until(place.file.exists)
    (place.folder / "state").rename(place.folder / "away")  # the state cannot be saved, and the spool stays open
    sent, size = 0, 0
    text = line("message", 1, level="note", message="x" * 50_000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(place.folder / "socket"))
        while size < 9 << 20 or "dropped and counted" not in place.said():
            sent, size = sent + 1, size + client.send(text)
            assert size < 64 << 20
        (place.folder / "away").rename(place.folder / "state")
        wait_until(lambda: "records dropped" in place.said(), 60)
    assert place.stop(process) == 0
    values = place.values()
    dropped = values['callfence_ship_dropped_total{reason="the spool is full"}']
    assert total(values, "callfence_ship_records_total") + dropped == sent
    assert dropped > 0
