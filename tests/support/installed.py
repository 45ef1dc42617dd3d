"""The filters that another program has put on a process, as one policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.policygen.filter import bpf, symbolic
from callfence.policygen.filter.lift import lift_function
from callfence.policygen.model import ActionKind
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.tracer.running.attach import read_filters

if TYPE_CHECKING:
    from callfence.policygen.model import Policy
    from callfence.policygen.sets.algebra import Space

PROBE_POLICY = """\
default kill
clone: clone_flags == CLONE_VM|CLONE_THREAD|CLONE_SIGHAND
clone3: errno ENOSYS
exit_group: allow
futex_waitv: allow
getppid: errno EACCES
getuid: allow
lseek: whence == SEEK_SET && offset > 0
ioctl: kill if cmd == TIOCSTI else allow
pause: allow
setpriority: niceval >= -3 && niceval < 5
socket: family == AF_UNIX || family == AF_INET && protocol in {IPPROTO_IP, IPPROTO_TCP}
write: allow
"""
"""Allows what the probe needs, and a call that not everybody has a name for; getppid (110) is failed, getpid (39) is killed."""

PAUSE = "34"
"""The call in which it waits."""

# seccomp(2): of several filters' answers the first of these is taken
_FIRST = [bpf.KILL_PROCESS, bpf.KILL_THREAD, 0x00030000, 0x00050000, 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000]


def combined(programs: list[bytes]) -> Policy:
    """What filters do together, in the order in which they were installed.  Killing the thread and killing the process are
    taken for the same, and calls of other architectures are not compared."""
    space = region.space()
    result = space.terminal(bpf.ret(bpf.action(0x7FFF0000)))
    for program in programs:
        result = _stricter(space, symbolic.function(space, program), result)
    native = space.equal(region.arch_word(space), tuple(0xC000003E >> bit & 1 for bit in range(31, -1, -1)))
    return lift_function(space, space.ite(native, result, space.terminal(bpf.ret(bpf.action(bpf.KILL_PROCESS))))).policy


def _stricter(space: Space, newer: int, older: int) -> int:
    """Both filters together: of two equally strict answers the newer filter's counts."""
    result = older
    for one in space.values(newer):
        for other in space.values(older):
            if _FIRST.index(one & bpf.ACTION_MASK) <= _FIRST.index(other & bpf.ACTION_MASK):
                where = space.and_(space.where(newer, space.terminal(one)), space.where(older, space.terminal(other)))
                if where != FALSE:
                    result = space.ite(where, space.terminal(one), result)
    return result


def waiting(name: str, seconds: float = 10) -> int:
    """Wait for a process that runs that program and sleeps in `pause`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for folder in Path("/proc").iterdir():
            try:
                program = (folder / "cmdline").read_bytes().split(b"\0")[0] if folder.name.isdigit() else b""
                if name.encode() in program and (folder / "syscall").read_text().startswith(f"{PAUSE} "):
                    return int(folder.name)
            except OSError:
                continue
        time.sleep(0.02)
    raise AssertionError(f"{name} does not wait")


def policy_of(pid: int) -> Policy:
    return combined(read_filters(pid))


def kills(policy: Policy) -> bool:
    return policy.default.kind is ActionKind.KILL
