"""The recipe of docs/learning-a-server.md: after its runs, a server does under its policy all that it does without."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import pytest
from needed import require

from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from conftest import Commands, Nobody

SCRIPTS = Path(__file__).parent / "servers"
TIMEOUT = 300
"""Seconds for all runs of one part."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("server", "options", "packages"),
    [
        ("nginx", (), ("nginx", "curl", "procps")),
        ("nginx", ("--phases",), ("nginx", "curl", "procps")),
        ("redis", (), ("redis-server", "redis-tools")),
        ("redis", ("--phases",), ("redis-server", "redis-tools")),
    ],
    ids=["nginx", "nginx-phases", "redis", "redis-phases"],
)
def test_no_denial_after_the_recipe(
    server: str,
    options: tuple[str, ...],
    packages: tuple[str, ...],
    commands: Commands,
    shown_path: Path,
    port: int,
    other_port: int,
) -> None:
    require(*packages)
    policy, log = shown_path / "server.policy", shown_path / "log"
    for part, command in (("recipe", commands.learning(policy, *options)), ("everything", commands.enforcing(policy, log))):
        ran = commands.plain(
            ["bash", SCRIPTS / f"{server}.sh", part, *command], shown_path, timeout=TIMEOUT,
            env={**commands.environment, "PORT": str(port), "UPSTREAM": str(other_port)},
        )
        assert ran.returncode == 0, f"{part}: {ran.stderr.decode()}{commands.violations(log)}"
    assert commands.violations(log) == []
    assert "implied 1" in policy.read_text()
    assert ("phase serving after epoll_wait\n" in policy.read_text()) is bool(options)


def test_a_call_to_another_host_is_denied_and_explained(
    commands: Commands, shown_path: Path, port: int, other_port: int
) -> None:
    """Its calls allow `connect` and TCP sockets: for the daemon that knows users, and for its own listener."""
    policy = shown_path / "caller.policy"
    words = ["python3", SCRIPTS / "caller.py", str(port)]
    log = shown_path / "log"
    for command in (commands.learning(policy, "--files"), commands.enforcing(policy, log)):
        with subprocess.Popen([*command, *words], cwd=shown_path, env=commands.environment) as server:
            try:
                assert answer(port, "/") == (user := pwd.getpwuid(os.getuid()).pw_name)
                if command[0] == commands.enforcing(policy, log)[0]:
                    assert "Permission denied" in answer(port, f"/call/{other_port}")
                    assert answer(port, "/") == user
            finally:
                with suppress(OSError):
                    answer(port, "/stop")
            assert server.wait(30) == 0
    assert "connect: allow\n" in policy.read_text()
    assert "tcp connect: none\ntcp bind: 32768-65535\n" in policy.read_text()
    wait_until(lambda: '"event": "end"' in log.read_text())  # where the kernel's audit reports ports, it does so later
    (denied,) = commands.violations(log)
    assert denied["ungranted"] == [f"tcp connect: {other_port}"]


def answer(port: int, path: str) -> str:
    """What a server answers to a request, as soon as it listens."""
    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
                return reply.read().decode()
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.mark.long
def test_workers_that_replace_others_pass_on_requests(nobody: Nobody, commands: Commands, port: int, other_port: int) -> None:
    """The first workers do more than those that a reload starts; an unprivileged start has little else that ends with it."""
    require("nginx", "curl", "procps")
    for name in ("common.sh", "nginx.sh"):
        shutil.copy(SCRIPTS / name, nobody.folder)
    *become, python = nobody.python
    become += [f"PORT={port}", f"UPSTREAM={other_port}", "ROUNDS=2"]
    policy, log = nobody.folder / "nginx.policy", nobody.folder / "log"
    for part, words in (("roles", ("learn", "--phases", "-o", policy)), ("reloads", ("enforce", "-p", policy, "--log", log))):
        command = [*become, "bash", "nginx.sh", part, python, "-m", "callfence", *words, "--"]
        ran = subprocess.run(command, cwd=nobody.folder, capture_output=True, check=False, timeout=TIMEOUT)
        assert ran.returncode == 0, f"{part}: {ran.stderr.decode()}{log.read_text() if log.exists() else ''}"
    assert "phase serving after epoll_wait\n" in policy.read_text()
    assert commands.violations(log) == []


