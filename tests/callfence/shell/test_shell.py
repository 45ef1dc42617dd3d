"""`callfence-sh`, as npm, make, git and CI call it: which policy counts, that it is enforced, and what a hostile next version
of a package can do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import whole_records
from needed import needs_root, require

from callfence.enforcer.hosts import granted
from callfence.enforcer.kernel import landlock_abi
from callfence.shell import command
from callfence.shell.command import INSIDE, is_inside

pytestmark = pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
BIN = Path(sys.executable).parent
SHELL = BIN / "callfence-sh"
BENIGN = "cp source.txt built.txt; cat /etc/hostname > /dev/null 2>&1; echo built"
"""What the install script of a harmless version does."""
READER = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"


class Project:
    """A project's folder with policies, a home with a key, and a dependency `left` of version 1."""

    def __init__(self, top: Path) -> None:
        self.folder, self.home, self.temporary = top / "app", top / "home", top / "temporary"
        self.policies = self.folder / ".callfence" / "policies"
        self.package = self.folder / "node_modules" / "left"
        for folder in (self.policies, self.home / ".ssh", self.home / ".config" / "autostart", self.temporary, self.package):
            folder.mkdir(parents=True)
        (self.home / ".ssh" / "id_ed25519").write_text("a key\n")
        (self.home / ".bashrc").write_text("# start\n")
        (self.package / "source.txt").write_text("source\n")
        (self.package / "package.json").write_text('{"name": "left", "version": "1.0.0"}\n')
        self.log = top / "log"
        self.environment = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "LC_ALL": "C.UTF-8",
            "XDG_CACHE_HOME": str(top / "cache"),
        }

    def run(self, *words: str | Path, folder: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SHELL, *words], cwd=folder or self.folder, env=self.environment | variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def install(self, script: str, mode: str = "enforce", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run an install script of `left` as npm runs it."""
        npm = {
            "npm_lifecycle_event": "postinstall",
            "npm_package_name": "left",
            "npm_package_json": str(self.package / "package.json"),
        }
        return self.run("-c", script, folder=self.package, **npm | {"CALLFENCE_SH": mode} | variables)

    def npm(self, *words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"npm_config_cache": str(self.folder.parent / "npm")}
        words = ("npm", "--offline", *words)
        folder = folder or self.folder
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def denied(self) -> list[dict[str, Any]]:
        """The denials of the log, when every run has its end there: what a command leaves behind may outlive it."""
        end = time.monotonic() + 20
        while True:
            records = whole_records.records(self.log)
            kinds = [record["event"] for record in records]
            if kinds.count("start") == kinds.count("end") > 0 or time.monotonic() > end:
                break
            time.sleep(0.02)
        return [record for record in records if record["event"] == "denied"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of a harmless version, which was learned in another folder, with another home."""
    first = Project(tmp_path_factory.mktemp("first"))
    done = first.install(BENIGN, "learn")
    assert (done.returncode, done.stdout, done.stderr) == (0, "built\n", "")
    return first.policies / "npm-left.policy"


@pytest.fixture
def reviewed(project: Project, learned: Path) -> Project:
    """A project that has that policy."""
    shutil.copy(learned, project.policies)
    return project


def test_the_learned_version_is_denied_nothing_elsewhere(reviewed):
    done = reviewed.install(BENIGN, CALLFENCE_LOG=str(reviewed.log))
    assert (done.returncode, done.stdout, done.stderr) == (0, "built\n", "")
    assert (reviewed.package / "built.txt").exists()
    assert reviewed.denied() == []


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server on this machine that nobody may reach."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listening.accept()


HOSTILE = {
    "reads a key": ("cat $HOME/.ssh/id_ed25519 > stolen", "$HOME/.ssh"),
    "writes a start-up file": ("echo evil >> $HOME/.bashrc", "$HOME/.bashrc"),
    "makes a start-up file": ("echo evil > $HOME/.config/autostart/evil.desktop", "$HOME/.config/autostart"),
    "writes another package": ("mkdir ../other && echo evil > ../other/index.js", "mkdir"),
    "writes its own policy": ("echo 'path /: read' >> ../../.callfence/policies/npm-left.policy", "./.callfence/policies"),
    "leaves a daemon": ("setsid sh -c 'echo evil > $HOME/evil' & true", "/dev/null"),  # which a shell opens for one
    "runs another program": (f"{sys.executable} -c 'print(1)' > out", sys.executable),
}


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_next_version_is_stopped(reviewed, name):
    script, place = HOSTILE[name]
    before = {path: path.read_bytes() for path in reviewed.folder.parent.rglob("*") if path.is_file()}
    reviewed.install(f"{BENIGN}; {script}; true", CALLFENCE_LOG=str(reviewed.log))
    after = {path: path.read_bytes() for path in before}
    assert after == before
    assert not (reviewed.package / "stolen").exists() or not (reviewed.package / "stolen").read_text()
    assert not (reviewed.folder / "node_modules" / "other").exists()
    assert not list((reviewed.home / ".config" / "autostart").iterdir())
    whole = place.replace("$HOME", str(reviewed.home)).replace("./", f"{reviewed.folder}/")
    said = json.dumps(reviewed.denied())
    assert place in said or os.path.realpath(whole) in said or whole in said, said


CONNECTS = "exec 3<>/dev/tcp/127.0.0.1/{}"
"""bash's own connections: no program of its own is needed, whose execution would be denied before."""


def bash(project: Project, script: str, mode: str = "enforce", **variables: str) -> subprocess.CompletedProcess[str]:
    return project.install(script, mode, CALLFENCE_SHELL="/bin/bash", **variables)


def test_a_connection_is_denied(project, server):
    require("bash")
    assert bash(project, BENIGN, "learn").returncode == 0
    done = bash(project, f"{BENIGN}; {CONNECTS.format(server)}", CALLFENCE_LOG=str(project.log))
    assert done.returncode != 0
    (record,) = project.denied()
    assert record["call"].startswith("socket(family=AF_INET,")
    assert "AF_INET" in record["allow"][0]["line"]


def test_a_daemon_stays_confined(project):
    """It may live on where the script was learned to start processes; it has the script's policy."""
    assert project.install(f"{BENIGN}; echo | cat < /dev/null", "learn").returncode == 0
    wait = "while ! test -e go; do :; done"
    script = f"({wait}; cat $HOME/.ssh/id_ed25519 > late; echo over > over) > /dev/null 2>&1 & true"
    try:
        project.install(script, CALLFENCE_LOG=str(project.log))
    finally:
        (project.package / "go").touch()
    end = time.monotonic() + 60
    while time.monotonic() < end and not (project.package / "over").exists():
        time.sleep(0.05)
    assert (project.package / "over").exists()
    assert (project.package / "late").read_text() == ""
    assert "id_ed25519" in json.dumps(project.denied())


DIFFERENCES = {
    "reads a key": "cat $HOME/.ssh/id_ed25519 > /dev/null",
    "writes a start-up file": "echo evil >> $HOME/.bashrc",
    "connects out": CONNECTS,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_diff_shows_a_danger_in_its_first_line(project, name):
    require("bash", "git")

    def git(*words: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(
            ["git", *who, *words], cwd=project.folder, env=project.environment, check=True, capture_output=True, timeout=60
        )

    assert bash(project, BENIGN, "learn").returncode == 0
    policy = project.policies / "npm-left.policy"
    git("init", "-q")
    git("add", str(policy))
    git("commit", "-q", "-m", "policies")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        script = DIFFERENCES[name].format(listening.getsockname()[1])
        assert bash(project, f"{BENIGN}; {script}", "learn").returncode == 0
    words = [BIN / "callfence", "diff", "--git", "HEAD", policy]
    done = subprocess.run(
        words, cwd=project.folder, env=project.environment, capture_output=True, text=True, timeout=60, check=False
    )
    first = done.stdout.splitlines()[0]
    assert "danger" in first, done.stdout


def test_without_a_policy_nothing_runs(project):
    done = project.install("echo run > ran")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "CALLFENCE_SH=learn" in done.stderr
    assert not (project.package / "ran").exists()


def test_without_a_folder_of_policies_nothing_runs(project):
    shutil.rmtree(project.folder / ".callfence")
    for mode in ("learn", "enforce"):
        done = project.install("echo run > ran", mode)
        assert (done.returncode, done.stderr.count("\n")) == (125, 1)
        assert "mkdir -p .callfence/policies" in done.stderr
    assert not (project.package / "ran").exists()


def test_in_a_folder_that_has_been_removed_nothing_runs(tmp_path):
    words = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$0" -c "echo ran"', SHELL]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "callfence-sh: the working folder has been removed, so no policy is found\n"


def test_an_unknown_mode_runs_nothing(project):
    done = project.install("echo run > ran", "learning")
    assert (done.returncode, done.stdout) == (125, "")
    assert not (project.package / "ran").exists()


def test_policies_that_a_package_brings_along_do_not_count(reviewed, learned):
    own = reviewed.package / ".callfence" / "policies"
    own.mkdir(parents=True)
    (own / "npm-left.policy").write_text("callfence 1\ndefault allow\npath /: read, write, create, remove\n")
    reviewed.install("cat $HOME/.ssh/id_ed25519 > stolen")
    assert not (reviewed.package / "stolen").exists() or not (reviewed.package / "stolen").read_text()


def test_a_package_does_not_choose_its_policy_by_its_name(project, learned):
    """npm takes the name from the package itself; the place in node_modules is the project's choice."""
    shutil.copy(learned, project.policies / "npm-trusted.policy")
    done = project.install("echo run > ran", npm_package_name="trusted")
    assert done.returncode == 125
    assert "npm-left.policy does not exist" in done.stderr


@pytest.mark.long
def test_neither_does_one_that_another_package_bundles(project, learned):
    """npm gives it the name of its folder, and no source; its lock file says `inBundle`."""
    require("npm")
    shutil.rmtree(project.folder / "node_modules")
    shutil.copy(learned, project.policies / "npm-bcrypt.policy")
    evil = project.folder.parent / "evil"
    bundled = evil / "node_modules" / "bcrypt"
    bundled.mkdir(parents=True)
    own = {"name": "evil", "version": "1.0.0", "dependencies": {"bcrypt": "1.0.0"}, "bundledDependencies": ["bcrypt"]}
    (evil / "package.json").write_text(json.dumps(own))
    script = {"name": "bcrypt", "version": "1.0.0", "scripts": {"install": "echo run > ran"}}
    (bundled / "package.json").write_text(json.dumps(script))
    (project.folder / "package.json").write_text('{"name": "app", "version": "1.0.0"}\n')

    assert project.npm("pack", folder=evil).returncode == 0
    done = project.npm("install", "--foreground-scripts", f"--script-shell={SHELL}", evil / "evil-1.0.0.tgz")
    assert "npm-evil%2Fbcrypt.policy does not exist" in done.stderr, done.stderr
    assert not [*project.folder.rglob("ran")]


def test_a_dependency_that_is_a_folder_does_not_bring_its_policies(project, tmp_path_factory):
    """An earlier script may have made the folder, in the cache or $TMPDIR."""
    require("npm")
    shutil.rmtree(project.folder / "node_modules")
    folder, evil = tmp_path_factory.mktemp("cache"), project.folder.parent / "evil"
    policies = folder / ".callfence" / "policies"
    policies.mkdir(parents=True)
    evil.mkdir()
    text = f"callfence 1\ndefault allow\npath /: read, execute\npath {folder}: create, write\n"
    (policies / "npm-app.policy").write_text(text)
    script = {"name": "app", "version": "1.0.0", "scripts": {"install": "echo run > ran"}}
    (folder / "package.json").write_text(json.dumps(script))
    own = {"name": "evil", "version": "1.0.0", "dependencies": {"left": f"file:{folder}"}}
    (evil / "package.json").write_text(json.dumps(own))
    (project.folder / "package.json").write_text('{"name": "app", "version": "1.0.0"}\n')
    assert project.npm("pack", folder=evil).returncode == 0
    done = project.npm("install", "--foreground-scripts", f"--script-shell={SHELL}", evil / "evil-1.0.0.tgz")
    assert f"{project.policies}/npm-app@file%3A" in done.stderr, done.stderr
    assert not (folder / "ran").exists()


@needs_root
def test_another_users_policies_do_not_count(reviewed):
    os.chown(reviewed.policies, 65534, 65534)
    done = reviewed.install(BENIGN)
    assert done.returncode == 125
    assert "belongs to user 65534" in done.stderr
    assert reviewed.install(BENIGN, CALLFENCE_POLICIES=str(reviewed.policies)).returncode == 0


@pytest.mark.parametrize("rights", ["read, write, create", "create, remove", "write"])
def test_a_command_that_could_change_its_policy_is_not_run(reviewed, learned, rights):
    policy = reviewed.policies / "npm-left.policy"
    place = "./.callfence/policies/npm-left.policy" if rights == "write" else "."
    policy.write_text(re.sub(r"(?m)^path \./node_modules", f"path {place}: {rights}\n\\g<0>", learned.read_text(), count=1))
    done = reviewed.install("echo run > ran")
    assert done.returncode == 125
    assert "could change its own policy" in done.stderr
    assert not (reviewed.package / "ran").exists()


OWN = [Path(command.__file__).parents[1], BIN, Path(sys.executable), SHELL, Path(os.__file__).parent]


@pytest.mark.parametrize("path", OWN)
def test_neither_is_one_that_could_change_callfence(reviewed, learned, path):
    policy = reviewed.policies / "npm-left.policy"
    line = f"path {path}: write\n"
    policy.write_text(learned.read_text().replace("path ./node_modules", f"{line}path ./node_modules", 1))
    done = reviewed.install("echo run > ran")
    assert done.returncode == 125
    assert "could change callfence itself" in done.stderr
    assert not (reviewed.package / "ran").exists()


@pytest.mark.parametrize(("path", "is_said"), [("$HOME", True), ("$HOME/.local", True), ("$HOME/.cache", False)])
def test_neither_is_one_that_could_make_the_users_folder_of_modules(project, path, is_said):
    """The next start would run what is there: a virtual environment's Python has no such folder, another one has."""
    imports = f"import sys; sys.path[:0] = {sys.path!r}; from callfence.shell.command import _own"
    code = f"{imports}; print(*_own('x', [sys.argv[1].encode()]))"
    words = [sys._base_executable, "-I", "-c", code, path]
    done = subprocess.run(words, cwd="/", env=project.environment, capture_output=True, text=True, check=True)
    assert ("could change callfence itself" in done.stdout) == is_said


def test_learning_says_that_the_command_could_change_its_policy(project):
    done = project.run("-c", "echo made > made.txt", CALLFENCE_SH="learn", CALLFENCE_NAME="mine")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "could change its own policy" in done.stderr
    elsewhere = project.folder.parent / "policies"
    elsewhere.mkdir()
    for mode in ("learn", "enforce"):
        done = project.run("-c", "echo made > made.txt", CALLFENCE_SH=mode, CALLFENCE_POLICIES=str(elsewhere))
        assert (done.returncode, done.stderr) == (0, "")


def test_a_policy_without_files_is_not_enforced(reviewed, learned):
    policy = reviewed.policies / "npm-left.policy"
    policy.write_text("".join(line for line in learned.read_text().splitlines(True) if not line.startswith("path ")))
    done = reviewed.install("echo run > ran")
    assert done.returncode == 125
    assert "no lines about files" in done.stderr


@pytest.mark.parametrize("mode", ["off", "learn", "enforce"])
def test_arguments_streams_and_status_are_the_commands(project, mode):
    words = ["-ec", 'read line; echo "$0-$1-$line"; echo err >&2; test "$PWD" = "$(pwd -P)"; exit 7', "name", "first word"]
    inner = project.folder / "sub dir"
    inner.mkdir()

    def run(chosen: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [SHELL, *words], cwd=inner, env=project.environment | {"CALLFENCE_SH": chosen}, input="typed\n",
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    if mode == "enforce":
        run("learn")
    assert run(mode) == (7, "name-first word-typed\n", "err\n")


@pytest.mark.parametrize("mode", ["learn", "enforce"])
def test_a_signal_ends_it_as_it_ends_the_command(project, mode):
    script = "kill -TERM $$"
    if mode == "enforce":
        project.run("-c", script, CALLFENCE_SH="learn")
    assert project.run("-c", script, CALLFENCE_SH=mode).returncode == -signal.SIGTERM


def test_a_script_runs_and_a_hook_has_its_own_policy(project):
    hook = project.folder / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!{SHELL}\necho hook $1\n")
    hook.chmod(0o755)
    for mode in ("learn", "enforce"):
        environment = project.environment | {"CALLFENCE_SH": mode}
        done = subprocess.run(
            [hook, "word"], cwd=project.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "hook word\n", "")
    assert [path.name for path in project.policies.glob("*.policy")] == ["git-pre-commit.policy"]


def test_a_step_of_ci_is_a_script_with_its_own_policy(project):
    """GitHub puts the script into a folder of its own."""
    script = project.temporary / "step.sh"
    script.write_text("echo step; false; echo not reached\n")
    for mode in ("learn", "enforce"):
        done = project.run("-e", script, CALLFENCE_SH=mode, GITHUB_JOB="build", GITHUB_ACTION="install")
        assert (done.returncode, done.stdout, done.stderr) == (1, "step\n", "")
    assert [path.name for path in project.policies.glob("*.policy")] == ["ci-build+install.policy"]


@pytest.mark.long
def test_make_runs_its_recipes_by_it(project):
    require("make")
    out = project.folder / "out"
    out.mkdir()
    goals = " ".join(f"out/{number}" for number in range(6))
    (project.folder / "Makefile").write_text(f"SHELL = {SHELL}\nall: {goals}\nout/%:\n\t@echo $* > $@; echo $*\n")

    def make(mode: str) -> subprocess.CompletedProcess[str]:
        for path in out.iterdir():
            path.unlink()
        environment = project.environment | {"CALLFENCE_SH": mode}
        return subprocess.run(
            ["make", "-j3"], cwd=project.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    for mode in ("learn", "enforce"):
        done = make(mode)
        assert (done.returncode, sorted(done.stdout.split())) == (0, list("012345"))
        # commands that learn at the same time say so
        assert [line for line in done.stderr.splitlines() if "was changed while the program ran" not in line] == []
    assert [path.name for path in project.policies.glob("*.policy")] == ["make.policy"]


@pytest.mark.parametrize("mode", ["learn", "enforce"])
def test_what_a_confined_command_runs_is_under_its_policy(project, mode):
    script = f"{SHELL} -c 'echo inner'"
    if mode == "enforce":
        assert project.run("-c", script, CALLFENCE_SH="learn").returncode == 0
    done = project.run("-c", script, CALLFENCE_SH=mode)
    assert (done.returncode, done.stdout, done.stderr) == (0, "inner\n", "")
    assert [path.name for path in project.policies.glob("*.policy")] == ["default.policy"]


@pytest.mark.parametrize(
    ("variables", "tracer", "filters", "inside"),
    [({}, 0, 2, False), ({INSIDE: "x"}, 0, 0, False), ({INSIDE: "x"}, 0, 2, True), ({INSIDE: "x"}, 7, 0, True)],
)
def test_the_variable_alone_does_not_unconfine(tmp_path, variables, tracer, filters, inside):
    (tmp_path / "status").write_text(f"Name:\tx\nTracerPid:\t{tracer}\nSeccomp:\t{filters}\nSeccomp_filters:\t{filters}\n")
    assert is_inside(variables, str(tmp_path / "status")) == inside
    assert not is_inside({})


def test_hosts_are_learned_where_they_can_be_enforced(tmp_path, monkeypatch, capfd):
    policy = tmp_path / "a.policy"
    monkeypatch.setattr(granted, "problem", lambda: "")
    assert command._kinds(str(policy)) == ["--files", "--hosts"]
    monkeypatch.setattr(granted, "problem", lambda: "ptrace_scope is 1")
    assert command._kinds(str(policy)) == ["--files"]
    assert "gets no lines about hosts: ptrace_scope is 1" in capfd.readouterr().err
    policy.touch()
    assert command._kinds(str(policy)) == ["--files"]
    assert capfd.readouterr().err == ""


def test_callfence_sh_is_a_subcommand_too(project):
    words = [BIN / "callfence", "sh", "-c", "exit 5"]
    environment = project.environment | {"CALLFENCE_SH": "learn"}
    assert subprocess.run(words, cwd=project.folder, env=environment, timeout=120, check=False).returncode == 5
    assert (project.policies / "default.policy").exists()
