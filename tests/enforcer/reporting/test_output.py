"""Reports are written though another writer takes the room that poll(2) has promised: whoever reads is slow, and not gone."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from callfence.enforcer import alarms
from callfence.enforcer.reporting import output
from callfence.enforcer.reporting.destination import DATAGRAMS, JOURNAL, LINES, TEXT, Destination, has_room
from callfence.enforcer.reporting.output import Output

REPORT = b"enforce: denied\n"


@pytest.fixture
def full(monkeypatch):
    """An Output whose pipe is full, while poll(2) has just said that it takes a report; and the reader."""
    monkeypatch.setattr(output, "_TIMEOUT", 0.05)
    answers = iter([True])
    monkeypatch.setattr(output, "has_room", lambda *arguments: next(answers, False) or has_room(*arguments))
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)))
    made = Output(SimpleNamespace(destination=Destination(writer, TEXT), log=None))
    yield made, reader
    alarms.limit_calls(0)
    os.close(reader)
    os.close(writer)


def read_later(reader):
    time.sleep(0.3)
    os.read(reader, 4096)


def test_the_last_reports_wait_for_a_slow_reader(full):
    made, reader = full
    thread = threading.Thread(target=read_later, args=(reader,))
    thread.start()
    made._waiting.append((REPORT, 0))
    made.flush(last=True)
    thread.join()
    assert (os.read(reader, 4096), made.lost, made.pause()) == (REPORT, 0, None)


def test_others_are_written_later(full):
    made, reader = full
    made.write(REPORT)
    assert 0.5 < made.pause() <= 1
    os.read(reader, 4096)
    time.sleep(made.pause())
    made.flush()
    assert (os.read(reader, 4096), made.lost) == (REPORT, 0)


def test_a_signal_of_another_process_ends_no_write(full):
    made, reader = full
    thread = threading.Thread(target=read_later, args=(reader,))
    thread.start()
    output._TIMEOUT = 5
    alarm = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGALRM))
    alarm.start()
    made.write(REPORT)
    thread.join()
    alarm.join()
    assert (os.read(reader, 4096), made.pause()) == (REPORT, None)


@pytest.mark.parametrize("form", [DATAGRAMS, JOURNAL])
def test_a_long_message_is_one_write(form):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    record = REPORT * 1000
    with ours, theirs:
        Output(SimpleNamespace(destination=Destination(ours.fileno(), form), log=None)).write(record)
        assert theirs.recv(2 * len(record)) == record


def test_a_long_text_is_written_in_parts_to_a_pipe():
    """A pipe with room for a part only takes that, and the rest is written later."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    text = REPORT * 500
    try:
        made = Output(SimpleNamespace(destination=Destination(writer, TEXT), log=None))
        made.write(text)
        assert (first := os.read(reader, 2 * len(text))) == text[:4096]
        made.flush()
        assert first + os.read(reader, 2 * len(text)) == text
    finally:
        alarms.limit_calls(0)
        os.close(reader)
        os.close(writer)


@pytest.fixture
def small():
    """An Output whose pipe has room for 4096 bytes, and the reader."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield Output(SimpleNamespace(destination=Destination(writer, TEXT), log=None)), reader
    alarms.limit_calls(0)
    os.close(reader)
    os.close(writer)


def test_a_torn_report_is_ended_before_the_next(small, monkeypatch):
    monkeypatch.setattr(output, "_IDLE", 0.05)
    made, reader = small
    made.write(REPORT * 500)
    made.flush(last=True)
    assert (made.lost, made.pause(), os.read(reader, 9999)) == (1, None, (REPORT * 500)[:4096])
    for before in (b"\n", b""):
        made.write(REPORT)
        assert os.read(reader, 9999) == before + REPORT


def test_a_file_that_takes_nothing_loses_the_report():
    """The memory of a process that has ended: write(2) returns 0."""
    with subprocess.Popen(["sleep", "60"]) as process:
        memory = os.open(f"/proc/{process.pid}/mem", os.O_WRONLY)
        process.kill()
    try:
        made = Output(SimpleNamespace(destination=Destination(memory, LINES), log=None))
        made._waiting.extend([(REPORT, 0)] * 2)
        made.flush()
        assert (made.lost, made.pause()) == (2, None)
    finally:
        alarms.limit_calls(0)
        os.close(memory)


def test_only_so_many_bytes_wait(small, monkeypatch):
    monkeypatch.setattr(output, "_MAX_WAITING", 10_000)
    made, reader = small
    began = time.monotonic()
    for _ in range(2):
        made.write(bytes(4096))
        for size, lost in ((6000, 0), (4000, 0), (1, 1)):
            before = made.lost
            made.write(bytes(size))
            assert made.lost - before == lost
        for _ in range(4):
            os.read(reader, 9999)
            made.flush()
        assert made.pause() is None
    assert time.monotonic() - began < 4, "none but the last waits for the reader"


def test_room_is_waited_for_as_long_as_is_said(small):
    made, _ = small
    made.write(bytes(4096))
    began = time.monotonic()
    assert not has_room(made._destination.descriptor, 0.2)
    assert time.monotonic() - began >= 0.19
    assert [has_room(made._destination.descriptor) for _ in range(5)] == [False] * 5
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("is_same", [True, False])
def test_what_the_program_leaves_behind_is_reported_on_the_same_file_alone(capfd, small, is_same):
    destination = Destination(os.dup(2) if is_same else os.dup(small[0]._destination.descriptor), TEXT)
    made = Output(SimpleNamespace(destination=destination, log=None))
    destination.give_back()
    made.write(REPORT, os.getpid())
    made.write(REPORT)  # of no process
    assert (capfd.readouterr().err.encode(), made.lost) == ((REPORT, 1) if is_same else (b"", 2))


@pytest.mark.parametrize("is_last", [True, False])
def test_what_is_taken_back_is_at_the_end_of_the_file(tmp_path, is_last):
    """Not what another process has written since."""
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"one\ntw")
    if not is_last:
        (tmp_path / "log").open("a").write("other\n")
    assert output._taken_back(log, 2) is is_last
    assert (tmp_path / "log").read_text() == ("one\n" if is_last else "one\ntwother\n")
    os.close(log)
    assert not output._taken_back(log, 2)


@pytest.mark.parametrize(
    ("form", "opened", "left"), [(TEXT, True, -1), (TEXT, False, -1), (LINES, True, 9), (JOURNAL, True, 9)]
)
def test_after_the_end_of_the_program_a_log_stays_open(monkeypatch, form, opened, left):
    closed = []
    monkeypatch.setattr(os, "close", closed.append)
    destination = Destination(9 if opened else -1, form)
    destination.give_back()
    assert (destination.descriptor, closed) == (left, [9] * (opened and form == TEXT))
