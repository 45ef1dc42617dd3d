"""Which entries grant a capability, and which just do not: the edges of each."""

from __future__ import annotations

import pytest
from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.implied.resolve import granted, least, witnessed
from callfence.policygen.implied.tables import capabilities
from callfence.policygen.learning import generate as generating
from callfence.policygen.learning.extend import Options
from callfence.policygen.model import Policy, alternatives
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.sets.region import example, space, to_bdd
from callfence.tracer.abi import Arch, Event, table

WRITES, UPDATES, CREATES = ({f"{verb} files"} for verb in ("writes", "updates", "creates"))
READS = {"reads files", "lists folders"}
NOTHING: set[str] = set()
REMOVES = {"removes files"}
FOLDERS_GO = {"removes folders"}
TCP, UDP, SOCKETS = {"has internet stream sockets"}, {"has internet datagram sockets"}, {"has sockets"}
LOCKS, CODE, ACCEPTS = {"locks files"}, {"maps code of files"}, {"accepts connections"}
SENDS, ADDRESSES, FOLDERS, MUSL = {"sends messages"}, {"sends to addresses"}, {"lists folders"}, {"starts musl's threads"}
STARTS, THREADS = {"starts processes"}, {"starts threads"}
FATAL, TERMINALS = {"sends fatal signals"}, {"sets terminals"}
WRITTEN = {"runs code that it writes"}
NETLINK, NETWORKS = {"has netlink sockets"}, {"asks about networks"}

ENTRIES = (
    # a file is one of those that the user may open only if the policy compares no more than flags and mode
    ("openat: flags == O_RDONLY", READS),
    ("openat: allow", READS | FOLDERS | WRITES | UPDATES | CREATES),
    ("open: flags == O_RDONLY", READS),
    ("openat: flags in O_CLOEXEC", READS),
    ("openat: flags in O_CLOEXEC|O_NOFOLLOW|O_DIRECTORY", READS | FOLDERS),
    ("openat: flags == O_RDONLY|O_DIRECTORY|O_CLOEXEC", FOLDERS),
    ("openat: flags == O_PATH|O_DIRECTORY", NOTHING),
    ("openat: flags == O_RDONLY|O_CLOEXEC", READS),
    ("openat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC|O_CREAT && mode == 0644", NOTHING),
    ("openat: !(flags has O_CREAT)", READS | FOLDERS | WRITES | UPDATES),
    ("openat: dfd == 5 && flags == O_RDONLY", NOTHING),
    ("openat: dfd == 5 && flags == O_RDONLY || flags == O_RDONLY|O_CLOEXEC", READS),
    ("openat: dfd == AT_FDCWD && flags in O_CLOEXEC", NOTHING),
    ("openat: flags == O_PATH", NOTHING),
    ("openat: flags == O_PATH|O_CLOEXEC", NOTHING),
    ("openat: flags in O_PATH|O_CLOEXEC", READS),
    ("openat: flags has O_PATH", NOTHING),
    ("openat2: allow", NOTHING),
    ("stat: allow\nreadlink: allow\nread: allow\nexecve: allow", NOTHING),
    # writing
    ("openat: flags == O_WRONLY", WRITES),
    ("openat: flags == O_WRONLY|O_APPEND", WRITES),
    ("openat: flags == O_WRONLY|O_TRUNC", WRITES),
    ("openat: flags == O_RDWR", UPDATES),
    ("openat: flags == O_WRONLY|O_PATH", NOTHING),
    ("openat: dfd == 5 && flags == O_WRONLY", NOTHING),
    # creating: what is created may exist already, unless O_EXCL is there
    ("openat: flags == O_WRONLY|O_CREAT && mode == 0644", WRITES | CREATES),
    ("openat: flags == O_RDWR|O_CREAT && mode == 0600", UPDATES | CREATES),
    ("openat: flags == O_WRONLY|O_CREAT|O_EXCL && mode == 0600", CREATES),
    ("openat: flags == O_RDWR|O_CREAT|O_EXCL && mode == 0600", CREATES),
    ("openat: flags == O_RDWR|O_TMPFILE && mode == 0600", NOTHING),  # no name, hence less than a new file
    ("openat: flags == O_RDONLY|O_CREAT && mode == 0600", NOTHING),  # empty, hence less than a file of its own content
    ("openat: flags == 3|O_CREAT && mode == 0600", NOTHING),
    ("creat: mode == 0644", WRITES | CREATES),
    ("openat: flags == O_WRONLY|O_CREAT && mode == 04755", NOTHING),
    ("openat: flags == O_WRONLY|O_CREAT && mode has S_ISUID", NOTHING),
    ("openat: flags == O_WRONLY|O_CREAT && mode == 02755 || flags == O_RDWR|O_TMPFILE && mode == 01777", NOTHING),
    ("creat: mode == 06755", NOTHING),
    ("openat: dfd == 5 && flags == O_WRONLY|O_CREAT && mode == 0644", NOTHING),
    ("mknod: allow\nmknodat: allow", NOTHING),
    # locks
    ("fcntl: cmd == F_SETLK", LOCKS),
    ("fcntl: cmd in {F_GETFD, F_OFD_SETLKW}", LOCKS),
    ("flock: allow", LOCKS),
    ("flock: cmd == LOCK_SH|LOCK_NB", LOCKS),
    ("flock: cmd == LOCK_UN", NOTHING),
    ("fcntl: cmd == F_GETLK", NOTHING),
    ("fcntl: fd == 3 && cmd == F_SETLK", NOTHING),
    ("fcntl: cmd == F_SETLEASE", NOTHING),
    # code of files
    ("mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE", CODE),
    ("mmap: prot == PROT_READ|PROT_EXEC && flags in MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE", CODE),
    ("mprotect: prot == PROT_READ|PROT_WRITE|PROT_EXEC", WRITTEN),
    ("mprotect: prot in {PROT_READ, PROT_READ|PROT_WRITE|PROT_EXEC}", WRITTEN),
    ("mprotect: prot == PROT_READ|PROT_EXEC", NOTHING),
    ("mprotect: prot == PROT_READ|PROT_WRITE|PROT_EXEC && len < 4096", NOTHING),
    ("mmap: prot == PROT_READ|PROT_WRITE|PROT_EXEC && flags == MAP_PRIVATE|MAP_ANONYMOUS", NOTHING),
    ("mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE|MAP_ANONYMOUS", NOTHING),
    ("mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_SHARED", NOTHING),
    ("mmap: prot == PROT_READ|PROT_WRITE|PROT_EXEC && flags == MAP_PRIVATE", NOTHING),
    ("mmap: prot == PROT_EXEC && flags == MAP_PRIVATE", NOTHING),
    ("mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE && fd == 3", NOTHING),
    # sockets
    ("socket: family == AF_UNIX && type == SOCK_STREAM && protocol == 0", SOCKETS),
    ("socket: family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_IP", SOCKETS | TCP),
    ("socket: family == AF_INET6 && type == SOCK_STREAM|SOCK_CLOEXEC && protocol == IPPROTO_TCP", SOCKETS | TCP),
    ("socket: family == AF_INET && type == SOCK_DGRAM|SOCK_NONBLOCK && protocol == IPPROTO_UDP", SOCKETS | UDP),
    ("socket: family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_SCTP", SOCKETS),
    ("socket: family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_MPTCP", SOCKETS),
    ("socket: family == AF_INET && type == SOCK_DGRAM && protocol == IPPROTO_ICMP", SOCKETS),
    ("socket: family == AF_INET && type == SOCK_RAW && protocol == IPPROTO_ICMP", NOTHING),
    ("socket: family == AF_NETLINK && type == SOCK_RAW && protocol == NETLINK_ROUTE", NETLINK | NETWORKS),
    ("socket: family == AF_NETLINK && type & 0xf == SOCK_RAW && protocol == NETLINK_AUDIT", NETLINK),
    ("socket: family == AF_PACKET && type == SOCK_RAW", NOTHING),
    ("socket: family == AF_PACKET && type == SOCK_RAW", NOTHING),
    ("accept4: flags == SOCK_CLOEXEC", SOCKETS | ACCEPTS),
    ("accept: allow", SOCKETS | ACCEPTS),
    ("accept: fd == 3", NOTHING),
    ("accept4: fd == 3 && flags == 0", NOTHING),
    ("socketpair: family == AF_UNIX && type == SOCK_STREAM && protocol == 0", SOCKETS),
    ("socketpair: allow", SOCKETS),
    ("bind: allow\nlisten: allow\nconnect: allow", NOTHING),
    # messages
    ("sendmsg: allow", SENDS),
    ("sendto: allow", ADDRESSES),
    ("sendto: addr_len == 16", ADDRESSES),
    ("sendto: addr_len == 0", NOTHING),
    ("sendmsg: flags == MSG_NOSIGNAL", SENDS),
    ("sendmmsg: flags == 0", SENDS),
    ("sendto: flags == 0", ADDRESSES),
    ("sendto: flags == MSG_NOSIGNAL && addr_len == 0", NOTHING),
    ("sendmsg: fd == 3", NOTHING),
    # processes
    ("clone: clone_flags == SIGCHLD", STARTS),
    ("clone: clone_flags == CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD", STARTS),
    ("clone: clone_flags == CLONE_VM|CLONE_VFORK|SIGCHLD", STARTS),
    ("fork: allow", STARTS),
    ("vfork: allow", STARTS),
    ("clone: clone_flags == CLONE_NEWUSER|SIGCHLD", NOTHING),
    # threads: they share all that the program has
    ("clone: clone_flags == CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD", THREADS),
    ("clone: clone_flags == CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM", THREADS),
    ("clone: clone_flags has CLONE_THREAD", THREADS | MUSL),
    ("clone: clone_flags == CLONE_VM|CLONE_SIGHAND|CLONE_THREAD", NOTHING),
    ("clone: clone_flags == CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_NEWUSER", NOTHING),
    ("clone: clone_flags == CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_DETACHED", THREADS),
    ("execve: allow\nclone3: allow", NOTHING),
    # signals: to any process, and one that ends it
    ("kill: sig == SIGTERM", FATAL),
    ("kill: allow", FATAL),
    ("tgkill: sig == SIGKILL", FATAL),
    ("kill: sig == SIGUSR1", NOTHING),  # a command to the process that catches it
    ("tgkill: sig in {SIGHUP, SIGINT, SIGABRT, SIGUSR2}", NOTHING),
    ("kill: pid == 3 && sig == SIGTERM", NOTHING),
    ("kill: pid == 3 && sig == SIGTERM || sig == 0", NOTHING),
    ("kill: sig == 0", NOTHING),
    ("kill: sig in {SIGCHLD, SIGCONT, SIGSTOP, SIGWINCH, SIGURG}", NOTHING),
    ("tgkill: tgid == 3 && sig == SIGKILL", NOTHING),
    ("pidfd_send_signal: allow", NOTHING),
    # names of files
    ("unlink: allow", REMOVES),
    ("unlinkat: flag == 0", REMOVES),
    ("unlinkat: allow", REMOVES | FOLDERS_GO),
    ("unlinkat: flag == AT_REMOVEDIR", FOLDERS_GO),
    ("rmdir: allow", FOLDERS_GO),
    ("unlinkat: dfd == 3 && flag == 0", NOTHING),
    ("mkdir: mode == 0o755", {"makes folders"}),
    ("mkdirat: allow", {"makes folders"}),
    ("mkdirat: dfd == 3", NOTHING),
    ("rename: allow", {"renames files"}),
    ("renameat: allow", {"renames files"}),
    ("renameat: olddfd == 3", NOTHING),
    ("renameat2: flags == RENAME_NOREPLACE", {"renames files"}),
    ("renameat2: flags == RENAME_WHITEOUT", NOTHING),
    ("linkat: flags == 0", {"makes links"}),
    ("linkat: flags == AT_EMPTY_PATH", NOTHING),
    ("symlink: allow", {"makes symbolic links"}),
    ("symlinkat: allow", {"makes symbolic links"}),
    ("chmod: mode & 0o7000 == 0", {"changes modes"}),
    ("fchmodat: mode & 0o7000 == 0", {"changes modes"}),
    ("fchmodat2: flags == 0 && mode & 0o7000 == 0", {"changes modes"}),
    ("chmod: mode == S_ISUID|0o755", NOTHING),
    ("fchmod: allow", NOTHING),  # of what it holds open only
    ("chmod: mode & 0o7000 == 0o1000", {"changes modes"}),
    ("setxattr: flags == XATTR_CREATE", {"sets attributes"}),
    ("lsetxattr: allow", {"sets attributes"}),
    ("setxattrat: at_flags == AT_EMPTY_PATH", {"sets attributes"}),
    ("setxattrat: dfd == 3", NOTHING),
    ("fsetxattr: allow", {"sets attributes of open files"}),
    ("fsetxattr: fd == 3", NOTHING),
    ("removexattr: allow", {"removes attributes"}),
    ("lremovexattr: allow", {"removes attributes"}),
    ("removexattrat: allow", {"removes attributes"}),
    ("fremovexattr: allow", {"removes attributes of open files"}),
    ("chown: allow", {"changes owners"}),
    ("lchown: allow", {"changes owners"}),
    ("fchownat: allow", {"changes owners"}),
    ("fchown: allow", NOTHING),
    ("chown: user == 0", NOTHING),
    ("utime: allow", {"sets times"}),
    ("utimes: allow", {"sets times"}),
    ("futimesat: allow", {"sets times"}),
    ("utimensat: flags == 0", {"sets times"}),
    # options of sockets that both versions of IP have
    ("setsockopt: level == SOL_IP && optname == IP_MTU_DISCOVER", {"probes paths"}),
    ("setsockopt: level == SOL_IPV6 && optname == IPV6_MTU_DISCOVER", {"probes paths"}),
    ("setsockopt: level == SOL_IPV6 && optname == IPV6_DONTFRAG", {"probes paths"}),
    ("setsockopt: level == SOL_IP && optname == IP_TOS", {"marks packets"}),
    ("setsockopt: level == SOL_IPV6 && optname == IPV6_TCLASS", {"marks packets"}),
    ("setsockopt: level == SOL_IP && optname in {IP_TTL, IP_RECVTTL}", {"limits hops"}),
    ("setsockopt: level == SOL_IPV6 && optname == IPV6_UNICAST_HOPS", {"limits hops"}),
    ("setsockopt: fd == 3 && level == SOL_IP && optname == IP_TTL", NOTHING),
    ("setsockopt: level == SOL_TCP && optname == IP_MTU_DISCOVER", NOTHING),
    # timers, and processes to which it attaches
    ("timer_create: which_clock == CLOCK_REALTIME", {"has timers"}),
    ("timer_settime: allow", NOTHING),
    ("ptrace: request == PTRACE_ATTACH && addr == 0 && data == 0", {"attaches to processes"}),
    ("ptrace: request == PTRACE_SEIZE", {"attaches to processes"}),
    ("ptrace: request == PTRACE_TRACEME", NOTHING),
    # terminals
    ("ioctl: cmd == TCSETS", TERMINALS),
    ("ioctl: cmd in {TCGETS, TCSETSF}", TERMINALS),
    ("ioctl: fd == 0 && cmd == TCSETS", NOTHING),
    ("ioctl: cmd in {TCGETS, TIOCGWINSZ}", NOTHING),
    ("ioctl: cmd == TIOCSTI", NOTHING),
    # what denies grants nothing; what is logged runs, and what a supervisor decides may not
    ("openat: deny", NOTHING),
    ("openat: errno EACCES", NOTHING),
    ("openat: notify", NOTHING),
    ("openat: log", READS | FOLDERS | WRITES | UPDATES | CREATES),
    ("openat: errno EACCES if flags != O_RDONLY else allow", READS),
    ("openat: kill if flags & O_ACCMODE == O_RDONLY else allow", WRITES | UPDATES | CREATES),
    ("openat: flags == O_RDONLY else errno EPERM", READS),
)


@pytest.mark.parametrize(("entry", "names"), ENTRIES)
def test_an_entry_grants_what_it_grants_whatever_else_is_asked_for(entry: str, names: set[str]) -> None:
    assert granted(parse(f"implied 1\n{entry}\n").policy) == names


def test_every_capability_is_an_edge_of_the_table() -> None:
    """Some entry of the table has it, and some entry of one of its calls has nothing."""
    told = {name for _, names in ENTRIES for name in names}
    assert told == {one.name for one in capabilities(Arch.X86_64)}


def test_a_default_that_allows_does_not_grant_what_is_denied() -> None:
    denied = granted(parse("default allow\nopenat: kill\nopen: errno EPERM\ncreat: kill\n").policy)
    assert denied == granted(parse("default allow\n").policy) - READS - FOLDERS - WRITES - UPDATES - CREATES


def test_a_default_that_allows_grants_everything() -> None:
    assert granted(parse("default allow\n").policy) == {one.name for one in capabilities(Arch.X86_64)}


def test_what_the_set_adds_grants_nothing() -> None:
    """Reading implies O_CLOEXEC and the like; that is no capability of its own."""
    policy = parse("implied 1\nopenat: flags == O_RDONLY\n").policy
    assert granted(policy) == READS
    assert evaluate(policy, event("openat", 0, 0, 0o2000000)).allows
    assert evaluate(policy, event("tgkill", 1, 1, 6)).allows
    assert not evaluate(policy, event("tgkill", 1, 1, 9)).allows


def test_a_capability_of_one_architecture_counts_on_all() -> None:
    policy = parse("implied 1\narch x86_64\nopenat: flags == O_RDONLY\narch i386\ngetpid: allow\n").policy
    assert granted(policy) == READS
    assert evaluate(policy, event("i386 stat64")).allows


@pytest.mark.parametrize("arch", Arch)
def test_the_least_entry_grants_its_capability_and_what_every_way_to_do_it_does(arch: Arch) -> None:
    names = {one.name for one in capabilities(arch) if one.is_least}
    assert len(names) > 5
    for name in names:
        (one,) = least(arch, name)
        also = SOCKETS if name in ACCEPTS else THREADS if name in MUSL else FOLDERS if name in READS else NOTHING
        assert granted(Policy({arch: {one.number: one.entry}}, implied=1)) == {name} | also


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (event("openat", 5, 0, 0), READS),
        (event("openat AT_FDCWD 0 O_CLOEXEC"), READS),
        (event("openat AT_FDCWD 0 O_PATH"), NOTHING),
        (event("openat AT_FDCWD 0 O_WRONLY|O_CREAT 0o644"), WRITES | CREATES),
        (event("openat AT_FDCWD 0 O_WRONLY|O_CREAT 0o4755"), NOTHING),
        (event("kill 3 SIGTERM"), FATAL),
        (event("kill 3 SIGWINCH"), NOTHING),
        (event("sendto", 3, 0, 0, 0, 0, 0), NOTHING),
        (event("sendto", 3, 0, 0, 0, 0, 16), ADDRESSES),
        (event("openat AT_FDCWD 0 O_RDWR|O_TMPFILE 0o600"), NOTHING),
        (event("5000"), NOTHING),
    ],
)
def test_a_call_takes_capabilities(call: Event, names: set[str]) -> None:
    """The file that is opened, the process that is sent a signal, decide nothing: learning does not hold them."""
    assert {one.name for one in witnessed(call)} == names


@pytest.mark.parametrize("arch", Arch)
def test_a_policy_learned_from_a_call_has_its_capabilities(arch: Arch) -> None:
    """Otherwise what the call's row is meant to imply would be missing from learned policies."""
    for one in capabilities(arch):
        sets, arguments = space(), table(arch).by_number[one.number].arguments
        for part in alternatives(one.entry.expression):
            call = example(sets, to_bdd(sets, part, arguments), arch, one.number)
            folder = Aggregator()
            folder.counter("/app", call, str)[0] += 1
            made = generating.generate(folder.observations(), None, name="app", options=Options(implied=1)).document
            assert granted(made.policy) >= {row.name for row in witnessed(call)}, made.text()
