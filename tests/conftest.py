"""What all tests share: a clean environment, compiled C programs, and `learn` and `enforce` as a user runs them."""

from __future__ import annotations

import compileall
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import needed
import pytest
import set_up
from folders import remove
from hypothesis import HealthCheck, settings
from needed import require
from packages import copy_packages
from whole_records import records

from callfence.tracer.abi import NATIVE, Arch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

settings.register_profile("on busy machines", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("on busy machines")

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = Path(sys.executable).parent
"""Where pip put `learn`, `enforce` and `callfence`: beside the interpreter that runs the tests."""
TIMEOUT = 120
"""Seconds for one command; nothing here needs more than a few."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("callfence")
    group.addoption("--update-policies", action="store_true", help="rewrite samples/*.policy and golden diffs")
    group.addoption("--write-corpus", metavar="FILE", help="write the table of learned and enforced programs to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Programs under test inherit what is ignored here: a shell's background job ignores ^C, one under nohup a hangup.

    Many of them do not write bytecode (`clean_environment`), none does where the user's PYTHONDONTWRITEBYTECODE is set, and
    what pytest writes, with rewritten assertions, is not for them: each would compile our modules again, in up to 0.3 s.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT / "callfence", quiet=2)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Enforced:
    """A program that ran under a policy."""

    ran: subprocess.CompletedProcess[bytes]
    violations: list[dict[str, Any]]
    """One object per violation, as `enforce --log` writes them."""


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs programs plainly, under `learn` and under `enforce`, all in the same environment."""

    environment: Mapping[str, str]

    def plain(self, argv: Sequence[str | Path], folder: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run to the end; standard input is empty unless `options` say otherwise, output is captured."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.environment)
        options.setdefault("timeout", TIMEOUT)
        return subprocess.run([*argv], cwd=folder, capture_output=True, check=False, **options)

    def learn(
        self, policy: Path, argv: Sequence[str | Path], folder: Path, *flags: str, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        return self.plain([*self.learning(policy, *flags), *argv], folder, **options)

    def enforce(
        self, policy: Path, argv: Sequence[str | Path], folder: Path, *flags: str, **options: Any
    ) -> Enforced:
        log = policy.with_suffix(".log")
        log.unlink(missing_ok=True)
        ran = self.plain([*self.enforcing(policy, log, *flags), *argv], folder, **options)
        return Enforced(ran, self.violations(log))

    def learning(self, policy: Path, *flags: str) -> list[str | Path]:
        """The words before the program's own."""
        return [COMMANDS / "learn", *flags, "-o", policy, "--"]

    def enforcing(self, policy: Path, log: Path, *flags: str) -> list[str | Path]:
        """The words before the program's own."""
        return [COMMANDS / "enforce", *flags, "-p", policy, "--log", log, "--"]

    def violations(self, log: Path) -> list[dict[str, Any]]:
        return [record for record in records(log) if record["event"] == "denied"]


@dataclass(frozen=True, slots=True)
class Nobody:
    """An unprivileged user."""

    folder: Path
    """Writable for everybody; pytest's own folders are out of another user's reach."""
    python: tuple[str, ...]
    """The words before a script: become that user, and run the system's Python with a copy of our packages, since the
    interpreter and the checkout of the tests may be out of reach too."""


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root; without it every test is this one")
    folder = Path(tempfile.mkdtemp(prefix="callfence-test-"))
    packages = folder / "packages"
    copy_packages(packages, "rich", "pygments")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    folder.chmod(0o777)
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    yield Nobody(folder, (*become, "env", f"PYTHONPATH={packages}", f"HOME={folder}", "/usr/bin/python3"))
    remove(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests were skipped and why, and the command that installs missing packages."""
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()) if isinstance(report.longrepr, tuple)]
    counts = Counter(reason.removeprefix("Skipped: ") for reason in skipped)
    if counts:
        terminalreporter.section("skipped tests")
    for reason, count in sorted(counts.items()):
        terminalreporter.line(f"{count:5}  {reason}")
    missing = [reason.removeprefix(needed.PACKAGES).split() for reason in counts if reason.startswith(needed.PACKAGES)]
    if missing:
        terminalreporter.line(f"To install the packages, as root: {set_up.command(sorted(set().union(*missing)))}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of another machine are no tests here: pytest counts them as deselected."""
    there = [item for item in items if (mark := item.get_closest_marker("only_on")) and mark.args != (NATIVE.value,)]
    if there:
        config.hook.pytest_deselected(items=there)
        items[:] = [item for item in items if item not in there]


@pytest.fixture(autouse=True)
def _no_test_changes_what_ends_this_process() -> Iterator[None]:
    """`callfence`'s main lets SIGPIPE end its process: called here, the next write to a closed pipe would end all tests."""
    yield
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped in silence: the machine has all that the tests need, or the run fails."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


def clean_environment(home: Path) -> dict[str, str]:
    """The variables a program needs and no other, so that no run depends on who runs it."""
    path = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
    return {"PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "dumb", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(clean_environment(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`compile_c(source, *flags)` -> the program, built once a session; every user may run it.  With `-m32` it is one for the
    32-bit architecture of this machine."""
    folder = tmp_path_factory.mktemp("built")
    show_to_all(folder)
    built: dict[tuple[object, ...], Path] = {}

    def build(source: Path, *flags: str, compiler: str = "cc") -> Path:
        key = (source, flags, compiler)
        if key not in built:
            if "-m32" in flags and NATIVE is Arch.AARCH64:
                require("gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross")
                compiler, flags = "arm-linux-gnueabihf-gcc", tuple(flag for flag in flags if flag != "-m32")
            require("gcc", "libc6-dev", *(["gcc-multilib"] if "-m32" in flags else []))
            require(*(["musl-tools"] if compiler == "musl-gcc" else []))
            target = folder / str(len(built)) / source.stem
            target.parent.mkdir(exist_ok=True)
            command = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", target, source, *flags]
            subprocess.run(command, check=True, timeout=TIMEOUT)
            built[key] = target
        return built[key]

    return build


def show_to_all(folder: Path) -> None:
    """Let other users into one of pytest's folders."""
    for one in (folder, *folder.parents):
        if one.stat().st_mode & 0o005 == 0o005:
            return
        one.chmod(0o755)


@pytest.fixture
def port() -> Iterator[int]:
    """A TCP port at 127.0.0.1 at which nobody listens yet.

    A socket stays bound to it, so that the kernel chooses it for nobody else.  A server that sets SO_REUSEADDR, as most do, can
    listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


other_port = port
"""Another one."""


@pytest.fixture
def shown_path(tmp_path: Path) -> Path:
    """Like tmp_path, and other users may look into it."""
    show_to_all(tmp_path)
    return tmp_path
