"""Questions as they come from the helper, and answers to them."""

from __future__ import annotations

import json

import pytest

from callfence.asking.questions import answer_of, parsed
from callfence.asking.session import Denial
from callfence.asking.writing import require_within
from callfence.policygen.language.document import parse
from callfence.tracer.abi import NATIVE
from callfence.tracer.errors import UserError

RISK = {"level": "danger", "rule": "ssh-keys", "grants": "can reach the keys of SSH"}


def test_the_risk_of_several_lines_is_that_of_each() -> None:
    """A call that needs two files: the advice has both lines in one text."""
    both = "path /x: read\npath $HOME/.ssh: read"
    allow = [{"file": "a", "line": both, "risk": RISK}, {"file": "b", "line": "z", "risk": None}]
    rule = [{"file": "a", "line": "path /x: read"}, {"file": "a", "line": "path $HOME/.ssh: read"}, {"file": "b", "line": "z"}]
    message = json.dumps({"id": 1, "rule": rule, "answers": ["always", "no"], "record": {"allow": allow}}).encode()
    question = parsed(message, ("once", "always", "no"))
    assert [line.risk for line in question.lines] == [RISK, RISK, None]
    assert question.answers == ("always", "no")


def test_a_command_adds_no_line_to_what_a_person_reads() -> None:
    record = {
        "call": "mkdir()", "action": "errno EPERM", "ungranted": [], "allow": [{"line": "mkdir: allow", "risk": None}],
        "executable": "/tmp/a\nb", "command": ["x\n  would allow it: y"],
    }  # fmt: skip
    text = Denial(1, record).text
    assert [line.split(":")[0] for line in text.splitlines()] == ["denied 1", "  by /tmp/a\\x0ab", "  would allow it"]


def test_a_line_of_another_architecture_stays_in_its_section() -> None:
    """Two lines of their own would be no entry, and one of the first section."""
    files = {"line": "path a: read\npath b: write", "risk": None}
    record = {
        "call": "chroot()", "action": "errno EPERM", "ungranted": [], "executable": "", "command": None,
        "allow": [{"line": "arch i386\nchroot: allow", "risk": None}, files],
    }  # fmt: skip
    denial = Denial(1, record)
    assert denial.lines == ("arch i386\nchroot: allow", "path a: read", "path b: write")
    assert [line.rpartition("  would allow it: ")[2] for line in denial.text.splitlines()[1:]] == [
        "arch i386", "chroot: allow", "path a: read", "path b: write",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"id": 1}', b'{"id": 1, "answer": "yes"}', b'{"id": 1, "answer": ["no"]}']
)
def test_what_is_no_answer_is_an_error(line: bytes) -> None:
    with pytest.raises(UserError):
        answer_of(line)


@pytest.mark.parametrize("line", ["chroot: allow", "path /a/b: read", "path /own: read"])
def test_what_the_policy_grants_beyond_the_baseline_is_no_part_of_a_line(line: str) -> None:
    head = f"callfence 1\narch {NATIVE}\n"
    policy = parse(f"{head}mmap: allow\npath /own: read\ntcp connect: 80\n").policy
    base = parse(f"{head}chroot: allow\npath /a: read\ntcp connect: 443\n").policy
    require_within(policy, line, base)
    for beyond in ("path /b: read", "path /own: write", "tcp connect: 22", "mmap: allow"):
        with pytest.raises(UserError, match="does not grant all of it"):
            require_within(policy, beyond, base)
