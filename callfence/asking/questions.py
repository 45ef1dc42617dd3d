"""Questions and answers: the protocol of `enforce --ask=unix:PATH`, JSON objects, one a line (docs/asking.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from callfence.enforcer.reporting.asker import ALWAYS, ANSWERS, KILL, NO, ONCE, RUN
from callfence.policygen.values import frozen
from callfence.policygen.versions import QUESTIONS
from callfence.tracer.errors import UserError

MAX_LINE = 1 << 16
"""The most bytes of an answer."""
_TEXT = 1000
"""The most characters of a reason or a name."""
MEANINGS = {
    ONCE: "let the calls run that wait now",
    RUN: "allow it until the program ends",
    ALWAYS: "also write it to the policy",
    NO: "deny it, and do not ask again",
    KILL: "kill the process",
}


@frozen
class Line:
    """A line that a policy lacks."""

    file: str
    line: str
    risk: Mapping[str, str] | None
    """What lint says of the lines that this policy lacks: `level`, `rule`, `grants` of the worst; None if nothing."""


@frozen
class Question:
    """A question about denied calls that lack the same lines."""

    id: int
    lines: tuple[Line, ...]
    holds: bool
    """Whether calls, or a repeated look-up, wait for the answer; as to files, it counts from the program's next start."""
    record: Mapping[str, Any]
    """The first of these calls: the fields of an event `denied` (docs/events.schema.json)."""
    answers: tuple[str, ...]
    """The answers that may be given."""

    def fields(self, timeout: float) -> dict[str, Any]:
        """Return the question as it is put to a program; `timeout` in seconds."""
        return {
            "version": QUESTIONS,
            "type": "question",
            "id": self.id,
            "rule": [{"file": each.file, "line": each.line, "risk": each.risk} for each in self.lines],
            "takes_effect": "now" if self.holds else "next start",
            "answers": [*self.answers],
            "timeout": timeout,
            "record": dict(self.record),
        }


@frozen
class Given:
    """An answer."""

    id: int
    answer: str
    reason: str = ""
    name: str = ""
    """Who answered."""


def parsed(message: bytes, allowed: Sequence[str]) -> Question:
    """Return the question in a message of the helper; `allowed` are the answers that can be given here."""
    fields = json.loads(message)
    risks = {each["file"]: each["risk"] for each in fields["record"]["allow"]}  # of all lines that a policy lacks, together
    lines = tuple(Line(each["file"], each["line"], risks.get(each["file"])) for each in fields["rule"])
    answers = tuple(answer for answer in allowed if answer in fields["answers"])
    return Question(fields["id"], lines, RUN in fields["answers"], fields["record"], answers)


def answer_of(line: bytes) -> Given:
    """Return the answer in a line.  Raises UserError for anything else."""
    try:
        fields = json.loads(line.decode())  # of bytes it guesses the encoding, which may have to be imported
    except (ValueError, RecursionError) as error:
        raise UserError("an answer is a JSON object on one line") from error
    if not isinstance(fields, dict):
        raise UserError("an answer is a JSON object")
    id_, answer = fields.get("id"), fields.get("answer")
    if not isinstance(id_, int) or isinstance(id_, bool):
        raise UserError("`id` must be the question's number")
    if answer not in ANSWERS:
        raise UserError(f"`answer` must be one of {', '.join(ANSWERS)}")
    texts = [fields.get(name, "") for name in ("reason", "name")]
    if not all(isinstance(text, str) and len(text) <= _TEXT for text in texts):
        raise UserError(f"`reason` and `name` must be texts of at most {_TEXT} characters")
    return Given(id_, answer, *texts)
