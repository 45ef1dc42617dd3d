"""Equivalents of calls: which there are, that they are no more than that, and that a portable policy stays one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
from calls import event, parse
from hypothesis import HealthCheck, given, settings, strategies as st
from strategies import EXAMPLES, conditions, events, policies

from callfence.policygen import equivalents
from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.comparing.reducing import reduce
from callfence.policygen.equivalents.links import BETWEEN, links, own_calls
from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.lift import lift
from callfence.policygen.language.document import Document, PolicyError
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generalise import Widening
from callfence.policygen.learning.generate import Generated, generate
from callfence.policygen.learning.portable import made_portable, with_equivalents
from callfence.policygen.merging import merge_documents, unite
from callfence.policygen.model import ENOSYS, KILL, Always, And, Entry, Expression, Operator, Or, Policy, alternatives
from callfence.policygen.recording.fold import Aggregator
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.abi.constants import table_rows

SLOW = settings(max_examples=max(10, EXAMPLES // 3), suppress_health_check=list(HealthCheck))
CWD = 0xFFFFFF9C  # AT_FDCWD, as compilers pass it: zero-extended
LARGEFILE = 0x8000


def portable(text: str) -> Policy:
    return made_portable(parse(text).policy).policy


def with_all_equivalents(text: str) -> Policy:
    """Without what C libraries do on their own."""
    policy = parse(text).policy
    return with_equivalents(policy, whole(policy)).policy


def whole(policy: Policy) -> dict[tuple[Arch, int], tuple[Expression, ...]]:
    entries = [(arch, number, entry) for arch, section in policy.entries.items() for number, entry in section.items()]
    return {(arch, number): alternatives(entry.expression) for arch, number, entry in entries}


def allows(policy: Policy, text: str) -> bool:
    return evaluate(policy, event(text)).allows


PTHREAD = (
    "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID"
)


@pytest.mark.parametrize(
    ("policy", "others", "not_these"),
    [
        (
            "openat: flags == O_RDONLY",
            ["open 0 O_RDONLY", "open 0 O_RDONLY|O_LARGEFILE", "openat 5 0 O_LARGEFILE"],
            ["open 0 O_RDWR", "open 0 O_CREAT", "openat2 AT_FDCWD", "fcntl 0 F_SETFD FD_CLOEXEC 1", "creat 0 0"],
        ),
        (
            "open: flags == O_RDWR",
            ["openat AT_FDCWD 0 O_RDWR", "openat AT_FDCWD 0 O_RDWR|O_LARGEFILE"],
            ["openat 5 0 O_RDWR", "openat AT_FDCWD 0 O_WRONLY"],
        ),
        (
            "creat: allow",
            ["openat AT_FDCWD 0 O_WRONLY|O_CREAT|O_TRUNC 0o600"],
            ["open 0 O_WRONLY", "open 0 O_RDWR|O_CREAT|O_TRUNC"],
        ),
        ("open: flags in O_WRONLY|O_CREAT|O_TRUNC", ["creat 0 0"], []),
        ("stat: allow", ["newfstatat AT_FDCWD 0 0 0", "statx AT_FDCWD 0 0 STATX_BASIC_STATS"], ["lstat", "newfstatat 5 0 0 0"]),
        ("lstat: allow", ["newfstatat AT_FDCWD 0 0 AT_SYMLINK_NOFOLLOW"], ["stat", "statx AT_FDCWD 0 0 STATX_BASIC_STATS"]),
        ("statx: dfd == 7 && mask == STATX_BASIC_STATS", ["newfstatat 7 0 0 0"], ["newfstatat 8 0 0 0", "stat"]),
        ("statx: mask == STATX_BTIME", [], ["newfstatat 7 0 0 0"]),
        ("access: mode == R_OK", ["faccessat AT_FDCWD 0 R_OK", "faccessat2 AT_FDCWD 0 R_OK 0"], ["faccessat AT_FDCWD 0 W_OK"]),
        ("faccessat2: flags == AT_EACCESS", [], ["faccessat AT_FDCWD 0 W_OK"]),
        ("pipe: allow", ["pipe2 0 0"], []),
        ("pipe2: flags in O_CLOEXEC|O_NONBLOCK", ["pipe"], []),
        ("pipe2: flags == O_DIRECT", [], ["pipe", "pipe2 0 O_CLOEXEC"]),
        ("dup: allow", [], ["dup2 0 1", "dup3 0 1 0"]),
        ("dup2: newfd == 1", ["dup3 9 1 0"], ["dup3 9 2 0", "dup3 9 1 O_CLOEXEC", "dup"]),
        ("rename: allow", ["renameat2 AT_FDCWD 0 AT_FDCWD 0 0"], ["renameat2 AT_FDCWD 0 AT_FDCWD 0 RENAME_EXCHANGE"]),
        ("renameat2: flags == RENAME_NOREPLACE", [], ["rename", "renameat AT_FDCWD 0 AT_FDCWD 0"]),
        ("unlinkat: flag == 0", ["unlink"], ["rmdir"]),
        (
            "chmod: mode & 07000 == 0",
            ["fchmodat AT_FDCWD 0 0o644", "fchmodat2 AT_FDCWD 0 0o644 0"],
            ["fchmodat AT_FDCWD 0 0o4755"],
        ),
        ("accept4: flags == SOCK_CLOEXEC", [], ["accept"]),
        ("accept: allow", ["accept4 3 0 0 0"], ["accept4 3 0 0 SOCK_CLOEXEC"]),
        ("poll: nfds <= 1", ["ppoll 0 1"], ["ppoll 0 2"]),
        ("poll: timeout_msecs == 0", [], ["ppoll 0 1"]),
        ("select: allow", ["pselect6"], []),
        ("epoll_wait: timeout == 0", ["epoll_pwait 3 0 1 0"], ["epoll_pwait 3 0 1 5", "epoll_pwait2 3 0 1"]),
        ("write: fd == 1", ["writev 1"], ["writev 2"]),
        (
            "fork: allow",
            ["clone SIGCHLD", "clone CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD"],
            ["vfork", "clone CLONE_NEWUSER|SIGCHLD"],
        ),
        ("clone: clone_flags == CLONE_VM|CLONE_VFORK|SIGCHLD", ["vfork", "pipe2 0 O_CLOEXEC"], ["fork", "pipe2 0 0"]),
        (
            f"clone: clone_flags == {PTHREAD}",
            [f"clone {PTHREAD}|CLONE_DETACHED", "futex 0 FUTEX_WAIT"],
            ["fork", "clone SIGCHLD"],
        ),
        (
            "wait4: options == WNOHANG",
            ["waitid P_ALL 0 0 WEXITED|WNOHANG"],
            ["waitid P_ALL 0 0 WEXITED", "waitid P_PIDFD 0 0 WEXITED|WNOHANG"],
        ),
        ("waitid: options == WEXITED && which == P_PID", ["wait4 5 0 0"], ["wait4 5 0 WNOHANG"]),
        ("prlimit64: pid == 0 && resource == RLIMIT_CPU", ["getrlimit RLIMIT_CPU"], ["getrlimit RLIMIT_CORE"]),
        ("getrlimit: resource == RLIMIT_CPU", [], ["prlimit64 0 RLIMIT_CPU"]),
        ("tgkill: sig == SIGABRT", ["tkill 1 SIGABRT"], ["tkill 1 SIGKILL", "kill 1 SIGABRT"]),
        ("tgkill: sig == 32", ["tkill 1 33"], ["tkill 1 34"]),
        ("nanosleep: allow", ["clock_nanosleep CLOCK_REALTIME 0"], ["clock_nanosleep CLOCK_BOOTTIME 0"]),
        ("alarm: allow", ["setitimer ITIMER_REAL"], ["setitimer ITIMER_PROF"]),
        ("ioctl: cmd == TIOCSTI", [], ["ioctl 0 TIOCCONS"]),
        ("arch i386\nsocketcall: call == SYS_BIND", ["i386 bind 3"], ["i386 socket AF_INET"]),
        ("arch i386\nsocket: family == AF_UNIX", [], ["i386 socketcall SYS_SOCKET"]),
        (
            "arch i386\nclock_gettime: which_clock == CLOCK_TAI",
            ["i386 clock_gettime64 CLOCK_TAI"],
            ["i386 clock_gettime64 CLOCK_BOOTTIME"],
        ),
        ("arch i386\nfutex: op == FUTEX_LOCK_PI", ["i386 futex_time64 0 FUTEX_LOCK_PI"], ["i386 futex_time64 0 FUTEX_FD"]),
        ("arch i386\nstat64: allow", ["i386 statx AT_FDCWD 0 AT_NO_AUTOMOUNT STATX_BASIC_STATS"], ["i386 lstat64"]),
        ("arch i386\nselect: allow", ["i386 pselect6 5"], []),
    ],
)  # fmt: skip
def test_equivalents(policy: str, others: list[str], not_these: list[str]) -> None:
    before, after = parse(policy).policy, with_all_equivalents(policy)
    for text in others:
        assert not allows(before, text)
        assert allows(after, text), text
    for text in not_these:
        assert not allows(after, text), text


DENIED = [
    "ptrace", "socket AF_INET SOCK_STREAM", "connect", "execve", "execveat", "bpf", "mount", "kill 1 SIGKILL", "setuid",
    "chmod", "unlink", "openat AT_FDCWD 0 O_RDWR", "open 0 O_WRONLY|O_CREAT", "openat2", "clone SIGCHLD", "fork",
    "prlimit64 1 RLIMIT_STACK",
    "fcntl 0 F_SETOWN", "ioctl 0 TIOCSTI", "mmap 0 1 PROT_READ|PROT_EXEC MAP_PRIVATE|MAP_ANONYMOUS", "io_uring_setup",
    "mmap 0 1 PROT_READ MAP_SHARED", "madvise 0 1 MADV_HWPOISON", "rseq 0 0 1", "arch_prctl ARCH_SET_GS", "personality",
]  # fmt: skip
"""What no C library needs on its own."""


def test_nothing_but_what_the_tables_list() -> None:
    policy = portable("write: fd == 1")
    for text in DENIED:
        assert not allows(policy, text), text
    own = {one.side.number for one in own_calls(Arch.X86_64)} | {1}
    reached = set(own)
    while ahead := {link.target.number for number in reached for link in links(Arch.X86_64).get(number, ())} - reached:
        reached |= ahead
    assert set(policy.entries[Arch.X86_64]) <= reached
    compile_policy(policy)


@pytest.mark.parametrize("arch", [Arch.X86_64, Arch.I386])
def test_never_memory_that_is_writable_and_executable(arch: Arch) -> None:
    every = {number: Entry(Or(tuple(And(c) for c in link.source.alternatives))) for number, (link, *_) in links(arch).items()}
    mapping = {number for number in every if "map" in table(arch).by_number[number].name}
    policy = made_portable(Policy({arch: {number: entry for number, entry in every.items() if number not in mapping}})).policy
    prefix = "i386 " if arch is Arch.I386 else ""
    for protection in ("PROT_WRITE|PROT_EXEC", "PROT_READ|PROT_WRITE|PROT_EXEC"):
        for flags in (0x1, 0x2, 0x12, 0x22, 0x32, 0x802, 0x812, 0x822, 0x20022, 0x24022):
            number = table(arch).by_name["mmap2" if prefix else "mmap"].number
            call = Event(arch.audit, number, (0, 1, event(f"{prefix}mprotect 0 0 {protection}").arguments[2], flags, 0, 0))
            assert not evaluate(policy, call).allows
        assert not allows(policy, f"{prefix}mprotect 0 1 {protection}")
        assert not allows(policy, f"{prefix}mprotect 0 1 PROT_EXEC")


def test_the_loaders_calls_only_where_the_loader_is_confined() -> None:
    code = "mmap 0 1 PROT_READ|PROT_EXEC MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE 3"
    assert allows(portable("arm exec\nwrite: allow"), code)
    assert not allows(portable("arm entry\nwrite: allow"), code)
    assert allows(portable("arm entry\nwrite: allow"), "brk")


def test_what_an_entry_refuses_stays_refused() -> None:
    refused = "openat: deny\nreadv: errno EPERM\nbrk: errno ENOMEM\n"
    policy = portable(f"open: allow\nread: allow\nclone3: allow\nfork: allow\n{refused}")
    assert not allows(policy, "openat AT_FDCWD 0 0")
    assert not allows(policy, "readv 0")
    assert not allows(policy, "brk")
    assert allows(policy, "clone3"), "an entry of its own is no equivalent's to change"


def test_a_refusal_of_the_rest_stays() -> None:
    policy = portable("dup2: allow\ndup3: flags == O_CLOEXEC else errno EINVAL\n")
    assert evaluate(policy, event("dup3 1 2 0")).errno == 22
    assert allows(policy, "dup3 1 2 O_CLOEXEC")


def test_nothing_is_made_to_fail_that_the_default_allows() -> None:
    assert evaluate(portable("fork: allow\n"), event("clone3")) == ENOSYS
    policy = portable("default allow\nfork: log\nptrace: errno EPERM\n")
    assert allows(policy, "clone3") and not allows(policy, "ptrace")


def test_an_action_is_carried_over() -> None:
    assert evaluate(portable("rename: log\n"), event("renameat2 AT_FDCWD 0 AT_FDCWD 0 0")).kind == "log"
    policy = portable("rename: log\nrenameat: olddfd == 5\n")
    assert evaluate(policy, event("renameat AT_FDCWD 0 AT_FDCWD 0")) == KILL, "an entry has one way to carry a call out"


def test_a_call_newer_than_the_table_answers_enosys_and_a_known_but_unlisted_one_the_default() -> None:
    policy = portable("table 5.10\naccess: allow\nepoll_wait: allow\n")
    assert allows(policy, "faccessat2 AT_FDCWD 0 R_OK 0"), "Linux 5.8"
    assert evaluate(policy, event("epoll_pwait2")) == ENOSYS, "Linux 5.11: no entry, and the program falls back"
    assert evaluate(policy, event("futex_waitv")) == ENOSYS
    assert evaluate(policy, event("close_range")) == KILL, "Linux 5.9: known, and not listed"
    assert evaluate(policy, event("ptrace")) == KILL
    compile_policy(policy)


def test_every_row_is_for_some_architecture_and_has_its_reason() -> None:
    for call, way, other, carried, why, *more in table_rows(equivalents.__spec__, "equivalents.tsv"):
        one, two = (cell.partition(":")[0] for cell in (call, other))
        pairs = list(product(Arch, repeat=2)) if way == BETWEEN else [(arch, arch) for arch in Arch]
        both = [(table(a), table(b)) for a, b in pairs if one in table(a).by_name and two in table(b).by_name]
        assert both, (call, other)
        assert way in ("=", ">", ">=", BETWEEN) and why and len(more) <= 1
        for word in carried.split():
            first, _, second = word.partition("~")[0].partition(":")
            found = [(ours.by_name[one].arguments, theirs.by_name[two].arguments) for ours, theirs in both]
            names = [({a.name: a.width for a in ours}, {a.name: a.width for a in theirs}) for ours, theirs in found]
            widths = [(ours.get(first), theirs.get(second or first)) for ours, theirs in names]
            assert any(a and b and (a == b or way == BETWEEN) for a, b in widths), (call, word)
    for when, arch, entry, why in table_rows(equivalents.__spec__, "libc.tsv"):
        assert when in ("start", "heap", "stdio", "loader")
        assert arch in ("-", *Arch) and why
        assert any(entry.partition(":")[0] in table(of).by_name for of in Arch)
    for arch in Arch:
        assert links(arch) and own_calls(arch)


# Properties


@SLOW
@given(st.data())
def test_never_narrower_and_idempotent(data: st.DataObject) -> None:
    policy = data.draw(policies())
    grown = made_portable(policy)
    assert grown.policy.portable
    again = made_portable(grown.policy)
    assert again.policy == grown.policy
    assert not again.grown
    for _ in range(10):
        call = data.draw(events(policy))
        before, after = evaluate(policy, call), evaluate(grown.policy, call)
        assert after == before or (before == policy.default and not before.allows), call
        arch = Arch.from_audit(call.arch)
        entry = policy.entries.get(arch, {}).get(call.number) if arch else None
        if entry and entry.otherwise and not before.allows:
            assert after == before, "refused explicitly"


@dataclass(frozen=True)
class Member:
    """A call of a family, all of which are ways to ask for the same, which has some parameters."""

    name: str
    registers: dict[int, int]
    """Which register has which parameter."""
    fixed: dict[int, int]
    """What the parameters are that it has no register for."""

    @property
    def number(self) -> int:
        return table(Arch.X86_64).by_name[self.name].number


RENAMES = [
    Member("rename", {}, {0: CWD, 1: CWD, 2: 0}),
    Member("renameat", {0: 0, 2: 1}, {2: 0}),
    Member("renameat2", {0: 0, 2: 1, 4: 2}, {}),
]
ACCESSES = [
    Member("access", {1: 1}, {0: CWD, 2: 0}),
    Member("faccessat", {0: 0, 2: 1}, {2: 0}),
    Member("faccessat2", {0: 0, 2: 1, 3: 2}, {}),
]
DUPS = [Member("dup2", {0: 0, 1: 1}, {2: 0}), Member("dup3", {0: 0, 1: 1, 2: 2}, {})]
ACCEPTS = [Member("accept", {0: 0}, {1: 0}), Member("accept4", {0: 0, 3: 1}, {})]
MKDIRS = [Member("mkdir", {1: 1}, {0: CWD}), Member("mkdirat", {0: 0, 2: 1}, {})]
VECTORS = [Member("read", {0: 0}, {}), Member("readv", {0: 0}, {})]
OPENS = [Member("open", {1: 1, 2: 2}, {0: CWD}), Member("openat", {0: 0, 2: 1, 3: 2}, {})]
FAMILIES = [RENAMES, ACCESSES, DUPS, ACCEPTS, MKDIRS, VECTORS, OPENS]
ENTANGLED = {0x90800, 0x90000, 0x410082, 0xC2, 0x241}
"""Values of open's flags that have rows of their own: opendir's, tmpfile's, creat's."""


def equal_calls(family: list[Member], call: Event) -> list[Event]:
    """The calls of the family that ask for the same as this one, itself included."""
    (mine,) = (member for member in family if member.number == call.number)
    asked = mine.fixed | {parameter: call.arguments[register] for register, parameter in mine.registers.items()}
    found = []
    for member in family:
        if all(asked[parameter] & 0xFFFFFFFF == value for parameter, value in member.fixed.items()):
            registers = [0] * 6
            for register, parameter in member.registers.items():
                registers[register] = asked[parameter]
            a, b, c, d, e, f = registers
            found.append(Event(call.arch, member.number, (a, b, c, d, e, f)))
    return found


@st.composite
def learned_entries(draw: st.DrawFn, number: int, operators: frozenset[Operator]) -> Entry:
    """Alternatives of conditions, as learning and people write them; arguments of a size are left alone."""
    free = [i for i, argument in enumerate(table(Arch.X86_64).by_number[number].arguments) if argument.kind != "size"]
    known = conditions(Arch.X86_64, number).filter(lambda one: one.operator in operators and one.index in free)
    every = [i for i in free if not table(Arch.X86_64).by_number[number].arguments[i].kind.is_pointer]
    some = st.lists(known, min_size=1, max_size=3) if every else st.just([])
    alternatives = draw(st.lists(some, min_size=1, max_size=3))
    return Entry(Or(tuple(And(tuple(parts)) for parts in alternatives)))


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0].name)
@SLOW
@given(st.data())
def test_a_family_allows_just_what_one_of_it_did(family: list[Member], data: st.DataObject) -> None:
    by_bits = frozenset((Operator.EQ, Operator.ONE_OF, Operator.IN, Operator.HAS, Operator.MASKED))
    operators = by_bits if family is OPENS else frozenset(Operator)
    numbers = [member.number for member in family]
    chosen = data.draw(st.lists(st.sampled_from(numbers), min_size=1, unique=True))
    policy = Policy({Arch.X86_64: {number: data.draw(learned_entries(number, operators)) for number in chosen}})
    grown = with_equivalents(policy, whole(policy)).policy
    for _ in range(12):
        call = data.draw(events(policy))
        if call.number not in numbers or call.arch != Arch.X86_64.audit:
            continue
        call = data.draw(st.sampled_from(equal_calls(family, call)))
        same = equal_calls(family, call)
        if family is OPENS:
            same += [toggled(one) for one in same]
            if {one.arguments[1 if one.number == 2 else 2] & 0xFFFFFFFF & ~LARGEFILE for one in same} & ENTANGLED:
                continue
        assert evaluate(grown, call).allows == any(evaluate(policy, one).allows for one in same), call


def toggled(call: Event) -> Event:
    """The same call of open or openat with O_LARGEFILE, or without."""
    registers = list(call.arguments)
    registers[1 if call.number == 2 else 2] ^= LARGEFILE
    a, b, c, d, e, f = registers
    return Event(call.arch, call.number, (a, b, c, d, e, f))


# The setting


def test_the_line_is_kept_in_its_place() -> None:
    document = parse("# mine\narch i386\nportable   # why\nread: allow\n")
    assert document.policy.portable
    text = document.text()
    assert "unknown errno ENOSYS\nportable                       # why\n\nread: allow\n" in text
    assert parse(text) == document
    assert not parse("read: allow").policy.portable


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("portable yes\n", ":1:10", "the end of the line"),
        ("portable\nportable\n", ":2:1", "set twice"),
        ("read: allow\nportable\n", ":2:1", "precede the first entry"),
        ("portabel\n", ":1:1", "no setting is named portabel"),
    ],
)
def test_a_wrong_line_is_an_error(text: str, place: str, what: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse(text, "it.policy")
    assert f"it.policy{place}" in str(error.value)
    assert what in str(error.value)


def test_it_decides_no_call() -> None:
    """What the filter does is what the text lists, with the line or without."""
    plain, line = parse("pipe: allow\n").policy, parse("portable\npipe: allow\n").policy
    assert evaluate(line, event("pipe2 0 0")) == KILL
    assert compile_policy(plain) == compile_policy(line)


# Learning and merging


def learn(*texts: str, existing: Document | None = None, portable: bool = False) -> Generated:
    folder = Aggregator()
    for text in texts:
        folder.counter("/app", event(text), str)[0] += 1
    return generate(folder.observations(), existing, name="./app", options=Options(portable=portable))


def test_learning_writes_the_equivalents_with_their_reasons() -> None:
    made = learn("openat AT_FDCWD 0 O_RDONLY|O_DIRECTORY 0", "close 3", portable=True)
    text = made.document.text()
    assert "portable                       # learn and merge add what other C libraries do instead\n" in text
    assert "brk: allow                     # portable: malloc(3)\n" in text
    assert "open: flags == O_RDONLY|O_CLOEXEC  # portable: as openat\n   || flags == O_RDONLY|O_DIRECTORY\n" in text
    assert "close: allow\n" in text
    assert parse(text).policy == made.document.policy
    assert Widening.PORTABLE in {widened.widening for widened in made.widenings}


def test_learning_again_stays_portable_and_adds_the_equivalents_of_what_is_new() -> None:
    first = learn("close 3", portable=True).document
    assert learn("close 4", existing=first).document is first
    second = learn("rename", existing=first)
    assert {table(Arch.X86_64).by_number[new.number].name for new in second.new} == {"rename", "renameat", "renameat2"}
    assert second.document.policy.portable
    text = second.document.text()
    assert "renameat: olddfd == AT_FDCWD && newdfd == AT_FDCWD  # portable: as rename\n" in text
    assert "brk: allow                     # portable: malloc(3)\n" in text, "reasons stay"


def test_what_was_seen_is_no_longer_noted_as_an_equivalent() -> None:
    first = learn("rename", portable=True).document
    seen = learn("renameat 5 0 5 0", existing=first).document.text()
    assert "renameat: allow\n" in seen, "no directory that the equivalent was held to"
    assert "renameat2: flags == 0          # portable: as renameat\n" in seen


def test_an_existing_policy_becomes_portable_as_a_whole_once() -> None:
    plain = learn("pipe", "close 3").document
    made = learn("close 3", existing=plain, portable=True).document
    assert allows(made.policy, "pipe2 0 0")
    assert allows(made.policy, "brk")
    # what a person takes out then does not come back, asked for again or not
    brk = table(Arch.X86_64).by_name["brk"].number
    section = {number: entry for number, entry in made.policy.entries[Arch.X86_64].items() if number != brk}
    less = made.with_policy(Policy({Arch.X86_64: section}, portable=True))
    for option in (False, True):
        assert learn("close 3", existing=less, portable=option).document is less
    assert not allows(learn("rename", existing=less, portable=True).document.policy, "brk")


def test_starting_over_drops_it() -> None:
    assert not learn("close 3").document.policy.portable


@pytest.mark.parametrize("swapped", [False, True])
def test_a_union_with_a_portable_policy_is_portable(swapped: bool) -> None:
    one, other = parse(learn("close 3", portable=True).document.text()), learn("rename").document
    whole = unite(other, one) if swapped else unite(one, other)
    assert whole.policy.portable
    assert allows(whole.policy, "renameat2 AT_FDCWD 0 AT_FDCWD 0 0")
    assert "\nportable  " in whole.text()
    assert not unite(other, other).policy.portable


def test_branches_merge_to_a_portable_policy() -> None:
    """One has made it portable, the other has learned more: that gets its equivalents too."""
    base = learn("close 3", "pipe").document
    ours = learn("close 3", existing=base, portable=True).document
    theirs = learn("rename", existing=base).document
    for pair in ((ours, theirs), (theirs, ours)):
        merged, conflicts = merge_documents(base, *pair)
        assert not conflicts
        assert merged.policy.portable
        for text in ("pipe2 0 0", "rename", "renameat AT_FDCWD 0 AT_FDCWD 0", "brk"):
            assert allows(merged.policy, text)
        assert not allows(merged.policy, "ptrace")


def test_a_branch_may_drop_the_line() -> None:
    base = learn("close 3", portable=True).document
    ours = parse(base.text().replace("\nportable ", "\n#"))
    theirs = learn("rename", existing=base).document
    merged, conflicts = merge_documents(base, ours, theirs)
    assert not conflicts
    assert not merged.policy.portable
    assert allows(merged.policy, "renameat AT_FDCWD 0 AT_FDCWD 0"), "what they have written stays written"


def test_refusing_in_a_portable_policy_is_for_good() -> None:
    first = parse("portable\nrenameat2: errno ENOSYS\nclose: allow\n")
    second = learn("rename", existing=first).document
    number = table(Arch.X86_64).by_name["renameat2"].number
    assert second.policy.entries[Arch.X86_64][number] == Entry(Always(True), ENOSYS)
    assert allows(second.policy, "renameat AT_FDCWD 0 AT_FDCWD 0")


def test_what_a_reduction_drops_stays_away() -> None:
    """`pipe` is dropped, its equivalent is another call and stays: the text says so, and learning leaves it at that."""
    reduced = parse("portable\npipe: allow\npipe2: flags == 0\nclose: allow\n")
    reduced = reduced.with_policy(reduce(reduced.policy, parse("pipe: 0\n").policy))
    assert reduced.policy.portable
    later = [learn(text, existing=reduced).document for text in ("pipe2 0 O_CLOEXEC", "rename")]
    for document in (reduced, *later):
        assert not allows(document.policy, "pipe")
        assert allows(document.policy, "pipe2 0 0")


def test_a_filter_read_back_has_no_line() -> None:
    policy = portable("write: fd == 1\npipe: allow\n")
    lifted = lift(compile_policy(policy)).policy
    assert not lifted.portable
    assert compare(policy, lifted).verdict is Verdict.EQUAL
