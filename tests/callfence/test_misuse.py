"""Options and arguments that exclude or require each other: what is wrong is said, the status is 2, and nothing is done."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

import pytest

from callfence.cli import module_of

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
