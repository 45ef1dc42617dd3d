"""What an export loses: the sentences and calls, of the policy and what its target enforces."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.formats import Addition, Direction, Loss
from callfence.policygen.formats.effect import fitted, losses
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import ALLOW, ENOSYS, KILL, Action, ActionKind

WIDER, NARROWER, OTHER = Direction.WIDER, Direction.NARROWER, Direction.OTHER
CONDITIONS = "it cannot express these conditions on arguments"
LOADER = "it loads the filter before the program is executed, so calls of the dynamic loader must be allowed too"
I386 = "it filters only calls of x86_64; calls of i386 kill"


@pytest.mark.parametrize(
    ("policy", "effect", "expected"),
    [
        ("read: fd == 1", "read: fd == 1", []),
        ("read: fd == 1\nwrite: fd == 1", "read: allow\nwrite: allow", [Loss(WIDER, CONDITIONS, ("read", "write"))]),
        ("read: allow", "read: fd == 1", [Loss(NARROWER, "it cannot express allow here; the calls get kill", ("read",))]),
        (
            "read: errno EPERM\nwrite: errno EPERM", "read: kill\nwrite: errno EACCES",
            [Loss(OTHER, f"it cannot express errno EPERM here; the calls get {action}", (name,))
             for name, action in (("write", "errno EACCES"), ("read", "kill"))],
        ),
        ("arch x86_64\nread: allow\narch i386\nread: allow", "read: allow", [Loss(NARROWER, I386), Loss(OTHER, I386)]),
        ("default errno EPERM", "default kill", [Loss(OTHER, "calls that it does not name get kill instead of errno EPERM")]),
        ("unknown errno ENOSYS", "unknown kill", [Loss(OTHER, "calls newer than its table get kill instead of errno ENOSYS")]),
        ("dup: allow", "dup: allow\nexecve: allow", [Loss(WIDER, "it makes these calls under the filter", ("execve",))]),
        ("dup: allow", "dup: allow\nclone: allow", [Loss(WIDER, "as its runtime needs", ("clone",))]),
        ("arm entry\ndup: allow", "arm entry\ndup: allow", [Loss(NARROWER, LOADER)]),
    ],
)  # fmt: skip
def test_what_is_lost(policy: str, effect: str, expected: list[Loss]) -> None:
    first, second = (resolved(parse(text).policy) for text in (policy, effect))
    added, reasons = [Addition("execve", "of the program")], {"clone": "as its runtime needs"}
    assert [*losses(first, second, "it", added, reasons)] == expected
    later = losses(first, second, "it", added, reasons, before_loader=False)
    assert [*later] == [loss for loss in expected if loss.what != LOADER]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (ALLOW, ALLOW), (KILL, KILL), (ENOSYS, ENOSYS), (Action(ActionKind.LOG), ALLOW),
        (Action(ActionKind.TRAP), ENOSYS), (Action(ActionKind.NOTIFY), ENOSYS),
    ],
)  # fmt: skip
def test_an_action_that_a_target_lacks(action: Action, expected: Action) -> None:
    assert fitted(action, ENOSYS) == expected
