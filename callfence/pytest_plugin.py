"""The pytest plugin: `pytest --callfence-learn` and `pytest --callfence-enforce`, with the test suite as the workload.

Before it loads a conftest or captures output, pytest executes itself again under `learn` or `enforce`, with the same
interpreter and arguments.  So the whole run is recorded or confined, including the processes that the tests start and the
workers of pytest-xdist; terminal and exit status stay pytest's own.

Every pytest in an environment where callfence is installed loads this module, so it imports nothing but pytest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

MODES = ("learn", "enforce")
POLICY = "pytest.policy"
"""The default name of the policy, in pytest's root folder."""
_WHOLE = "CALLFENCE_PYTEST"
"""Environment variable that holds the mode and the pid of the pytest process that executed itself again."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("callfence")
    for mode, text in zip(MODES, ("merge what this run does into POLICY", "run confined by POLICY"), strict=True):
        group.addoption(
            f"--callfence-{mode}", metavar="POLICY", nargs="?", const="", help=f"{text} (default: {POLICY} in pytest's rootdir)"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the wrapper that starts to capture output
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    modes = _wanted(early_config)
    if len(modes) > 1:
        raise pytest.UsageError("--callfence-learn and --callfence-enforce exclude each other: give one of the two")
    for mode in modes:
        _execute(early_config, mode)
    return (yield)


def pytest_report_header(config: pytest.Config) -> list[str]:
    words = {"learn": "learning {}", "enforce": "confined by {}"}
    return [f"callfence: {words[mode].format(_policy(config, mode))}" for mode in _wanted(config)]


def _value(config: pytest.Config, mode: str) -> str | None:
    """Return the policy that the mode's flag names; "" if the flag names none, None if the flag was not given."""
    value: str | None = getattr(config.known_args_namespace, f"callfence_{mode}", None)
    return value


def _wanted(config: pytest.Config) -> list[str]:
    """Return the modes whose flags were given."""
    return [mode for mode in MODES if _value(config, mode) is not None]


def _execute(config: pytest.Config, mode: str) -> None:
    """Execute this pytest again under `learn` or `enforce`; return if it already runs so.  Raises pytest.UsageError."""
    outer, _, pid = os.environ.get(_WHOLE, "").partition(" ")
    if pid.isdigit() and _descends_from(int(pid)):
        if outer != mode:
            raise pytest.UsageError(f"--callfence-{mode}: this pytest was started by one under --callfence-{outer}")
        if mode == "enforce" and not _has_filter():
            raise pytest.UsageError(f"--callfence-enforce: this pytest runs without a filter, though {_WHOLE} says otherwise")
        return
    if config.invocation_params.args != tuple(sys.argv[1:]):
        raise pytest.UsageError(
            f"--callfence-{mode} cannot start this run again, because a program has called pytest.main(): "
            f"run the program under `{mode}` instead"
        )
    policy = _policy(config, mode)
    flag = f"--callfence-{mode}"
    arguments = [f"{flag}={policy}" if argument == flag else argument for argument in sys.orig_argv[1:]]
    option = {"learn": "-o", "enforce": "-p"}[mode]
    # -P: a package of the same name in the current folder is not ours
    command = [sys.executable, "-P", "-m", "callfence", mode, option, policy, "--", sys.executable, *arguments]
    os.execve(sys.executable, command, {**os.environ, _WHOLE: f"{mode} {os.getpid()}"})


def _policy(config: pytest.Config, mode: str) -> str:
    flag = f"--callfence-{mode}"
    value = _value(config, mode) or ""
    if not value or flag in config.invocation_params.args:  # without `=`, argparse has taken the next argument for its value
        return os.path.relpath(config.rootpath / POLICY)
    if not value.endswith(".policy"):
        raise pytest.UsageError(f"{flag}: {value!r} is not the name of a policy: write {flag}=NAME.policy")
    return value


def _has_filter() -> bool:
    """Return whether this process has a seccomp filter, ours or another (proc_pid_status(5)), or may not read that."""
    try:
        with open("/proc/self/status", "rb") as file:
            return b"\nSeccomp:\t2\n" in file.read()
    except OSError:
        return True


def _descends_from(pid: int) -> bool:
    """Return whether a process is this one or one of its ancestors that /proc shows."""
    process, parent = os.getpid(), os.getppid()
    while process != pid and parent > 0:
        process = parent
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])  # proc_pid_stat(5): ppid follows the state
        except OSError:  # another user's (proc(5), hidepid)
            parent = 0
    return process == pid
