"""Policies of programs that have a listener of their own."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.filter.listener import expects_listener, may_install_filters, names_listener
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
    ("entries", "expected"),
    [
        *((f"ioctl: cmd == SECCOMP_IOCTL_NOTIF_{name}", True) for name in ("RECV", "SEND", "ID_VALID", "ADDFD", "SET_FLAGS")),
        ("ioctl: cmd in {TCGETS, SECCOMP_IOCTL_NOTIF_SEND} || fd == 1", True),
        ("ioctl: log if cmd == SECCOMP_IOCTL_NOTIF_SEND", True),
        ("phase serving after poll\nioctl: allow until serving || cmd == SECCOMP_IOCTL_NOTIF_SEND\npoll: allow", True),
        ("ioctl: allow", False),
        ("ioctl: fd == 0x40182103", False),
        ("ioctl: cmd != SECCOMP_IOCTL_NOTIF_SEND", False),
        ("ioctl: !(cmd == SECCOMP_IOCTL_NOTIF_SEND)", False),
        ("ioctl: kill if cmd == SECCOMP_IOCTL_NOTIF_SEND else allow", False),
        ("arch i386\nioctl: cmd == SECCOMP_IOCTL_NOTIF_SEND", True),
    ],
)
def test_what_answers_notifications_is_named_explicitly(entries: str, expected: bool) -> None:
    assert names_listener(parse(f"callfence 1\n{entries}\n").policy) is expected


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
