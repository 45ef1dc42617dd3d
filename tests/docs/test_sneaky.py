"""Changes of a policy that look harmless and permit more: what each command says of them, as the table of docs/review.md.

With CALLFENCE_UPDATE set, the table is written anew instead, to be read through."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from needed import require

from callfence.commands import diff, lint, review
from callfence.policygen.values import frozen

PAGE = Path(__file__).parents[2] / "docs" / "review.md"
BASE = """\
callfence 1
arch x86_64
table 6.18
arm exec
default kill
unknown errno ENOSYS
include calls.policy

path ./data: read, write, create
path ./data/cache: read
tcp connect: 443
tcp bind: 8080
accept4: flags == SOCK_CLOEXEC
connect: allow
bind: allow
epoll_wait: allow
openat: flags in O_RDONLY|O_CLOEXEC
prctl: option == PR_SET_NAME  # why: names of threads
ptrace: request == PTRACE_TRACEME  # why: inject: the crash handler attaches
reboot: magic1 == 1  # why: a test of the error
"""
PHASED = BASE.replace("include", "phase serving after epoll_wait\ninclude").replace(
    "bind: allow\n",
    "bind: allow until serving\nexecve: allow until serving  # why: network-programs: runs a script at its start\n",
)
HOSTED = BASE.replace(
    "tcp connect: 443\n",
    "tcp connect api.example.org: 443\nudp send 192.0.2.1: 53\nunix connect ./data/s\n",
)
INCLUDED = "read: allow\nwrite: allow\nsocket: family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_TCP\n"


@frozen
class Sneaky:
    title: str
    old: str
    """A part of the policy."""
    new: str
    """What stands there after the change."""
    phased: bool = False
    hosted: bool = False
    """Whether the policy confines the program to hosts and unix sockets."""
    link: str = ""
    """Where ./data leads to after the change, by a symbolic link."""
    equal: bool = False
    """Whether the policy permits the same after the change."""


CHANGES = (
    Sneaky("all `path` lines are deleted", "path ./data: read, write, create\npath ./data/cache: read\n", ""),
    Sneaky("a `path` line that another covers is deleted", "path ./data/cache: read\n", "", equal=True),
    Sneaky("`tcp connect` is deleted", "tcp connect: 443\n", ""),
    Sneaky("`tcp bind` is deleted", "tcp bind: 8080\n", ""),
    Sneaky("`tcp connect: 443` -> `1-65534`", "tcp connect: 443\n", "tcp connect: 1-65534\n"),
    Sneaky("all `tcp connect HOST` are deleted", "tcp connect api.example.org: 443\n", "", hosted=True),
    Sneaky("all `udp send` are deleted", "udp send 192.0.2.1: 53\n", "", hosted=True),
    Sneaky("all `unix connect` are deleted", "unix connect ./data/s\n", "", hosted=True),
    Sneaky("`tcp connect api.example.org` -> `*.org`", "connect api.example.org", "connect *.org", hosted=True),
    Sneaky("`unix connect ./data/s` -> `/run`", "connect ./data/s", "connect /run", hosted=True),
    Sneaky("`path ./data` -> `path /proc/self/root`", "path ./data:", "path /proc/self/root:"),
    Sneaky("`./data` becomes a link to `/etc`", "", "", link="/etc", equal=True),
    Sneaky("`default kill` -> `errno EPERM`", "default kill", "default errno EPERM"),
    Sneaky("`default kill` -> `log`", "default kill", "default log"),
    Sneaky("`unknown errno ENOSYS` -> `allow`", "unknown errno ENOSYS", "unknown allow"),
    Sneaky("`scope none` is added", "unknown errno ENOSYS\n", "unknown errno ENOSYS\nscope none\n"),
    Sneaky("`arm exec` -> `entry`", "arm exec", "arm entry"),
    Sneaky("`implied 1` is added", "unknown errno ENOSYS\n", "unknown errno ENOSYS\nimplied 1\n"),
    Sneaky("another file is included", "include calls.policy", "include more.policy"),
    Sneaky("a danger is added with its `# why:`", "openat:", "bpf: allow  # why: it measures itself\nopenat:"),
    Sneaky("a rule with a `# why:` is widened", "ptrace: request == PTRACE_TRACEME ", "ptrace: allow "),
    Sneaky("`after epoll_wait` -> `after reboot`", "after epoll_wait", "after reboot", phased=True),
    Sneaky("`until serving` is deleted", "execve: allow until serving ", "execve: allow ", phased=True),
    Sneaky("`phases optional` is added", "phase serving", "phases optional\nphase serving", phased=True),
)


def made(folder: Path, text: str) -> None:
    (folder / "app.policy").write_text(text)


def run(command: str, *words: str) -> tuple[int, str]:
    """The exit status of a command, and what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = {"diff": diff, "lint": lint, "review": review}[command].main([*words, "app.policy"])
    return status, output.getvalue()


def risk(level: str, rule: str) -> str:
    return f"{level} `{rule}`"


def row(change: Sneaky, folder: Path) -> tuple[str, ...]:
    """The cells of a change: its title, the verdict and the gravest sentence of diff, the gravest level of SARIF, the findings
    of lint that are new, how many changes review asks about; and the exit statuses."""
    text = PHASED if change.phased else HOSTED if change.hosted else BASE
    assert text.count(change.old) == 1 or not change.old
    made(folder, text)
    (folder / "data").mkdir()
    (folder / "data" / "notes").write_text("")
    (folder / "calls.policy").write_text(INCLUDED)
    (folder / "more.policy").write_text(f"{INCLUDED}finit_module: allow\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], check=True)
    status, printed = run("lint", "--format", "json")
    assert status == 0, printed
    made(folder, text.replace(change.old, change.new) if change.old else text)
    if change.link:
        shutil.rmtree(folder / "data")
        (folder / "data").symlink_to(change.link)
    statuses = []
    compared = json.loads(run("diff", "--git", "HEAD", "--format", "json")[1])
    status, printed = run("diff", "--not-wider", "--git", "HEAD")
    statuses.append(status)
    first = re.search(r"(danger|warning|note): .*\[(.*?)\]", printed)
    said = f"{compared['verdict']}{f', {risk(first[1], first[2])}' if first else ''}"
    results = json.loads(run("diff", "--git", "HEAD", "--format", "sarif")[1])["runs"][0]["results"]
    level = next((level for level in ("error", "warning", "note") if level in {one["level"] for one in results}), "none")
    status, printed = run("lint", "--git", "HEAD", "--format", "json")
    statuses.append(status)
    findings = json.loads(printed)["findings"]
    found = [risk(one["level"], one["rule"]) + (" (accepted)" if one["accepted"] else "") for one in findings]
    status, printed = run("review", "--no-terminal")
    statuses.append(status)
    asks = re.findall(r"^\(\d+ of \d+\)$", printed, re.MULTILINE)
    if not change.equal:
        assert compared["verdict"] != "equal" and asks, printed
        assert statuses[0] == statuses[2] == 1
    return (change.title, said, level, ", ".join(dict.fromkeys(found)) or "-", str(len(asks)), " / ".join(map(str, statuses)))


HEAD = ("change", "`diff`", "SARIF", "`lint --git`", "`review` asks", "exit statuses")
BEGIN, END = "<!-- sneaky changes: tests/docs/test_sneaky.py -->\n", "<!-- end -->\n"


@pytest.mark.long
def test_the_table_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("git")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = []
    for index, change in enumerate(CHANGES):
        folder = tmp_path / str(index)
        folder.mkdir()
        monkeypatch.chdir(folder)
        rows.append(row(change, folder))
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in (HEAD, ["---"] * len(HEAD), *rows))
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    expected = f"{before}{BEGIN}\n{table}\n{END}{after}"
    if os.environ.get("CALLFENCE_UPDATE"):
        PAGE.write_text(expected)
        return
    assert page == expected
