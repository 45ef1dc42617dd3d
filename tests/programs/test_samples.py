"""The samples: each prints what `learn` must find in it, has its policy committed, and runs under it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import native, value
from needed import require

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import parse_file
from callfence.policygen.model import ALLOW, KILL
from callfence.tracer.abi import NATIVE, Event, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

    from callfence.policygen.model import Action

    Follow = Callable[[Path, dict[str, Any]], tuple[Action, Action]]
    Words = Callable[[str, Path], list[str | Path]]

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
MADE_WITH = SAMPLES / "MADE_WITH"
"""The versions that decide what the samples ask of the kernel, for the committed policies."""
COMPILED = ("hello", "prefork", "families", "jit")
SCRIPTS = {"httpd": "python3 httpd.py", "notes": "python3 notes.py", "pipeline": "sh pipeline.sh"}
LEARNED = (*COMPILED, *SCRIPTS)
SERVICES = ("httpd", "prefork")
"""The samples whose files are learned, too."""
FRESH_RUNS = 10


@dataclass(frozen=True, slots=True)
class Learned:
    policy: Path
    output: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("gcc", "libc6-dev", "make")
    folder = tmp_path_factory.mktemp("samples")
    subprocess.run(["make", "--silent", "-C", SAMPLES, f"BUILD={folder}"], check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def command(built: Path) -> Words:
    """`command(sample, folder)`: the command line of a sample in that folder, into which it is copied."""

    def words(sample: str, folder: Path) -> list[str | Path]:
        if sample in SCRIPTS:
            interpreter, script = SCRIPTS[sample].split()
            shutil.copy(SAMPLES / script, folder)
            return [interpreter, script]
        shutil.copy(built / sample, folder)
        return [f"./{sample}"]

    return words


def files_of(sample: str) -> list[str]:
    """The option with which a sample is learned."""
    return ["--files"] if sample in SERVICES else []


@pytest.fixture(scope="module")
def learned(command: Words, commands: Commands, tmp_path_factory: pytest.TempPathFactory):
    """`learned(sample)` -> what one run of `learn` makes of it."""
    done: dict[str, Learned] = {}

    def learn(sample: str) -> Learned:
        if sample not in done:
            folder = tmp_path_factory.mktemp(sample)
            policy = folder / f"{sample}.policy"
            ran = commands.learn(policy, command(sample, folder), folder, *files_of(sample))
            assert ran.returncode == 0, ran.stderr.decode()
            done[sample] = Learned(policy, ran.stdout.decode())
        return done[sample]

    return learn


@pytest.mark.parametrize("sample", LEARNED)
def test_learn_finds_what_the_sample_says(sample: str, learned: Callable[[str], Learned]) -> None:
    found = learned(sample)
    assert_says(found.policy, found.output)


@pytest.mark.parametrize("sample", LEARNED)
def test_the_sample_runs_under_its_policy(
    sample: str, learned: Callable[[str], Learned], command: Words, commands: Commands,
    tmp_path: Path,
) -> None:
    words = command(sample, tmp_path)
    plain = commands.plain(words, tmp_path)
    enforced = commands.enforce(learned(sample).policy, words, tmp_path)
    assert enforced.violations == []
    assert (enforced.ran.returncode, enforced.ran.stdout, enforced.ran.stderr) == (
        plain.returncode, plain.stdout, plain.stderr,
    )


@pytest.mark.only_on("x86_64")  # where they were learned
@pytest.mark.parametrize("sample", LEARNED)
def test_the_committed_policy(
    sample: str, learned: Callable[[str], Learned], commands: Commands, request: pytest.FixtureRequest
) -> None:
    committed, fresh = SAMPLES / f"{sample}.policy", learned(sample).policy.read_text()
    here = versions(commands, SAMPLES)
    if request.config.getoption("update_policies"):
        committed.write_text(fresh)
        MADE_WITH.write_text(here)
        return
    if MADE_WITH.read_text() != here:
        reason = f"learned with\n{MADE_WITH.read_text()}and here is\n{here}`make samples` learns the policies again"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    assert committed.read_text() == fresh


@pytest.mark.long
@pytest.mark.parametrize("sample", LEARNED)
def test_ten_fresh_learns_write_the_same_bytes(
    sample: str, command: Words, commands: Commands, tmp_path: Path
) -> None:
    """PYTHONHASHSEED is set in every run: without it CPython asks for more randomness."""
    policy, words = tmp_path / f"{sample}.policy", command(sample, tmp_path)
    written = set()
    for run in range(FRESH_RUNS):
        fixed_addresses = ["setarch", "-R"] if run % 2 else []
        ran = commands.plain(
            [*fixed_addresses, *commands.learning(policy, "--fresh", "--quiet", *files_of(sample)), *words], tmp_path,
            env={**commands.environment, "PYTHONHASHSEED": str(run)},
        )
        assert ran.returncode == 0, ran.stderr.decode()
        written.add(policy.read_bytes())
    assert len(written) == 1


def test_seed_policy_is_the_text_of_2011() -> None:
    assert (SAMPLES / "seed.policy").read_text() == (
        "sys_read: (fd == 1) || (fd == 2)\n"
        "sys_write: (fd == 0)\n"
        "sys_exit: 1\n"
        "sys_exit_group: 1\n"
        "on_next_syscall: 1\n"
    )


@pytest.mark.parametrize(
    ("option", "denied"),
    [
        ([], None),
        (["read"], None),
        (["stdout"], "write(fd=1, "),
        (["getpid"], "getpid()"),
    ],
    ids=["fits", "reads fd 2", "writes fd 1", "makes an unlisted call"],
)
def test_seed(
    option: list[str], denied: str | None, built: Path, commands: Commands, follow_advice: Follow, tmp_path: Path
) -> None:
    policy = tmp_path / "seed.policy"
    policy.write_bytes((SAMPLES / "seed.policy").read_bytes())
    output = tmp_path / "output"
    output.touch()
    with output.open("r+b") as writable:
        enforced = commands.enforce(policy, [built / "seed", *option], tmp_path, stdin=writable)
    assert output.read_text().startswith("seed writes to fd 0\n")
    assert_says(policy, output.read_text())
    assert enforced.ran.stdout == b""
    if denied is None:
        assert enforced.violations == []
        # reading from fd 2 fails or not by what it is, here the write end of a pipe; the policy let it through
        assert enforced.ran.returncode == (1 if option == ["read"] else 0)
    else:
        assert enforced.ran.returncode == -signal.SIGSYS
        (violation,) = enforced.violations
        assert violation["call"].startswith(denied)
        assert follow_advice(policy, violation) == (KILL, ALLOW)


FINDS = re.compile(r"^learn must find: (\w+): (.+)$", re.MULTILINE)
REFUSES = re.compile(r"^learn must refuse: (\w+)\((.*)\)$", re.MULTILINE)


def assert_says(policy: Path, output: str) -> None:
    """The policy has an alternative with the conditions of each `find` line, and kills the call of a `refuse` line.

    Of a call that this machine lacks, it has the one that does the same."""
    finds, refuses = FINDS.findall(output), REFUSES.findall(output)
    assert finds, "the sample does not say what it does"
    document = parse_file(policy)
    entries = alternatives(document.text())
    for name, wanted in finds:
        found = entries.get(native(name), [])
        wanted_here = set() if wanted == "allow" and native(name) != name else conditions(wanted)
        assert any(wanted_here <= conditions(text) for text in found), (name, wanted, found)
    for name, arguments in refuses:
        assert evaluate(document.policy, event(name, arguments)) == KILL, (name, arguments)


def alternatives(text: str) -> dict[str, list[str]]:
    """The canonical text's entries: syscall name -> its alternatives."""
    entries: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if match := re.match(r"(\w+): (.*)", line):
            name = match[1]
            entries[name] = [match[2]]
        elif line.startswith("||"):
            entries[name].append(line.removeprefix("||").strip())
    return entries


def conditions(alternative: str) -> set[str]:
    """Conditions joined by AND, with the bits of each value in one order."""
    return {
        " ".join("|".join(sorted(word.split("|"))) for word in part.split()) for part in alternative.split(" && ")
    }


def event(name: str, arguments: str) -> Event:
    """The call written as `NAME=VALUE, ...`; what is not named is 0."""
    syscall = table(NATIVE).by_name[name]
    index = {argument.name: position for position, argument in enumerate(syscall.arguments)}
    registers = [0] * 6
    for key, _, text in (part.partition("=") for part in filter(None, arguments.split(", "))):
        registers[index[key]] = value(text, NATIVE)
    return Event(NATIVE.audit, syscall.number, tuple(registers))


def versions(commands: Commands, folder: Path) -> str:
    """Programs and libraries whose next version may make other calls; one a line."""
    questions = {
        "glibc": ["getconf", "GNU_LIBC_VERSION"],
        "Python": ["python3", "-c", "import sys; print('Python %d.%d' % sys.version_info[:2])"],
        "SQLite": ["python3", "-c", "import sqlite3; print('SQLite', sqlite3.sqlite_version)"],
        "coreutils": ["sort", "--version"],
    }
    return "".join(
        commands.plain(question, folder).stdout.decode().splitlines()[0] + "\n" for question in questions.values()
    )
