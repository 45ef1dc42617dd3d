"""What the tracer reads of a task's memory, and what it asks the kernel: about this process."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from callfence.tracer import kernel, linux
from callfence.tracer.errors import PtraceError, TracerError
from callfence.tracer.machine.aarch64 import Arm
from callfence.tracer.machine.model import Machine
from callfence.tracer.machine.x86_64 import X86

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


@pytest.fixture
def other() -> Iterator[int]:
    """Another process."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_a_thread_belongs_to_its_process_alone(other: int) -> None:
    tids: list[int] = []
    done = threading.Event()
    threading.Thread(target=lambda: (tids.append(threading.get_native_id()), done.wait()), daemon=True).start()
    while not tids:
        pass
    assert kernel.is_thread_of(tids[0], ME) and kernel.is_thread_of(ME, ME)
    assert not kernel.is_thread_of(tids[0], other) and not kernel.is_thread_of(1 << 22, ME)
    done.set()


def test_processes_share_memory_or_not(other: int) -> None:
    assert kernel.share_memory(ME, ME)
    assert not kernel.share_memory(ME, other)
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


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(
    ("error", "resumed", "read"), [(errno.ESRCH, False, False), (errno.EIO, False, None), (errno.EPERM, None, None)]
)
def test_what_a_request_that_fails_says(
    monkeypatch: pytest.MonkeyPatch, again: bool, error: int, resumed: bool | None, read: bool | None
) -> None:
    """It is made again for its errno; if that succeeds, it has.  A task that is dying is no error."""

    def repeated(*words: int) -> int:
        asked.append(words)
        ctypes.set_errno(error)
        return 0 if again else -1

    asked: list[tuple[int, ...]] = []
    info = kernel.SyscallInfo()
    monkeypatch.setattr(kernel, "_ptrace", lambda *words: -1)
    monkeypatch.setattr(kernel, "_ptrace_errno", repeated)
    assert not info.read(7)
    for work, result, request in (
        (lambda: kernel.resume(linux.PTRACE_CONT, 7, 10), resumed, (linux.PTRACE_CONT, 7, 0, 10)),
        (lambda: info.read_again(7), read, (linux.PTRACE_GET_SYSCALL_INFO, 7, linux.INFO_SIZE, info._address)),
    ):
        if again:
            assert work()
        elif result is None:
            with pytest.raises(PtraceError) as raised:
                work()
            assert str(raised.value) == f"ptrace request {request[0]:#x}: {os.strerror(error)}"
            assert (raised.value.call, raised.value.errno) == ("ptrace", error)
        else:
            assert work() is result
        assert asked.pop() == request and not asked


def test_a_request_that_succeeds_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0, 1, 88, 0])
    monkeypatch.setattr(kernel, "_ptrace", lambda *words: next(answers))
    monkeypatch.setattr(kernel, "_ptrace_errno", None)
    assert kernel.resume(linux.PTRACE_CONT, 7) and kernel.resume(linux.PTRACE_CONT, 7)
    assert kernel.SyscallInfo().read(7) and not kernel.SyscallInfo().read(7), "nothing was written"


@pytest.mark.parametrize(("code", "sender"), [(0, 77), (-1, 77), (-6, 77), (1, 0), (0x80, 0)])
def test_who_has_sent_a_signal(monkeypatch: pytest.MonkeyPatch, code: int, sender: int) -> None:
    """SI_USER, SI_QUEUE, SI_TKILL; of the kernel's, CLD_EXITED and SI_KERNEL (asm-generic/siginfo.h)."""

    def fill(request: int, tid: int, address: int) -> None:
        assert (request, tid) == (linux.PTRACE_GETSIGINFO, 7)
        ctypes.memmove(address, struct.pack("=iiiii", 10, 0, code, 0, 77), 20)

    monkeypatch.setattr(kernel, "_ask", fill)
    assert kernel.sender(7) == sender


class Stopped:
    """A stopped task, whose registers are numbered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machine: Machine, ip: int = 0) -> None:
        self.values = [*range(100, 135)]
        self.values[machine.native.ip] = ip or self.values[machine.native.ip]
        self.words: dict[int, int] = {0x401000: 0x1122334455667788}
        self.dies = False
        monkeypatch.setattr(kernel, "MACHINE", machine)
        monkeypatch.setattr(machine, "convention", lambda values: machine.native)
        monkeypatch.setattr(machine, "registers", self.registers)
        monkeypatch.setattr(machine, "register", lambda tid, index: self.registers(tid)[index])
        monkeypatch.setattr(machine, "set_registers", lambda tid, values: self.values.__setitem__(slice(None), values))
        monkeypatch.setattr(kernel, "peek", lambda tid, address: self.words[address])
        monkeypatch.setattr(linux, "ptrace", lambda request, tid, address, word: self.words.__setitem__(address, word))
        monkeypatch.setattr(linux, "entry_point", lambda folder, pointer: {("/proc/7", 8): 0x401000}[folder, pointer])

    def registers(self, tid: int) -> list[int]:
        if self.dies:
            raise ProcessLookupError(errno.ESRCH, "no")
        return [*self.values]


MACHINES = {"x86_64": X86, "aarch64": Arm}


@pytest.mark.parametrize(("name", "frame", "link"), [("x86_64", 104, 0), ("aarch64", 129, 130)])
def test_where_unwinding_begins(monkeypatch: pytest.MonkeyPatch, name: str, frame: int, link: int) -> None:
    task = Stopped(monkeypatch, MACHINES[name]())
    assert kernel.callers(7) == (frame, link)
    task.dies = True
    assert kernel.callers(7) == (0, 0)


@pytest.mark.parametrize(("error", "result"), [(0, 0), (38, 0xFFFFFFFF_FFFFFFDA)])
def test_a_call_that_is_skipped_has_a_result(monkeypatch: pytest.MonkeyPatch, error: int, result: int) -> None:
    task = Stopped(monkeypatch, X86())
    before = [*task.values]
    kernel.skip_call(7, error)
    before[15], before[10] = 0xFFFFFFFF_FFFFFFFF, result  # orig_rax, rax
    assert task.values == before


@pytest.mark.parametrize(
    ("name", "changed", "stopped"), [("x86_64", 0x11223344556677CC, 0x401001), ("aarch64", 0x11223344D4200000, 0x401000)]
)
def test_a_breakpoint_at_the_entry_point(monkeypatch: pytest.MonkeyPatch, name: str, changed: int, stopped: int) -> None:
    """int3, after which the instruction pointer is past it; brk #0."""
    machine = MACHINES[name]()
    task = Stopped(monkeypatch, machine, ip=stopped + 4)
    made = kernel.EntryPoint(7)
    assert task.words == {0x401000: changed}
    assert not made.remove_if_reached(7) and task.words == {0x401000: changed}
    task.values[machine.native.ip], task.dies = stopped, True
    assert not made.remove_if_reached(7)
    task.dies = False
    assert made.remove_if_reached(7)
    assert (task.words, task.values[machine.native.ip]) == ({0x401000: 0x1122334455667788}, 0x401000)


def test_a_process_without_an_entry_point_has_no_breakpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    Stopped(monkeypatch, X86())
    monkeypatch.setattr(linux, "entry_point", lambda folder, pointer: None)
    with pytest.raises(TracerError, match=r"^process 7 has no AT_ENTRY$"):
        kernel.EntryPoint(7)
