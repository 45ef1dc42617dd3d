"""Symbolic links in place of a folder that a policy grants, or below it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needed import needs

POLICY = "path ./conf/in: read  # why: settings\npath ./data: read  # why: link-in-place: it is mounted there\nopenat: allow\n"


def lint(folder: Path, *words: str) -> list[tuple[str, str, str, bool]]:
    command = [sys.executable, "-m", "callfence", "lint", "--accepted", "--format", "json", *words, "app.policy"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["findings"]
    return [(one["name"], one["level"], one["rule"], bool(one["accepted"])) for one in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data", "conf/in", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("")
    (tmp_path / "conf/in/old").symlink_to("/etc")
    (tmp_path / "app.policy").write_text(POLICY)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def link(folder: Path, name: str, target: str) -> None:
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    (folder / name).symlink_to(target)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)


@needs("git")
def test_what_has_not_changed_is_not_reported(folder: Path) -> None:
    assert lint(folder) == lint(folder, "--git", "HEAD") == []


@needs("git")
@pytest.mark.parametrize("name", ["conf/in", "conf"])
def test_a_link_that_leads_outside_is_a_danger_which_no_other_reason_accepts(folder: Path, name: str) -> None:
    link(folder, name, "/etc")
    found = [("path ./conf/in", "danger", "link-in-place", False)]
    if name == "conf/in":
        assert lint(folder) == lint(folder, "--git", "HEAD") == found
    else:  # /etc/in may not be there
        assert lint(folder) == found


@needs("git")
def test_a_reason_that_names_it_accepts_it(folder: Path) -> None:
    link(folder, "data", "/srv")
    assert lint(folder, "--git", "HEAD") == [("path ./data", "danger", "link-in-place", True)]


@needs("git")
def test_a_link_that_leads_to_another_folder_since_the_revision(folder: Path) -> None:
    link(folder, "conf", "other")
    assert lint(folder) == []
    assert lint(folder, "--git", "HEAD") == [("path ./conf/in", "warning", "link-in-place", False)]


@needs("git")
def test_a_new_link_below_that_leads_outside(folder: Path) -> None:
    link(folder, "conf/in/near", "file")
    assert lint(folder, "--git", "HEAD") == []
    link(folder, "conf/in/far", "../../data")
    assert lint(folder, "--git", "HEAD") == [("path ./conf/in", "warning", "link-below", False)]


@pytest.mark.parametrize("place", [".", "$HOME"])
@pytest.mark.parametrize(("target", "said"), [("/etc", True), ("other", False), ("", False)])
def test_enforce_says_where_a_link_leads(tmp_path: Path, place: str, target: str, *, said: bool) -> None:
    (tmp_path / "other").mkdir()
    if target:
        (tmp_path / "data").symlink_to(target)
    else:
        (tmp_path / "data").mkdir()
    lines = f"default allow\npath {place}/data: read\npath /: read, execute\n"
    (tmp_path / "app.policy").write_text(lines)
    words = [sys.executable, "-m", "callfence", "enforce", "--best-effort", "--policy", "app.policy", "true"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (f"path {place}/data leads to /etc by a symbolic link, and grants that" in done.stderr) == said
    assert ("leads to" in done.stderr) == said
