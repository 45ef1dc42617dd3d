"""What learned rules hold of arguments under an implied set: the held_rows as data, and what they make of calls."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from calls import parse

from callfence.policygen.implied.tables import rows
from callfence.policygen.learning import generalise as module
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generalise import held_rows
from callfence.policygen.learning.generate import generate
from callfence.policygen.model import IMPLIED, Always
from callfence.policygen.recording.fold import Aggregator
from callfence.tracer.abi import Arch, Event, Kind, constants, table

LINES = [
    line.split("\t")
    for line in Path(module.__file__).with_name("held.tsv").read_text("utf-8").splitlines()
    if not line.startswith("#")
][1:]
ARCH = Arch.X86_64


def asked(arch: Arch) -> set[tuple[str, str, str]]:
    """The arguments that learning constrains by their kind, of calls that the set does not allow whatever they are."""
    calls = table(arch)
    whole = {row.number for row in rows(IMPLIED[-1], arch) if row.entry.expression == Always(True)}
    return {
        (call.name, argument.name, argument.constants)
        for number, call in calls.by_number.items()
        if number not in whole
        for meaning in calls.variants(number)
        for argument in meaning
        if argument.kind.is_constrained and argument.kind is not Kind.TASK
    }


@pytest.mark.parametrize("arch", Arch)
def test_every_argument_that_is_constrained_has_been_decided(arch: Arch) -> None:
    assert asked(arch) <= held_rows(arch).keys()
    assert all(held.why for held in held_rows(arch).values())


@pytest.mark.parametrize("row", LINES, ids=lambda row: " ".join(row[:2]))
def test_every_row_is_about_arguments_that_there_are(row: list[str]) -> None:
    calls, arguments, names, holds, why = row
    needed = {which for arch in Arch for which in asked(arch)}
    for column, cell in enumerate((calls, arguments, names)):
        mine = {
            which[column] or "none"
            for which in needed
            if which[0] in calls.split(",") and which[1] in arguments.split(",") and (which[2] or "none") in names.split(",")
        }
        assert mine == set(cell.split(","))
    words = [word.strip() for word in holds.replace("{", " ").replace("}", " ").replace(";", ",").replace("|", ",").split(",")]
    for word in words:
        assert word in ("all", "-") or word.startswith("0x") or constants.value(word, ARCH) is not None
    assert why == why.strip() != ""


def test_nothing_is_decided_twice() -> None:
    told = [
        (c, a, n) for cs, args, names, *_ in LINES for c in cs.split(",") for a in args.split(",") for n in names.split(",")
    ]
    assert len(set(told)) == len(told)


def event(text: str) -> Event:
    """`socket AF_INET SOCK_STREAM 0`"""
    name, *words = text.split()
    values = [
        sum(int(one, 0) if one[0] in "-0123456789" else constants.value(one, ARCH) or 0 for one in word.split("|"))
        for word in words
    ]
    registers = [value & (1 << 64) - 1 for value in values] + [0] * (6 - len(values))
    return Event(ARCH.audit, table(ARCH).by_name[name].number, tuple(registers))  # type: ignore[arg-type]


def learned(*texts: str, implied: int = IMPLIED[-1]) -> str:
    """The policy of runs that make one call each; whatever their order, and if they are learned again."""
    found = set()
    for order in permutations(texts):
        document = None
        for text in (*order, order[0]):
            aggregator = Aggregator()
            aggregator.counter("/app", event(text), str)[0] += 1
            document = generate(aggregator.observations(), document, name="app", options=Options(implied=implied)).document
        assert document is not None
        found.add(document.text())
    (text,) = found
    return text


def entry(text: str, name: str) -> object:
    number = table(ARCH).by_name[name].number
    return parse(text).policy.entries[ARCH][number].expression


@pytest.mark.parametrize(
    ("seen", "allowed"),
    [
        # nothing is held: no value would stop an attacker
        (["inotify_init1 IN_CLOEXEC", "inotify_init1 0"], "allow"),
        (["inotify_add_watch 3 0x1000 IN_MODIFY"], "allow"),
        (["mremap 0x1000 1 1 MREMAP_MAYMOVE|MREMAP_FIXED"], "allow"),
        (["fsetxattr 3 0 0 0 XATTR_CREATE"], "allow"),
        (["splice 3 0 4 0 9 SPLICE_F_MOVE|SPLICE_F_MORE"], "allow"),
        (["pidfd_open 7 PIDFD_NONBLOCK"], "allow"),
        (["mlockall MCL_CURRENT"], "allow"),
        (["timer_settime 0 TIMER_ABSTIME"], "allow"),
        (["fcntl 3 F_ADD_SEALS F_SEAL_SHRINK"], "cmd == F_ADD_SEALS"),
        # the bits that make a difference are held as they were, and the others are free
        (["socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC 0"], "family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0"),
        (
            ["memfd_create 0 MFD_CLOEXEC", "memfd_create 0 MFD_ALLOW_SEALING"],
            "flags & MFD_HUGETLB|MFD_NOEXEC_SEAL|MFD_EXEC == 0",
        ),
        (["memfd_create 0 MFD_CLOEXEC|MFD_NOEXEC_SEAL"], "flags & MFD_HUGETLB|MFD_NOEXEC_SEAL|MFD_EXEC == MFD_NOEXEC_SEAL"),
        (["renameat2 3 0 3 0 RENAME_NOREPLACE", "renameat2 3 0 3 0 RENAME_EXCHANGE"], "flags & RENAME_WHITEOUT == 0"),
        (
            ["shmget 0 4096 IPC_CREAT|0o600", "shmget 1 4096 IPC_CREAT|IPC_EXCL|0o644"],
            "shmflg & IPC_CREAT|SHM_HUGETLB == IPC_CREAT",
        ),
        (["semget 1 1 0"], "semflg & IPC_CREAT == 0"),
        (["vmsplice 3 0 1 SPLICE_F_NONBLOCK"], "flags & SPLICE_F_GIFT == 0"),
        (["fcntl 3 F_SETFL O_RDWR|O_DIRECT"], "cmd == F_SETFL && arg & O_DIRECT|0x2000 == O_DIRECT"),
        (
            [
                "mmap 0 9 PROT_READ|PROT_WRITE|PROT_EXEC MAP_PRIVATE|MAP_ANONYMOUS",
                "mmap 0 9 PROT_READ|PROT_WRITE|PROT_EXEC MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED",
            ],
            "prot == PROT_READ|PROT_WRITE|PROT_EXEC && "
            "flags & MAP_SHARED|MAP_PRIVATE|MAP_ANONYMOUS|MAP_GROWSDOWN|MAP_HUGETLB == MAP_PRIVATE|MAP_ANONYMOUS",
        ),
        # values that are one thing are allowed together
        (["setsockopt 3 SOL_SOCKET SO_RCVBUF"], "level == SOL_SOCKET && optname in {SO_SNDBUF, SO_RCVBUF}"),
        (
            ["setsockopt 3 SOL_SOCKET SO_RCVBUF", "setsockopt 3 SOL_SOCKET SO_SNDBUF"],
            "level == SOL_SOCKET && optname in {SO_SNDBUF, SO_RCVBUF}",
        ),
        (
            ["futex 0 FUTEX_CMP_REQUEUE_PRIVATE"],
            "op in {FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_REQUEUE_PRIVATE, FUTEX_CMP_REQUEUE_PRIVATE}",
        ),
        (["semctl 1 0 SETVAL"], "cmd in {SETVAL, SETALL}"),
        (["timer_create CLOCK_REALTIME"], "which_clock in {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME}"),
        # all is held
        (["setsockopt 3 SOL_SOCKET SO_REUSEADDR"], "level == SOL_SOCKET && optname == SO_REUSEADDR"),
        (["kill 7 SIGUSR1", "kill 7 SIGCONT"], "sig == SIGUSR1 || sig == SIGCONT"),
        (["clone CLONE_VM|CLONE_NEWUSER"], "clone_flags == CLONE_VM|CLONE_NEWUSER"),
        (["shmat 1 0 SHM_EXEC"], "shmflg == SHM_EXEC"),
        (["unlinkat 3 0 AT_REMOVEDIR"], "flag == AT_REMOVEDIR"),
        (["linkat 3 0 3 0 AT_SYMLINK_FOLLOW"], "flags == AT_SYMLINK_FOLLOW"),
        (["execveat 3 0 0 0 AT_EMPTY_PATH"], "flags == AT_EMPTY_PATH"),
    ],
    ids=lambda value: " + ".join(value) if isinstance(value, list) else "",
)
def test_what_a_policy_with_the_set_holds(seen: list[str], allowed: str) -> None:
    name = seen[0].split()[0]
    assert entry(learned(*seen), name) == entry(f"implied 1\n{name}: {allowed}\n", name)


@pytest.mark.parametrize(
    "text", ["inotify_init1 IN_CLOEXEC", "setsockopt 3 SOL_SOCKET SO_RCVBUF", "socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC 0"]
)
def test_without_the_set_all_is_held(text: str) -> None:
    exact = {"inotify_init1": "flags == IN_CLOEXEC", "setsockopt": "level == SOL_SOCKET && optname == SO_RCVBUF"}
    name = text.split()[0]
    body = exact.get(name, "family == AF_UNIX && type == SOCK_STREAM|SOCK_CLOEXEC && protocol == 0")
    assert entry(learned(text, implied=0), name) == entry(f"{name}: {body}\n", name)


def test_what_a_person_narrowed_stays_narrow() -> None:
    policy = parse("implied 1\ninotify_init1: flags == IN_CLOEXEC\n")
    aggregator = Aggregator()
    aggregator.counter("/app", event("inotify_init1 IN_NONBLOCK"), str)[0] += 1
    text = generate(aggregator.observations(), policy, name="app").document.text()
    assert entry(text, "inotify_init1") == entry("inotify_init1: flags in IN_CLOEXEC|IN_NONBLOCK\n", "inotify_init1")
