"""A storm on programs that enter phases: `storm_phases.py STARTS` starts a program of one to three phases, and disturbs it.

Each start draws one or two troubles of `storm_troubles.TROUBLES`; one start has 5,000 processes that enter the phases.  A start
is wrong if a call ran that a phase of its process denies, if a process was denied what its phase allows, if a process died that
had no reason to, if one in the last phase was traced, or if something did not end or was left behind.  A process that cannot
enter its phase may be killed, with the reason on standard error; these are counted.  Prints what was wrong, and ends with 1
then; `--only NUMBER --seed SEED` repeats one start.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from storm import ENFORCE, helpers
from storm_troubles import MANY, Running, Trouble, around, children, drawn, send, tasks

PHASES = (("one", "poll"), ("two", "select"), ("three", "epoll_wait"))
UNTIL = ("getppid", "getuid", "getgid")
ALLOWED = (
    "arch_prctl", "brk", "clock_nanosleep", "clone", "close", "dup", "epoll_create1", "epoll_ctl", "epoll_wait", "execve",
    "exit", "exit_group", "fork", "fstat", "futex", "getpid", "getrandom", "kill", "madvise", "mmap", "mprotect", "munmap",
    "nanosleep", "openat", "pipe", "pipe2", "poll", "prlimit64", "read", "readlink", "readlinkat", "restart_syscall", "rseq",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "select", "set_robust_list", "set_tid_address", "tgkill", "vfork",
    "wait4", "waitid", "write",
)  # fmt: skip
TIMEOUT = 90
"""Seconds in which a start ends; one of 5,000 processes has ten times as many."""
LEFT = 30
"""Seconds in which the rest ends after the first process."""
_REASON = re.compile(r"enforce: process (\d+) cannot enter its phase and is killed, because (.*)")
_SHORT = re.compile(r"the helper failed|not enough memory|cannot allocate|was not run|^enforce: \w+: ", re.I | re.M)
"""How `enforce` says that it lacks a resource."""


class Start(NamedTuple):
    pid: int
    troubles: tuple[Trouble, ...]
    is_stuck: bool
    left: int
    """Processes that were left behind."""
    made: list[str]
    status: int
    output: str
    errors: str
    is_helper_killed: bool

    @property
    def killed(self) -> dict[int, str]:
        """The processes that could not enter a phase, and why."""
        return {int(pid): why for pid, why in _REASON.findall(self.errors)}

    @property
    def is_short(self) -> bool:
        """Whether `enforce` itself lacked something, and said so."""
        return any(trouble.may_refuse for trouble in self.troubles) and bool(_SHORT.search(self.errors))


def policy(phases: int, *, has_clone3: bool) -> str:
    names = [name for name, _ in PHASES[:phases]]
    lines = ["default errno EACCES", *(f"phase {name} after {trigger}" for name, trigger in PHASES[:phases])]
    lines += ["getpgid: kill", "prctl: option == PR_SET_CHILD_SUBREAPER"]
    lines += [f"clone3: {'allow' if has_clone3 else 'errno ENOSYS'}", *(f"{name}: allow" for name in ALLOWED)]
    lines += [f"{call}: allow until {name}" for call, name in zip(UNTIL, names, strict=False)]
    return "".join(f"{line}\n" for line in lines)


def command(folder: Path, mark: str, phases: int, number: int, roles: list[str]) -> list[str]:
    text = policy(phases, has_clone3=bool(number % 2))
    file = folder / f"{phases}{number % 2}.policy"
    if not file.exists():
        file.write_text(text)
    return [str(ENFORCE), "-p", file.name, "--", "./storm", mark, str(phases), "0", str(number), *roles, "-"]


def started(folder: Path, seed: int, number: int, least: int, *, is_long: bool = False) -> Start:
    """One start; the same seed and number draw the same."""
    chance = random.Random(f"{seed} {number}")
    troubles = (MANY,) if is_long else drawn(chance)
    mark = f"storm-phases-{os.getpid()}-{number}"
    roles = ["many5000"] if is_long else [role for trouble in troubles for role in trouble.roles]
    argv = around(troubles, chance, least) + command(folder, mark, chance.randrange(1, 4), chance.randrange(1 << 15), roles)
    done: set[str] = set()
    with open(folder / "out", "w+") as out, open(folder / "err", "w+") as err:
        settings = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = subprocess.Popen(argv, cwd=folder, env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}, **settings)  # type: ignore[call-overload]
        began = time.monotonic()
        running = Running(
            process.pid,
            chance,
            lambda: [pid for pid in helpers(mark) if pid != process.pid and _is_enforce(pid)],
            lambda: tasks(children(folder)),
            lambda: os.path.getsize(folder / "out") > 0,
            done,
            lambda: time.monotonic() > moment,
        )
        delay, is_early = chance.random() ** 2 * 0.3, chance.random() < 0.2
        moment = began + delay if is_early else float("inf")
        until = began + TIMEOUT * (10 if is_long else 1)
        while process.poll() is None and time.monotonic() < until:
            if moment == float("inf") and running.has_begun():
                moment = time.monotonic() + delay
            for trouble in troubles:
                if trouble.does:
                    trouble.does(running)
            time.sleep(0.0005 + chance.random() * 0.001)
        is_stuck = process.poll() is None
        until = time.monotonic() + (0 if is_stuck else LEFT)
        while (rest := {*helpers(mark), *children(folder)}) and time.monotonic() < until:
            for pid in tasks([*rest]):
                send(pid, signal.SIGCONT)
            time.sleep(0.005)
        if is_stuck or rest:
            _describe(process.pid, rest)
        for pid in rest:
            send(pid, signal.SIGKILL)
        process.wait()
        made = [path.name for path in folder.glob("ran-*")]
        for name in made:
            (folder / name).rmdir()
        out.seek(0)
        err.seek(0)
        left = 0 if is_stuck else len(rest)
        return Start(process.pid, troubles, is_stuck, left, made, process.returncode, out.read(), err.read(), "kill" in done)


def _is_enforce(pid: int) -> bool:
    """Whether a process is the helper, or not the program yet."""
    with contextlib.suppress(OSError):
        return not os.readlink(f"/proc/{pid}/exe").endswith("/storm")
    return False


def _describe(first: int, processes: set[int]) -> None:
    for pid in sorted(processes | {first}):
        for task in tasks([pid]):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/task/{task}/status").read_text()
                facts = re.findall(r"^(?:State|Tgid|PPid|TracerPid|Seccomp_filters|SigPnd|ShdPnd):.*", status, re.M)
                call = Path(f"/proc/{pid}/task/{task}/syscall").read_text().split()[0]
                executable = os.readlink(f"/proc/{pid}/exe")
                print(f"  {task}: {executable} call {call} {' '.join(' '.join(facts).split())}", flush=True)


def wrong(start: Start) -> str:
    """What was wrong with a start, or ''."""
    lines = [line.split(" ", 1) for line in start.output.splitlines()]
    printed: dict[str, list[str]] = {}
    for letter, *rest in lines:
        printed.setdefault(letter, []).append(" ".join(rest))
    if start.is_stuck:
        return "it did not end"
    if start.left:
        return f"{start.left} processes were left behind"
    if start.made:
        return f"a denied call ran: {start.made}"
    if "W" in printed:
        return "; ".join(printed["W"])
    is_alone = start.is_helper_killed or start.is_short
    if "N" in printed and not is_alone:
        return f"nobody answered: {'; '.join(printed['N'])}"
    victims, by_policy = ({int(text) for text in printed.get(letter, ())} for letter in "vk")
    ends = [(int(pid), int(status)) for pid, status in (text.split() for text in printed.get("x", ()))]
    nobody = {int(text.split()[0]) for text in printed.get("N", ())}
    for pid, status in ends:
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if pid in victims and died in (0, signal.SIGKILL, signal.SIGSEGV):
            continue
        if died == signal.SIGKILL and (pid in start.killed or is_alone):
            continue
        if pid in by_policy and (died in (signal.SIGSYS, signal.SIGKILL) or pid in nobody):  # enforcer.listener.end_process
            continue
        if status or pid in by_policy:
            return f"process {pid} ended with {status:#x}"
    if start.status == 0 and "E" in printed:
        return ""
    if start.status == -signal.SIGKILL and (is_alone or start.pid in start.killed):
        return ""
    if (start.is_short or (start.is_helper_killed and start.status == 125)) and "E" not in printed:
        return ""  # 125: `enforce` had not begun the program
    return "" if start.status == 0 and "set-up" in start.output else f"status {start.status}"


def least_memory(folder: Path) -> int:
    """The least RLIMIT_AS with which a program of three phases comes to its end, in bytes; about right is enough."""
    low, high = 16 << 20, 1 << 30
    while high - low > 1 << 19:
        middle = (low + high) // 2 // 4096 * 4096
        argv = ["prlimit", f"--as={middle}", *command(folder, "least", 3, 0, [])]
        done = subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True, timeout=TIMEOUT)
        low, high = (low, middle) if done.returncode == 0 and done.stdout.endswith("E\n") else (middle, high)
    return high


def summary(starts: list[tuple[Start, str]]) -> list[str]:
    """A line for each trouble."""
    kinds: dict[str, Counter[str]] = {}
    for start, problem in starts:
        for trouble in start.troubles:
            counts = kinds.setdefault(trouble.name, Counter())
            counts["starts"] += 1
            counts["wrong"] += bool(problem)
            counts["refused"] += start.status > 0
            counts["ended with its helper"] += start.is_helper_killed and start.status == -signal.SIGKILL
            counts["processes killed"] += len(start.killed)
            counts["reasons not to report"] += start.errors.count("are not reported, because ")
    return [
        f"{name}: {', '.join(f'{count} {what}' for what, count in counts.items())}" for name, counts in sorted(kinds.items())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="a storm on programs that enter phases")
    parser.add_argument("starts", type=int, nargs="?", default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", type=int, action="append", help="the number of a start to repeat")
    parser.add_argument("--long", action="store_true", help="begin with one start of 5,000 processes")
    parser.add_argument("--seconds", type=float, default=7200, help="begin no start later than that")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    done: list[tuple[Start, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # for another user
        (folder / "cache").mkdir(mode=0o700)
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-O1", "-static", "-pthread", "-o", folder / "storm", source], check=True)
        least = least_memory(folder) if shutil.which("prlimit") else 0
        for number in options.only or range(-int(options.long), options.starts):
            if time.monotonic() - began > options.seconds:
                break
            start = started(folder, options.seed, number, least, is_long=number < 0)
            problem = wrong(start)
            done.append((start, problem))
            if problem or options.only:
                names = " and ".join(trouble.name for trouble in start.troubles)
                print(f"start {number} ({names}): {problem}\n{start.errors[-2000:]}", flush=True)
            if options.only:
                print(start.status, start.output)
    count = sum(bool(problem) for _, problem in done)
    print("\n".join(summary(done)))
    reasons = Counter(why for start, _ in done for why in start.killed.values())
    print("could not enter:", "; ".join(f"{number} {why}" for why, number in reasons.most_common()) or "none")
    print(f"{len(done)} starts, {count} wrong, in {time.monotonic() - began:.0f} s")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
