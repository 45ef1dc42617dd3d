"""Programs under `enforce` in a network of their own (tests/support/networks/network.py), by policies about hosts alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from calls import allowing_all

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from conftest import Commands

ROOT = Path(__file__).parents[3]
NETWORK = ROOT / "tests" / "support" / "networks" / "network.py"
TALKS = ROOT / "tests" / "callfence" / "learning" / "hosts" / "talks.c"
NAMES = {
    "api.example.org": ["192.0.2.3", "2001:db8::3"],
    "www.example.org": ["192.0.2.4"],
    "big.example.org": ["192.0.2.5"],
    "a.pool.example.org": ["192.0.2.6"],
    "near.example.org": ["127.1.2.3"],
    "other.example.net": ["198.51.100.7"],
    "printer.example.org": ["192.0.2.99"],
    "HOSTS": "127.0.0.1 localhost\n::1 localhost\n192.0.2.99 printer printer.lan\n",
}


class Ran(NamedTuple):
    """What a program did under `enforce`."""

    stdout: str
    stderr: str
    status: int
    violations: list[dict[str, Any]]

    @property
    def ungranted(self) -> list[str]:
        """The lines that were lacking, and why there is none."""
        return [line for violation in self.violations for line in (*violation["ungranted"], *violation["ungrantable"])]


class Network:
    """Runs programs in the network."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self._commands = commands
        self.folder = folder
        self.log = folder / "log"

    def plain(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        network = [sys.executable, NETWORK, json.dumps(NAMES)]
        return self._commands.plain([*network, *command], self.folder)

    def enforced(self, lines: Sequence[str], *command: str | Path, flags: Sequence[str] = (), compat: bool = False) -> Ran:
        file = self.folder / "it.policy"
        file.write_text(allowing_all(*lines, compat=compat))
        self.log.unlink(missing_ok=True)
        ran = self.plain(*self._commands.enforcing(file, self.log, *flags), *command)
        violations = self._commands.violations(self.log)
        return Ran(ran.stdout.decode(), ran.stderr.decode(), ran.returncode, violations)


@pytest.fixture
def network(commands: Commands, tmp_path: Path) -> Network:
    if os.geteuid() != 0:
        pytest.skip("a network of its own takes root")
    return Network(commands, tmp_path)


@pytest.fixture
def talks(compile_c: Callable[..., Path]) -> Path:
    return compile_c(TALKS, "-pthread")


@pytest.fixture(params=["glibc", "musl", "32 bits"])
def any_talks(request: pytest.FixtureRequest, compile_c: Callable[..., Path]) -> Path:
    options: dict[str, Any] = {"glibc": {}, "musl": {"compiler": "musl-gcc"}, "32 bits": {}}[request.param]
    flags = {"glibc": ["-pthread"], "musl": ["-static"], "32 bits": ["-m32", "-pthread"]}[request.param]
    return compile_c(TALKS, *flags, **options)
