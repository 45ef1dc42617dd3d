"""Make a policy's Landlock ruleset, and decide whether Landlock has to handle truncating.

If Landlock handles truncating, each opening of a file costs a fifth of a microsecond more: it checks all folders up to the root
for the right to truncate later (security/landlock/fs.c, hook_file_open()).  Opening for writing needs `write` anyway, which
includes truncating, so Landlock handles truncating only if the policy's calls can truncate a file that is not open for writing.
"""

from __future__ import annotations

import os
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from policygen.evaluate import answers
from policygen.files import landlock
from policygen.implied.resolve import resolved
from policygen.model import And, Arm, Condition, Operator, Or
from policygen.paths import encoded
from policygen.sets.algebra import FALSE
from policygen.sets.region import space, to_bdd
from tracer.abi import table

if TYPE_CHECKING:
    from policygen.grants import Files, Right
    from policygen.model import Expression, Policy


def ruleset(files: Files, *, truncates: bool = True) -> landlock.Ruleset:
    """Return the ruleset of files and ports; a line that grants nothing gives no rule.  `truncates`: see `landlock.Ruleset`."""
    paths = None
    if files.paths is not None:
        paths = [(encoded(path), access(rights)) for path, rights in files.paths.items() if rights]
    return landlock.Ruleset(paths, files.connect, files.bind, truncates=truncates)


def access(rights: Right) -> int:
    """Return the Landlock rights for the rights of a `path` line."""
    return reduce(or_, (landlock.ACCESS[right.word] for right in rights), 0)


_FLAGS = {"open": 1, "openat": 2, "open_by_handle_at": 2}
_BY_NAME = ("truncate", "truncate64", "openat2", "io_uring_setup")
"""Calls that truncate a file by its name, or whose flags no filter sees."""


def truncates(policy: Policy, arm: Arm | None = None) -> bool:
    """Return whether the policy lets a process truncate a file by its name without opening it for writing.  `arm` replaces the
    policy's own."""
    if (arm or policy.arm) is Arm.ENTRY or policy.unknown.may_allow:  # what runs before the filter, and calls that nobody knows
        return True
    start, sets = resolved(policy), space()
    for arch in policy.entries:
        calls = table(arch).by_name
        for name in (*_BY_NAME, *_FLAGS):
            if name not in calls:
                continue
            call = calls[name]
            some = to_bdd(sets, _truncating(_FLAGS[name]), call.arguments) if name in _FLAGS else None
            for where, action in answers(sets, start, arch, call.number):
                if action.may_allow and (some is None or sets.and_(where, some) != FALSE):
                    return True
    return False


def _truncating(flags: int) -> Expression:
    """Return the condition for O_TRUNC without write access: O_RDONLY, or the third access mode (open(2))."""
    modes = Or(tuple(Condition(flags, Operator.MASKED, mode, os.O_ACCMODE) for mode in (os.O_RDONLY, os.O_ACCMODE)))
    return And((Condition(flags, Operator.ANY, os.O_TRUNC), modes))
