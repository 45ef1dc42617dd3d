"""Policies of programs that have a listener of their own."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.filter.listener import expects_listener, may_install_filters
from callfence.policygen.implied.resolve import resolved

FILTER = "seccomp: op == SECCOMP_SET_MODE_FILTER && flags in SECCOMP_FILTER_FLAG_TSYNC|SECCOMP_FILTER_FLAG_NEW_LISTENER"
RECEIVE = "ioctl: cmd == TCGETS || cmd == SECCOMP_IOCTL_NOTIF_RECV"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (f"{RECEIVE}\n{FILTER}", True),
        (f"ioctl: fd == 9 && cmd == SECCOMP_IOCTL_NOTIF_RECV\n{FILTER}", True),
        (f"ioctl: allow\n{FILTER}", False),
        (f"ioctl: cmd != TIOCSTI\n{FILTER}", False),
        (f"ioctl: kill if cmd == SECCOMP_IOCTL_NOTIF_RECV else allow\n{FILTER}", False),
        (FILTER, False),
        (f"ioctl: cmd == TCGETS\n{FILTER}", False),
        (f"{RECEIVE}\nseccomp: allow", False),
        (f"{RECEIVE}\nseccomp: op == SECCOMP_SET_MODE_FILTER && flags == SECCOMP_FILTER_FLAG_TSYNC", False),
        (f"{RECEIVE}\nseccomp: op == SECCOMP_GET_ACTION_AVAIL", False),
        (RECEIVE, False),
        (f"{RECEIVE}\nseccomp: errno EPERM", False),
    ],
)
def test_a_listener_is_expected_if_it_can_be_made_and_read(entries: str, expected: bool) -> None:
    assert expects_listener(parse(f"callfence 1\n{entries}\n").policy) is expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("seccomp: op == SECCOMP_SET_MODE_FILTER", True),
        ("seccomp: flags == SECCOMP_FILTER_FLAG_TSYNC", True),
        ("seccomp: op == SECCOMP_GET_ACTION_AVAIL", False),
        ("prctl: option == PR_SET_SECCOMP && arg2 == SECCOMP_MODE_FILTER", True),
        ("prctl: option == PR_SET_SECCOMP && arg2 == SECCOMP_MODE_FILTER && arg4 == 7", True),
        ("prctl: arg5 != 0", True),
        ("prctl: option == PR_SET_SECCOMP && arg2 == SECCOMP_MODE_STRICT", False),
        ("prctl: option == PR_SET_NAME", False),
    ],
)
def test_a_program_may_install_filters_whatever_the_arguments_that_the_kernel_ignores(entry: str, expected: bool) -> None:
    assert may_install_filters(resolved(parse(entry).policy)) is expected
