"""What the tracer reads of a task's memory, and what it asks the kernel: about this process."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from callfence.tracer import kernel

PAGE = kernel.PAGE
ME = os.getpid()


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    """The address of three pages of `a`, below one that cannot be read."""
    area = mmap.mmap(-1, 4 * PAGE)
    area.write(b"a" * 4 * PAGE)
    begin = ctypes.c_char.from_buffer(area)
    address = ctypes.addressof(begin)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 3 * PAGE), ctypes.c_size_t(PAGE), 0) == 0
    yield address
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4 * PAGE), mmap.PROT_READ)
    del begin
    area.close()


@pytest.mark.parametrize(
    ("offset", "end", "length"),
    [
        (0, 10, 10),
        (PAGE - 5, PAGE - 1, 4),  # its end is the page's
        (PAGE - 5, PAGE, 5),
        (PAGE - 5, PAGE + 20, 25),
        (3 * PAGE - 5, 3 * PAGE - 1, 4),  # what follows cannot be read, and is not needed
        (10, 2 * PAGE - 1, 2 * PAGE - 11),
    ],
)
def test_a_path_is_read_to_its_end(pages: int, offset: int, end: int, length: int) -> None:
    ctypes.memset(pages + end, 0, 1)
    assert kernel.read_path(ME, pages + offset) == b"a" * length
    ctypes.memset(pages + end, ord("a"), 1)


@pytest.mark.parametrize("offset", [3 * PAGE - 5, 0, 10])
def test_a_path_that_ends_nowhere_or_too_late_is_none(pages: int, offset: int) -> None:
    assert kernel.read_path(ME, pages + offset) == b""


def test_a_page_that_cannot_be_read_is_not_passed_over(pages: int) -> None:
    """The kernel fails such a call with EFAULT, whatever the next page has."""
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages), ctypes.c_size_t(PAGE), 0) == 0
    ctypes.memset(pages + PAGE + 9, 0, 1)
    assert kernel.read_path(ME, pages + PAGE) == b"a" * 9
    assert kernel.read_path(ME, pages) == kernel.read_path(ME, pages + PAGE - 1) == b""
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages), ctypes.c_size_t(PAGE), mmap.PROT_READ | mmap.PROT_WRITE) == 0
    ctypes.memset(pages + PAGE + 9, ord("a"), 1)


def test_memory_that_cannot_be_read_or_written(pages: int) -> None:
    assert kernel.read_memory(ME, pages, 3) == b"aaa"
    assert kernel.read_memory(ME, pages + 3 * PAGE, 3) == b""
    assert kernel.read_memory(1 << 22, pages, 3) == b""
    assert kernel.write_memory(ME, pages, b"xyz") == 3 and kernel.read_memory(ME, pages, 4) == b"xyza"
    assert kernel.write_memory(ME, pages, b"aaa") == 3
    assert kernel.write_memory(ME, pages + 3 * PAGE, b"xyz") == 0


def test_a_thread_belongs_to_its_process_alone() -> None:
    tids: list[int] = []
    done = threading.Event()
    thread = threading.Thread(target=lambda: (tids.append(threading.get_native_id()), done.wait()))
    thread.start()
    while not tids:
        pass
    assert kernel.is_thread_of(tids[0], ME) and kernel.is_thread_of(ME, ME)
    assert not kernel.is_thread_of(tids[0], os.getppid()) and not kernel.is_thread_of(1 << 22, ME)
    done.set()
    thread.join()


def test_processes_share_memory_or_not() -> None:
    assert kernel.share_memory(ME, ME)
    assert not kernel.share_memory(ME, os.getppid())
    assert kernel.share_memory(ME, 1 << 22), "to be safe"


WAITS = """
import os, signal, time
from callfence.tracer import kernel
SIGNALS = (signal.SIGUSR1, signal.SIGALRM)
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
began = time.monotonic()
print(kernel.wait_for_signal(SIGNALS, 0.3), 0.25 < time.monotonic() - began < 5)
os.kill(os.getpid(), signal.SIGUSR1)
print(kernel.wait_for_signal(SIGNALS, 60) == (signal.SIGUSR1, 0, os.getpid()))
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(kernel.wait_for_signal(SIGNALS, 60)[:2] == (signal.SIGALRM, 0x80))
"""


def test_a_signal_is_waited_for() -> None:
    """Also one that the kernel sends: SI_KERNEL, asm-generic/siginfo.h."""
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "None True\nTrue\nTrue\n", done.stderr
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
