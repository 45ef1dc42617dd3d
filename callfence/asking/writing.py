"""Write the line of a question into its policy, with the reason and the name of who answered."""

from __future__ import annotations

from pathlib import Path

from callfence.judging.adding import added
from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.files.algebra import differences, extended
from callfence.policygen.language.document import Document, parse_file
from callfence.policygen.model import Policy
from callfence.policygen.phases import in_phase, names_of
from callfence.policygen.recording import atomic
from callfence.policygen.review.changes import changes
from callfence.policygen.review.decisions import Answer, Decision, resolve, with_accepted
from callfence.policygen.values import replace
from callfence.shared.files import locked
from callfence.shared.text import printable
from callfence.tracer.abi import name_of
from callfence.tracer.errors import UserError


def write(file: str, line: str, why: str, base: Policy | None) -> None:
    """Add a line to a policy file, and `why` as its `# why:` comment.  Raises UserError if the line grants anything that `base`
    does not, if the policy denies it explicitly, or if the policy cannot be read; OSError if it cannot be written.  Nothing has
    been written then."""
    path = Path(file)
    with locked(path):
        document = parse_file(path)
        if base is not None:
            require_within(document.policy, line, base)
        after = with_line(document, line, why, file)
        if after.text() != document.text():
            atomic.write(path, after.text().encode())


def with_line(document: Document, line: str, why: str, name: str) -> Document:
    """Return a policy with a line added in every phase.  Raises UserError."""
    last = names_of(document.policy)[-1:]
    before = document.with_policy(in_phase(document.policy, last[0])) if document.policy.phases else document
    done = added(before.policy, [line], name=name)
    if done.refused:
        arch, number = done.refused[0]
        raise UserError(f"{name} denies {name_of(arch, number)} explicitly; `callfence allow --force` allows it")
    new = before.with_policy(done.policy)
    text = printable(" ".join(why.split()))
    accepted = {change: Decision(Answer.ACCEPT, None, text) for change in changes(before.policy, new.policy)}
    if document.policy.phases:
        return with_accepted(document, new.policy, accepted)
    return resolve(document, new, accepted)


def require_within(policy: Policy, line: str, base: Policy) -> None:
    """Raise UserError unless `base`, a policy without phases, grants all that a line adds to a policy."""
    only = replace(policy, entries={arch: {} for arch in policy.entries}, phases=(), implied=0)
    alone = added(only, [line], name="the line").policy
    bounds = replace(base, files=alone.files)
    beyond = [each for each in compare(bounds, alone).differences if each.change is Change.MORE and each.number is not None]
    if beyond or differences(extended(base.files, policy.files), extended(base.files, alone.files)):
        raise UserError(f"the policy of --within does not grant all that this line would: {line}")
