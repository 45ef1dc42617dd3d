"""A storm on programs that enter a phase: `storm_phases.py STARTS` starts a program while signals hit it and its helper.

The program makes a call that only the start is allowed and one that no phase is, makes the trigger, and does both again; so
do its second thread, a child from before the trigger and one from after it.  Signals stop and interrupt them all the
time, and in every other start the helper is killed at a random moment.  A start is wrong if a denied call ran, if a task was
denied what its phase allows or went back, if the trigger did something else than in a plain run, if a task was still traced
afterwards, or if something did not end.  Prints what was wrong, and ends with 1 then.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from storm import ENFORCE, helpers

CALLS = 12
TO_PROGRAM = (signal.SIGSTOP, signal.SIGCONT, signal.SIGUSR1, signal.SIGWINCH)
TO_HELPER = (signal.SIGSTOP, signal.SIGCONT, signal.SIGTRAP, signal.SIGCHLD)
ALLOWED = (
    "clock_nanosleep", "clone", "close", "exit", "exit_group", "futex", "getpid", "madvise", "mmap", "munmap", "nanosleep",
    "openat", "pipe2", "poll", "read", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "set_robust_list", "tgkill", "wait4", "write",
)  # fmt: skip
UNTIL = ("arch_prctl", "brk", "fstat", "getppid", "getrandom", "mprotect", "prlimit64", "readlinkat", "set_tid_address")
POLICY = "default errno EACCES\nphase serving after poll\nclone3: errno ENOSYS\n" + "".join(
    [f"{name}: allow\n" for name in ALLOWED] + [f"{name}: allow until serving\n" for name in UNTIL]
)
"""`getppid` is for the start only, `getpgrp` is for nobody."""
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define MOMENT (&(struct timespec){0, 200000})
static volatile int serves;
static int ready[2];
static void handler(int number) { (void)number; }
static void say(char who, char what) {
    char text[3] = {who, what, '\n'};
    while (write(1, text, 3) < 0 && errno == EINTR);
}
static char tried(long number) {
    long result;
    while ((result = syscall(number)) < 0 && errno == EINTR);  /* a handler ran before the helper got to know */
    return result >= 0 ? 'R' : errno == EACCES ? 'd' : errno == ENOSYS ? 'n' : '?';
}
static void calls(char who) {
    for (int i = 0; i < CALLS; i++) {
        say(who, tried(SYS_getppid));
        if (tried(SYS_getpgrp) == 'R')
            say(who, '!');
        nanosleep(MOMENT, 0);
    }
}
static void enters(char who) {
    struct pollfd one = {ready[0], POLLIN, 0};
    int found = poll(&one, 1, 1000);  /* there is a byte already */
    say(who, found == 1 && one.revents == POLLIN ? 'T' : found < 0 && errno == EINTR ? 'T' : 'X');
}
static void traced(char who) {
    char text[2048];
    int file = open("/proc/thread-self/status", O_RDONLY);
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    text[size > 0 ? size : 0] = 0;
    char *line = strstr(text, "TracerPid:\t");
    say(who, line && line[11] == '0' ? '0' : '1');
}
static void *second(void *unused) {
    calls('b');
    while (!serves)
        nanosleep(MOMENT, 0);
    say('b', 'T');
    calls('b');
    traced('b');
    return unused;
}
static pid_t child(char who, int enters_itself) {
    pid_t pid = fork();
    if (pid == 0) {
        if (enters_itself) {
            calls(who);
            enters(who);
        } else
            say(who, 'T');
        calls(who);
        traced(who);
        _exit(0);
    }
    return pid;
}
int main(void) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, 0);
    if (pipe(ready) || write(ready[1], "xx", 2) != 2)
        return 1;
    pthread_t thread;
    pthread_create(&thread, 0, second, 0);
    child('c', 1);
    calls('a');
    enters('a');
    serves = 1;
    child('d', 0);
    calls('a');
    pthread_join(thread, 0);
    traced('a');
    int status, others = 0;
    for (pid_t pid; (pid = wait(&status)) > 0 || errno == EINTR;)
        if (pid > 0)
            others += status ? 64 : 1;
    _exit(others == 2 ? 0 : others);
}
"""


class Start(NamedTuple):
    is_stuck: bool
    status: int
    output: str
    errors: str
    kills_helper: bool


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def started(folder: Path, chance: random.Random, number: int) -> Start:
    mark = f"storm-phases-{os.getpid()}-{number}"
    with open(folder / "out", "w+") as out, open(folder / "err", "w+") as err:
        process = subprocess.Popen(
            [ENFORCE, "-p", "storm.policy", "--", "./storm", mark], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        kills = bool(number % 2)
        when = time.monotonic() + chance.random() * 0.25
        stopped: set[int] = set()
        until = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < until:
            is_time = kills and time.monotonic() > when
            victims = [pid for pid in helpers(mark) if _is_enforce(pid)] if is_time or chance.random() < 0.2 else []
            victims = [pid for pid in victims if pid != process.pid]
            if is_time and victims:
                kills = False
                _send(chance.choice(victims), signal.SIGKILL)
            elif victims and not _is_enforce(process.pid) and chance.random() < 0.5:
                victim = chance.choice(victims)
                _send(victim, chance.choice(TO_HELPER))
                _send(victim, signal.SIGCONT)
            elif not _is_enforce(process.pid):  # before it is the program, a signal ends it as any command
                victim = chance.choice(family(process.pid))
                _send(victim, chance.choice(TO_PROGRAM if os.path.getsize(folder / "out") else TO_PROGRAM[:2]))
                stopped.add(victim)
            time.sleep(chance.random() * 0.001)
            for victim in stopped:
                _send(victim, signal.SIGCONT)
        stuck = process.poll() is None
        for pid in [*family(process.pid), *helpers(mark)] if stuck else ():
            _send(pid, signal.SIGKILL)
        process.wait()
        ended = time.monotonic() + 20
        while helpers(mark) and time.monotonic() < ended:  # the children end after the program if that was killed
            time.sleep(0.005)
        out.seek(0)
        err.seek(0)
        return Start(stuck, process.returncode, out.read(), err.read(), bool(number % 2) and not kills)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _is_enforce(pid: int) -> bool:
    """Whether a process is the helper, or not the program yet."""
    with contextlib.suppress(OSError):
        return not os.readlink(f"/proc/{pid}/exe").endswith("/storm")
    return False


def wrong(start: Start) -> str:
    """What was wrong with a start, or ''."""
    told: dict[str, str] = {}
    for line in start.output.split():
        told[line[0]] = told.get(line[0], "") + line[1]
    if start.is_stuck:
        return "it did not end"
    for who, letters in told.items():
        before, trigger, after = letters.partition("T")
        if "!" in letters or "?" in letters or "X" in letters:
            return f"{who}: {letters}"
        if who == "b" and "dR" in letters.replace("T", ""):
            return f"b has left the phase: {letters}"
        if who != "b" and set(before) - {"R"}:
            return f"{who} was denied what a start is allowed: {letters}"
        if "R" in after:
            return f"{who} has not entered the phase: {letters}"
        if "n" in after and not start.kills_helper:
            return f"{who}: a call was answered by nobody: {letters}"
        if trigger and "1" in after:
            return f"{who} is traced: {letters}"
    if start.kills_helper:  # it ends as soon as one of its processes has not entered the phase by then
        return ""
    complete = {who: "T" in letters and len(letters) == CALLS * (1 if who == "d" else 2) + 2 for who, letters in told.items()}
    if start.status or len(complete) != 4 or not all(complete.values()):
        return f"status {start.status}, {told}, {start.errors}"
    return ""


def main(starts: int) -> int:
    count = 0
    chance = random.Random(15)
    began = time.monotonic()
    ends: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "storm.policy").write_text(POLICY)
        (folder / "storm.c").write_text(PROGRAM)
        flags = ("-O1", "-static", "-pthread", f"-DCALLS={CALLS}")
        subprocess.run(["cc", *flags, "-o", folder / "storm", folder / "storm.c"], check=True)
        for number in range(starts):
            start = started(folder, chance, number)
            ends[start.status] += start.kills_helper
            if problem := wrong(start):
                count += 1
                print(f"start {number}: {problem}", flush=True)
    killed = f"{sum(ends.values())} lost their helper, and {ends[-signal.SIGKILL]} ended by that"
    print(f"{starts} starts, {count} wrong, in {time.monotonic() - began:.0f} s; {killed}")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
