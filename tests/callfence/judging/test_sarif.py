"""SARIF of `diff` and `lint`: valid under the standard's schema, and the same results however a policy is laid out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from callfence.policygen.language.document import newest_table, parse
from callfence.policygen.lint.catalogue import dangers
from callfence.tracer.abi import Arch, table

SCHEMA = jsonschema.Draft4Validator(
    json.loads((Path(__file__).parents[2] / "data" / "sarif-2.1.0-rtm.5.json").read_text()),
    format_checker=jsonschema.FormatChecker(),
)
OLD = "arch x86_64\nread: fd == 0\nwrite: allow\n"
NEW = """\
arch x86_64
default errno EPERM
unknown allow
read: fd == 0 && fd == 1 || fd == 0
execve: allow  # why: runs hooks
ioctl: fd == 0
mmap: prot in PROT_READ|PROT_WRITE|PROT_EXEC
ptrace: allow
socket: family == AF_INET && type == SOCK_STREAM || family == AF_PACKET
write: allow

arch i386
socketcall: allow
"""
EVERYTHING = f"{newest_table()}default allow\nunknown allow\nscope none\n" + "".join(
    f"arch {arch}\n" + "".join(f"{name}: allow\n" for name in table(arch).by_name) for arch in Arch
)


def log(folder: Path, *arguments: str) -> dict[str, Any]:
    """A valid log that a command prints."""
    command = [sys.executable, "-m", "callfence", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    SCHEMA.validate(found)
    for result in results(found):
        for location in result["locations"]:
            assert location["physicalLocation"].get("region", {"startLine": 1})["startLine"] >= 1  # errata 01
    return found


def results(found: dict[str, Any]) -> list[dict[str, Any]]:
    (run,) = found["runs"]
    rows: list[dict[str, Any]] = run["results"]
    return rows


def identities(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((row["ruleId"], row["partialFingerprints"]["callfence/v1"]) for row in rows)


def write(folder: Path, old: str, new: str) -> None:
    (folder / "old.policy").write_text(old)
    (folder / "new.policy").write_text(new)


COMMANDS = (
    ("diff", "--format", "sarif", "old.policy", "new.policy"),
    ("lint", "--format", "sarif", "--level", "note", "new.policy"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (OLD, OLD), (OLD, EVERYTHING), (NEW, OLD), ("arm entry\n" + OLD, OLD)])
def test_valid(command: Sequence[str], old: str, new: str, tmp_path: Path) -> None:
    write(tmp_path, old, new)
    log(tmp_path, *command)


def test_the_schema_is_not_a_formality(tmp_path: Path) -> None:
    write(tmp_path, OLD, NEW)
    found = log(tmp_path, *COMMANDS[0])
    results(found)[0]["level"] = "danger"
    assert not SCHEMA.is_valid(found)


@pytest.mark.long
def test_every_risk_of_the_catalogue_is_a_rule(tmp_path: Path) -> None:
    """...with the id that it has there, so that what a service has been told of it stays."""
    write(tmp_path, OLD, EVERYTHING)
    for command in COMMANDS:
        ids = {row["ruleId"] for row in results(log(tmp_path, *command))}
        assert ids >= {danger.id for danger in dangers()}


def rearranged(text: str) -> str:
    """The same policy with its entries reversed, a comment and blank lines between them, and other names for calls."""
    head, *sections = text.split("arch ")
    made = head
    for section in sections:
        name, *entries = section.strip().split("\n")
        settings = [line for line in entries if ":" not in line]
        rest = [f"# a comment\n\nsys_{line}" for line in entries if ":" in line]
        made += "\n".join([f"arch {name}", *settings, *reversed(rest)]) + "\n\n\n"
    return "# a comment\n" + made


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_layout_makes_no_difference(command: Sequence[str], tmp_path: Path) -> None:
    write(tmp_path, OLD, NEW)
    before = results(log(tmp_path, *command))
    assert len(before) > 8
    assert len(set(identities(before))) == len(before)
    for text in (rearranged(NEW), parse(NEW).text(), parse(rearranged(NEW)).text()):
        write(tmp_path, rearranged(OLD), text)
        after = results(log(tmp_path, *command))
        assert identities(after) == identities(before)
    assert {row["ruleId"]: row["locations"] for row in after} != {row["ruleId"]: row["locations"] for row in before}


def test_what_is_accepted_is_suppressed(tmp_path: Path) -> None:
    write(tmp_path, OLD, NEW)
    suppressed = {row["ruleId"]: row["suppressions"] for row in results(log(tmp_path, *COMMANDS[1])) if "suppressions" in row}
    assert suppressed == {"execute": [{"kind": "inSource", "justification": "runs hooks"}]}


def test_a_new_reason_is_shown_and_suppresses_nothing(tmp_path: Path) -> None:
    write(tmp_path, OLD, NEW)
    rows = {row["ruleId"]: row for row in results(log(tmp_path, *COMMANDS[1], "--against", "old.policy"))}
    assert not any("suppressions" in row for row in rows.values())
    reason = "; accepted in this change, for this reason: runs hooks"
    assert [rule for rule, row in rows.items() if row["message"]["text"].endswith(reason)] == ["execute"]
    said = "socket: it opens raw sockets: the program can forge and read packets"
    assert rows["raw-socket"]["message"]["text"] == said


def test_lines(tmp_path: Path) -> None:
    write(tmp_path, OLD, NEW)
    places = {
        row["ruleId"]: row["locations"][0]["physicalLocation"].get("region", {}).get("startLine")
        for row in results(log(tmp_path, *COMMANDS[1]))
    }
    assert (places["ptrace"], places["execute"], places["unknown-allow"], places["multiplexed"]) == (8, 5, 3, 13)
    assert places["root"] is None  # there is no `path` line


def test_lines_of_hosts_that_are_written_otherwise(tmp_path: Path) -> None:
    lines = "read: allow\n\n  tcp connect 64:FF9B::169.254.169.254: 80\ntcp connect Metadata.GOOG: 80\n"
    write(tmp_path, OLD, lines)
    found = {
        row["locations"][0]["physicalLocation"]["region"]["startLine"]
        for row in results(log(tmp_path, *COMMANDS[1]))
        if row["ruleId"] == "metadata"
    }
    assert found == {3, 4}
