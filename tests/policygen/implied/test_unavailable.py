"""Calls that `enforce` fails where a policy denies them: the table."""

from __future__ import annotations

import pytest
from calls import event, parse

from callfence.policygen.implied import tables
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.implied.tables import stated_call, stated_entry, unavailable, unavailable_cells
from callfence.policygen.model import ActionKind, Always
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.region import space, to_bdd
from callfence.tracer.abi import Arch, table
from callfence.tracer.abi.constants import table_rows

ROWS = [tuple(row) for row in table_rows(tables.__spec__, "unavailable.tsv")]
EAFNOSUPPORT, ENOTTY, ENOPROTOOPT, EPERM, EINVAL, ESRCH, EBADF = 97, 25, 92, 1, 22, 3, 9


def test_every_row_has_two_cells_and_is_there_once() -> None:
    assert all(len(row) == 2 and all(cell == cell.strip() != "" for cell in row) for row in ROWS)
    assert len({call for call, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("arch", Arch)
def test_every_row_fails_a_call_of_some_architecture(arch: Arch) -> None:
    for call, _ in ROWS:
        is_stated = stated_call(arch, call) is not None
        assert is_stated == (call.partition(":")[0] in table(arch).by_name), call
        entry = stated_entry(arch, call) if is_stated else None
        assert entry is None or (entry.action.kind is ActionKind.ERRNO and entry.otherwise is None)


@pytest.mark.parametrize("arch", Arch)
def test_no_row_is_about_calls_that_the_set_allows(arch: Arch) -> None:
    """It would never be asked."""
    allowed = resolved(parse(f"arch {arch}\nimplied 1\n").policy).written().entries[arch]
    for number, found in unavailable_cells(arch).items():
        implied = allowed.get(number)
        for one in (stated_entry(arch, cell) for cell in found):
            sets, arguments = space(), table(arch).by_number[number].arguments
            mine = to_bdd(sets, one.expression, arguments)
            other = to_bdd(sets, implied.expression, arguments) if implied else FALSE
            assert sets.and_(mine, other) == FALSE, table(arch).by_number[number].name
            assert implied is None or implied.expression != Always(True)


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        ("socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK 0", EAFNOSUPPORT),
        ("socket AF_UNIX SOCK_STREAM 0", 0),
        ("socket AF_INET SOCK_STREAM|SOCK_CLOEXEC 0", 0),
        ("socket AF_NETLINK SOCK_RAW|SOCK_CLOEXEC NETLINK_ROUTE", EAFNOSUPPORT),
        ("socket AF_NETLINK SOCK_RAW|SOCK_CLOEXEC NETLINK_AUDIT", 0),
        ("socket AF_PACKET SOCK_RAW|SOCK_CLOEXEC 0", 0),
        ("ioctl 0 TCSETSW 0", EPERM),
        ("ioctl 0 TIOCSTI 0", 0),
        ("setsockopt 3 SOL_TCP TCP_NODELAY 0 4", ENOPROTOOPT),
        ("setsockopt 3 SOL_IPV6 IPV6_MTU 0 4", ENOPROTOOPT),
        ("setsockopt 3 SOL_SOCKET SO_LINGER 0 8", ENOPROTOOPT),
        ("setsockopt 3 SOL_SOCKET SO_REUSEPORT 0 4", ENOPROTOOPT),
        ("setsockopt 3 SOL_SOCKET SO_REUSEADDR 0 4", 0),
        ("setsockopt 3 SOL_SOCKET SO_ATTACH_BPF 0 4", 0),
        ("setsockopt 3 SOL_SOCKET SO_PASSCRED 0 4", 0),
        # what is an error whatever else is given
        ("setitimer 99", EINVAL),
        ("sendmsg -1 0 0", EBADF),
        ("sendmsg 0 0 0", 0),
        ("connect -1 0 16", EBADF),
        ("setitimer -1", EINVAL),
        ("setitimer ITIMER_PROF", 0),
        ("setpriority 4711 0 5", EINVAL),
        ("setpriority PRIO_USER 0 5", EPERM),
        ("prlimit64 -1 RLIMIT_AS", ESRCH),
        ("prlimit64 1 RLIMIT_AS", 0),
        ("socket -1 SOCK_RAW 0", EAFNOSUPPORT),
        ("socket 46 SOCK_STREAM 0", 0),
        ("prctl -1", EINVAL),
        ("prctl PR_SET_SECCOMP 2", 0),
        ("madvise 0 0 -1", EINVAL),
        ("madvise 0 0 MADV_HWPOISON", 0),
        ("fcntl 3 F_SETFL O_DIRECT|O_WRONLY", EINVAL),
        ("fcntl 3 F_SETFL O_DIRECT|0x2000", 0),
        ("getpeername 0", 88),
        ("connect 0", 0),
        ("shmctl 0 SHM_INFO", 38),
        ("shmctl 0 IPC_RMID", 0),
        ("shmctl 0 SHM_STAT", 0),
        # drives and lines: questions are answered, what does more is not
        ("ioctl 3 FDGETPRM", ENOTTY),
        ("ioctl 3 FDSETPRM", 0),
        ("ioctl 3 CDROM_GET_CAPABILITY", ENOTTY),
        ("ioctl 3 CDROMEJECT", 0),
        ("ioctl 3 BLKGETSIZE", ENOTTY),
        ("ioctl 3 BLKIOMIN", ENOTTY),
        ("ioctl 3 BLKROSET", 0),
        ("ioctl 3 BLKFLSBUF", 0),
        ("ioctl 3 BLKDISCARD", 0),
        ("ioctl 3 BLKZEROOUT", 0),
        ("ioctl 3 BLKRRPART", 0),
        ("ioctl 3 LOOP_SET_FD", 0),
        ("ioctl 3 LOOP_GET_STATUS64", ENOTTY),
        ("ioctl 3 MTIOCTOP", 0),
        ("ioctl 3 SG_IO", 0),
        ("ioctl 0 TIOCMGET", ENOTTY),
        ("ioctl 0 TIOCMSET", 0),
        ("ioctl 0 TCXONC 1", ENOTTY),  # readline after ^C
        ("ioctl 0 TCFLSH 0", ENOTTY),  # clisp after ^C
        ("ioctl 0 TCSBRK 1", ENOTTY),
        ("ioctl 0 TCSBRK 0", 0),
        ("ioctl 0 VT_GETSTATE", ENOTTY),
        ("ioctl 0 GIO_UNIMAP", ENOTTY),  # emacs, in a locale of UTF-8
        ("ioctl 0 PIO_UNIMAP", 0),
        ("ioctl 0 VT_ACTIVATE", 0),
        ("chown 0 0 0", EPERM),
        ("chmod 0 0o755", 0),
        ("setuid 0", 0),
        ("setgroups 0 0", 0),
        ("pidfd_open 1 0", 38),
        ("pidfd_getfd 1 0 0", 0),
        ("memfd_create 0 0", 0),
        ("execve", 0),
        ("5000", 0),
    ],
)
def test_which_calls_fail(call: str, errno: int) -> None:
    """Nothing that gives a privilege up, and nothing that only an attacker wants: that ends the program."""
    assert unavailable(event(call)) == errno
