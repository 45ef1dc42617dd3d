"""`callfence lint`: grants by which a program can change what confines it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calls import for_this_machine

from callfence.commands import lint
from tests.formats.outputs import check_output

ROOT = Path(__file__).parents[3]
GRANTS = (
    ("path .: write", {"own-policy", "own-recording"}),
    ("path ./data: write", set()),
    ("path ./it.policy: write", {"own-policy"}),
    ("path .: read, execute", set()),
    ("path ./.callfence: create", {"own-recording"}),
    ("path $HOME/.cache: create, write", {"own-cache"}),
    ("path $HOME/.cache/callfence/x: write", {"own-cache"}),
    ("path /var/cache: remove", {"own-cache"}),
    (f"path {ROOT}/callfence: write", {"own-installation"}),
    ("path $TMPDIR/x: write", set()),  # which is no absolute path
)


@pytest.mark.parametrize(("line", "rules"), GRANTS)
def test_what_confines_the_program_is_told(line: str, rules: set[str], tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(f"{line}\n")
    environment = {**os.environ, "HOME": f"{tmp_path}-home", "TMPDIR": "tmp"}
    environment.pop("XDG_CACHE_HOME", None)
    words = [sys.executable, "-m", "callfence", "lint", "--level", "note", "--format", "json", "it.policy"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = check_output("lint", done.stdout)["findings"]
    assert {one["rule"] for one in found if one["rule"].startswith("own-")} == rules


def test_a_reason_accepts_it(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("path .: read, remove  # why: it cleans up\n")
    words = [sys.executable, "-m", "callfence", "lint", "it.policy"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_learn_tells_it_when_it_grants_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "callfence", "learn", "--files", "-o", "it.policy", "touch", "new"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "path .: it can change its own policy, it.policy [own-policy]" in done.stderr


def test_learn_says_which_files_it_can_change(tmp_path: Path) -> None:
    """A file that the command names is not called its code: it may be its configuration."""
    (tmp_path / "touch.conf").write_text("")
    shutil.copy("/usr/bin/touch", tmp_path / "own")
    for program, what in (("touch", "a file that its command names"), ("./own", "its own code")):
        words = [sys.executable, "-m", "callfence", "learn", "--files", "-o", "it.policy", program, "new", "-r", "touch.conf"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert f"it may change files below ., among them {what}\n" in done.stderr
        (tmp_path / "new").unlink()


@pytest.mark.parametrize(("spare", "end"), [(1, "== PTRACE_TRACEME"), (0, "== PTRACE_TRACEME"), (-1, "== PTRACE_TRACEM ...")])
def test_a_long_entry_is_cut(
    spare: int, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.policy").write_text(for_this_machine("ptrace: request == PTRACE_TRACEME\n"))
    monkeypatch.setattr(lint, "_MAX_TEXT", len("ptrace: request == PTRACE_TRACEME") + spare)
    assert lint.main([str(tmp_path / "it.policy")]) == 1
    assert f"\n  entry   ptrace: request {end}\n" in capsys.readouterr().out
