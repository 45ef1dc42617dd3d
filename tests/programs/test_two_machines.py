"""The same program, learned by another user or on another machine: the same bytes, and no difference reported."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Commands, Nobody

pytestmark = pytest.mark.long

CALLFENCE = Path(sys.executable).parent / "callfence"
SAMPLES = Path(__file__).resolve().parents[2] / "samples"
PROGRAMS = {"families": ("./families",), "notes": ("python3", "notes.py"), "pipeline": ("sh", "pipeline.sh")}


@dataclass(frozen=True, slots=True)
class Machine:
    before: tuple[str, ...] = ()
    """Words before learn."""
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "work"


RENAME = "import os, socket, sys; socket.sethostname('elsewhere'); os.execvp(sys.argv[1], sys.argv[1:])"
"""No shell: it would set PWD, and `sh` asks for its folder only where that is not set."""
UNSHARED = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--ipc", "python3", "-c", RENAME)
MACHINES = {
    "no address randomisation": Machine(before=("setarch", "-R")),
    "another language": Machine(environment={"LANG": "de_DE.UTF-8", "LANGUAGE": "de:fr", "LC_MESSAGES": "de_DE.UTF-8"}),
    "another character set": Machine(environment={"LC_ALL": "C"}),
    "another time zone": Machine(environment={"TZ": "Asia/Tokyo"}),
    "another home": Machine(environment={"HOME": "/nonexistent", "USER": "somebody", "LOGNAME": "somebody"}),
    "a large environment": Machine(environment={f"VARIABLE_{number}": "x" * 4000 for number in range(25)}),
    "a deep folder": Machine(folder="a folder/" + "/".join(["deep"] * 40)),
    "another namespace of mounts, pids and host names": Machine(before=UNSHARED),
    "a niced process on one processor": Machine(before=("nice", "taskset", "-c", "0")),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples, in a folder that every user may read."""
    require("gcc", "libc6-dev", "make")
    folder = tmp_path_factory.mktemp("samples")
    subprocess.run(["make", "--silent", "-C", SAMPLES, f"BUILD={folder}"], check=True, timeout=60)
    for name in ("notes.py", "pipeline.sh"):
        shutil.copy(SAMPLES / name, folder)
    return folder


def learn(commands: Commands, built: Path, folder: Path, machine: Machine) -> dict[str, bytes]:
    """The policies of all programs."""
    return {name: learn_one(commands, built, folder / name, machine, words) for name, words in PROGRAMS.items()}


def learn_one(commands: Commands, built: Path, folder: Path, machine: Machine, words: tuple[str, ...]) -> bytes:
    work = folder / machine.folder
    shutil.copytree(built, work)
    policy = work / "it.policy"
    environment = {**commands.environment, **machine.environment}
    ran = commands.plain([*machine.before, *commands.learning(policy, "--quiet"), *words], work, env=environment)
    assert ran.returncode == 0, ran.stderr.decode()
    return policy.read_bytes()


@pytest.fixture(scope="module")
def here(commands: Commands, built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("here")
    return folder, learn(commands, built, folder, Machine())


def diff(commands: Commands, folder: Path, old: str, new: str) -> str:
    done = commands.plain([CALLFENCE, "diff", "--not-wider", old, new], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


EQUAL = "equal: both policies answer every call in the same way\n"


def assert_alike(commands: Commands, folder: Path, old: bytes, new: bytes, differs: str = "") -> None:
    """Equal, but for these lines of the diff."""
    for name, policy in (("old.policy", old), ("new.policy", new)):
        (folder / name).write_bytes(policy)
    told = diff(commands, folder, "old.policy", "new.policy")
    if differs:
        lines = [line.strip() for line in told.splitlines() if line.startswith("  ") and "for example" not in line]
        assert "\n".join(lines) == differs
    else:
        assert told == EQUAL
        assert new == old


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_another_machine(
    machine: Machine, here: tuple[Path, dict[str, bytes]], commands: Commands, built: Path, tmp_path: Path
) -> None:
    for name, policy in learn(commands, built, tmp_path, machine).items():
        assert_alike(commands, tmp_path, here[1][name], policy)


def test_another_user(here: tuple[Path, dict[str, bytes]], commands: Commands, built: Path, nobody: Nobody) -> None:
    """SQLite gives its journal the owner of the database, if it is root."""
    for name, words in PROGRAMS.items():
        work = nobody.folder / name
        shutil.copytree(built, work)
        subprocess.run(["chmod", "-R", "a+rwX", work], check=True)
        policy = work / "it.policy"
        ran = commands.plain([*nobody.python, "-m", "callfence", "learn", "--quiet", "-o", policy, "--", *words], work)
        assert ran.returncode == 0, ran.stderr.decode()
        assert_alike(commands, work, here[1][name], policy.read_bytes(), "- fchown: allow" if name == "notes" else "")


def shuffled(policy: str, chance: random.Random) -> str:
    """The entries in another order, their rules in another order, and a comment above each."""
    head, _, body = policy.partition("\n\n")
    entries = re.split(r"\n(?=\w)", body.strip("\n"))
    chance.shuffle(entries)
    made = [entry for entry in entries if entry.startswith("tcp ")]
    entries = [entry for entry in entries if entry not in made]
    for number, entry in enumerate(entries):
        lines = entry.split("\n")
        name, _, first = lines[0].partition(": ")
        note = ""
        if "  #" in first:
            first, _, note = first.partition("  #")
        rules = [first.strip(), *(line.strip().removeprefix("||").strip() for line in lines[1:])]
        chance.shuffle(rules)
        made.append(f"# remark {number}\n{name}: " + "\n || ".join(rules) + (f"  #{note}" if note else ""))
    return head + "\n\n" + "\n".join(made) + "\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_learning_into_a_policy_that_was_rearranged(
    name: str, here: tuple[Path, dict[str, bytes]], commands: Commands, tmp_path: Path
) -> None:
    before = here[1][name].decode()
    work = tmp_path / "work"
    shutil.copytree(here[0] / name / "work", work)
    policy, old = work / "it.policy", work / "old.policy"
    old.write_text(before)
    policy.write_text(shuffled(before, random.Random(name)))
    remarks = re.findall(r"# remark \d+\n", policy.read_text())
    assert diff(commands, work, "old.policy", "it.policy") == EQUAL

    def learn_again(*words: str) -> None:
        ran = commands.learn(policy, words, work, "--quiet")
        assert ran.returncode == 0, ran.stderr.decode()
        assert sorted(re.findall(r"# remark \d+\n", policy.read_text())) == sorted(remarks)

    learn_again(*PROGRAMS[name])
    assert diff(commands, work, "old.policy", "it.policy") == EQUAL
    learn_again("sh", "-c", "ln -s a new")  # something new, so that the file is written
    assert "\nsymlinkat" in policy.read_text() and "\nsymlinkat" not in before
    assert "\n# remark 1\n" in policy.read_text()
