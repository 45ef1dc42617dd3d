"""Reports are written though another writer takes the room that poll(2) has promised: whoever reads is slow, and not gone."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from callfence.enforcer import alarms
from callfence.enforcer.reporting import output
from callfence.enforcer.reporting.destination import DATAGRAMS, JOURNAL, TEXT, Destination, has_room
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
