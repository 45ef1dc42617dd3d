"""Questions as they come from the helper, and answers to them."""

from __future__ import annotations

import json

import pytest

from callfence.asking.questions import Given, answer_of, parsed
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


def test_a_denial_says_what_would_allow_it_and_at_which_risk() -> None:
    record = {
        "call": "openat()", "action": "errno EACCES", "ungranted": ["path a: read"], "ungrantable": ["listen(2)"],
        "executable": "/bin/app", "command": None,
        "allow": [{"line": "path a: read", "risk": RISK}, {"line": "", "risk": None}],
    }  # fmt: skip
    assert Denial(7, record).text.splitlines() == [
        "denied 7: openat() (errno EACCES)",
        "  not granted: path a: read, listen(2)",
        "  by /bin/app: ",
        "  would allow it: path a: read",
        "  danger: it can reach the keys of SSH",
    ]
    of_the_kernel = record | {"call": None, "executable": "", "allow": []}
    assert Denial(8, of_the_kernel).text.splitlines() == [
        "denied 8: path a: read, listen(2) (errno EACCES)",
        "  no line of a policy would allow it",
    ]


def test_a_question_as_a_program_gets_it() -> None:
    record = {"allow": [{"file": "a", "line": "x", "risk": RISK}], "call": "x()"}
    message = {"id": 3, "rule": [{"file": "a", "line": "x"}], "answers": ["once", "run", "no"], "record": record}
    question = parsed(json.dumps(message).encode(), ("once", "run", "always", "no"))
    assert question.fields(2.5) == {
        "version": 1, "type": "question", "id": 3, "rule": [{"file": "a", "line": "x", "risk": RISK}], "takes_effect": "now",
        "answers": ["once", "run", "no"], "timeout": 2.5, "record": record,
    }  # fmt: skip
    later = parsed(json.dumps(message | {"answers": ["always", "no"]}).encode(), ("once", "run", "always", "no"))
    assert (later.fields(1)["takes_effect"], later.answers) == ("next start", ("always", "no"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "JSON object on one line"), (b"\xff", "JSON object on one line"), (b"[" * 100_000, "JSON object on one line"),
        (b"[]", "is a JSON object$"), (b"{}", "`id` must be"), (b'{"id": true, "answer": "no"}', "`id` must be"),
        (b'{"id": "1", "answer": "no"}', "`id` must be"), (b'{"id": 1}', "`answer` must be one of once, run, always, no, kill"),
        (b'{"id": 1, "answer": "yes"}', "`answer` must be"), (b'{"id": 1, "answer": ["no"]}', "`answer` must be"),
        (b'{"id": 1, "answer": "no", "reason": 5}', "must be texts"),
        (b'{"id": 1, "answer": "no", "name": null}', "must be texts"),
        (b'{"id": 1, "answer": "no", "reason": "%b"}' % (b"x" * 1001), "must be texts of at most 1000 characters"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(line: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        answer_of(line)


def test_an_answer() -> None:
    assert answer_of(b'{"id": 1, "answer": "no"}') == Given(1, "no")
    longest = "x" * 1000
    line = json.dumps({"id": 2, "answer": "kill", "reason": longest, "name": longest, "more": 1}).encode()
    assert answer_of(line) == Given(2, "kill", longest, longest)


@pytest.mark.parametrize("line", ["chroot: allow", "path /a/b: read", "path /own: read"])
def test_what_the_policy_grants_beyond_the_baseline_is_no_part_of_a_line(line: str) -> None:
    head = f"callfence 1\narch {NATIVE}\n"
    policy = parse(f"{head}mmap: allow\npath /own: read\ntcp connect: 80\n").policy
    base = parse(f"{head}chroot: allow\npath /a: read\ntcp connect: 443\n").policy
    require_within(policy, line, base)
    for beyond in ("path /b: read", "path /own: write", "tcp connect: 22", "mmap: allow"):
        with pytest.raises(UserError, match="does not grant all that this line would"):
            require_within(policy, beyond, base)
