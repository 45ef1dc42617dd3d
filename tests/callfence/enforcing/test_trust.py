"""Which policies `enforce` uses, and that nothing but the installation is part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENFORCE = Path(sys.executable).with_name("enforce")
OTHER = 4321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of several users take root")


def enforce(folder: Path, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    command = [ENFORCE, *arguments]
    settings = {"capture_output": True, "text": True, "errors": "surrogateescape", "timeout": 20}
    return subprocess.run(command, cwd=folder, env=environment, check=False, **settings)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "true.policy").write_text("default allow\n")
    return tmp_path


@pytest.mark.parametrize("included", [False, True])
def test_a_file_that_everybody_can_write_is_refused(work: Path, included: bool) -> None:
    policy = work / "true.policy"
    if included:
        (work / "base").write_text("read: allow\n")
        policy.write_text("default allow\ninclude base\n")
        policy = work / "base"
    for _ in range(2):  # the second time from the cache
        assert enforce(work, "true").returncode == 0
    policy.chmod(0o646)
    done = enforce(work, "true")
    assert done.returncode == 125
    assert "every user can write" in done.stderr
    assert policy.name in done.stderr


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_policy_that_is_found_where_everybody_can_put_one_is_refused(work: Path, mode: int) -> None:
    work.chmod(mode)
    done = enforce(work, "true")
    assert done.returncode == 125
    assert "true.policy is not used by default, because every user can create files" in done.stderr
    assert enforce(work, "-p", "true.policy", "true").returncode == 0


@as_root
def test_a_policy_of_a_third_user_is_used_with_a_warning(work: Path) -> None:
    os.chown(work / "true.policy", OTHER, OTHER)
    for _ in range(2):
        done = enforce(work, "true")
        assert done.returncode == 0
        assert done.stderr == f"enforce: true.policy belongs to user {OTHER}, who can change what it allows\n"


@as_root
def test_so_is_one_that_a_third_user_chooses(work: Path) -> None:
    (work / "true.policy").rename(work / "other.policy")
    (work / "true.policy").symlink_to("other.policy")
    assert enforce(work, "true").stderr == ""
    os.lchown(work / "true.policy", OTHER, OTHER)
    for _ in range(2):
        done = enforce(work, "true")
        assert (done.returncode, done.stderr) == (
            0, f"enforce: true.policy belongs to user {OTHER}, who can change what it allows\n",
        )  # fmt: skip


@as_root
def test_an_owner_whom_the_user_namespace_lacks_gets_no_number(work: Path) -> None:
    """unshare(1) maps the caller alone to root of the namespace: the overflow id is nobody's that could change the file."""
    os.chown(work / "true.policy", OTHER, OTHER)
    warned = "enforce: true.policy belongs to a user whom this user namespace does not have, who can change what it allows\n"
    command = ["unshare", "--user", "--map-root-user", ENFORCE, "true"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, warned)


@as_root
def test_roots_policy_is_used_without_a_word(work: Path) -> None:
    assert enforce(work, "true").stderr == ""


def test_a_policy_is_opened_as_the_kernel_would(work: Path) -> None:
    """`link/..` is the folder above the one that the link leads to."""
    (work / "a" / "b").mkdir(parents=True)
    (work / "link").symlink_to("a/b")
    (work / "a" / "it.policy").write_text("default allow\n")
    (work / "it.policy").write_text("this is no policy\n")
    for _ in range(2):
        assert enforce(work, "-p", "link/../it.policy", "true").returncode == 0
    (work / "link").unlink()
    (work / "link").symlink_to("a")
    assert enforce(work, "-p", "link/../it.policy", "true").returncode == 125


@pytest.mark.parametrize("command", ["enforce", "show", "why", "lint", "diff", "recording", "verify", "import"])
def test_a_pipe_is_refused_at_once(work: Path, command: str) -> None:
    os.mkfifo(work / "pipe")
    words = {"enforce": ["enforce", "-p", "pipe", "true"], "diff": ["diff", "pipe", "true.policy"]}
    words |= {"recording": ["why", "--recording", "pipe", "true.policy"], "import": ["import", "--from", "strace", "pipe"]}
    arguments = [sys.executable, "-m", "callfence", *words.get(command, [command, "pipe"])]
    done = subprocess.run(arguments, cwd=work, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode in (2, 125)
    assert "is not a regular file" in done.stderr


@pytest.mark.parametrize("package", ["ptrace", "pyseccomp"])
def test_packages_of_the_programs_path_are_not_ours(work: Path, package: str) -> None:
    (work / package).mkdir()
    (work / package / "__init__.py").write_text("import os; os._exit(77)")
    done = enforce(work, "--quiet-kernel", "true", PYTHONPATH=str(work))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_programs_environment_stays_as_it_is(work: Path) -> None:
    (work / "cat.policy").write_text("default allow\n")
    variables = {"PYTHONPATH": "/nowhere", "PYTHONWARNINGS": "error", "PYTHONUTF8": "0", "LC_ALL": "C", "A": "\udcff", "B": "="}
    done = enforce(work, "cat", "/proc/self/environ", **variables)
    assert done.returncode == 0
    plain = subprocess.run(
        ["cat", "/proc/self/environ"],
        env={"PATH": os.environ["PATH"], "HOME": str(work), **variables},
        capture_output=True,
        check=True,
    )
    assert done.stdout.encode(errors="surrogateescape") == plain.stdout
