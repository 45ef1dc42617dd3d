"""What the helper does to a task whose call waits, it does to no other task that has the number later."""

from __future__ import annotations

import ctypes
import os

import pytest

from callfence.enforcer.hosts.making import write
from callfence.enforcer.listener import Notification, Request


def test_nothing_is_written_once_the_call_has_ended():
    """A program can hold up a write as long as it wants, by userfaultfd(2), and end its task meanwhile."""
    buffer, call = ctypes.create_string_buffer(b"before"), Notification(task=os.getpid())
    with open(os.devnull) as none, pytest.raises(ProcessLookupError):
        write(Request(call, none.fileno(), ""), ctypes.addressof(buffer), b"after")
    assert buffer.value == b"before"
    write(Request(call, -1, ""), ctypes.addressof(buffer), b"after\0")
    assert buffer.value == b"after"
