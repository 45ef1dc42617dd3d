"""The GitHub Action, the GitLab template and the pre-commit hooks: valid, and every script of them does what it says.

The steps of the action run as the runner runs them, in a scratch repository, with comments going to a server of the test.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from needed import require

from callfence.policygen.recording import recording_file

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / "action.yml"
GITLAB = ROOT / "templates" / "callfence.gitlab-ci.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
COMMANDS = Path(sys.executable).parent
TOKEN = "not-a-secret"
QUIET = "read line < /proc/self/cmdline; kill -0 $$; echo quiet >&2"
SHELLS = {"bash": "bash --noprofile --norc -eo pipefail {0}"}
"""What the runner makes of `shell: bash` (docs.github.com, "Workflow syntax", jobs.<job_id>.steps[*].shell)."""


@dataclass
class Server:
    """A code host as far as its API for comments goes."""

    url: str = ""
    comments: dict[int, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    strangers: tuple[int, ...] = ()
    """Comments of people who may not write to the repository; the others are the job's own."""
    refuses: bool = False

    def comment(self, number: int, body: str) -> dict[str, Any]:
        who = {"user": {"type": "Bot"}, "author_association": "NONE"}
        return {"id": number, "body": body, **who, **({"user": {"type": "User"}} if number in self.strangers else {})}

    def answer(self, method: str, path: str, body: bytes, authorization: str | None) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        if self.refuses or authorization != f"Bearer {TOKEN}":
            return 403, {"message": "Resource not accessible by integration"}
        if (method, path) == ("GET", "/repos/o/r/issues/7/comments?per_page=100"):
            return 200, [self.comment(number, text) for number, text in self.comments.items()]
        if (method, path) == ("POST", "/repos/o/r/issues/7/comments"):
            self.comments[100 + len(self.comments)] = json.loads(body)["body"]
            return 201, {}
        number = int(path.rpartition("/")[2])
        if method == "PATCH" and path == f"/repos/o/r/issues/comments/{number}" and number in self.comments:
            self.comments[number] = json.loads(body)["body"]
            return 200, {}
        return 404, {}


@pytest.fixture
def server() -> Iterator[Server]:
    known = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            authorization = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN")
            status, answer = known.answer(self.command, self.path, body, authorization)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = handle_any

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        known.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield known
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a policy that was learned, and a second commit that allows more."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet")
    ran = subprocess.run(
        [COMMANDS / "learn", "--quiet", "-o", "it.policy", "sh", "-c", QUIET], cwd=folder, timeout=60, check=False
    )
    assert ran.returncode == 0
    git(folder, "add", "it.policy")
    git(folder, "commit", "--quiet", "-m", "one")
    with (folder / "it.policy").open("a") as file:
        file.write("ptrace: allow\n")
    git(folder, "commit", "--quiet", "-a", "-m", "two")
    return folder


@pytest.fixture
def repository(learned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(learned, tmp_path / "repository"))


def git(folder: Path, *words: str) -> str:
    require("git")
    identity = ("-c", "user.name=x", "-c", "user.email=x")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


FILES = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE")
"""What a step says to later ones and to the job."""


@dataclass
class Runner:
    """Runs the steps of the action one by one, as a job does."""

    repository: Path
    temp: Path
    server: Server
    pull_request: bool = True
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    """What each step has left in the files of FILES but its outputs."""
    used: list[str] = field(default_factory=list)
    """Other actions that would have run."""
    said: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    """What earlier steps of the job have set for all later ones."""

    def run(self, **inputs: str) -> int:
        """The status of the first step that fails, or 0."""
        action = yaml.safe_load(ACTION.read_text())
        given = {name: str(known.get("default", "")) for name, known in action["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        given["token"] = TOKEN
        for step in action["runs"]["steps"]:
            if "if" in step and not self.value(step["if"], given):
                continue
            if "uses" in step:
                self.used.append(step["uses"])
                for text in step["with"].values():
                    self.filled(str(text), given)
            elif status := self.step(step, given):
                return status
        return 0

    def step(self, step: Mapping[str, Any], given: Mapping[str, str]) -> int:
        files = {name: self.temp / name for name in FILES}
        for path in files.values():
            path.touch()
        files["GITHUB_OUTPUT"].write_text("")
        script = self.temp / "step.sh"
        assert "${{" not in step["run"]  # what comes from outside goes by the environment, where nothing of it is code
        script.write_text(step["run"])
        environment = {
            "PATH": f"{self.temp / 'bin'}:{COMMANDS}:{os.environ['PATH']}",
            "HOME": str(self.temp),
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_API_URL": self.server.url,
            **{name: str(path) for name, path in files.items()},
            **self.environment,
            **{name: self.filled(text, given) for name, text in step.get("env", {}).items()},
        }
        command = SHELLS.get(step["shell"], step["shell"]).replace("{0}", str(script)).split(" ")
        done = subprocess.run(
            command, cwd=self.repository, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=False,
        )
        self.said += done.stdout + done.stderr
        if "id" in step:
            lines = files["GITHUB_OUTPUT"].read_text().splitlines()
            self.left[step["id"]] = {name: path.read_text() for name, path in files.items() if name != "GITHUB_OUTPUT"}
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in lines)
        return done.returncode

    def filled(self, text: str, given: Mapping[str, str]) -> str:
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda match: str(self.value(match[1], given)), text)

    def value(self, expression: str, given: Mapping[str, str]) -> str:
        """Of the expressions that the action uses: paths, strings, `==`, `&&`, `||`."""
        if " || " in expression:
            return next(filter(None, (self.value(part, given) for part in expression.split(" || "))), "")
        if " && " in expression:
            return "true" if all(self.value(part, given) for part in expression.split(" && ")) else ""
        if " == " in expression:
            left, right = (self.value(part, given) for part in expression.split(" == "))
            return "true" if left == right else ""
        if expression.startswith("'"):
            return expression.strip("'")
        if expression.startswith("inputs."):
            return given[expression.removeprefix("inputs.")]
        if match := re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression):
            return self.outputs[match[1]][match[2]]
        known = {"github.action_path": str(ROOT)}
        if self.pull_request:
            base = git(self.repository, "rev-parse", "HEAD~1")
            event = {"": "true", ".number": "7", ".base.sha": base}
            known |= {f"github.event.pull_request{name}": value for name, value in event.items()}
        elif expression.startswith("github.event.pull_request"):
            return ""
        return known[expression]


@pytest.fixture
def runner(repository: Path, tmp_path: Path, server: Server) -> Runner:
    """pip is a program that writes down what it was to install: the tests run what is installed already."""
    temp = tmp_path / "temp"
    (temp / "bin").mkdir(parents=True)
    pip = temp / "bin" / "python"
    pip.write_text(f'#!/bin/sh\necho "$@" > {temp}/installed\n')
    pip.chmod(pip.stat().st_mode | stat.S_IXUSR)
    return Runner(repository, temp, server)


SAME = f"sh -c '{QUIET}'"
MORE = f"sh -c '{QUIET}; kill -s WINCH $$'"
FAILS = f"sh -c '{QUIET}; kill -s WINCH $$; exit 9'"


def test_nothing_new_but_a_wider_policy(runner: Runner, server: Server) -> None:
    assert runner.run(policy="it.policy", run=SAME) == 0, runner.said
    assert (runner.temp / "installed").read_text() == f"-m pip install --quiet --disable-pip-version-check {ROOT}\n"
    summary = (runner.temp / "GITHUB_STEP_SUMMARY").read_text()
    assert "**`it.policy`: wider**" in summary
    assert "- **danger**: `ptrace`: it newly reads and changes" in summary
    assert "what the policy does not allow" not in summary
    assert runner.outputs["check"]["new"] == "false"
    assert runner.outputs["review"]["verdict"] == "wider"
    assert list(server.comments.values()) == [summary]
    others = ["actions/setup-python", "github/codeql-action/upload-sarif", "actions/upload-artifact"]
    assert [name.split("@")[0] for name in runner.used] == others
    kept = Path(runner.outputs["check"]["folder"])
    assert runner.outputs["review"]["artifact"] == "callfence-it.policy"
    assert "ptrace: allow" in (kept / "callfence.html").read_text()
    assert recording_file.load(kept / "callfence.rec").runs[0].warm
    schema = json.loads((ROOT / "tests" / "data" / "sarif-2.1.0-rtm.5.json").read_text())
    log = json.loads(Path(runner.outputs["review"]["sarif"]).read_text())
    jsonschema.Draft4Validator(schema).validate(log)
    assert [row["ruleId"] for row in log["runs"][0]["results"]] == ["root", "ptrace"]


def test_new_behaviour_fails_the_job_and_is_told(runner: Runner, server: Server) -> None:
    before = (runner.repository / "it.policy").read_bytes()
    assert runner.run(policy="it.policy", run=MORE) == 1, runner.said
    (comment,) = server.comments.values()
    assert "\n\n    it.policy: new behaviour, more of 1 that was allowed in part\n      + kill: sig == SIGWINCH\n" in comment
    assert "learn -o it.policy" in comment
    assert runner.outputs["check"]["new"] == "true"
    assert (runner.repository / "it.policy").read_bytes() == before
    assert git(runner.repository, "status", "--porcelain", "it.policy") == ""


def test_the_program_writes_nothing_into_the_comment(runner: Runner, server: Server) -> None:
    """Its standard error is in learn's log: neither does it pass for learn's own, nor does it end the quotation."""
    forged = 'echo "it.policy: new behaviour, 9 syscalls" >&2; echo "~~~~" >&2; echo "@all" >&2'
    assert runner.run(policy="./it.policy", run=f"sh -c '{QUIET}; kill -s WINCH $$; {forged}'") == 1, runner.said
    (comment,) = server.comments.values()
    assert "\n\n    it.policy: new behaviour, more of 1 that was allowed in part\n      + kill: sig == SIGWINCH\n" in comment
    assert "    it.policy: new behaviour, 9" not in comment and "\n@all" not in comment
    assert runner.outputs["check"]["new"] == "true"


def test_a_run_without_anything_new_is_not_forged(runner: Runner) -> None:
    assert runner.run(policy="it.policy", run=f"sh -c '{QUIET}; echo \"it.policy: new behaviour, 9\" >&2'") == 0, runner.said
    assert runner.outputs["check"]["new"] == "false"


@pytest.mark.parametrize("way", ["variable", "path", "replaced"])
def test_the_program_says_nothing_to_later_steps(runner: Runner, way: str) -> None:
    """Neither by the variables nor where it guesses the paths, also not by what it leaves behind."""
    commands = {
        "variable": 'for f in "$GITHUB_ENV" "$GITHUB_PATH" "$GITHUB_OUTPUT"; do [ -z "$f" ] || echo status=0 >> "$f"; done',
        "path": f'for f in {runner.temp}/GITHUB_*; do echo status=0 >> "$f"; done',
        "replaced": f"for f in {runner.temp}/GITHUB_*; do rm $f; mkdir $f; done",
    }
    runner.run(policy="it.policy", run=f"sh -c '{QUIET}; {commands[way]}; exit 9'")
    assert runner.outputs["check"]["status"] == "9"
    assert runner.left["check"] == {"GITHUB_ENV": "", "GITHUB_PATH": "", "GITHUB_STATE": "", "GITHUB_STEP_SUMMARY": ""}


def test_the_programs_own_failure_comes_first(runner: Runner, server: Server) -> None:
    assert runner.run(policy="it.policy", run=FAILS) == 9, runner.said
    assert "+ kill: sig == SIGWINCH" in next(iter(server.comments.values()))


def test_one_comment_that_is_kept_up_to_date(runner: Runner, server: Server) -> None:
    server.comments = {5: "I like it", 6: "<!-- callfence it.policy -->\nold", 8: "<!-- callfence other.policy -->"}
    assert runner.run(policy="it.policy", run=SAME) == 0, runner.said
    assert list(server.comments) == [5, 6, 8]
    assert server.comments[6].startswith("<!-- callfence it.policy -->\n**`it.policy`: wider**")
    assert server.requests[-1] == "PATCH /repos/o/r/issues/comments/6"


def test_a_strangers_comment_is_left_alone(runner: Runner, server: Server) -> None:
    """Whose comment it is can change it afterwards."""
    server.comments, server.strangers = {6: "<!-- callfence it.policy -->\nall is well"}, (6,)
    assert runner.run(policy="it.policy", run=SAME) == 0, runner.said
    assert server.comments.pop(6) == "<!-- callfence it.policy -->\nall is well"
    assert next(iter(server.comments.values())).startswith("<!-- callfence it.policy -->\n**`it.policy`: wider**")


def test_a_long_report_is_cut_to_what_a_comment_holds(runner: Runner, server: Server) -> None:
    long = "#" * 70_000
    server.comments = {}
    assert runner.run(policy="it.policy", run=f"sh -c '{QUIET}; kill -s WINCH $$; : {long}'") == 1, runner.said
    (comment,) = server.comments.values()
    assert len(comment) == 65_000


def test_a_fork_may_not_comment(runner: Runner, server: Server) -> None:
    server.refuses = True
    assert runner.run(policy="it.policy", run=SAME) == 0, runner.said
    assert "::warning::no comment was written" in runner.said
    assert TOKEN not in runner.said


def hostile(temp: Path) -> dict[str, str]:
    """An environment, a home and a search path that take the token from whoever uses them; what is taken goes to `stolen`."""
    stolen, programs = temp / "stolen", temp / "programs"
    take = f'printf "%s %s\\n" "$*" "$TOKEN$CALLFENCE_TOKEN" >> {stolen}; cat >> {stolen}'
    programs.mkdir()
    for name in ("curl", "jq", "env", "printf", "cat", "bash", "head"):
        real = shutil.which(name)
        (programs / name).write_text(f'#!/bin/sh\n[ -z "$TOKEN$CALLFENCE_TOKEN" ] || {{ {take}; exit 1; }}\nexec {real} "$@"\n')
        (programs / name).chmod(0o755)
    (temp / "start").write_text(f'[ -z "$TOKEN$CALLFENCE_TOKEN" ] || echo "start $TOKEN" >> {stolen}\n')
    (temp / ".curlrc").write_text(f"trace-ascii = {stolen}\n")
    (temp / ".jq").write_text("def map(f): error;\n")
    return {
        "PATH": f"{programs}:{temp / 'bin'}:{COMMANDS}:{os.environ['PATH']}",
        "BASH_ENV": str(temp / "start"),
        "ENV": str(temp / "start"),
        "BASH_FUNC_clean%%": f"() {{ {take}; }}",
        "BASH_FUNC_curl%%": f"() {{ {take}; }}",
        "BASH_FUNC_printf%%": f"() {{ {take}; }}",
        "SHELLOPTS": "xtrace",
        "PS4": "+ ",
        "CURL_HOME": str(temp),
        "XDG_CONFIG_HOME": str(temp),
        "http_proxy": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
        "SSLKEYLOGFILE": str(temp / "keys"),
    }


def test_what_earlier_steps_have_left_has_no_part_in_the_comment(runner: Runner, server: Server) -> None:
    """They ran the change's code: `make app`, say.  The comment is the one step with a token."""
    runner.environment = hostile(runner.temp)
    assert runner.run(policy="it.policy") == 0, runner.said
    assert not (runner.temp / "stolen").exists(), (runner.temp / "stolen").read_text()
    assert "**`it.policy`: wider**" in next(iter(server.comments.values()))
    assert TOKEN not in runner.said


def test_a_library_that_earlier_steps_name_is_not_loaded_with_the_token(runner: Runner, server: Server) -> None:
    runner.environment = {"LD_PRELOAD": "/nowhere/taking.so", "LD_AUDIT": "/nowhere/taking.so"}
    action = yaml.safe_load(ACTION.read_text())
    given = {name: str(known.get("default", "")) for name, known in action["inputs"].items()} | {"token": TOKEN}
    (step,) = [step for step in action["runs"]["steps"] if "inputs.token" in str(step)]
    report = runner.temp / "report.md"
    report.write_text("<!-- callfence it.policy -->\nall is well\n")
    runner.outputs = {"review": {"report": str(report)}, "check": {"folder": str(runner.temp)}}
    assert runner.step(step, given) == 0, runner.said
    assert list(server.comments.values()) == [report.read_text()]
    assert "taking.so" not in runner.said


def test_a_policys_name_does_not_end_the_mark(runner: Runner, server: Server) -> None:
    name = "a --> <b>.policy"
    git(runner.repository, "mv", "it.policy", name)
    git(runner.repository, "commit", "--quiet", "-m", "three")
    for _ in range(2):
        runner.run(policy=name)
    (comment,) = server.comments.values()
    assert comment.splitlines()[0].count("-->") == 1 and comment.splitlines()[0].endswith("-->")


def test_what_is_switched_off(runner: Runner, server: Server) -> None:
    assert runner.run(policy="it.policy", comment="false", sarif="false", artifacts="false") == 0, runner.said
    assert server.requests == []
    assert [name.split("@")[0] for name in runner.used] == ["actions/setup-python"]


def test_a_push_is_compared_with_the_commit_before(runner: Runner, server: Server) -> None:
    runner.pull_request = False
    assert runner.run(policy="it.policy", run=SAME) == 0, runner.said
    assert runner.outputs["review"]["verdict"] == "wider"
    assert server.requests == []


def test_a_base_that_is_not_there(runner: Runner) -> None:
    assert runner.run(policy="it.policy", run=SAME, base="0123456789" * 4) == 2
    assert "::error::" in runner.said and "fetch-depth" in runner.said


def test_a_base_that_is_an_option(runner: Runner) -> None:
    assert runner.run(policy="it.policy", base="--upload-pack=touch pwned") == 2
    assert "is no revision" in runner.said


def test_a_shallow_clone_fetches_the_base(runner: Runner, tmp_path: Path) -> None:
    base = git(runner.repository, "rev-parse", "HEAD~1")
    git(runner.repository, "config", "uploadpack.allowAnySHA1InWant", "true")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{runner.repository}", str(shallow))
    runner.repository, runner.pull_request = shallow, False
    assert runner.run(policy="it.policy", run=SAME, base=base) == 0, runner.said
    assert runner.outputs["review"]["verdict"] == "wider"


def test_a_broken_policy_fails_the_job(runner: Runner, server: Server) -> None:
    (runner.repository / "it.policy").write_text("read: fd = 0\n")
    assert runner.run(policy="it.policy", run=SAME) == 2
    assert "it.policy:1:" in runner.said
    assert server.requests == []


@pytest.mark.parametrize("name", ["", "it.policy; touch pwned"], ids=["no policy", "a name that is no name"])
def test_inputs_are_no_code(name: str, runner: Runner) -> None:
    assert runner.run(policy=name) != 0
    assert not list(runner.repository.glob("pwned*"))


def test_gitlab_gives_the_token_to_no_one(runner: Runner, server: Server) -> None:
    """Neither to the program, which would find it in its environment, nor to what that has left behind."""
    variables = {"CALLFENCE_TOKEN": TOKEN, "CI_MERGE_REQUEST_IID": "4", "CI_MERGE_REQUEST_DIFF_BASE_SHA": "HEAD~1"}
    left = hostile(runner.temp)
    home = {name: left[name] for name in ("CURL_HOME", "XDG_CONFIG_HOME", "http_proxy", "ALL_PROXY")}
    asks = f"sh -c '{QUIET}; echo token=$CALLFENCE_TOKEN'"
    done = gitlab(runner.repository, server, runner.temp / "bin", asks, **variables, **home, HOME=str(runner.temp))
    assert done.returncode == 0, done.stderr
    assert server.requests == ["POST /projects/3/merge_requests/4/notes"]
    assert "token=\n" in done.stdout and TOKEN not in done.stdout + done.stderr
    assert not (runner.temp / "stolen").exists()


def gitlab(repository: Path, server: Server, temp: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    job = yaml.safe_load(GITLAB.read_text())["callfence"]
    environment = {
        "PATH": f"{temp}:{COMMANDS}:{os.environ['PATH']}",
        "HOME": str(temp),
        **{name: str(value) for name, value in job["variables"].items()},
        "CALLFENCE_POLICY": "it.policy",
        "CALLFENCE_RUN": command,
        "CI_API_V4_URL": server.url,
        "CI_PROJECT_ID": "3",
        **variables,
    }
    script = "set -eo pipefail\n" + "\n".join(job["before_script"] + job["script"])
    return subprocess.run(
        ["bash", "-c", script], cwd=repository, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("command", "status"), [(SAME, 0), (MORE, 1), (FAILS, 9), ("", 0)])
def test_gitlab(command: str, status: int, runner: Runner, server: Server) -> None:
    done = gitlab(runner.repository, server, runner.temp / "bin", command)
    assert done.returncode == status, done.stderr
    report = (runner.repository / "callfence.md").read_text()
    assert report.startswith("**`it.policy`: wider**")
    assert ("+ kill: sig == SIGWINCH" in report) is (status != 0)
    assert json.loads((runner.repository / "callfence.sarif").read_text())["version"] == "2.1.0"
    assert server.requests == []


def test_gitlab_writes_a_note(runner: Runner, server: Server) -> None:
    base = git(runner.repository, "rev-parse", "HEAD~1")
    variables = {"CALLFENCE_TOKEN": TOKEN, "CI_MERGE_REQUEST_IID": "4", "CI_MERGE_REQUEST_DIFF_BASE_SHA": base}
    done = gitlab(runner.repository, server, runner.temp / "bin", SAME, **variables)
    assert done.returncode == 0
    assert server.requests == ["POST /projects/3/merge_requests/4/notes"]
    assert "no note was written" in done.stderr  # the server of this test refuses it
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--builtin-schema", "vendor.github-actions", ACTION],
        ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", GITLAB],
    ],
    ids=["action.yml", "template"],
)
def test_valid_under_the_published_schemas(words: list[str | Path]) -> None:
    command = [COMMANDS / "check-jsonschema", "--no-cache", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_are_valid_and_do_nothing_that_a_linter_warns_of() -> None:
    """`zizmor` knows how workflows are attacked; both are read without a network."""
    folder = ROOT / ".github" / "workflows"
    schema = [COMMANDS / "check-jsonschema", "--no-cache", "--builtin-schema", "vendor.github-workflows", *folder.glob("*.yml")]
    for command in (schema, [COMMANDS / "zizmor", "--offline", "--no-progress", folder, ACTION]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_other_actions_are_pinned_and_inputs_documented() -> None:
    action = yaml.safe_load(ACTION.read_text())
    used = [step["uses"] for step in action["runs"]["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", name) for name in used)
    page = (ROOT / "docs" / "ci.md").read_text()
    for name in (*action["inputs"], *action["outputs"]):
        assert f"`{name}`" in page, name


def test_hooks(tmp_path: Path) -> None:
    """Each is a command of ours, to which pre-commit adds the names of policies."""
    hooks = yaml.safe_load(HOOKS.read_text())
    assert {hook["id"] for hook in hooks} >= {"callfence-canonical", "callfence-lint"}
    for hook in hooks:
        assert {"id", "name", "entry", "language", "files"} <= hook.keys()
        assert (hook["language"], re.search(hook["files"], "samples/prefork.policy") is None) == ("python", False)
        (tmp_path / "it.policy").write_bytes((ROOT / "samples" / "prefork.policy").read_bytes())
        program, *words = hook["entry"].split()
        command = [COMMANDS / program, *words, tmp_path / "it.policy"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
