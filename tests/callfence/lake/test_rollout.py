"""A day of a fleet: what hosts were denied becomes one proposal, and the gate opens when nothing new comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
DAILY = ROOT / "samples" / "rollout" / "daily.sh"
APP = "#!/bin/sh\nif [ \"$1\" = link ]; then ln -s a b; fi\nls / > /dev/null\n"


def run(folder: Path, *words: str | Path, status: int = 0) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stdout


def audited(host: Path, app: Path, *arguments: str) -> None:
    """A run of a host, with its log."""
    host.mkdir(parents=True, exist_ok=True)
    (host / "b").unlink(missing_ok=True)
    run(host, "enforce", "--audit", "--log", host / "app.log", "-p", app.with_name("app.policy"), "--", app, *arguments)


def test_one_proposal_a_day(tmp_path: Path) -> None:
    repository, hosts, lake = tmp_path / "repository", tmp_path / "hosts", tmp_path / "lake"
    repository.mkdir()
    app = repository / "app"
    app.write_text(APP)
    app.chmod(0o755)
    run(repository, "git", "init", "-q", "-b", "main", ".")
    for setting in (("user.name", "it"), ("user.email", "it@example.org")):
        run(repository, "git", "config", *setting)
    run(repository, "learn", "-q", "-o", "app.policy", app)
    run(repository, "git", "add", "-A")
    run(repository, "git", "commit", "-qm", "learned")
    for name in ("web1", "web2", "web3"):
        audited(hosts / name, app, *(["link"] if name != "web3" else []))
    run(tmp_path, "callfence", "lake", "add", lake, hosts)
    assert ",no: " not in run(tmp_path, "callfence", "lake", "ask", lake, "safe", status=1)

    run(repository, DAILY, lake, "app.policy", "cp", "-t", tmp_path)
    assert run(repository, "git", "log", "-1", "--format=%s") == "app: what production asked for\n"
    assert run(repository, "git", "branch", "--show-current").startswith("production-app-")
    text = (tmp_path / "text").read_text()
    assert "symlink" in text and "web1" in text and "web2" in text and "web3" not in text
    assert "/usr/bin/ln" in run(repository, "callfence", "why", "app.policy", "symlinkat")
    assert (repository / "app.policy").read_text().count("\nsymlink") == 1

    again = run(repository, DAILY, lake, "app.policy", "false")
    assert again == "app: what production asked for is allowed by now\n"
    assert run(repository, "git", "status", "--porcelain") == ""
