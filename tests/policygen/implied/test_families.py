"""Families of calls that grant nothing: what each is given, what it allows, and the dangerous neighbours that stay denied."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.tracer.abi import Arch

READS = "openat: flags == O_RDONLY"
WRITES = "openat: flags == O_WRONLY"
CREATES = "openat: flags == O_WRONLY|O_CREAT|O_EXCL && mode & 0o7000 == 0"
TCP = "socket: family == AF_INET && type & 0xf == SOCK_STREAM && protocol == IPPROTO_IP"
UDP = "socket: family == AF_INET && type & 0xf == SOCK_DGRAM && protocol == IPPROTO_IP"
UNIX = "socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0"
ROUTES = "socket: family == AF_NETLINK && type & 0xf == SOCK_RAW && protocol == NETLINK_ROUTE"
AUDIT = "socket: family == AF_NETLINK && type & 0xf == SOCK_RAW && protocol == NETLINK_AUDIT"


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    given: tuple[str, ...]
    """The policy's own entries; several of one call are alternatives."""
    allowed: tuple[str, ...]
    denied: tuple[str, ...]
    """Neighbours that do more."""
    without: str | None = None
    """The member of `allowed` that is denied without `given`."""


FAMILIES = (
    Family(
        "code of its own that it writes no more", ("mprotect: prot == PROT_READ|PROT_WRITE|PROT_EXEC",),
        ("mprotect 0 4096 PROT_READ|PROT_EXEC",),
        ("mprotect 0 4096 PROT_EXEC", "mprotect 0 4096 PROT_WRITE|PROT_EXEC",
         "mprotect 0 4096 PROT_READ|PROT_EXEC|PROT_GROWSDOWN", "pkey_mprotect 0 4096 PROT_READ|PROT_EXEC 0"),
        "mprotect 0 4096 PROT_READ|PROT_EXEC",
    ),
    Family(
        "timers that it may make", ("timer_create: which_clock == CLOCK_MONOTONIC",),
        ("timer_delete 1", "timer_gettime 1", "timer_getoverrun 1"), ("timer_settime 1 0", "timer_create CLOCK_REALTIME"),
        "timer_delete 1",
    ),
    Family(
        "processes to which it may attach", ("ptrace: request == PTRACE_ATTACH && addr == 0 && data == 0",),
        ("ptrace PTRACE_DETACH 7",), ("ptrace PTRACE_DETACH 7 0 SIGKILL", "ptrace PTRACE_CONT 7", "ptrace PTRACE_POKEDATA 7"),
        "ptrace PTRACE_DETACH 7",
    ),
    Family(
        "questions about a socket that it holds", (),
        ("getsockname 0", "getsockopt 3 SOL_SOCKET SO_PEERCRED", "getsockopt 3 SOL_SOCKET SO_COOKIE",
         "getsockopt 3 SOL_SOCKET SO_MARK", "getsockopt 3 SOL_SOCKET SO_SNDTIMEO_NEW"),
        ("getsockopt 3 SOL_SOCKET SO_GET_FILTER", "getsockopt 3 SOL_SOCKET SO_PEERPIDFD", "setsockopt 3 SOL_SOCKET SO_MARK",
         "getsockopt 3 SOL_PACKET PACKET_STATISTICS", "getsockopt 3 SOL_ALG ALG_SET_KEY", "ioctl 3 SIOCSPGRP",
         "setsockopt 3 SOL_SOCKET SO_ATTACH_FILTER", "getsockopt 3 SOL_SOCKET -1", "getsockopt 3 SOL_SOCKET 79",
         "getpeername 3"),  # with which shellcode looks for the socket that it came by
    ),
    Family(
        "options of TCP", (TCP,),
        ("getsockopt 3 SOL_TCP TCP_INFO", "getsockopt 3 SOL_TCP TCP_CONGESTION", "getsockopt 3 SOL_IPV6 IPV6_V6ONLY",
         "getsockopt 3 SOL_IP IP_TTL", "setsockopt 3 SOL_SOCKET SO_LINGER", "setsockopt 3 SOL_SOCKET SO_RCVTIMEO_OLD",
         "setsockopt 3 SOL_TCP TCP_NODELAY", "setsockopt 3 SOL_TCP TCP_KEEPIDLE"),
        ("getsockopt 3 SOL_TCP TCP_ZEROCOPY_RECEIVE", "getsockopt 3 SOL_TCP TCP_FASTOPEN_KEY",
         "setsockopt 3 SOL_TCP TCP_ULP", "setsockopt 3 SOL_TCP TCP_CONGESTION", "setsockopt 3 SOL_TCP TCP_REPAIR",
         "setsockopt 3 SOL_TCP TCP_MD5SIG", "setsockopt 3 SOL_TCP TCP_FASTOPEN", "setsockopt 3 SOL_IP IP_OPTIONS",
         "getsockopt 3 SOL_IP 64", "getsockopt 3 SOL_IPV6 64", "getsockopt 3 SOL_IPV6 IPV6_FLOWLABEL_MGR",
         "setsockopt 3 SOL_IP IP_TRANSPARENT", "setsockopt 3 SOL_SOCKET SO_REUSEPORT", "setsockopt 3 SOL_SOCKET SO_BROADCAST",
         "setsockopt 3 SOL_SOCKET SO_BINDTODEVICE", "setsockopt 3 SOL_SOCKET SO_SNDBUFFORCE",
         "setsockopt 3 SOL_SOCKET SO_ZEROCOPY", "setsockopt 3 SOL_SOCKET SO_BUSY_POLL", "setsockopt 3 SOL_SOCKET SO_PEEK_OFF",
         "setsockopt 3 SOL_IPV6 IPV6_ADDRFORM", "setsockopt 3 SOL_IPV6 IPV6_RTHDR"),
        "setsockopt 3 SOL_TCP TCP_NODELAY",
    ),
    Family(
        "options of UDP", (UDP,),
        ("getsockopt 3 SOL_UDP UDP_SEGMENT", "getsockopt 3 SOL_IP IP_MULTICAST_TTL", "setsockopt 3 SOL_SOCKET SO_SNDBUF"),
        ("setsockopt 3 SOL_UDP UDP_ENCAP", "setsockopt 3 SOL_UDP UDP_SEGMENT", "setsockopt 3 SOL_TCP TCP_NODELAY",
         "setsockopt 3 SOL_IP IP_ADD_MEMBERSHIP", "getsockopt 3 SOL_IP IP_MSFILTER"),
        "getsockopt 3 SOL_UDP UDP_SEGMENT",
    ),
    Family(
        "netlink", (ROUTES,),
        ("setsockopt 3 SOL_NETLINK NETLINK_EXT_ACK", "setsockopt 3 SOL_NETLINK NETLINK_GET_STRICT_CHK",
         "getsockopt 3 SOL_NETLINK NETLINK_LIST_MEMBERSHIPS", "ioctl 3 SIOCGIFINDEX", "ioctl 3 SIOCGIFHWADDR",
         "ioctl 3 SIOCGIFCONF", "socket AF_NETLINK SOCK_DGRAM NETLINK_ROUTE"),
        ("setsockopt 3 SOL_NETLINK NETLINK_ADD_MEMBERSHIP", "setsockopt 3 SOL_NETLINK NETLINK_LISTEN_ALL_NSID",
         "ioctl 3 SIOCSIFFLAGS", "ioctl 3 SIOCSIFADDR", "ioctl 3 SIOCSIFHWADDR", "ioctl 3 SIOCETHTOOL", "ioctl 3 SIOCADDRT",
         "ioctl 3 SIOCBRADDBR", "ioctl 3 0x89f0", "socket AF_NETLINK SOCK_DGRAM NETLINK_NETFILTER",
         "socket AF_NETLINK SOCK_RAW NETLINK_SOCK_DIAG"),
        "ioctl 3 SIOCGIFINDEX",
    ),
    Family(
        "netlink of another kind", (AUDIT,), ("setsockopt 3 SOL_NETLINK NETLINK_EXT_ACK",),
        ("ioctl 3 SIOCGIFINDEX", "socket AF_NETLINK SOCK_RAW NETLINK_ROUTE"), "setsockopt 3 SOL_NETLINK NETLINK_EXT_ACK",
    ),
    Family(
        "other sockets", (UNIX,), ("setsockopt 3 SOL_SOCKET SO_SNDBUF", "getpeername 3"),
        ("setsockopt 3 SOL_NETLINK NETLINK_EXT_ACK", "setsockopt 3 SOL_TCP TCP_NODELAY", "ioctl 3 SIOCGIFINDEX",
         "setsockopt 3 SOL_SOCKET SO_PASSCRED"),
        "setsockopt 3 SOL_SOCKET SO_SNDBUF",
    ),
    Family(
        "waiting for terminals", ("ioctl: cmd == TCSETSW",), ("ioctl 0 TCSBRK 1",), ("ioctl 0 TCSBRK 0", "ioctl 0 TIOCSTI"),
        "ioctl 0 TCSBRK 1",
    ),
    Family(
        "questions about descriptors", (),
        ("fcntl 3 F_GETOWN", "fcntl 3 F_GETSIG", "fcntl 3 F_GETLEASE", "fcntl 3 F_GET_RW_HINT"),
        ("fcntl 3 F_SETOWN 1", "fcntl 3 F_SETSIG SIGKILL", "fcntl 3 F_SETLEASE F_WRLCK", "fcntl 3 F_NOTIFY",
         "fcntl 3 F_SETFL O_DIRECT"),
    ),
    Family(
        "giving up", (),
        ("prctl PR_SET_DUMPABLE 0", "prctl PR_SET_KEEPCAPS 0", "prctl PR_CAPBSET_DROP CAP_SYS_ADMIN", "prctl PR_SET_MDWE 1",
         "prctl PR_CAP_AMBIENT PR_CAP_AMBIENT_CLEAR_ALL"),
        ("prctl PR_SET_DUMPABLE 1", "prctl PR_SET_DUMPABLE 2", "prctl PR_SET_KEEPCAPS 1", "prctl PR_SET_SECCOMP 1",
         "prctl PR_CAP_AMBIENT PR_CAP_AMBIENT_RAISE", "prctl PR_SET_SECUREBITS 0", "prctl PR_SET_PTRACER -1",
         "prctl PR_SET_SPECULATION_CTRL 0 PR_SPEC_ENABLE", "prctl PR_SET_MM", "prctl PR_SCHED_CORE",
         "prctl PR_SET_CHILD_SUBREAPER 1"),
    ),
    Family("its own signals", (), ("signalfd -1", "signalfd4 -1 0 8 SFD_CLOEXEC"), ("pidfd_open 7", "timerfd_create 0")),
    Family(
        "bits of open that the kernel ignores", (READS, WRITES, CREATES),
        ("openat 3 0 0x10|O_WRONLY|O_CREAT|O_TRUNC 0o644", "openat 3 0 0x10", "openat 3 0 0x38|O_WRONLY|O_TRUNC",
         "openat 3 0 O_WRONLY|O_CREAT|O_EXCL|0x800000 0o600", "openat 3 0 O_RDWR|O_CREAT|O_TRUNC 0o644",
         "openat 3 0 O_WRONLY|O_CREAT 0o1644"),
        ("openat 3 0 O_RDWR", "openat 3 0 O_RDWR|O_CREAT 0o644", "openat 3 0 O_RDONLY|O_TRUNC", "openat 3 0 O_WRONLY|O_DIRECT",
         "openat 3 0 O_WRONLY|0x2000", "openat 3 0 O_WRONLY|O_CREAT 0o4755", "openat 3 0 O_WRONLY|O_CREAT|O_TRUNC 0o2755",
         "openat 3 0 3", "openat 3 0 O_RDWR|O_CREAT|O_TRUNC 0o6644", "openat 3 0 O_EXCL"),
        "openat 3 0 0x10",
    ),
    Family(
        "reading what it has emptied, where it does not read", (WRITES, CREATES), (),
        ("openat 3 0 O_RDWR|O_CREAT|O_TRUNC 0o644",),
    ),
    Family("what is on the disk", (WRITES,), ("sync", "syncfs 3", "fsync 3"), ("swapoff", "reboot"), "sync"),
    Family(
        "folders", (CREATES,), ("mkdir 0 0o1777", "mkdirat 3 0 0o3777", "mknod 0 S_IFREG|0o1644"),
        ("mknod 0 S_IFREG|0o4755", "mknod 0 S_IFCHR|0o666 0x103", "rmdir", "chmod 0 0o1777"), "mkdir 0 0o1777",
    ),
    Family(
        "modes", ("chmod: mode & 0o7000 == 0",), ("fchmod 3 0o1777", "fchmodat 3 0 0o1755"),
        ("chmod 0 0o4755", "fchmodat 3 0 0o2755", "chown"), "fchmod 3 0o1777",
    ),
    Family(
        "attributes by name and by descriptor", (READS, "fsetxattr: allow"),
        ("setxattr 0 0 0 0 XATTR_CREATE", "lsetxattr", "setxattrat 3 0 AT_SYMLINK_NOFOLLOW"),
        ("removexattr", "fremovexattr", "chmod 0 0o644", "setxattr 0 0 0 0 8"), "setxattr",
    ),
    Family("attributes by name", ("lsetxattr: allow",), ("setxattr", "fsetxattr"), ("lremovexattr",), "fsetxattr"),
    Family("removing attributes", ("removexattr: allow",), ("lremovexattr", "fremovexattr"), ("setxattr",), "lremovexattr"),
    Family("attributes of what it holds open", ("fsetxattr: allow",), (), ("setxattr", "lsetxattr")),
    Family(
        "attributes by name, where files are confined", (READS, "fsetxattr: allow", "path /srv: read, write"), (),
        ("setxattr", "lsetxattr"),
    ),
)  # fmt: skip


def policy_of(given: tuple[str, ...]) -> str:
    """The text of a policy with these entries."""
    parts: dict[str, list[str]] = {}
    for entry in given:
        name, _, body = entry.partition(": ")
        parts.setdefault(name, []).append(body)
    lines = [f"{name}: {' || '.join(bodies)}" for name, bodies in parts.items() if not name.startswith("path ")]
    return "\n".join(["implied 1", *(entry for entry in given if entry.startswith("path ")), *lines, ""])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_family_is_allowed_and_its_dangerous_neighbours_are_not(family: Family) -> None:
    policy = parse(policy_of(family.given)).policy
    assert [call for call in family.allowed if not evaluate(policy, event(call)).allows] == []
    assert [call for call in family.denied if evaluate(policy, event(call)).allows] == []
    if family.without:
        assert not evaluate(parse("implied 1\n").policy, event(family.without)).allows


@pytest.mark.parametrize("arch", [Arch.I386, Arch.AARCH64])
@pytest.mark.parametrize("bits", ["0x10", "0x800000", "O_NOFOLLOW|O_DIRECTORY", "O_CLOEXEC|O_NOATIME"])
def test_the_same_on_other_architectures(arch: Arch, bits: str) -> None:
    policy = parse(f"arch {arch}\nimplied 1\n{WRITES}\n").policy
    assert evaluate(policy, event(f"openat 3 0 O_WRONLY|{bits}", arch=arch)).allows
    assert not evaluate(policy, event(f"openat 3 0 O_WRONLY|O_DIRECT|{bits}", arch=arch)).allows
