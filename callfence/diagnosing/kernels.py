"""What depends on the version of Linux: a table of features, each with what comes of it where the kernel lacks it.
`callfence doctor` looks whether this kernel has them, and docs/kernels.md has the table.
"""

from __future__ import annotations

import os
import re
from typing import Final

from callfence.enforcer import kernel
from callfence.policygen.values import frozen

REFUSED, DENIED, WEAKER, SLOWER = "refused", "denied", "weaker", "slower"


@frozen
class Feature:
    """Something that callfence does if the kernel is new enough."""

    name: str
    since: tuple[int, int]
    """The first version of Linux that has what it needs."""
    landlock: int
    """The version of Landlock's ABI that it needs, or 0.  It decides instead of `since`, since Landlock can be switched off."""
    without: str
    """What comes of it on an older kernel: REFUSED (the program is not run, and the reason is printed), DENIED (calls are
    denied that a newer kernel allows), WEAKER (the program runs, and something is not enforced or not known) or SLOWER."""
    how: str
    """What is refused, denied, weaker or slower."""


FEATURES: Final = (
    Feature("learn, enforce with reports", (5, 9), 0, REFUSED, "`enforce` without `--quiet-kernel`; `learn` was not tried"),
    Feature(
        "calls that a filter allows whatever their arguments are not filtered", (5, 11), 0, SLOWER,
        "each call takes as long as the filter's instructions before its own",
    ),
    Feature(
        "lines about files (`path`)", (5, 13), 1, REFUSED,
        "a policy with such lines; `--best-effort` runs the program without them",
    ),
    Feature(
        "the helper opens /dev/null for a program that may not", (5, 14), 0, DENIED,
        "the implied opens of /dev/null and /dev/full, and i386's socket calls where a policy names hosts",
    ),
    Feature(
        "signals wait until a denied call is answered", (5, 19), 0, WEAKER,
        "a call that a signal interrupts meanwhile is judged, and may be reported, again",
    ),
    Feature(
        "moving files between folders (`path ...: move`)", (5, 19), 2, REFUSED,
        "a policy with such lines; with `--best-effort` such a move fails with EXDEV",
    ),
    Feature(
        "truncating files is held to `write`", (6, 2), 3, REFUSED,
        "a policy with lines about files whose calls can truncate; with `--best-effort` the program can truncate any file",
    ),
    Feature("spawn", (6, 5), 0, REFUSED, "each command of a client, with `spawning needs SO_PEERPIDFD`"),
    Feature("the helper wakes on the program's processor", (6, 6), 0, SLOWER, "an answer to a denied call"),
    Feature(
        "lines about ports (`tcp bind`, `tcp connect`)", (6, 7), 4, REFUSED,
        "a policy with `tcp bind`, or with `tcp connect` and --quiet-kernel; otherwise the helper judges `tcp connect`; "
        "`--best-effort` runs the program without them",
    ),
    Feature(
        "descriptors of threads whose first thread has ended", (6, 9), 0, DENIED,
        "calls to hosts of a process whose first thread has ended, where a policy names hosts; such a process is killed when "
        "it enters the last phase of a policy",
    ),
    Feature(
        "scopes (`scope signals`, `scope abstract sockets`)", (6, 12), 6, WEAKER,
        "the program can signal processes of its user that it did not start, the helper among them by a descriptor of /proc; "
        "it ends with the first of helper and stand-in that dies; "
        "`enforce` says so for `scope abstract sockets`, and refuses `--scope`",
    ),
    Feature(
        "denied files from the kernel's audit", (6, 15), 7, SLOWER,
        "with `--log`, the helper is notified of each call that opens a file",
    ),
    Feature(
        "the exit status in `end` events", (6, 15), 0, WEAKER, "`status` is null if the program has been waited for already"
    ),
)  # fmt: skip


def release() -> tuple[int, int]:
    """Return the version of the running kernel, as (6, 12); (0, 0) if it is not written so."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def is_there(feature: Feature) -> bool:
    """Return whether this kernel has what a feature needs."""
    return kernel.landlock_abi() >= feature.landlock if feature.landlock else release() >= feature.since


def sentence(feature: Feature) -> str:
    """Return what comes of a feature on a kernel without it."""
    return f"{feature.without}: {feature.how}"


COLUMNS: Final = ((5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18), (7, 0))
"""The versions of Linux in docs/kernels.md."""


def table() -> str:
    """Return the table of docs/kernels.md: for each feature and version of Linux, whether it works or what comes of it."""
    versions = [f"{major}.{'x' if (major, minor) == COLUMNS[-1] else minor}" for major, minor in COLUMNS]
    rows = [["feature", "since", *versions, "on older kernels"], ["---"] * (len(versions) + 3)]
    for feature in FEATURES:
        cells = ["works" if version >= feature.since else feature.without for version in COLUMNS]
        rows.append([feature.name, "{}.{}".format(*feature.since), *cells, sentence(feature)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
