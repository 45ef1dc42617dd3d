"""`pytest --callfence-learn` and `--callfence-enforce`, as users run them on their own suites."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from conftest import Commands

pytestmark = pytest.mark.long

SUITE = """
import os, socket, subprocess, sys, threading

def test_sockets():
    a, b = socket.socketpair()
    a.send(b"x")
    assert b.recv(1) == b"x"

def test_processes(tmp_path):
    assert subprocess.run(["cat"], input=b"hi", stdout=subprocess.PIPE).stdout == b"hi"

def test_threads():
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()

def test_more():
    if os.environ.get("MORE"):
        socket.socket(socket.AF_INET)

def test_failing():
    assert "FAIL" not in os.environ
"""
NAMES = "--callfence-learn", "--callfence-enforce"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a test suite in `tests`."""

    folder: Path
    commands: Commands

    @property
    def policy(self) -> Path:
        return self.folder / "pytest.policy"

    def pytest(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return self.python("-m", "pytest", *arguments, **variables)

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return self.commands.plain([sys.executable, *arguments], self.folder, env={**self.commands.environment, **variables})

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Project(folder, self.commands)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Project:
    """A suite with the policy of two runs, of which one failed."""
    project = Project(tmp_path_factory.mktemp("project"), commands)
    (project.folder / "tests").mkdir()
    (project.folder / "tests" / "test_suite.py").write_text(SUITE)
    # Where pytest puts folders by default, what it removes at the end depends on how many runs the machine has seen.
    (project.folder / "pytest.ini").write_text("[pytest]\naddopts = --basetemp=work\n")
    first = project.pytest("--callfence-learn", "tests")
    assert first.returncode == 0, first.stderr.decode()
    assert b"callfence: learning " in first.stdout
    assert b"5 passed" in first.stdout
    assert b"pytest.policy\n  leaves open  " in first.stderr
    second = project.pytest("tests", "--callfence-learn=pytest.policy", FAIL="1")
    assert second.returncode == pytest.ExitCode.TESTS_FAILED
    assert second.stderr.startswith(b"learned pytest.policy\n")
    return project


@pytest.fixture
def project(learned: Project, tmp_path: Path) -> Project:
    return learned.copy(tmp_path)


def test_the_suite_is_the_workload(learned: Project) -> None:
    """From the interpreter's start on, and with what the tests start."""
    text = learned.policy.read_text()
    assert "\nsocketpair: family == AF_UNIX" in text
    assert "\nmmap: prot == PROT_READ|PROT_EXEC" in text  # the loader
    assert (learned.folder / ".callfence" / "pytest.rec").exists()


def test_enforcing_changes_nothing(project: Project) -> None:
    ran = project.pytest("--callfence-enforce", "tests")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"callfence: confined by " in ran.stdout
    assert b"5 passed" in ran.stdout


def test_the_exit_status_is_pytests(project: Project) -> None:
    assert project.pytest("--callfence-enforce", FAIL="1").returncode == pytest.ExitCode.TESTS_FAILED
    assert project.pytest("--callfence-enforce", "-k", "nothing").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_more_than_was_learned_is_stopped_and_named(project: Project) -> None:
    ran = project.pytest("--callfence-enforce", "tests", MORE="1")
    assert ran.returncode == -signal.SIGSYS
    assert b"enforce: denied socket(family=AF_INET, " in ran.stderr
    assert b"callfence allow " in ran.stderr


def test_a_default_that_fails_the_call_fails_the_one_test(project: Project) -> None:
    project.policy.write_text(project.policy.read_text().replace("\ndefault kill", "\ndefault errno EPERM", 1))
    ran = project.pytest("--callfence-enforce", "tests", MORE="1")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED
    assert b"FAILED tests/test_suite.py::test_more - PermissionError" in ran.stdout
    assert b"1 failed, 4 passed" in ran.stdout
    assert b"enforce: denied socket(family=AF_INET, " in ran.stderr
    assert project.pytest("--callfence-learn", "tests").returncode == 0
    assert "\ndefault errno EPERM" in project.policy.read_text()


def test_what_else_is_on_the_command_line_is_kept(project: Project) -> None:
    ran = project.python("-X", "dev", "-m", "pytest", "--callfence-learn", "-q", "-k", "sockets", "--color=yes")
    assert ran.returncode == 0
    assert b"1 passed" in ran.stdout
    assert b"\x1b[" in ran.stdout


def test_the_workers_of_xdist_are_learned_and_confined(project: Project) -> None:
    learn = project.pytest("--callfence-learn", "-n", "2", "tests")
    assert (learn.returncode, b"5 passed" in learn.stdout) == (0, True), learn.stderr.decode()
    project.policy.write_text(project.policy.read_text().replace("\ndefault kill", "\ndefault errno EPERM", 1))
    ran = project.pytest("--callfence-enforce", "-n", "2", "tests", MORE="1")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED
    assert b"1 failed, 4 passed" in ran.stdout
    assert b"enforce: denied socket(family=AF_INET, " in ran.stderr


def test_a_flag_in_the_configuration_holds_for_every_run(project: Project) -> None:
    """A pytest that the suite starts reads it too, and is confined already."""
    (project.folder / "pytest.ini").write_text("[pytest]\naddopts = --callfence-enforce=pytest.policy\n")
    command = [sys.executable, "-m", "pytest", "-k", "sockets"]
    inner = f"import subprocess\ndef test_inner():\n    subprocess.run({command}, check=True)"
    (project.folder / "tests" / "test_inner.py").write_text(inner)
    learn = project.pytest("-o", "addopts=", "--callfence-learn", "-s", "-k", "inner")
    assert learn.returncode == pytest.ExitCode.TESTS_FAILED
    assert b"--callfence-enforce: this pytest was started by one under --callfence-learn" in learn.stderr
    ini = (project.folder / "pytest.ini").read_text()
    (project.folder / "pytest.ini").write_text(ini.replace("enforce", "learn"))
    assert project.pytest("-k", "inner").returncode == 0
    (project.folder / "pytest.ini").write_text(ini)
    ran = project.pytest("-s", "-k", "inner")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.count(b"callfence: confined by pytest.policy") == 2


def test_a_variable_left_in_the_environment_does_not_prevent_confinement(project: Project) -> None:
    ran = project.pytest("--callfence-enforce", "tests", MORE="1", CALLFENCE_PYTEST="enforce 4194304")
    assert ran.returncode == -signal.SIGSYS


def test_nor_does_one_that_names_a_process_above(project: Project) -> None:
    ran = project.pytest("--callfence-enforce", CALLFENCE_PYTEST=f"enforce {os.getpid()}")
    is_filtered = "\nSeccomp:\t2\n" in Path("/proc/self/status").read_text()
    assert (ran.returncode == pytest.ExitCode.USAGE_ERROR) is not is_filtered
    assert (b"this pytest runs without a filter" in ran.stderr) is not is_filtered


def test_mistakes_in_the_command_line(project: Project) -> None:
    usage = int(pytest.ExitCode.USAGE_ERROR)
    for arguments, status, message in [
        (NAMES, usage, b"give one of the two"),
        (("--callfence-enforce=tests",), usage, b"'tests' is not the name of a policy: write --callfence-enforce=NAME.policy"),
        (("--callfence-enforce=nosuch.policy",), 125, b"enforce: the policy nosuch.policy cannot be read"),
        (("--callfence-learn=no/folder.policy",), 125, b"learn: no/folder.policy: the folder no does not exist"),
    ]:
        ran = project.pytest(*arguments)
        assert (ran.returncode, ran.stdout) == (status, b"")
        assert message in ran.stderr


def test_a_program_that_calls_pytest_is_not_replaced(project: Project) -> None:
    ran = project.python("-c", "import pytest; print(int(pytest.main(['--callfence-enforce'])))")
    assert ran.stdout == b"4\n"
    assert b"run the program under `enforce` instead" in ran.stderr


def test_without_the_flags_nothing_else_is_imported(project: Project) -> None:
    (project.folder / "tests" / "test_suite.py").write_text(
        "import sys\ndef test_it():\n"
        "    ours = ('callfence', 'ctypes')\n"
        "    found = {name for name in sys.modules if name.split('.')[0] in ours}\n"
        "    assert found == {'callfence', 'callfence.pytest_plugin', 'callfence.start'}"
    )
    assert project.pytest("tests").returncode == 0
