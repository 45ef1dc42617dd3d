"""Grants that are narrow: a program that keeps a store and prunes its logs late, and `learn --narrow`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import native
from needed import needs_root

Run = Callable[..., subprocess.CompletedProcess[str]]

UNLINK = native("unlink")
PRUNING = """
import hashlib, os, time
def place(content):
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"store/{digest[:2]}/{digest[2:]}"
count = len(os.listdir("store"))
for content in (f"first {count}", f"second {count}"):
    os.makedirs(os.path.dirname(place(content)), exist_ok=True)
    with open(place(content), "w") as file:
        file.write(content)
for folder in os.listdir("store"):
    for name in os.listdir(f"store/{folder}"):
        open(f"store/{folder}/{name}").close()
open(time.strftime("logs/%Y-%m-%d-") + f"{time.time_ns()}.log", "w").close()
for name in sorted(os.listdir("logs"))[:-7]:
    os.unlink(f"logs/{name}")
"""
"""Keeps a store whose files are named by their content and, as npm, the last seven of its logs."""


@pytest.fixture
def callfence(tmp_path: Path) -> Run:
    def started(*arguments: str, **more: bool) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "callfence", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or more.get("fails"), done.stderr
        return done

    return started


def lines(folder: Path) -> dict[str, str]:
    text = (folder / "it.policy").read_text().partition("\n")[2]
    rows = (line.partition("#")[0].rpartition(": ") for line in text.splitlines() if line.startswith(("path .", "tcp")))
    return {subject: value.strip() for subject, _, value in rows}


def test_what_the_last_runs_did_not_use_is_removed(tmp_path: Path, callfence: Run) -> None:
    callfence("learn", "-o", "it.policy", "true")
    before = (tmp_path / "it.policy").read_text()
    (tmp_path / "it.policy").write_text(f"{before}\nreboot: allow\n")
    assert "- reboot: allow" in callfence("learn", "--narrow", "it.policy", "--last", "1").stdout
    assert "reboot" in (tmp_path / "it.policy").read_text(), "without --write nothing is written"
    callfence("learn", "--narrow", "it.policy", "--last", "1", "--write")
    assert (tmp_path / "it.policy").read_text() == before


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--files",)])
def test_three_learned_runs_are_enough_for_forty(tmp_path: Path, callfence: Run, options: tuple[str, ...]) -> None:
    for folder in ("store", "logs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "it.py").write_text(PRUNING)
    command = (sys.executable, "-I", "-S", "it.py")
    for _ in range(3):
        callfence("learn", "-q", *options, "-o", "it.policy", *command)
    text = (tmp_path / "it.policy").read_text()
    assert re.search(f"^{UNLINK}: .*  # later: removes old ones of the files", text, re.MULTILINE)
    if options:
        assert lines(tmp_path)["path ./store"] == "read, write, create, remove"
        assert lines(tmp_path)["path ./logs"] == "list, write, create, remove"
    for _ in range(40):
        assert callfence("enforce", "-p", "it.policy", *command).stderr == ""
    assert len([*(tmp_path / "logs").iterdir()]) == 7
    assert len([*(tmp_path / "store").iterdir()]) > 20


def test_the_right_that_was_removed_by_hand_stays_removed(tmp_path: Path, callfence: Run) -> None:
    for folder in ("store", "logs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "it.py").write_text(PRUNING)
    command = (sys.executable, "-I", "-S", "it.py")
    callfence("learn", "-q", "--files", "-o", "it.policy", *command)
    text = (tmp_path / "it.policy").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(UNLINK)]
    (tmp_path / "it.policy").write_text("\n".join(kept).replace("list, write, create, remove", "list, write, create") + "\n")
    callfence("learn", "-q", "-o", "it.policy", *command)
    assert UNLINK not in (tmp_path / "it.policy").read_text()
    assert "remove" not in lines(tmp_path)["path ./logs"]


WIDE = """
import os, socket, sys
os.listdir("code")
open("data/log", "a").close()
if len(sys.argv) > 1:
    open("code/more").close()
    os.mkdir("data/made")
    socket.socket()
"""


@pytest.mark.long
def test_what_ten_runs_do_not_use_is_removed_and_nothing_that_they_use(tmp_path: Path, callfence: Run) -> None:
    for folder in ("code", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "code" / "more").touch()
    (tmp_path / "it.py").write_text(WIDE)
    command = (sys.executable, "-I", "-S", "it.py")
    callfence("learn", "-q", "--files", "-o", "it.policy", *command, "more")
    wide = (tmp_path / "it.policy").read_text() + "path /srv: read, write\npath /opt: read  # why: plugins\nreboot: allow\n"
    (tmp_path / "it.policy").write_text(wide.replace("tcp connect: none", "tcp connect: 443"))
    before = lines(tmp_path)
    assert {"path ./code": "list", "path ./code/more": "read", "path ./data": "write, create"}.items() <= before.items()
    for _ in range(10):
        callfence("learn", "-q", "--every-call", "-o", "it.policy", *command)
    said = callfence("learn", "--narrow", "it.policy").stdout
    assert lines(tmp_path) == before, "without --write nothing is written"
    callfence("learn", "--narrow", "it.policy", "--write")
    for line in (
        "  - path ./code/more: read",
        "  - path ./data: write, create",
        "  + path ./data/log: write",
        "  - path /srv: read, write",
        "  kept: path /opt: read  (why: plugins)",
        "  - reboot: allow",
        "  + tcp connect: none",
    ):
        assert line in said.splitlines()
    assert said.splitlines()[-1] == "to remove it: learn --narrow it.policy --write"
    text = (tmp_path / "it.policy").read_text()
    assert not any(call in text for call in ("reboot", "mkdir", "socket:", "443"))
    assert {"path ./code": "list", "path ./data/log": "write", "tcp connect": "none"}.items() <= lines(tmp_path).items()
    callfence("enforce", "-p", "it.policy", *command)
    assert callfence("enforce", "-p", "it.policy", *command, "more", fails=True).returncode != 0
    assert "used everything" in callfence("learn", "--narrow", "it.policy").stdout.splitlines()[0] or "kept" in said


def test_what_narrow_refuses(tmp_path: Path, callfence: Run) -> None:
    for missing in ("it.policy", ".callfence/it.rec"):
        assert f"learn: {missing} does not exist: " in callfence("learn", "--narrow", "it.policy", fails=True).stderr
        (tmp_path / "it.policy").write_text("read: allow\n")
    callfence("learn", "-q", "-o", "it.policy", "true")
    done = callfence("learn", "--narrow", "it.policy", "--write", fails=True)
    assert "has 1 run that began and ended under learn" in done.stderr and "give --last 1" in done.stderr


def test_the_summary_says_what_to_move(tmp_path: Path, callfence: Run) -> None:
    (tmp_path / "run").mkdir()
    script = "echo $$ > {0}it.pid; echo x > {0}it.log"
    said = callfence("learn", "--files", "-o", "it.policy", "sh", "-c", script.format("")).stderr
    text = "let it make it.log, it.pid in a folder of its own, such as ./run: it may write, create everything in ."
    assert text in said
    said = callfence("learn", "--fresh", "--files", "-o", "it.policy", "sh", "-c", "mkdir new; echo x > new/a").stderr
    assert "learn it again with --fresh, now that new/ is there: it may write, create everything in ." in said
    two = "mkdir more most; echo x > more/a; echo x > most/a"
    said = callfence("learn", "--fresh", "--files", "-o", "it.policy", "sh", "-c", two).stderr
    assert "now that more/, most/ are there: it may" in said
    said = callfence("learn", "--fresh", "--files", "-o", "it.policy", "sh", "-c", script.format("run/")).stderr
    assert "to narrow" not in said
    assert "path ." not in lines(tmp_path) and lines(tmp_path)["path ./run"] == "write, create"


@needs_root
def test_what_is_made_in_run_is_moved_to_a_folder_of_its_name(callfence: Run) -> None:
    name = f"callfence-{os.getpid()}"
    said = callfence("learn", "--files", "-o", "it.policy", "sh", "-c", f"echo x > /run/{name}.pid; rm /run/{name}.pid").stderr
    assert f"in a folder of its own, such as /run/{name}: it may" in said
