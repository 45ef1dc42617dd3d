"""Every filter that `enforce` installs, read back from the kernel: each alone allows at most what the policy says."""

from __future__ import annotations

import os
import random
import shutil

import pytest
from calls import for_this_machine

from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter import bpf
from callfence.policygen.language.document import parse
from callfence.policygen.phases import phase_policies
from callfence.tracer.abi import COMPAT, NATIVE, Event, constants, table
from callfence.tracer.errors import TracerError
from callfence.tracer.running.attach import filter_counts, read_filters

PHASES = {
    0: ("", ()),
    1: ("phase one after poll\n", ("poll",)),
    2: ("phase one after poll\nphase two after epoll_wait\n", ("poll", "epoll")),
    3: (
        "phase one after poll\nphase two after epoll_wait\nphase three after rt_sigsuspend\n",
        ("poll", "epoll", "sigsuspend"),
    ),
}
ENTRIES = (
    "clone: allow\nepoll_create1: allow\nepoll_ctl: allow\nepoll_wait: allow\nioctl: allow\nmmap: allow\nmprotect: allow\n"
    "openat: allow\npoll: allow\nrt_sigaction: allow\nrt_sigsuspend: allow\ntgkill: allow\n"
)
UNTIL = {
    "one": "socket: family == AF_UNIX until one\n",
    "two": "bind: allow until two\n",
    "three": "getppid: allow until three\n",
}
ARCHES = (NATIVE, COMPAT)
COMMANDS = ("RECV", "SEND", "ID_VALID", "ADDFD", "SET_FLAGS")
RUNS = (0x7FFF0000, 0x7FFC0000)  # SECCOMP_RET_ALLOW, SECCOMP_RET_LOG
TRACE = 0x7FF00000


def events():
    """Calls of every number, with arguments that differ; with the numbers that no call has."""
    source = random.Random(0)
    for arch in ARCHES:
        for number in (*table(arch).by_number, 600, 0x40000001, 0xFFFFFFFF):
            for _ in range(3):
                values = (0, 1, 3, 0x22, 0x1000, 1 << 32, 0xFFFFFFFFFFFFFFFF, source.getrandbits(64), source.getrandbits(32))
                yield Event(arch.audit, number, tuple(source.choice(values) for _ in range(6)))
    yield Event(0xC00000B7, 0, (0,) * 6)


def commands():
    for arch in ARCHES:
        for name in COMMANDS:
            value = constants.value(f"SECCOMP_IOCTL_NOTIF_{name}", arch)
            for high in (0, 1 << 40):
                yield Event(arch.audit, table(arch).by_name["ioctl"].number, (3, value | high, 0, 0, 0, 0))


@pytest.mark.long
@pytest.mark.parametrize(
    ("default", "options"),
    [
        ("kill", ()),
        ("errno EPERM", ()),
        ("kill", ("--quiet-kernel",)),
        ("errno EPERM", ("--log", "log")),
        ("kill", ("--arm", "now")),
        ("errno EPERM", ("--arm", "entry")),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_each_filter_alone_allows_at_most_what_the_policy_says(place, build, shared_policy, count, default, options):
    if os.getuid() != 0:
        pytest.skip("reading filters takes root")
    shutil.copy(build("phased"), place.folder / "phased")
    lines, steps = PHASES[count]
    until = "".join(UNTIL[line.split()[1]] for line in lines.splitlines())
    execve = "execve: allow\n" if "now" in options else ""
    text = for_this_machine(f"default {default}\nimplied 1\n{lines}{until}{execve}{ENTRIES}") + f"arch {COMPAT}\nioctl: allow\n"
    outside = filter_counts(os.getpid()).get(os.getpid(), 0)
    process = place.start(*options, "-p", shared_policy(text, "phased.policy"), "./phased", *steps, "status", "wait")
    try:
        while not (line := process.stdout.readline()).startswith("Seccomp_filters"):
            assert line, process.stderr.read()
        try:
            programs = read_filters(process.pid)[outside:]
        except TracerError as error:
            pytest.skip(str(error))
    finally:
        process.communicate("x")
    assert len(programs) == count + 1
    meant = [policy for _, policy in phase_policies(parse(text, "p").policy)]
    for program, policy in zip(programs, meant, strict=True):
        answers = {instruction.k & 0xFFFF0000 for instruction in bpf.decode(program) if instruction.code == bpf.RET | bpf.K}
        assert TRACE not in answers
        wrong = [
            event
            for event in events()
            if bpf.run(program, event) & 0xFFFF0000 in RUNS and not evaluate(policy, event).allows
        ]
        assert not wrong
        assert not [event for event in commands() if bpf.run(program, event) & 0xFFFF0000 in RUNS]
