"""The troubles of `storm_phases.py`: what a start meets, by what is put around it, done to it, or played by the program."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shutil
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

TO_PROGRAM = (signal.SIGSTOP, signal.SIGCONT, signal.SIGUSR1, signal.SIGWINCH)
TO_HELPER = (signal.SIGSTOP, signal.SIGCONT, signal.SIGTRAP, signal.SIGCHLD)


class Running(NamedTuple):
    """A start as its troubles see it."""

    pid: int
    """The first process: `enforce`, then the program."""
    chance: random.Random
    helpers: Callable[[], list[int]]
    """The helper and its stand-in."""
    tasks: Callable[[], list[int]]
    """All tasks of the program."""
    has_begun: Callable[[], bool]
    """Whether the program handles its signals."""
    done: set[str]
    """What has been done once."""
    is_time: Callable[[], bool]
    """Whether the moment has come of what is done once."""


class Trouble(NamedTuple):
    name: str
    roles: tuple[str, ...] = ()
    """What the program plays (tools/storm/storm_phases.c)."""
    limit: Callable[[random.Random, int], str] | None = None
    """The limit, as an option of prlimit(1), that `enforce` and the program have; it gets the least RLIMIT_AS, in bytes."""
    unprivileged: float = 0
    """How likely they are another user's."""
    does: Callable[[Running], None] | None = None
    """What is done to the start, again and again while it lasts."""
    may_refuse: bool = False
    """Whether `enforce` may refuse to begin, or end the program with a message, for want of a resource."""


def send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def free_uid(chance: random.Random) -> int:
    """A user id without a name and without a process."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            taken.add(os.stat(f"/proc/{name}").st_uid)
    return next(uid for uid in iter(lambda: chance.randrange(20000, 60000), 0) if uid not in taken)


def around(troubles: tuple[Trouble, ...], chance: random.Random, least: int) -> list[str]:
    """What is put before the command line of `enforce`."""
    limits = [trouble.limit(chance, least) for trouble in troubles if trouble.limit]
    command = ["prlimit", *limits] if limits else []
    if os.geteuid() == 0 and any(chance.random() < trouble.unprivileged for trouble in troubles):
        uid = free_uid(chance)
        sets = [f"--{which}=-all,+dac_read_search" for which in ("bounding-set", "inh-caps")]  # it can read this Python
        command += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *sets, "--ambient-caps=+dac_read_search"]
    return command


def _few_processes(chance: random.Random, _: int) -> str:
    return f"--nproc={chance.randrange(3, 24)}"


def _few_descriptors(chance: random.Random, _: int) -> str:
    soft = chance.randrange(16, 65)
    return f"--nofile={soft}:{chance.choice((soft, 64))}"


def _little_memory(chance: random.Random, least: int) -> str:
    return f"--as={least + chance.randrange(-1 << 20, 8 << 20) // 4096 * 4096}"


def _stops_helper(running: Running) -> None:
    if running.chance.random() < 0.2:
        for pid in running.helpers()[:1]:
            send(pid, running.chance.choice(TO_HELPER if running.has_begun() else TO_HELPER[:2]))
            time.sleep(running.chance.random() * 0.005)
            send(pid, signal.SIGCONT)


def _kills_helper(running: Running) -> None:
    if "kill" not in running.done and running.is_time() and (helpers := running.helpers()):
        running.done.add("kill")
        send(running.chance.choice(helpers), signal.SIGKILL)


def _limits_helper(running: Running) -> None:
    if "limit" not in running.done and running.is_time() and (helpers := running.helpers()):
        running.done.add("limit")
        count = running.chance.randrange(16, 65)
        with contextlib.suppress(OSError):
            resource.prlimit(running.chance.choice(helpers), resource.RLIMIT_NOFILE, (count, count))


def _signals(running: Running) -> None:
    tasks = running.tasks()
    for pid in running.chance.sample(tasks, min(2, len(tasks))):
        send(pid, running.chance.choice(TO_PROGRAM if running.has_begun() else TO_PROGRAM[:2]))
    time.sleep(running.chance.random() * 0.001)
    for pid in tasks:
        send(pid, signal.SIGCONT)


MANY = Trouble("many processes", roles=("many200",))
TROUBLES = (
    Trouble("helper stopped", does=_stops_helper),
    Trouble("helper killed", does=_kills_helper),
    Trouble("few descriptors", limit=_few_descriptors, unprivileged=0.5, may_refuse=True),
    Trouble("few descriptors, program", roles=("nofile",)),
    Trouble("few descriptors, helper", does=_limits_helper),
    Trouble("few processes, unprivileged", limit=_few_processes, unprivileged=1, may_refuse=True),
    Trouble("little memory", limit=_little_memory, may_refuse=True),
    Trouble("no memory for a filter", roles=("memory",)),
    MANY,
    Trouble("dying parents", roles=("dying",)),
    Trouble("CLONE_PARENT", roles=("parent",)),
    Trouble("CLONE_FILES", roles=("files",)),
    Trouble("vfork", roles=("vfork",)),
    Trouble("threads", roles=("threads",)),
    Trouble("exec", roles=("exec", "exec")),
    Trouble("signals to the program", does=_signals),
)


def drawn(chance: random.Random) -> tuple[Trouble, ...]:
    """One trouble, or two."""
    tools = shutil.which("setpriv") and shutil.which("prlimit")
    possible = [
        trouble for trouble in TROUBLES if (tools or not trouble.limit) and (os.geteuid() == 0 or trouble.unprivileged < 1)
    ]
    return tuple(chance.sample(possible, chance.choice((1, 2))))


def children(folder: Path) -> list[int]:
    """The processes that run from a folder."""
    processes = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/exe").startswith(f"{folder}/"):
                processes.append(int(name))
    return processes


def tasks(processes: list[int]) -> list[int]:
    """The tasks of these processes."""
    ids: list[int] = []
    for pid in processes:
        with contextlib.suppress(OSError):
            ids += map(int, os.listdir(f"/proc/{pid}/task"))
    return ids
