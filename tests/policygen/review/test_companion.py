"""The companion of a policy: its text, that it is read back, and that only what fits the policy is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from calls import event, parse
from hypothesis import given, strategies as st

from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.review.companion import MAGIC, fitting, is_companion, read, reduced, text, united
from callfence.tracer.errors import UserError

if TYPE_CHECKING:
    from callfence.policygen.recording.model import Observation

CALLS = [
    "openat AT_FDCWD 1 O_RDONLY|O_CLOEXEC 0",
    "openat AT_FDCWD 1 O_WRONLY|O_CREAT|O_TRUNC 0o644",
    "mknod 1 S_IFCHR|S_ISUID 5",
    "kill 7 SIGTERM",
    "setpriority PRIO_PROCESS 0 5",
    "setpriority PRIO_PROCESS 77 5",
    "clock_gettime CLOCK_MONOTONIC 1",
    "fcntl 3 F_SETFL O_NONBLOCK",
    "ioctl 1 TIOCSTI 0",
    "prctl PR_SET_NAME 1",
    "mmap 0 4096 PROT_READ|PROT_EXEC MAP_PRIVATE 3 0",
    "clone SIGCHLD|CLONE_CHILD_SETTID 0",
    "getppid",
    "i386 open 1 O_RDONLY",
]


def observed(*calls: str, evidence: tuple[str, ...] = ()) -> list[Observation]:
    """What a companion keeps of calls."""
    aggregator = Aggregator()
    for call in calls:
        aggregator.counter("/usr/bin/app", event(call), lambda: "/usr/lib/libc.so.6+0x10 (abcd)")[0] += 1
    found = [reduced(seen._replace(evidence=evidence), seen.executable, "libc.so.6/name") for seen in aggregator.observations()]
    return [seen for seen in found if seen]


@pytest.mark.parametrize("call", CALLS)
def test_an_observation_is_read_back(call: str) -> None:
    (seen,) = observed(call, evidence=('filename="/etc/**"',))
    (back,) = read(text([seen], "app.policy"), "app.evidence").observations
    assert back == seen


def test_an_argument_that_a_line_does_not_name_may_have_any_value() -> None:
    (seen,) = observed("openat AT_FDCWD 1 O_WRONLY|O_CREAT 0o644", evidence=('filename="/etc/**"',))
    written = text([seen], "app.policy")
    assert ", mode=0)" in written
    (back,) = read(written.replace(", mode=0)", ")"), "app.evidence").observations
    (flags, mode), (other_flags, other_mode) = seen.arguments[2:], back.arguments[2:]
    assert (flags, mode, other_mode) == (other_flags, 0, None)


LINES = (
    "x86_64 openat(flags=O_RDONLY|O_CLOEXEC)",
    "x86_64 openat(flags=O_WRONLY|O_CREAT|O_TRUNC, mode=0)",
    "x86_64 mknod(mode=S_IFCHR|S_ISUID, dev=5)",
    "x86_64 kill(sig=SIGTERM)",
    "x86_64 setpriority(which=PRIO_PROCESS, who=0)",
    "x86_64 setpriority(which=PRIO_PROCESS, who=-1)",
    "x86_64 clock_gettime(which_clock=CLOCK_MONOTONIC)",
    "x86_64 fcntl(cmd=F_SETFL, arg=O_RDONLY|O_NONBLOCK)",
    "x86_64 ioctl(cmd=TIOCSTI)",
    "x86_64 prctl(option=PR_SET_NAME)",
    "x86_64 mmap(prot=PROT_READ|PROT_EXEC, flags=MAP_PRIVATE)",
    "x86_64 clone(clone_flags=SIGCHLD|CLONE_CHILD_SETTID)",
    "x86_64 getppid()",
    "i386 open(flags=O_RDONLY)",
)


@pytest.mark.parametrize(("call", "line"), list(zip(CALLS, LINES, strict=True)))
def test_the_text_of_a_companion(call: str, line: str) -> None:
    """Values that vary from run to run, and those that no policy compares, are not in it."""
    assert text(observed(call), "app.policy").splitlines() == [
        "# What the calls of app.policy were seen to do: for people, never a rule.  `learn` keeps it up to date.",
        "callfence evidence 1",
        f'{line} by "/usr/bin/app": at="libc.so.6/name"',
    ]


@given(st.lists(st.sampled_from(CALLS)), st.randoms())
def test_lines_may_come_in_any_order_and_twice(calls: list[str], random: object) -> None:
    """As git's union of two files leaves them."""
    file = text(united(observed(*calls)), "app.policy")
    lines = [*file.splitlines(), *file.splitlines()]
    random.shuffle(lines)  # type: ignore[attr-defined]
    found = read("\n".join(lines), "app.evidence")
    assert found.unread == () and text(found.observations, "app.policy") == file


def test_what_a_policy_does_not_allow_is_left_out() -> None:
    document = parse("callfence 1\narch x86_64\ntable 6.12\nopenat: flags == O_RDONLY|O_CLOEXEC\nkill: deny\n", "app.policy")
    assert fitting(document, united(observed(*CALLS))) == tuple(observed(CALLS[0]))


@pytest.mark.parametrize(
    "line",
    [
        "<<<<<<< HEAD",
        "x86_64 openat() by /bin/app: at=\"x\"",
        'mips openat() by "/bin/app": at="x"',
        'x86_64 nonsense() by "/bin/app": at="x"',
        'x86_64 openat(flags=O_NONSENSE) by "/bin/app": at="x"',
        'x86_64 openat() by "/bin/app": nonsense',
        'x86_64 openat() by "/bin/\x1b[31mapp": at="x"',
        'x86_64 openat() by "/bin/app": filename="a"b"',
    ],
)
def test_lines_that_cannot_be_read_are_counted(line: str) -> None:
    good = text(observed("getppid"), "app.policy")
    found = read(f"{good}{line}\n", "app.evidence")
    assert (found.unread, len(found.observations)) == ((4,), 1)


def test_another_file_is_refused() -> None:
    for content in ("", "callfence 1\n", "# callfence evidence 1\n"):
        with pytest.raises(UserError, match=MAGIC):
            read(content, "app.evidence")


def test_the_recording_of_a_companion_is_marked() -> None:
    found = read(text(observed("getppid", evidence=()), "app.policy"), "app.evidence").recording
    assert is_companion(found) and found.observations[0].site == "libc.so.6 (name)"
    assert found.observations[0].evidence == ()
    assert not is_companion(read(f"{MAGIC}\n", "app.evidence").recording)
