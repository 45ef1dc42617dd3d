"""Start policies: their tools run under them, in another folder and as another user, and what none may do is denied."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from folders import remove
from needed import require

from callfence.learning.prepare import FOLDER, begin, carried, names
from callfence.policygen.language.document import parse, parse_file
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import Commands, Nobody

    Done = subprocess.CompletedProcess[str]

TIMEOUT = 200
"""Seconds for one command: npm takes 6 s, and 45 on a busy machine."""
STARTS = Path(__file__).parent / "starts"
"""For each start policy a program of its kind; `make start` learns from the same."""
NAMES = ("cargo", "git", "mcp-server", "npm", "pip", "pytest", "python-agent", "shell")
REACHED = {"pytest": {"connect to this machine"}}
"""What of `denied.py` a start policy permits, by intention."""
WITHOUT_EFFECT = re.compile(
    r"filename=\"/proc/self/(maps|cgroup|fd)\""  # grep, node, Rust's runtime and xargs, which go on without
    r"|/home/(\.npmrc|\.npm/_update-notifier-last-checked|\.cargo/\.(package|global)-cache(-mutate)?)\b"
    r"|\['udp send \S+ 53'\]"  # npm looks for a newer npm
)
"""What the tools try, and is denied by intention: they do their work without it."""
BY_ROOT = {"read another's environment"} if os.geteuid() == 0 else set()
"""What root may do by CAP_PERFMON where a policy grants reading /proc: docs/policy-language.md, scope."""
FOLDERS = (
    ".ssh", ".aws", ".config/gh", ".config/autostart", ".mozilla/firefox", ".local/bin", ".cache/pip", ".npm/_cacache",
    ".npm/_logs", ".cargo/registry", ".cargo/git",
)  # fmt: skip
FILES = (
    ".ssh/id_ed25519", ".aws/credentials", ".config/gh/hosts.yml", ".netrc", ".npmrc", ".git-credentials", ".bashrc",
    ".profile", ".cargo/credentials.toml", ".mozilla/firefox/logins.json", ".bash_history", ".gitconfig",
)  # fmt: skip
"""What is in the home."""
MAIN = "import sys; sys.path.insert(0, {!r}); from callfence.{} import main; main()"
"""`learn` or `enforce` without PYTHONPATH, which the program would see, too."""
MODULES = {"learn": "learning.command", "enforce": "enforcing.command"}


@dataclass(frozen=True, slots=True)
class Place:
    """A user, with a home that has secrets and caches, a project folder, and a folder for temporary files."""

    folder: Path
    commands: Commands
    become: tuple[str, ...]
    """The words before a program that become the user; () for who runs the tests."""

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def policies(self) -> Path:
        """As `learn --from` writes them on this machine."""
        return self.folder / "start"

    def run(self, command: str, policy: Path | str, *argv: str, flags: Sequence[str] = (), **options) -> Done:
        """`learn` or `enforce` with a policy, a path or a name."""
        path = self.policies / f"{policy}.policy" if isinstance(policy, str) else policy
        words = [*flags, "-o" if command == "learn" else "-p", str(path), "--", *argv]
        if self.become:
            main = MAIN.format(str(self.folder / "packages"), MODULES[command])
            start = [*self.become, "/usr/bin/python3", "-c", main, *words]
        else:
            start = [str(Path(sys.executable).parent / command), *words]
        return self.plain(start, **options)

    def plain(self, argv: Sequence[str], **options) -> Done:
        environment = {**self.commands.environment, "HOME": self.home, "TMPDIR": str(self.folder / "tmp")}
        del environment["PYTHONDONTWRITEBYTECODE"]
        options = {"input": "", **options}
        return subprocess.run(
            argv, cwd=self.project, env=environment, capture_output=True, timeout=TIMEOUT, text=True, check=False, **options
        )

    @property
    def home(self) -> str:
        return str(self.folder / "home")

    def runs(self, name: str) -> None:
        """Run the program of a start policy under it, and expect that nothing is denied."""
        done, denied = self.denied(name, "sh", f"{name}.sh")
        assert (done.returncode, denied) == (0, []), done.stdout + done.stderr
        assert f"{name}: done" in done.stdout

    def denied(self, policy: Path | str, *argv: str, **options) -> tuple[Done, list[str]]:
        """The run, and what it was denied."""
        log = self.folder / "tmp/log"
        done = self.run("enforce", policy, *argv, flags=["--log", str(log), "--explain"], **options)
        records = [json.loads(line) for line in log.read_text().splitlines()]
        log.unlink()
        denied = [f"{one['call']} {one['ungranted']}" for one in records if one["event"] == "denied"]
        return done, [one for one in denied if not WITHOUT_EFFECT.search(one)]


@pytest.fixture(params=["self", "another"])
def place(request, commands: Commands) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="callfence-start-")) if request.param == "self" else None
    become: tuple[str, ...] = ()
    if folder is None:
        nobody: Nobody = request.getfixturevalue("nobody")
        folder, become = nobody.folder, nobody.python[: nobody.python.index("env")]
    for name in ("project", "tmp", *(f"home/{name}" for name in FOLDERS)):
        (folder / name).mkdir(parents=True)
    for name in FILES:
        (folder / "home" / name).write_text("")
    for path in STARTS.iterdir():
        shutil.copy(path, folder / "project")
    (folder / "start").mkdir()
    for name in NAMES:
        begin(name, folder / "start" / f"{name}.policy")
        (folder / "start" / f"{name}.policy").chmod(0o644)
    if become:
        for path in (folder / "project", folder / "home", folder / "tmp"):
            subprocess.run(["chown", "-R", "65534:65534", path], check=True)
    yield Place(folder, commands, become)
    if not become:
        remove(folder)


@pytest.fixture
def other(place: Place) -> Iterator[tuple[int, int, Path]]:
    """A process of the same user, a TCP port and a unix socket of this machine that answer."""
    path = place.folder / "listening"
    sleep = [*place.become, "sleep", "100"]
    with subprocess.Popen(sleep) as process, socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        path.chmod(0o777)
        tcp.listen(9)
        unix.listen(9)
        yield process.pid, tcp.getsockname()[1], path
        process.kill()


def test_there_are_start_policies() -> None:
    assert tuple(names()) == NAMES
    assert {path.stem for path in STARTS.iterdir()} >= {*NAMES} - {"mcp-server", "python-agent"}


def test_each_is_canonical_and_explained(commands: Commands, tmp_path: Path) -> None:
    """Each danger and each warning has its reason."""
    callfence = Path(sys.executable).parent / "callfence"
    for name in NAMES:  # elsewhere, as in a home: a checkout below $TMPDIR would be within a policy's reach
        path = tmp_path / f"{name}.policy"
        shutil.copy(FOLDER / path.name, path)
    paths = sorted(tmp_path.glob("*.policy"))
    (tmp_path / "temporary").mkdir()
    environment = {**commands.environment, "TMPDIR": str(tmp_path / "temporary")}
    for words in (["show", "--check"], ["lint"]):
        done = commands.plain([callfence, *words, *paths], FOLDER.parent.parent.parent, env=environment)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@pytest.mark.parametrize("name", NAMES)
def test_elsewhere_it_is_the_same_for_that_machine(name: str) -> None:
    """All that belongs to the whole policy, and the reasons; that the calls are equal is for the tests of `carry`."""
    start = FOLDER / f"{name}.policy"
    before, text = parse_file(start).policy, carried(start, Arch.AARCH64)
    after = parse(text).policy
    assert [*after.entries] == [Arch.AARCH64] and after.entries[Arch.AARCH64]
    assert replace(after, entries=before.entries) == before
    reasons = {line.strip() for line in start.read_text().splitlines() if "# why:" in line}
    assert reasons <= {line.strip() for line in text.splitlines()}


@pytest.mark.parametrize("name", NAMES)
def test_none_names_this_machine(name: str) -> None:
    """Relative lines, whole paths of the system, and no host beyond this machine."""
    for line in (FOLDER / f"{name}.policy").read_text().splitlines():
        what, _, rest = line.partition(" ")
        if what == "path":
            assert rest.startswith((".:", "$HOME/", "$TMPDIR:", "/usr:", "/etc", "/dev/", "/proc", "/sys/")), line
        elif line.startswith(("tcp connect ", "udp send ")):
            assert line.split()[2].removesuffix(":") in {"127.0.0.1", "::1", "localhost"}, line


@pytest.mark.long
@pytest.mark.parametrize("name", ["shell", "git", "pytest"])
def test_a_tool_runs(name: str, place: Place) -> None:
    require("git", "python3", "python3-pytest", "tar", "gzip", "bash", "perl", "make", "gcc", "libc6-dev")
    place.runs(name)


@pytest.mark.long
@pytest.mark.parametrize("place", ["another"], indirect=True)
@pytest.mark.parametrize("name", ["pip", "cargo", "npm"])
def test_a_slow_tool_runs(name: str, place: Place) -> None:
    require("python3-venv" if name == "pip" else name)
    place.runs(name)


@pytest.mark.long
def test_an_agent_runs_and_talks_to_one_host(place: Place) -> None:
    require("git", "python3", "python3-pytest")

    class Model(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"text": f"it has {len(text.splitlines())} lines"}).encode())

        def log_message(self, *words: object) -> None:
            """Nothing."""

    agent = ("python3", "agent.py")
    with HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        policy = place.folder / "tmp/agent.policy"
        learned = place.run("learn", policy, *agent, port, flags=["--from", "python-agent"])
        assert (learned.returncode, learned.stdout.splitlines()[-1]) == (0, "agent: done"), learned.stderr
        grants = {line for line in policy.read_text().splitlines() if not line.startswith("#")}
        start = {line for line in (place.policies / "python-agent.policy").read_text().splitlines() if not line.startswith("#")}
        # /proc: see WITHOUT_EFFECT
        new = {line.partition(":")[0] for line in grants - start}
        assert new <= {"tcp connect localhost", "tcp connect 127.0.0.1", "path /proc"}
        shutil.rmtree(place.project / ".git")
        done, denied = place.denied(policy, *agent, port)
        assert (done.returncode, done.stdout.splitlines()[-1], denied) == (0, "agent: done", []), done.stderr
        assert "it has 2 lines" in done.stdout
        shutil.rmtree(place.project / ".git")
        done, denied = place.denied("python-agent", *agent, port)
        assert "Permission denied" in done.stderr
        assert any("['tcp connect " in one for one in denied)
        server.shutdown()


SERVERS = [("python3", "server.py"), *([("node", "server.mjs")] if os.path.exists("/usr/bin/node") else [])]


@pytest.mark.long
@pytest.mark.parametrize("server", SERVERS, ids=lambda words: words[0])
def test_a_server_answers_from_its_folder(server: tuple[str, str], place: Place) -> None:
    require("python3")
    (place.project / "notes").mkdir()
    (place.project / "notes/a.txt").write_text("milk")
    calls = [("list", "notes"), ("read", "notes/a.txt"), ("read", str(Path(place.home) / ".ssh/id_ed25519"))]
    questions = [{"method": "initialize", "params": {}}]
    questions += [{"method": "tools/call", "params": {"name": name, "arguments": {"path": path}}} for name, path in calls]
    text = "".join(json.dumps({"jsonrpc": "2.0", "id": number, **question}) + "\n" for number, question in enumerate(questions))
    done, denied = place.denied("mcp-server", *server, input=text)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert answers[0]["result"]["serverInfo"]["name"] == "files"
    assert [answer["result"]["content"][0]["text"].split()[0] for answer in answers[1:3]] == ["a.txt", "milk"]
    assert "ermission denied" in answers[3]["error"]["message"]
    assert len(denied) == 1 and ".ssh/id_ed25519: read" in denied[0]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_what_none_lets_a_program_do(name: str, place: Place, other: tuple[int, int, Path]) -> None:
    require("python3")
    words = ("python3", "denied.py", *map(str, other))
    free = place.plain([*place.become, *words, "real"])
    assert set(json.loads(free.stdout).values()) == {None}, free.stdout + free.stderr
    done = place.run("enforce", name, *words)
    done_anyway = {what for what, error in json.loads(done.stdout).items() if error is None}
    assert done_anyway - (BY_ROOT if name == "shell" else set()) == REACHED.get(name, set()), done.stdout + done.stderr


def test_an_mcp_server_changes_and_starts_nothing(place: Place) -> None:
    require("python3")
    code = """if True:
        import os
        starts = lambda name: os.execv("/bin/true", [name])
        for what in (starts, os.mkdir, os.unlink, lambda name: open(name, "w")):
            try:
                what("server.py" if what is os.unlink else "new")
            except OSError as error:
                print(error.errno in (1, 13))
    """
    assert place.run("enforce", "mcp-server", "python3", "-c", code).stdout == "True\n" * 4


@pytest.mark.long
def test_learn_begins_with_one(place: Place) -> None:
    policy = place.project / "git.policy"
    written = place.run("learn", policy, flags=["--from", "git"])
    assert (written.returncode, written.stderr) == (0, "")
    assert policy.read_bytes() == (place.policies / "git.policy").read_bytes()
    again = place.run("learn", policy, "true", flags=["--from", "git"])
    assert again.returncode == 125
    assert "this one exists" in again.stderr
    more = place.run("learn", policy, "sh", "-c", "read x < ~/.profile || true")
    assert "+ path $HOME/.profile: read" in more.stderr


@pytest.mark.long
def test_learn_has_no_such_start_policy(place: Place) -> None:
    done = place.run("learn", place.project / "x.policy", "true", flags=["--from", "gti"])
    assert done.returncode == 125
    assert f"there are {', '.join(NAMES)}" in done.stderr
    assert not (place.project / "x.policy").exists()
    for flag in ("--check", "--fresh", "--exact"):
        assert place.run("learn", place.project / "x.policy", "true", flags=["--from", "git", flag]).returncode == 125
