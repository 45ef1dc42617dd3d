"""Drop-ins in units of a `systemd --user` that is started for the test: what is allowed works, what is denied is denied as
the policy says, and the filters that the kernel has differ from the policy only as reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from announced import check
from calls import format_options, parse
from installed import PAUSE, PROBE_POLICY, combined
from needed import needs, needs_root, require

from callfence.policygen.formats import Direction, systemd, wider
from callfence.policygen.formats.systemd import grouped, groups
from callfence.policygen.implied.resolve import resolved
from callfence.tracer.abi import Arch, table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VERSION = "257"

NEEDED = "exit_group: allow\nwrite: allow\npause: allow\n"
POLICIES = {
    "probe": PROBE_POLICY,
    "failing": f"default errno EPERM\n{NEEDED}getppid: errno EACCES\nptrace: kill\n"
    "clone: clone_flags == 0\nclone3: errno ENOSYS\n",
    "unsaid": f"{NEEDED}openat2: errno ENOSYS\nunshare: allow\nclone3: errno ENOSYS\n",
    "fallbacks": f"{NEEDED}openat2: errno ENOSYS\nio_uring_setup: errno ENOSYS\nsendfile: errno EINVAL\nclone3: errno ENOSYS\n",
    "denying": "default allow\nunknown allow\ngetppid: errno EACCES\ngetpid: kill\nbind: fd == 3\nclone3: errno ENOSYS\n",
    **{
        path.stem: re.sub(r"path .*\n", "", path.read_text()) + "pause: allow\n"  # the program that has them is another
        for path in (ROOT / "samples").glob("[fhn]*.policy")
    },
}
# name: the policy, the calls, what is printed, and its exit status or the signal by which it ends
RUNS = {
    "allowed": ("probe", ["102", "110", "435", "41,1,1,0"], ["0", "-13", "-38", "3"], 9),
    "killed": ("probe", ["102", "101", "102"], ["0"], 31),
    "threads-only": ("probe", ["56,268435456"], ["-1"], 9),  # CLONE_NEWUSER: RestrictNamespaces=
    "no-conditions": ("probe", ["41,2,3,1"], ["3"], 9),  # as was said
    "failed": ("failing", ["102", "110", "435", "101"], ["-1", "-13", "-38"], 31),
    "nothing-is-killed": ("unsaid", ["101", "437", "435"], ["-38", "-38", "-38"], 9),
    "not-permitted": ("fallbacks", ["437", "425", "40", "435", "101"], ["-1", "-1", "-22", "-38"], 31),
    "denied": ("denying", ["102", "110", "435", "39"], ["0", "-13", "-38"], 31),
}


def exported(name: str) -> str:
    return systemd.export(resolved(parse(POLICIES[name]).policy), format_options(name=name)).data.decode()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> dict[str, dict[str, Any]]:
    """Runs a manager of its own, in namespaces that take root."""
    require("systemd", "dbus-user-session")
    folder = tmp_path_factory.mktemp("manager")
    cases = {
        name: {"dropin": exported(policy), "command": [str(probe), *calls], "wait": False}
        for name, (policy, calls, _, _) in RUNS.items()
    } | {
        f"filter-{name}": {"dropin": exported(name), "command": [str(probe), PAUSE], "wait": True} for name in POLICIES
    }
    (folder / "cases").write_text(json.dumps(cases))
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    driver = [sys.executable, HERE / "programs/run_units.py", folder / "cases", folder / "results"]
    command = [*namespaces, "sh", HERE / "programs/user_manager.sh", folder, *driver]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "results").read_text())


@pytest.mark.long
@pytest.mark.only_on("x86_64")
@needs_root
@pytest.mark.parametrize("name", RUNS)
def test_a_unit_runs_as_its_policy_says(name: str, results: dict[str, dict[str, Any]]) -> None:
    _, _, answers, status = RUNS[name]
    found = results[name]
    assert found["output"].split() == answers, found
    assert found["Result"] in (["core-dump", "signal"] if status == signal.SIGSYS else ["exit-code"]), found
    assert int(found["ExecMainStatus"]) == status, found


@pytest.mark.only_on("x86_64")
@needs_root
@pytest.mark.parametrize("name", POLICIES)
def test_the_kernels_filters_differ_from_the_policy_as_reported(name: str, results: dict[str, dict[str, Any]]) -> None:
    policy = parse(POLICIES[name]).policy
    real = combined([bytes.fromhex(program) for program in results[f"filter-{name}"]["filters"]])
    check(policy, systemd.export(resolved(policy), format_options()), real)


@pytest.mark.parametrize("name", POLICIES)
@needs("systemd")
def test_systemd_accepts_the_unit(name: str, tmp_path: Path) -> None:
    unit = tmp_path / "callfence-test.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nSystemCallFilter=@clock\nSystemCallErrorNumber=EINVAL\n")
    dropin = tmp_path / "callfence-test.service.d" / "callfence.conf"
    dropin.parent.mkdir()
    dropin.write_text(exported(name))
    command = ["systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", str(unit)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@needs("systemd")
def test_the_groups_are_systemds() -> None:
    version = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    if version != VERSION:
        pytest.skip(f"the groups are those of systemd {VERSION}, and here is {version}")
    text = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    text = re.split(r"^# Ungrouped", text, flags=re.MULTILINE)[0]
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            members = found.setdefault(line, [])
        elif word := line.partition("#")[0].strip():
            members.append(word)

    def resolved(name: str) -> set[str]:
        return {call for one in found[name] for call in (resolved(one) if one.startswith("@") else {one})}

    assert {name: resolved(name) & set(table(Arch.X86_64).by_name) for name in found} == dict(groups(Arch.X86_64))


def test_groups_stand_for_their_calls_where_all_of_them_are_allowed() -> None:
    files = groups()["@file-system"]
    assert grouped(files | {"read"}) == ["@file-system", "read"]
    few = grouped(files - {"openat"})
    assert "@file-system" not in few and "openat" not in few
    named = {call for word in grouped(groups()["@system-service"]) for call in groups().get(word, {word})}
    assert named == groups()["@system-service"]


def test_the_drop_in_word_for_word() -> None:
    text = "clone3: errno ENOSYS\nclone: clone_flags == CLONE_VM\nread: fd == 0\nptrace: errno EPERM\nwrite: allow\n"
    made = systemd.export(resolved(parse(text).policy), format_options(name="it"))
    assert made.data.decode() == """\
# System calls of it, made by `callfence export --to systemd` for systemd 257.
[Service]
SystemCallFilter=
SystemCallFilter=clone clone3 execve read write
SystemCallFilter=~@sandbox arch_prctl brk clock_getres clock_gettime clock_nanosleep exit exit_group futex futex_waitv
SystemCallFilter=~get_robust_list get_thread_area getegid geteuid getgid getgroups getpgid getpgrp getpid getppid
SystemCallFilter=~getrandom getresgid getresuid getrlimit getsid gettid gettimeofday getuid lsm_get_self_attr
SystemCallFilter=~lsm_list_modules membarrier mmap mprotect mseal munmap nanosleep pause prlimit64 restart_syscall
SystemCallFilter=~rseq rt_sigreturn sched_getaffinity sched_yield set_robust_list set_thread_area set_tid_address time
SystemCallFilter=~uretprobe ptrace:EPERM
SystemCallErrorNumber=kill
SystemCallArchitectures=
SystemCallArchitectures=native
RestrictNamespaces=yes
NoNewPrivileges=yes
"""
    assert {call for loss in wider(made.losses) for call in loss.calls} >= {"clone", "read", "execve"}
    assert [loss.calls for loss in made.losses if "EPERM" in loss.what] == [("clone",)]
    assert all(loss.direction is not Direction.NARROWER for loss in made.losses)
