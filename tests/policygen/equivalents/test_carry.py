"""Carried policies: what each call becomes, that nothing is allowed whose effect was denied, and what is reported as lost.

`preimages` is written by hand and without the tables and sets of the code under test: it says, for one concrete call of
aarch64, which calls of x86_64 do the same.
"""

from __future__ import annotations

import random

import pytest
from calls import event, parse
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from strategies import EXAMPLES, conditions, entries, policies

from callfence.policygen.equivalents.between import Renumbering, Selected, hops, renumbering, renumberings
from callfence.policygen.equivalents.carry import CarryError, carry
from callfence.policygen.equivalents.compare import gaps, pairs
from callfence.policygen.equivalents.effects import allowed
from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.lift import lift
from callfence.policygen.language.naming import format_entry
from callfence.policygen.language.operands import operands
from callfence.policygen.model import ENOSYS, KILL, Always, And, Entry, Policy
from callfence.policygen.phases import phase_policies
from callfence.policygen.sets.algebra import FALSE, Space
from callfence.policygen.sets.region import BITS, event as event_at, space
from callfence.tracer.abi import Arch, Event, constants, name_of, table

X86_64, I386, AARCH64 = Arch.X86_64, Arch.I386, Arch.AARCH64
SLOW = settings(max_examples=max(20, EXAMPLES), suppress_health_check=list(HealthCheck))
CWD = 0xFFFFFF9C  # AT_FDCWD
BTI_CODE = (0x15, 0x812)  # PROT_READ|PROT_EXEC|PROT_BTI, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE
SIGCHLD, VFORK = 17, 0x4000 | 0x100 | 17


def section(text: str, source: Arch = X86_64, target: Arch = AARCH64) -> dict[str, str]:
    """The carried section: the entry of each call, by name, without those of an implied set."""
    policy = carry(parse(f"arch {source}\n{text}").policy, source, target).policy
    lines = {number: format_entry(target, number, entry) for number, entry in policy.entries[target].items()}
    return {table(target).by_number[number].name: " ".join(text.split(": ", 1)[1].split()) for number, text in lines.items()}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("read: fd == 0", {"read": "fd == 0"}),
        ("read: fd == 1 || fd in {1, 2}", {"read": "fd in {1, 2}"}),
        ("open: flags == O_RDONLY|O_CLOEXEC", {"openat": "dfd == AT_FDCWD && flags == O_RDONLY|O_CLOEXEC"}),
        ("open: flags == O_RDONLY|O_DIRECTORY", {"openat": "dfd == AT_FDCWD && flags == O_RDONLY|O_DIRECTORY"}),
        ("openat: flags in O_DIRECT|O_NOFOLLOW|O_LARGEFILE", {"openat": "flags in O_DIRECT|O_LARGEFILE|O_NOFOLLOW"}),
        ("openat: flags == O_RDWR|O_TMPFILE", {"openat": "flags == O_RDWR|O_TMPFILE"}),
        ("openat: flags & O_ACCMODE == O_RDONLY && !(flags has O_DIRECT)",
         {"openat": "!(flags has O_DIRECT) && flags & O_ACCMODE == O_RDONLY"}),
        ("creat: allow", {"openat": "dfd == AT_FDCWD && flags == O_WRONLY|O_CREAT|O_TRUNC"}),
        ("stat: allow", {"newfstatat": "dfd == AT_FDCWD && flag == 0"}),
        ("lstat: allow", {"newfstatat": "dfd == AT_FDCWD && flag == AT_SYMLINK_NOFOLLOW"}),
        ("access: mode == R_OK", {"faccessat": "dfd == AT_FDCWD && mode == R_OK"}),
        ("poll: nfds <= 3", {"ppoll": "nfds <= 3"}),
        ("select: n < 9", {"pselect6": "n < 9"}),
        ("epoll_wait: maxevents == 4", {"epoll_pwait": "maxevents == 4"}),
        ("epoll_create: allow", {"epoll_create1": "flags == 0"}),
        ("pause: allow", {"ppoll": "nfds == 0"}),
        ("fork: allow", {"clone": "clone_flags == SIGCHLD", "clone3": "errno ENOSYS"}),
        ("vfork: allow", {"clone": "clone_flags == SIGCHLD|CLONE_VM|CLONE_VFORK", "clone3": "errno ENOSYS"}),
        ("dup2: allow", {"dup3": "flags == 0", "fcntl": "cmd == F_GETFL"}),
        ("dup2: newfd == 1", {"dup3": "newfd == 1 && flags == 0"}),
        ("pipe: allow", {"pipe2": "flags == 0"}),
        ("eventfd: count == 0", {"eventfd2": "count == 0 && flags == 0"}),
        ("inotify_init: allow", {"inotify_init1": "flags == 0"}),
        ("signalfd: ufd == -1", {"signalfd4": "ufd == -1 && flags == 0"}),
        ("mkdir: mode & 07000 == 0", {"mkdirat": "dfd == AT_FDCWD && mode & S_ISUID|S_ISGID|S_ISVTX == 0"}),
        ("rmdir: allow", {"unlinkat": "dfd == AT_FDCWD && flag == AT_REMOVEDIR"}),
        ("unlink: allow", {"unlinkat": "dfd == AT_FDCWD && flag == 0"}),
        ("rename: allow", {"renameat": "olddfd == AT_FDCWD && newdfd == AT_FDCWD"}),
        ("link: allow", {"linkat": "olddfd == AT_FDCWD && newdfd == AT_FDCWD && flags == 0"}),
        ("symlink: allow", {"symlinkat": "newdfd == AT_FDCWD"}),
        ("readlink: bufsiz == 9", {"readlinkat": "dfd == AT_FDCWD && bufsiz == 9"}),
        ("chmod: mode & 07000 == 0", {"fchmodat": "dfd == AT_FDCWD && mode & S_ISUID|S_ISGID|S_ISVTX == 0"}),
        ("chown: user == 0", {"fchownat": "dfd == AT_FDCWD && user == 0 && flag == 0"}),
        ("lchown: group == 0", {"fchownat": "dfd == AT_FDCWD && group == 0 && flag == AT_SYMLINK_NOFOLLOW"}),
        ("mknod: mode & 0170000 == S_IFIFO", {"mknodat": "dfd == AT_FDCWD && mode & 0170000 == S_IFIFO"}),
        ("utime: allow", {"utimensat": "dfd == AT_FDCWD && flags == 0"}),
        ("utimes: allow", {"utimensat": "dfd == AT_FDCWD && flags == 0"}),
        ("futimesat: dfd == 3", {"utimensat": "dfd == 3 && flags == 0"}),
        ("getdents: allow", {"getdents64": "allow"}),
        ("alarm: allow", {"setitimer": "which == ITIMER_REAL"}),
        ("time: allow", {"clock_gettime": "which_clock == CLOCK_REALTIME"}),
        ("getpgrp: allow", {"getpgid": "pid == 0"}),
        ("clone: newsp == 0 && clone_flags == SIGCHLD && tls == 7",
         {"clone": "clone_flags == SIGCHLD && newsp == 0 && tls == 0x7"}),
        ("fcntl: cmd == F_SETFL && arg == O_DIRECT", {"fcntl": "cmd == F_SETFL && arg == O_RDONLY|O_DIRECT"}),
        ("fcntl: cmd == F_SETOWN && arg == 0x4000", {"fcntl": "cmd == F_SETOWN && arg == 16384"}),
        ("ioctl: kill if cmd == TIOCSTI else allow", {"ioctl": "kill if cmd == TIOCSTI else allow"}),
        ("socket: family == AF_UNIX else errno EACCES", {"socket": "family == AF_UNIX else errno EACCES"}),
        ("socket: errno EACCES if family == AF_NETLINK", {"socket": "errno EACCES if family == AF_NETLINK"}),
        ("ptrace: request == PTRACE_SINGLEBLOCK", {}),
        ("ptrace: request in {PTRACE_CONT, PTRACE_GETREGS}", {"ptrace": "request == PTRACE_CONT"}),
        ("mmap: prot == PROT_READ && flags in MAP_PRIVATE|MAP_32BIT", {"mmap": "prot == PROT_READ && flags in MAP_PRIVATE"}),
        ("poll: nfds == 1 && timeout_msecs == 0", {}),
        ("arch_prctl: allow", {}),
        ("open: deny", {}),
        ("openat: deny\nopen: allow", {"openat": "deny"}),
    ],
)  # fmt: skip
def test_what_a_call_becomes(entry: str, expected: dict[str, str]) -> None:
    assert section(entry) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("openat: flags == O_RDONLY|O_DIRECTORY",
         {"open": "flags == O_RDONLY|O_DIRECTORY", "openat": "flags == O_RDONLY|O_DIRECTORY"}),
        ("openat: dfd == 3 && flags == O_RDONLY", {"openat": "dfd == 3 && flags == O_RDONLY"}),
        ("faccessat: mode == 0", {"access": "mode == F_OK", "faccessat": "mode == F_OK"}),
        ("unlinkat: flag == AT_REMOVEDIR", {"rmdir": "allow", "unlinkat": "flag == AT_REMOVEDIR"}),
        ("ppoll: nfds == 2", {"poll": "nfds == 2", "ppoll": "nfds == 2"}),
        ("clone: clone_flags == SIGCHLD", {"clone": "clone_flags == SIGCHLD", "fork": "allow"}),
        ("dup3: flags == 0", {"dup2": "allow", "dup3": "flags == 0"}),
        ("dup3: flags == O_CLOEXEC", {"dup3": "flags == O_CLOEXEC"}),
        ("epoll_pwait: allow", {"epoll_pwait": "allow", "epoll_wait": "allow"}),
    ],
)  # fmt: skip
def test_back_to_the_architecture_with_more_calls(entry: str, expected: dict[str, str]) -> None:
    assert section(entry, AARCH64, X86_64) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("fstatat64: dfd == AT_FDCWD && flag == 0", {"newfstatat": "dfd == AT_FDCWD && flag == 0"}),
        ("mmap2: prot == PROT_READ && flags == MAP_PRIVATE", {"mmap": "prot == PROT_READ && flags == MAP_PRIVATE"}),
        ("socketcall: call == SYS_LISTEN", {"listen": "allow"}),
        ("ipc: call == SHMGET", {"shmget": "allow"}),
        ("clock_gettime64: which_clock == CLOCK_REALTIME", {"clock_gettime": "which_clock == CLOCK_REALTIME"}),
        ("setuid32: uid == 7", {"setuid": "uid == 7"}),
        ("setuid: uid == 7", {}),
        ("ioctl: cmd == BLKGETSIZE64", {"ioctl": "cmd == BLKGETSIZE64"}),
        ("ioctl: cmd == FS_IOC_SETFLAGS", {"ioctl": "cmd in {FS_IOC32_SETFLAGS, FS_IOC_SETFLAGS}"}),
        ("ioctl: cmd != FS_IOC_SETFLAGS", {"ioctl": "cmd != FS_IOC32_SETFLAGS && cmd != FS_IOC_SETFLAGS"}),
        ("ioctl: cmd != BLKGETSIZE64", {"ioctl": "cmd != -2147216782 && cmd != BLKGETSIZE64"}),
    ],
)  # fmt: skip
def test_from_32_bits(entry: str, expected: dict[str, str]) -> None:
    assert section(entry, I386, AARCH64) == expected


@pytest.mark.parametrize("source", [I386, Arch.ARM])
@pytest.mark.parametrize(("entry", "first"), [("fcntl: fd == 0", 0), ("prctl: option == PR_SET_NAME", 15)])
def test_wider_registers_have_any_value_where_narrow_ones_do(entry: str, first: int, source: Arch) -> None:
    """Beside the entry, the implied set allows such calls with some values of the third argument alone."""
    policy = carry(parse(f"implied 1\narch {source}\n{entry}\n").policy, source, X86_64).policy
    assert allows(policy, entry.partition(":")[0], (first, 1 << 40, 1 << 40, 0, 0, 0))


def test_constants_that_move_are_single_bits_or_whole_values() -> None:
    """`Renumbering` has these two, and no fields of several bits; and constants of several bits are made of those that move."""
    for source in Arch:
        for target in Arch:
            for name in constants.families():
                here, there = constants.family(name, source), constants.family(name, target)
                moves = renumbering(source, target, name, name, (1 << 64) - 1)
                for word in {*here.names} & {*there.names}:
                    old, new = (family.names[word] & (1 << 64) - 1 for family in (here, there))
                    is_whole = here.mask(word) == ~0
                    assert new in moves.values_there(old) if is_whole else new == moves.bits_there(old), (name, word)


def test_calls_without_a_counterpart_are_known() -> None:
    """Each other call of x86_64 leads somewhere: a new one needs a row, or a place here."""
    lost = [name for name, call in table(X86_64).by_name.items() if (X86_64, call.number) not in hops(X86_64, AARCH64)]
    assert sorted(lost) == [
        "_sysctl", "afs_syscall", "arch_prctl", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms",
        "get_thread_area", "getpmsg", "ioperm", "iopl", "modify_ldt", "putpmsg", "query_module", "security", "set_thread_area",
        "sysfs", "tuxcall", "uprobe", "uretprobe", "uselib", "ustat", "vserver",
    ]  # fmt: skip
    assert all((AARCH64, call.number) in hops(AARCH64, X86_64) for call in table(AARCH64).by_name.values())


# Properties


def moved(value: int) -> int:
    """The flags of open on x86_64 that have the names of those on aarch64."""
    # O_DIRECT, O_LARGEFILE, O_DIRECTORY, O_NOFOLLOW
    pairs = {0x10000: 0x4000, 0x20000: 0x8000, 0x4000: 0x10000, 0x8000: 0x20000}
    return value & ~0x3C000 | sum(there for here, there in pairs.items() if value & here)


def preimages(name: str, a: tuple[int, ...]) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Groups of calls of x86_64: the call of aarch64 does what those of one group do, whatever differs between these."""
    low = [value & 0xFFFFFFFF for value in a]
    here = low[0] == CWD
    same = list(a)
    result: list[list[tuple[str, tuple[int, ...]]]] = []
    if name == "openat":
        same[2] = moved(a[2])
        if here:
            result += [[("open", (a[1], moved(a[2]), a[3]))]]
            if low[2] == 0o1101:
                result += [[("creat", (a[1], a[3]))]]
    elif name == "clone":
        same[3], same[4] = a[4], a[3]
        result += [[("fork", ())]] if low[0] == SIGCHLD else []
        result += [[("vfork", ())]] if low[0] == VFORK else []
    elif name == "fcntl" and low[1] == 4:
        same[2] = moved(a[2])
    elif name == "ptrace" and a[0] & (1 << 64) - 1 == 33:
        return [[("ptrace", (request, *a[1:])) for request in (0, 1, 7, 12, 33, 1 << 40)]]
    elif name == "ppoll":
        result += [[("poll", (a[0], a[1], timeout)) for timeout in (0, 1, 5, 0xFFFFFFFF, 1 << 31, 4096)]]
        result += [[("pause", ())]] if low[1] == 0 else []
    elif name == "pselect6":
        result += [[("select", a[:4])]]
    elif name == "epoll_pwait":
        result += [[("epoll_wait", a[:4])]]
    elif name == "epoll_create1" and low[0] == 0:
        result += [[("epoll_create", (size,)) for size in (0, 1, 8, 1024, 0x7FFFFFFF, 0xFFFFFFFF)]]
    elif name == "unlinkat" and here:
        result += [[("unlink", (a[1],))]] if low[2] == 0 else [[("rmdir", (a[1],))]] if low[2] == 0x200 else []
    elif name == "newfstatat" and here:
        result += [[("stat", ())]] if low[3] == 0 else [[("lstat", ())]] if low[3] == 0x100 else []
    elif name == "faccessat" and here:
        result += [[("access", (a[1], a[2]))]]
    elif name == "mkdirat" and here:
        result += [[("mkdir", (a[1], a[2]))]]
    elif name == "fchmodat" and here:
        result += [[("chmod", (a[1], a[2]))]]
    elif name == "fchownat" and here:
        result += [[("chown", a[1:4])]] if low[4] == 0 else [[("lchown", a[1:4])]] if low[4] == 0x100 else []
    elif name == "dup3" and low[2] == 0:
        result += [[("dup2", a[:2])]]
    elif name == "pipe2":
        same[1] = a[1] & ~0x14000 | (a[1] & 0x4000) << 2 | (a[1] & 0x10000) >> 2  # O_DIRECT; the other has no name
        result += [[("pipe", ())]] if low[1] == 0 else []
    elif name == "setitimer" and low[0] == 0:
        result += [[("alarm", (seconds,)) for seconds in (0, 1, 60, 1 << 31, 0xFFFFFFFF)]]
    elif name == "clock_gettime" and low[0] == 0:
        result += [[("time", ())]]
    return [[(name, tuple(same))], *result]


NAMES = (
    "openat", "open", "creat", "clone", "fork", "vfork", "fcntl", "ptrace", "ppoll", "poll", "pause", "pselect6", "select",
    "epoll_pwait", "epoll_wait", "epoll_create1", "epoll_create", "unlinkat", "unlink", "rmdir", "newfstatat", "stat", "lstat",
    "faccessat", "access", "mkdirat", "mkdir", "fchmodat", "chmod", "fchownat", "chown", "lchown", "dup3", "dup2", "pipe2",
    "pipe", "setitimer", "alarm", "clock_gettime", "time", "mmap", "ioctl", "read", "socket",
)  # fmt: skip


@st.composite
def plain(draw: st.DrawFn, arch: Arch, number: int) -> Entry:
    """An entry that allows a call under one or two conditions, most of which mean something."""
    if not operands(arch, number).constrainable():
        return Entry(Always(True))
    return Entry(And(tuple(draw(st.lists(conditions(arch, number), min_size=1, max_size=2)))))


@st.composite
def sources(draw: st.DrawFn, arch: Arch = X86_64) -> Policy:
    """Policies that deny by default, over calls that have other calls as equals on aarch64."""
    known = [table(arch).by_name[name].number for name in NAMES if name in table(arch).by_name]
    numbers = draw(st.lists(st.sampled_from(known), min_size=1, max_size=6, unique=True))
    made = {number: draw(plain(arch, number) | entries(arch, number)) for number in numbers}
    moving = table(arch).by_name[draw(st.sampled_from(["openat", "ptrace", "fcntl"]))].number  # constants with other numbers
    made[moving] = draw(plain(arch, moving))
    return Policy({arch: made}, default=draw(st.sampled_from([KILL, ENOSYS])), implied=draw(st.sampled_from([0, 0, 1])))


def allows(policy: Policy, name: str, registers: tuple[int, ...]) -> bool:
    filled = (*registers, *[0] * 6)[:6]
    number = table(X86_64).by_name[name].number
    return evaluate(policy, Event(X86_64.audit, number, filled)).allows  # type: ignore[arg-type]


def some_of(source: random.Random, sets: Space, where: int, number: int) -> Event:
    """A random call of aarch64 in a set that is not empty; what the set leaves free is random too, mostly 0."""
    point = 0
    for variable in range(BITS):
        low, high = sets.branches(where, variable)
        weight = 0.5 if low != high else 0.1
        bit = high != FALSE and (low == FALSE or source.random() < weight)
        where, point = (high if bit else low), point << 1 | bit
    return event_at(point)._replace(arch=AARCH64.audit, number=number)


@SLOW
@given(sources(), st.integers(0, 1 << 32))
def test_nothing_is_allowed_whose_effect_was_denied(before: Policy, seed: int) -> None:
    """For random calls that the carried entries allow, some group of calls of x86_64 that do the same is allowed whole.

    Of hypothesis's own random numbers each is an example's part, and with an implied set an example would have a million."""
    source = random.Random(seed)
    after = carry(before, X86_64, AARCH64).policy
    sets = space()
    for number, where in allowed(sets, after.entries[AARCH64], AARCH64, after.default).items():
        name = table(AARCH64).by_number[number].name
        for _ in range(20 if where != FALSE else 0):
            registers = some_of(source, sets, where, number).arguments
            if name == "fcntl" and registers[1] & 0xFFFFFFFF == 3:
                continue  # by dup2, too: F_GETFL changes nothing
            if (name in ("mmap", "mprotect") and registers[2] == 0) or (name == "mmap" and registers[2:4] == BTI_CODE):
                continue  # PROT_NONE and PROT_BTI, by the loader (libc.tsv)
            groups = preimages(name, registers)
            assert any(all(allows(before, *call) for call in group) for group in groups), (name, registers)


@pytest.mark.long
@SLOW
@given(st.data())
def test_what_is_carried_is_found_by_the_comparison(data: st.DataObject) -> None:
    """By the exact sets: the carried section has no effect of its own, and carrying once more adds nothing."""
    source, target = data.draw(st.sampled_from([(X86_64, AARCH64), (AARCH64, X86_64), (I386, AARCH64), (X86_64, I386)]))
    policy = data.draw(policies((source,), max_entries=2) | sources(source))
    assume(not policy.default.may_allow)
    done = carry(policy, source, target)
    assert not [gap for gap in gaps(done.policy, source, target) if gap.arch is target]
    assert carry(done.policy, source, target).policy == done.policy


@SLOW
@given(sources(AARCH64))
def test_there_and_back(policy: Policy) -> None:
    """x86_64 has each call of aarch64: nothing is lost on the way there, but values of aarch64 alone."""
    done = carry(policy, AARCH64, X86_64)
    lost = {loss.name for loss in done.losses}
    assert {table(AARCH64).by_number[gap.number].name for gap in gaps(done.policy, AARCH64, X86_64)} <= lost


# Policies as a whole


def test_a_default_that_allows_is_refused() -> None:
    with pytest.raises(CarryError, match="make its default deny"):
        carry(parse("default allow\nopen: kill\n").policy, X86_64, AARCH64)
    with pytest.raises(CarryError, match="no section"):
        carry(parse("arch aarch64\nread: allow\n").policy, X86_64, AARCH64)


def test_what_is_denied_explicitly_is_not_implied_there() -> None:
    """The implied set has `access` for a policy that reads files: it must not come back by the section of x86_64."""
    policy = parse("arch aarch64\nimplied 1\nopenat: flags == O_RDONLY\nfaccessat: deny\n").policy
    after = carry(policy, AARCH64, X86_64).policy
    for name, denied in (("access", True), ("faccessat", True), ("open", False), ("stat", False)):
        assert allows(after, name, (CWD,) if name == "faccessat" else ()) is not denied, name


def test_losses_are_reported() -> None:
    text = "iopl: allow\narch_prctl: option == ARCH_SET_FS\nptrace: request == PTRACE_GETREGS\n"
    done = carry(parse(text).policy, X86_64, AARCH64)
    assert [(loss.name, loss.why, loss.needed) for loss in done.losses] == [
        ("arch_prctl", "elsewhere a register that the program sets itself holds the address of thread-local storage", False),
        ("iopl", "aarch64 has no call for it", True),
        ("ptrace", "aarch64 has no PTRACE_GETREGS", True),
    ]
    assert not done.is_whole


@pytest.mark.parametrize(
    ("entry", "lost"),
    [
        ("open: errno EACCES", ["errno EACCES"]), ("open: errno EACCES if flags == 1 else kill", ["errno EACCES"]),
        ("open: errno EPERM", []), ("open: deny", []), ("open: flags == 1 else errno EACCES", []), ("openat: errno EACCES", []),
    ],
)  # fmt: skip
def test_an_answer_for_a_call_that_is_lost_is_reported(entry: str, lost: list[str]) -> None:
    done = carry(parse(f"default errno EPERM\n{entry}\n").policy, X86_64, AARCH64)
    why = "aarch64 has no open: the answer has to be written for what does this there"
    assert [(loss.name, loss.what, loss.why) for loss in done.losses] == [("open", what, why) for what in lost]


def test_an_existing_section_is_extended() -> None:
    text = "open: allow\nunlink: allow\narch aarch64\nread: fd == 0\nunlinkat: deny\nopenat: flags == O_WRONLY\n"
    done = carry(parse(text).policy, X86_64, AARCH64)
    assert evaluate(done.policy, event("openat", CWD, 0, 0, arch=AARCH64)).allows
    assert evaluate(done.policy, event("openat", 5, 0, 1, arch=AARCH64)).allows
    assert not evaluate(done.policy, event("unlinkat", CWD, 0, 0, arch=AARCH64)).allows
    assert evaluate(done.policy, event("read", 0, arch=AARCH64)).allows
    assert [loss.name for loss in done.losses] == ["unlink"]


PHASES = """
phase serving after epoll_wait
epoll_wait: allow
open: flags == O_RDONLY until serving
   || flags == O_RDONLY|O_CLOEXEC
bind: allow until serving
"""


def test_phases_are_carried() -> None:
    done = carry(parse(PHASES).policy, X86_64, AARCH64)
    (phase,) = done.policy.phases
    assert phase.triggers == ("epoll_pwait", "epoll_wait")
    assert done.triggers == (("serving", "epoll_pwait"),)
    start, serving = (policy for _, policy in phase_policies(done.policy))
    for call, in_start, in_serving in (
        (event("openat", CWD, 0, 0, arch=AARCH64), True, False),
        (event("openat", CWD, 0, 0x80000, arch=AARCH64), True, True),
        (event("bind", arch=AARCH64), True, False),
        (event("epoll_pwait", arch=AARCH64), True, True),
    ):
        assert (evaluate(start, call).allows, evaluate(serving, call).allows) == (in_start, in_serving)
    assert not gaps(done.policy, X86_64, AARCH64)


@pytest.mark.parametrize(
    ("source", "trigger", "added"),
    [
        (X86_64, "poll", {"ppoll"}),
        (X86_64, "ppoll", set()),
        (X86_64, "accept", set()),
        (AARCH64, "epoll_pwait", {"epoll_wait"}),
        (AARCH64, "ppoll", {"poll", "pause"}),
        (AARCH64, "accept4", set()),
    ],
)
def test_what_begins_a_phase_there_too(source: Arch, trigger: str, added: set[str]) -> None:
    """The calls with its effect that programs make instead of it there, and the source does not have."""
    text = f"arch {source}\nphase serving after {trigger}\n{trigger}: allow\nfchmod: allow until serving\n"
    done = carry(parse(text).policy, source, AARCH64 if source is X86_64 else X86_64)
    assert {name for _, name in done.triggers} == added
    assert {*done.policy.phases[0].triggers} == {trigger, *added}


def test_lines_about_files_of_one_architecture() -> None:
    text = "path /usr/lib/x86_64-linux-gnu: read\npath /var/x86_64-linux-gnu: read, write\npath /etc: read\nread: allow\n"
    done = carry(parse(text).policy, X86_64, AARCH64)
    paths = done.policy.files.paths
    assert paths is not None and "/usr/lib/aarch64-linux-gnu" in paths and "/var/aarch64-linux-gnu" not in paths
    assert [(place.there, place.is_added) for place in done.places] == [
        ("path /usr/lib/aarch64-linux-gnu: read", True), ("path /var/aarch64-linux-gnu: read, write", False),
    ]  # fmt: skip


def test_the_filter_of_both_sections_is_proved() -> None:
    done = carry(parse("open: flags == O_RDONLY|O_DIRECTORY\npoll: nfds <= 4\nfork: allow\n").policy, X86_64, AARCH64)
    lifted = lift(compile_policy(done.policy)).policy
    for made in (event("openat", CWD, 0, 0x4000, arch=AARCH64), event("openat", CWD, 0, 0x10000, arch=AARCH64)):
        assert evaluate(lifted, made) == evaluate(done.policy, made)


# Comparing


def test_what_c_libraries_do_there_alone() -> None:
    """glibc's loader on aarch64 reserves memory for libraries first; no comparison finds fault with it."""
    code = "mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE\n"
    done = carry(parse(code).policy, X86_64, AARCH64)
    assert [entry for entry, _ in done.special] == [
        "mmap: prot == PROT_NONE && flags in MAP_PRIVATE|MAP_ANONYMOUS|MAP_DENYWRITE", "mprotect: prot == PROT_NONE",
        "mmap: prot == PROT_READ|PROT_EXEC|PROT_BTI && flags == MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE",
    ]  # fmt: skip
    assert not gaps(done.policy, X86_64, AARCH64)
    for text in ("arm entry\n" + code, "implied 1\n" + code, "mmap: prot == PROT_READ\n"):
        assert not carry(parse(text).policy, X86_64, AARCH64).special
    start = carry(parse("arch aarch64\nset_tid_address: allow\n").policy, AARCH64, X86_64)
    assert [entry for entry, _ in start.special] == ["arch_prctl: option == ARCH_SET_FS"]


def test_gaps_say_what_one_section_allows_alone() -> None:
    policy = parse("open: flags == O_RDONLY\nread: allow\narch aarch64\nopenat: flags in O_RDONLY|O_WRONLY\n").policy
    found = [(gap.arch, table(gap.arch).by_number[gap.number].name) for gap in gaps(policy, X86_64, AARCH64)]
    assert found == [(X86_64, "read"), (AARCH64, "openat")]
    assert pairs(policy) == [(X86_64, AARCH64)]
    assert not pairs(parse("read: allow\narch i386\nread: allow\n").policy)


@pytest.mark.parametrize(
    ("entry", "reads_tags", "goes_on"),
    [
        ("ptrace: request == PTRACE_SINGLEBLOCK || request == PTRACE_CONT", False, True),
        ("ptrace: request == PTRACE_CONT && pid == 3", False, True),
        ("ptrace: pid == 3", True, True),
    ],
)
def test_a_value_that_only_the_target_has_is_allowed_only_with_any_other(entry: str, reads_tags: bool, goes_on: bool) -> None:
    """33 is PTRACE_SINGLEBLOCK on x86_64, and PTRACE_PEEKMTETAGS on aarch64."""
    after = carry(parse(f"arch x86_64\ndefault kill\n{entry}\n").policy, X86_64, AARCH64).policy
    number = table(AARCH64).by_name["ptrace"].number
    for request, expected in ((33, reads_tags), (7, goes_on)):
        assert evaluate(after, Event(AARCH64.audit, number, (request, 3, 0, 0, 0, 0))).allows is expected


def test_the_flags_of_a_descriptor_move_where_fcntl_sets_them_and_nothing_else_has_its_meaning_by_another_argument() -> None:
    """O_DIRECT, O_LARGEFILE, O_DIRECTORY and O_NOFOLLOW (asm/fcntl.h); in plain, `arg` of fcntl is a number."""
    moves = Renumbering(bits=((14, 16), (15, 17), (16, 14), (17, 15)))
    for arches, names in (
        ((Arch.X86_64, Arch.AARCH64), {"fcntl"}),
        ((Arch.AARCH64, Arch.I386), {"fcntl"}),
        ((Arch.I386, Arch.ARM), {"fcntl", "fcntl64"}),
        ((Arch.X86_64, Arch.I386), set()),
    ):
        each = [(hop, pair) for starting in hops(*arches).values() for hop in starting for pair in hop.pairs]
        found = [(name_of(*hop.start), pair.source, row) for hop, pair in each for row in renumberings(hop, pair)[1:]]
        assert sorted(found) == [(name, 2, (Selected(1, 1, 4), moves)) for name in sorted(names)], arches
