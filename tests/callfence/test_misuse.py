"""Options and arguments that exclude or require each other: what is wrong is said, the status is 2, and nothing is done."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest

from callfence.cli import module_of
from callfence.enforcer.errors import EnforceError
from callfence.enforcing import options as enforcing
from callfence.learning import options as learning

POLICY = "read: allow\n"
MISUSES = {
    "allow it.policy": "give either LINE or --log LOG",
    "allow --log log it.policy 'write: allow'": "give either LINE or --log LOG",
    "allow --log log --arch x86_64 it.policy": "they are for LINE",
    "allow --log log --force it.policy": "they are for LINE",
    "allow --log log --until later it.policy": "they are for LINE",
    "allow --only write it.policy 'write: allow'": "--only requires --log",
    "carry it.policy": "--to ARCH is missing",
    "carry --check --update it.policy": "--check writes nothing",
    "carry --check -o out it.policy": "--check writes nothing",
    "compile -o out it.policy other.policy": "give one POLICY",
    "diff it.policy": "give either two policies, or --git REVISION and one policy",
    "diff --git HEAD it.policy other.policy": "give either two policies, or --git REVISION and one policy",
    "diff --git HEAD...v1 it.policy": "with two dots",
    "diff - -": "OLD and NEW cannot both be standard input",
    "doctor --attach it.policy": "--attach and --mask are for --report",
    "doctor --mask": "--attach and --mask are for --report",
    "doctor --report --mask": "name one by --attach",
    "export --to oci --audit it.policy": "--audit requires --unit, and --to systemd-enforce",
    "export --to oci --unit it.service it.policy": "--unit requires --to systemd-enforce",
    "export --to systemd-enforce --unit it.service it.policy": "there is no such file in the current folder",
    "export --to oci --phase later it.policy": "--phase later: ",
    "export --to oci --name=-x it.policy": "the name must begin with a letter or digit",
    "import": "give either --from FORMAT and FILE, or --pid PID",
    "import --from oci": "give either --from FORMAT and FILE, or --pid PID",
    "import it.json": "give either --from FORMAT and FILE, or --pid PID",
    "import --pid 1 it.json": "give either --from FORMAT and FILE, or --pid PID",
    "import --pid 1 --from oci it.json": "give either --from FORMAT and FILE, or --pid PID",
    "import --from oci --kernel six it.json": "six is not a kernel version",
    "lake add out": "add takes LAKE FILE",
    "lake add --days 3 out log": "add does not take --days",
    "lake add -o it.rec out log": "add does not take -o",
    "lake ask --layout '*' out contents": "ask does not take --layout",
    "lake ask out": "ask takes LAKE QUESTION",
    "lake ask out what": "ask takes LAKE QUESTION",
    "lake ask out contents it.policy": "ask contents takes no POLICY",
    "lake ask out used": "ask used takes one POLICY",
    "lake ask --engine spark out contents": "--engine is for --print-sql",
    "lake ask out new": "--since VERSION is for `ask LAKE new`",
    "lake ask --since 2 out contents": "--since VERSION is for `ask LAKE new`",
    "lake fold --hosts 3 -o it.rec out": "fold does not take --hosts",
    "lake fold out": "fold takes LAKE and -o NAME.rec",
    "lake fold -o it.txt out": "fold takes LAKE and -o NAME.rec",
    "lake fold -o it.rec out log": "fold takes LAKE and -o NAME.rec",
    "merge it.policy other.policy": "give one of -o OUT, --narrow-by BY, --intersect BASE and --driver",
    "merge --driver -o out it.policy it.policy other.policy": "give one of -o OUT",
    "merge --driver it.policy other.policy": "--driver takes BASE OURS THEIRS",
    "merge --driver it.policy it.policy it.policy it.policy it.policy": "--driver takes BASE OURS THEIRS",
    "merge --narrow-by it.policy it.policy other.policy": "--narrow-by takes one FILE",
    "merge --narrow-by it.policy --driver other.policy": "--narrow-by takes one FILE",
    "merge --intersect it.policy --driver other.policy": "--intersect takes one FILE",
    "merge --intersect it.policy --narrow-by it.policy other.policy": "and excludes --driver, --narrow-by and --intersect",
    "merge --intersect it.policy --why read -o out other.policy": "--why requires --intersect, and excludes -o",
    "merge --narrow-by it.policy --why read other.policy": "--why requires --intersect",
    "merge --why read -o out it.policy other.policy": "--why requires --intersect",
    "service enforce": "enforce takes one UNIT",
    "service learn one two": "learn takes one UNIT",
    "service remove one -- --files": "remove takes no options after --",
    "service status -- --files": "status takes no options after --",
    "ship --state out": "what is to be read",
    "ship --state out log": "where it is to be sent",
    "ship --state out --once --listen /nowhere/it --otlp http://localhost:1": "--once and --listen exclude each other",
    "ship --state out --every 0 --otlp http://localhost:1 log": "--every must be more than 0",
    "show it.policy other.policy": "give one POLICY",
    "spawn --idle 0": "--idle must be more than 0",
    "verify": "give one of POLICY, FILTER and --cached",
    "verify --cached it.policy": "give one of POLICY, FILTER and --cached",
    "verify --cached --bpf it.bpf": "give one of POLICY, FILTER and --cached",
    "why it.policy relative": "relative",
}


@pytest.mark.parametrize("line", MISUSES)
def test_it_is_refused(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name in ("it.policy", "other.policy", "log"):
        Path(name).write_text(POLICY)
    command, *words = shlex.split(line)
    try:
        status = import_module(module_of(command)).main(words)
    except SystemExit as ended:
        status = ended.code
    done = capsys.readouterr()
    assert (status, done.out) == (2, "")
    assert MISUSES[line] in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.policy", "log", "other.policy"]
    assert Path("it.policy").read_text() == POLICY


LEARN_MISUSES = {
    "": "no program given",
    "--from server --check": "--from cannot be given with --check or --fresh",
    "--from server --fresh": "--from cannot be given with --check or --fresh",
    "--from server --exact": "or with --exact or --tight",
    "--from server --tight": "or with --exact or --tight",
    "--from server --rehearse": "--rehearse needs a program",
    "--write-evidence --no-evidence true": "--write-evidence cannot be given with --no-evidence",
    "--write-evidence --check true": "--write-evidence cannot be given with --no-evidence",
    "--write-recording it.rec true": "--write-recording requires --check",
    "-o - true": "learn cannot write a policy to standard output",
    "--check --fresh true": "--check cannot be given with --fresh, --tight, --portable or --default",
    "--check --tight true": "--check cannot be given with --fresh, --tight, --portable or --default",
    "--check --portable true": "--check cannot be given with --fresh, --tight, --portable or --default",
    "--check --default kill true": "--check cannot be given with --fresh, --tight, --portable or --default",
    "--tight --portable true": "--tight and --portable cannot be given together",
    "--names --tight true": "--names and --tight cannot be given together",
    "--pid 1 true": "a program and --pid PID cannot be given together",
    "--files --pid 1": "--files cannot be given with --pid",
    "--tree true": "--tree requires --pid",
    "--phases --pid 1": "--phases cannot be given with --pid or --check",
    "--phases --check true": "--phases cannot be given with --pid or --check",
    "--narrow it.policy true": "--narrow POLICY takes --last and --write alone",
    "--narrow it.policy --files": "--narrow POLICY takes --last and --write alone",
    "--write true": "--write requires --narrow",
    "--last 3 true": "--last requires --narrow",
    "--last 0 --narrow it.policy": "'0' is not a number above 0",
    "--rehearse --check true": "--check and --rehearse cannot be given together",
    "--rehearse --pid 1": "--rehearse cannot be given with --pid",
    "--rehearse-only faults true": "--rehearse-only requires --rehearse",
    "--rehearse-runs 3 true": "--rehearse-runs requires --rehearse",
    "--rehearse --rehearse-runs 0 true": "'0' is not a number above 0",
    "--rehearse-seconds 3 true": "--rehearse-seconds requires --rehearse",
    "--scratch true": "--scratch requires --rehearse",
}


@pytest.mark.parametrize("line", LEARN_MISUSES)
def test_learn_refuses_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(message: str, status: int) -> NoReturn:  # which ends the process
        raise SystemExit(f"{status} {message}")

    monkeypatch.setattr(learning, "fail", fail)
    with pytest.raises(SystemExit) as ended:
        learning.parse(shlex.split(line))
    assert re.match(f"125 learn: .*{re.escape(LEARN_MISUSES[line])}.*; see learn --help$", str(ended.value.code))


@pytest.mark.parametrize(
    ("line", "accept"),
    [
        ("--check true --check", "learn true --check"),
        ("--check --write-recording it.rec -q true", "learn -q true"),
        ("--check --write-recording=it.rec true --write-recording=x", "learn true --write-recording=x"),
        ("-q --from server true", "learn -q true"),
        ("--from=server --files -- true --from", "learn --files -- true --from"),
    ],
)
def test_what_accepts_new_behaviour_is_the_same_command_without_the_check(line: str, accept: str) -> None:
    assert learning.parse(shlex.split(line)).accept == tuple(shlex.split(accept))


ENFORCE_MISUSES = {
    "": "no program given: write enforce",
    "-p it.policy": "no program given: write enforce",
    "-p 17": "-p names a policy, not a process",
    "-p": "-p needs a value",
    "--policy": "--policy needs a value",
    "--log= true": "--log has an empty value",
    "--logg x true": "unknown option --logg: did you mean",
    "--quiet-krnel true": "unknown option --quiet-krnel: did you mean",
    "-x true": "write options of the program after its name",
    "-x": "`enforce --help-all` lists the options",
    "--audit=x true": "unknown option --audit=x",
    "--ask unix:/run/it.sock": "write --ask=unix:/run/it.sock",
    "--arm never true": "--arm never: the value must be ",
    "--ask-timeout 5 true": "--ask-timeout requires --ask",
    "--within it.policy true": "--within requires --ask",
    "--ask --audit true": "--audit denies nothing that --ask could ask about",
    "--scope none --audit true": "--audit enforces nothing",
    "--explain --no-explain true": "--explain reports the files and ports that --no-explain leaves out",
    "--no-cache --compiled it true": "--compiled compiles nothing",
    "--quiet-kernel --audit true": "--audit needs the helper process",
    "--quiet-kernel --log log true": "--log needs the helper process",
    "--quiet-kernel --explain true": "--explain needs the helper process",
    "--quiet-kernel --ask true": "--ask needs the helper process",
    "--compiled it -p it.policy -p other.policy true": "--compiled is the filter of one policy",
}


@pytest.mark.parametrize("line", ENFORCE_MISUSES)
def test_enforce_refuses_it(line: str) -> None:
    with pytest.raises(EnforceError) as raised:
        enforcing.parse(shlex.split(line))
    assert ENFORCE_MISUSES[line] in str(raised.value)


@pytest.mark.parametrize(
    ("line", "options", "command"),
    [
        ("true -p x", {}, "true -p x"),
        ("-- -x", {}, "-x"),
        ("- x", {}, "- x"),
        ("-pit.policy --policy=b -p c true", {"--policy": ["it.policy", "b", "c"]}, "true"),
        ("--ask --ask-timeout=5 true", {"--ask": [""], "--ask-timeout": ["5"]}, "true"),
        ("--ask=unix:/it --within it.policy true", {"--ask": ["unix:/it"], "--within": ["it.policy"]}, "true"),
        ("--compiled it -p it.policy true", {"--compiled": ["it"], "--policy": ["it.policy"]}, "true"),
    ],
)
def test_enforce_takes_its_options_up_to_the_program(line: str, options: dict[str, list[str]], command: str) -> None:
    assert enforcing.parse(shlex.split(line)) == (options, shlex.split(command))
