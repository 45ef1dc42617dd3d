"""Starts one process as a `Run` says, and ends whatever it leaves."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import resource
import signal
import subprocess
import termios
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from circumstances import Run

NOBODY = 65534
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Processes that lose their parent become children of this one, so that `end_all` finds them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def started(words: Sequence[str], run: Run, folder: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, whose output is thrown away; `.stdin` is set if it is a pipe or a terminal."""
    opened: list[int] = []

    def keep(descriptor: int) -> int:
        opened.append(descriptor)
        return descriptor

    terminal = master = -1
    if "terminal" in (run.stdin, run.stdout):
        master, terminal = pty.openpty()
        opened.append(terminal)
    sink = keep(os.open(os.devnull, os.O_RDWR))
    reading, writing = os.pipe()
    broken_reading, broken_writing = os.pipe()
    os.close(broken_reading)
    opened += [writing, broken_writing]

    def output(kind: str) -> int:
        if kind == "file":
            return keep(os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
        if kind == "full":
            return keep(os.open("/dev/full", os.O_WRONLY))
        return {"terminal": terminal, "broken": broken_writing, "null": sink, "closed": sink}.get(kind, writing)

    stdin: int = sink
    if run.stdin == "pipe":
        stdin = subprocess.PIPE
    elif run.stdin == "terminal":
        stdin = terminal
    elif run.stdin not in ("null", "closed"):
        stdin = keep(os.open(folder / run.stdin, os.O_RDONLY))
    process = subprocess.Popen(
        words, cwd=folder / run.folder, env=_environment(run, home), stdin=stdin, stdout=output(run.stdout),
        stderr=output(run.stderr), start_new_session=True, preexec_fn=_prepare(run, terminal),
    )  # fmt: skip
    for descriptor in opened:
        os.close(descriptor)
    if master >= 0:
        process.stdin = open(master, "r+b", buffering=0)  # noqa: SIM115 - closed below
    for descriptor in [reading] + [master] * (master >= 0):
        threading.Thread(target=_drain, args=(descriptor, descriptor == reading), daemon=True).start()
    try:
        yield process
    finally:
        end_all(process)


def _environment(run: Run, home: Path) -> dict[str, str]:
    return {name: value.replace("{home}", str(home)) for name, value in run.environment.items()}


def _prepare(run: Run, terminal: int) -> Callable[[], None]:
    def prepare() -> None:
        for inherited in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):  # a shell's background job ignores them
            signal.signal(inherited, signal.SIG_DFL)
        if terminal >= 0:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for number, value in run.limits.items():
            resource.setrlimit(number, (value, value))
        if run.user:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        for descriptor, kind in enumerate((run.stdin, run.stdout, run.stderr)):
            if kind == "closed":
                os.close(descriptor)

    return prepare


def _drain(descriptor: int, close: bool) -> None:
    with suppress(OSError):
        while os.read(descriptor, 1 << 16):
            pass
    if close:
        os.close(descriptor)


def children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        stat = folder / "stat"
        with suppress(OSError, ValueError, IndexError):
            if folder.name.isdigit() and int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


def end_all(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment for helpers that still write their reports, then end what is left."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 2
    while left := children(os.getpid()):
        if time.monotonic() > deadline:
            for pid in (one for child in left for one in (child, *descendants(child))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def runs(pid: int, words: Sequence[str]) -> bool:
    """Whether this process runs that command, and not yet learn or enforce, which have it at their end."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return words[-1].encode() in command and b"callfence.cli" not in command


def is_waiting(pid: int, words: Sequence[str]) -> bool:
    """Whether this process runs that command and sleeps."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in "St" and runs(pid, words)
