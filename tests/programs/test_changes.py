"""Real changes of real programs, learned before and after: the diff of the policies is short, and names the danger first.

`golden/` has those diffs, as text and as Markdown.  They fit the versions in `golden/MADE_WITH`: with others the comparison
is skipped, and in CI it fails; --update-policies writes them anew.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import require

from callfence.tracer.abi import NATIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

HERE = Path(__file__).parent / "changes"
GOLDEN = HERE / "golden"
CALLFENCE = Path(sys.executable).parent / "callfence"
JEMALLOC = ("-Wl,--no-as-needed", "-l:libjemalloc.so.2")


@dataclass(frozen=True, slots=True)
class Build:
    """One version of a C program."""

    flags: tuple[str, ...] = ()
    compiler: str = "cc"
    learn: tuple[str, ...] = ()
    """Options of learn."""


@dataclass(frozen=True, slots=True)
class Change:
    source: str
    verdict: str
    danger: str
    """The first line after the verdict begins with it: level, calls; '' if no risk is told."""
    after: Build = Build(("-DAFTER",))


RATED = re.compile("(danger|warning|note): ")
NOTHING = "NEW allows no known risk that OLD denies"
CHANGES = {
    "gains networking": Change("network.c", "wider", "note: socket: it newly reaches the network"),
    "starts a subprocess": Change("subprocess.c", "wider", "warning: execve: it newly starts other programs"),
    "moves from fork to threads": Change("workers.c", "incomparable", NOTHING),
    "gets a new libc": Change("notes.c", "narrower", "", Build(("-static",), compiler="musl-gcc")),
    "switches malloc": Change("notes.c", "equal", "", Build(JEMALLOC)),
    "adds io_uring": Change(
        "ring.c", "wider", "danger: io_uring_enter, io_uring_setup: it newly makes requests through a ring",
        Build(("-DAFTER",), learn=("--allow-opaque", "io_uring_setup")),
    ),
    "drops root": Change(
        "root.c", "wider", "note: setgroups, setresgid, setresuid: it newly changes its user, groups or capabilities"
    ),
    "makes code at run time": Change("code.c", "wider", "danger: mmap: it newly makes memory both writable and executable"),
}
IMPLANT = "a dependency opens a reverse shell"
NAMES = (*CHANGES, IMPLANT)
Diffs = tuple[str, str]
"""As text and as Markdown."""


def file_name(name: str) -> str:
    return name.replace(" ", "-")


def diff(commands: Commands, folder: Path) -> Diffs:
    """Of the policies alone: their recordings would add paths and addresses of this run."""
    shutil.rmtree(folder / ".callfence")
    shown = []
    for form in ("text", "md"):
        done = commands.plain([CALLFENCE, "diff", "--format", form, "old.policy", "new.policy"], folder)
        assert done.returncode == 0, done.stderr.decode()
        shown.append(done.stdout.decode())
    return shown[0], shown[1]


def of_c_program(change: Change, compile_c: Callable[..., Path], commands: Commands, folder: Path) -> Diffs:
    for policy, build in (("old", Build()), ("new", change.after)):
        if build.flags == JEMALLOC:
            require("libjemalloc2")
        program = compile_c(HERE / change.source, *build.flags, compiler=build.compiler)
        ran = commands.learn(folder / f"{policy}.policy", [program], folder, *build.learn)
        assert ran.returncode == 0, ran.stderr.decode()
    return diff(commands, folder)


def of_implant(commands: Commands, folder: Path) -> Diffs:
    """The app does not change and does what it did; the listener gets a shell."""
    shutil.copy(HERE / "app.py", folder)
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def listen() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(60)
                peer.sendall(b"echo from inside: $0; exit\n")
                while piece := peer.recv(4096):
                    answers.append(piece)

        attacker = threading.Thread(target=listen)
        for policy, package in (("old", "package_before"), ("new", "package_after")):
            if policy == "new":
                attacker.start()
            environment = {
                **commands.environment,
                "PYTHONPATH": str(HERE / package),
                "LISTENER": str(listener.getsockname()[1]),
                "PYTHONHASHSEED": "0",
            }
            words = ["/usr/bin/python3", "-S", "app.py"]
            ran = commands.learn(folder / f"{policy}.policy", words, folder, env=environment)
            assert (ran.returncode, ran.stdout) == (0, b"    a note\n"), ran.stderr.decode()
        attacker.join(60)
    assert b"".join(answers) == b"from inside: sh\n"
    return diff(commands, folder)


@pytest.fixture(scope="module")
def learned(
    commands: Commands, compile_c: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Diffs]:
    """`learned(name)` -> the diffs of a change, made once."""
    done: dict[str, Diffs] = {}

    def of(name: str) -> Diffs:
        if name not in done:
            folder = tmp_path_factory.mktemp("change")
            if name == IMPLANT:
                done[name] = of_implant(commands, folder)
            else:
                done[name] = of_c_program(CHANGES[name], compile_c, commands, folder)
        return done[name]

    return of


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_diff_is_read_in_a_minute(name: str, learned: Callable[[str], Diffs]) -> None:
    lines = learned(name)[0].splitlines()
    assert len(lines) <= 15
    change = CHANGES.get(name)
    verdict, danger = (change.verdict, change.danger) if change else ("wider", "warning: execve: it newly starts")
    assert lines[0].startswith(f"{verdict}: ")
    assert "".join(lines[1:2]).startswith(danger or f"arch {NATIVE}" if verdict != "equal" else "")
    if name == IMPLANT:
        assert any("it newly reaches the network [network]" in line for line in lines[:3]), lines


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_comment_names_the_same(name: str, learned: Callable[[str], Diffs]) -> None:
    text, markdown = (shown.splitlines() for shown in learned(name))
    assert markdown[0].startswith(f"**`new.policy`: {text[0].partition(':')[0]}**")
    told = [line.removeprefix("- ").replace("**", "").replace("`", "") for line in markdown if line.startswith("- ")]
    if not RATED.match("".join(text[1:2])):
        assert told == []
    else:
        assert told[0].startswith(text[1].rpartition(" [")[0])
    assert len(learned(name)[1]) < 10_000


@pytest.mark.only_on("x86_64")  # whose calls the diffs show
@pytest.mark.parametrize("name", NAMES)
def test_golden(
    name: str, learned: Callable[[str], Diffs], commands: Commands, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made_with, here = GOLDEN / "MADE_WITH", versions(commands, tmp_path)
    found = dict(zip(("txt", "md"), learned(name), strict=True))
    if request.config.getoption("update_policies"):
        for kind, text in found.items():
            (GOLDEN / f"{file_name(name)}.{kind}").write_text(text)
        made_with.write_text(here)
        return
    if made_with.read_text() != here:
        reason = f"learned with\n{made_with.read_text()}and here is\n{here}--update-policies writes the diffs anew"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    for kind, text in found.items():
        assert text == (GOLDEN / f"{file_name(name)}.{kind}").read_text()


def versions(commands: Commands, folder: Path) -> str:
    """What may make other calls in its next version; a line each."""
    require("gcc", "musl-tools", "libjemalloc2")
    questions = {
        "": ["getconf", "GNU_LIBC_VERSION"],
        "Python ": ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        "musl ": ["dpkg-query", "-W", "-f", "${Version}\n", "musl-tools"],
        "jemalloc ": ["dpkg-query", "-W", "-f", "${Version}\n", "libjemalloc2"],
        "dash ": ["dpkg-query", "-W", "-f", "${Version}\n", "dash"],
    }
    return "".join(
        name + commands.plain(question, folder).stdout.decode().splitlines()[0] + "\n" for name, question in questions.items()
    )
