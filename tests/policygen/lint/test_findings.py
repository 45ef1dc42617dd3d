"""The linter judges what entries allow, not how they are written."""

from __future__ import annotations

import re

import pytest
from calls import parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import newest_table
from callfence.policygen.lint.catalogue import Danger, Level, dangers, of_call, of_setting, region_of
from callfence.policygen.lint.findings import SIGNALLING, lint
from callfence.policygen.model import Always
from callfence.tracer.abi import Arch, table

SETTINGS = [of_setting("default"), of_setting("unknown")]
HIDDEN = (Arch.I386, "mmap")
"""A call with its arguments in memory, so that a policy cannot say which are allowed."""


def rules(text: str) -> list[str]:
    """Return the findings that are not accepted."""
    return sorted(finding.rule for finding in lint(parse(text)) if not finding.accepted)


def test_each_row_of_the_catalogue_matches_some_calls() -> None:
    """Each row matches something: its calls exist, its condition parses, and is about some and not all calls."""
    ids = [danger.id for danger in dangers()]
    assert len(set(ids)) == len(ids) > 40
    for danger in dangers():
        assert re.fullmatch(r"[a-z0-9-]+", danger.id)
        assert all((danger.grants, danger.why, danger.safer, danger.source))
        for name in danger.calls if danger not in SETTINGS else ():
            arches = [arch for arch in Arch if name in table(arch).by_name]
            assert arches, f"{danger.id}: no architecture has {name}"
            for arch in arches:
                number = table(arch).by_name[name].number
                assert danger in of_call(arch, number)
                assert region_of(danger, arch, number) != Always(True) or not danger.where or (arch, name) == HIDDEN
                names = [argument.name for argument in table(arch).by_number[number].arguments]
                assert not danger.free or danger.free in names


@pytest.mark.parametrize("danger", [danger for danger in dangers() if danger not in SETTINGS], ids=lambda danger: danger.id)
def test_each_row_is_found_where_all_is_allowed_and_not_where_it_is_excluded(danger: Danger) -> None:
    for name in danger.calls:
        for arch in Arch:
            if name not in table(arch).by_name:
                continue
            scope = "scope none\n" if danger.id in SIGNALLING else ""
            head = f"arch {arch}\n{newest_table()}{scope}{name}: "
            assert danger.id in rules(f"{head}allow")
            assert danger.id not in rules(f"{head}deny")
            if danger.where and (arch, name) != HIDDEN:
                assert danger.id in rules(f"{head}{danger.where}")
                assert danger.id not in rules(f"{head}!({danger.where})")
                assert danger.id not in rules(f"{head}kill if {danger.where} else allow")
            if danger.free:
                assert danger.id not in rules(f"{head}{danger.free} == 0 || {danger.free} == 1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ioctl: cmd == TCGETS", []),
        ("ioctl: cmd in {TCGETS, TIOCSTI}", ["tiocsti"]),
        ("ioctl: cmd >= 0x5410 && cmd <= 0x5415", ["tiocsti"]),
        ("ioctl: fd == 0", ["any-ioctl", "tioclinux", "tiocsti"]),
        ("ioctl: kill if cmd == TIOCSTI else allow", ["any-ioctl", "tioclinux"]),
        ("mmap: prot == PROT_READ || prot == PROT_READ|PROT_EXEC || prot == PROT_READ|PROT_WRITE", []),
        ("mmap: prot in PROT_READ|PROT_WRITE|PROT_EXEC", ["write-exec"]),
        ("unshare: unshare_flags == UNSHARE_EMPTY_MNTNS", ["namespaces"]),
        ("table 7.3\nfchroot: flags == 0\nlistns: flags == 0", ["chroot", "list-namespaces"]),
        ("table 7.3\nrseq_slice_yield: allow", []),
        ("socket: family == AF_INET && type == SOCK_RAW", ["network", "raw-socket"]),
        ("socket: family == AF_NETLINK && type == SOCK_RAW && protocol == NETLINK_ROUTE", ["netlink"]),
        ("clone: clone_flags == CLONE_VM|CLONE_THREAD", []),
        ("personality: personality == 0xffffffff", []),
        ("default allow\nread: allow", ["default-allow"]),
        ("unknown allow\nread: allow", ["unknown-allow"]),
        ("default allow\nptrace: errno EPERM", ["default-allow"]),
        ("read: fd == 3 && fd == 4 || fd == 1", ["contradiction"]),
        ("read: fd == 1 || fd in {1, 2}", ["covered-rule"]),
        ("read: deny", []),
        ("default allow  # why: x\nread: deny", ["deny-allows"]),
        ("default log  # why: x\nread: 0", ["deny-allows"]),
        ("read: fd == 3 && fd == 4", ["contradiction"]),
    ],
)
def test_findings(text: str, found: list[str]) -> None:
    assert rules(text) == found


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("ptrace: allow  # why: it is a debugger", []),
        ("# why: it is a debugger\nptrace: allow", []),
        ("ptrace: allow  # a debugger", ["ptrace"]),
        ("ptrace: allow  # why:", ["ptrace"]),
        ("ioctl: cmd == TIOCSTI  # why: it types\n  || cmd == TIOCLINUX", ["tioclinux"]),
        ("ioctl: cmd == TCGETS\n  || cmd == TIOCLINUX  # why: it pastes\n  || cmd == TIOCSTI", ["tiocsti"]),
        ("# why: all of it\nioctl: cmd == TIOCSTI\n  || cmd == TIOCLINUX", []),
        ("default allow  # why: a first step\nread: allow", []),
    ],
)
def test_a_reason_accepts(text: str, left: list[str]) -> None:
    """Also once the policy has been rewritten."""
    assert rules(text) == left
    assert rules(parse(text).text()) == left


def test_a_reason_on_an_include_accepts_what_it_holds() -> None:
    text = "include debug.policy  # why: it is a debugger\nread: allow\n"
    for shown, left in ((text, []), (text.replace("why", "note"), ["ptrace"])):
        document = parse(shown, read=lambda name: "ptrace: allow\n")
        assert [finding.rule for finding in lint(document) if not finding.accepted] == left


def test_examples_are_allowed() -> None:
    policy = "ioctl: fd == 3 && !(cmd == TIOCLINUX)\nsocket: protocol == 0\nclone: allow\n"
    document = parse(policy)
    found = [finding for finding in lint(document) if finding.example]
    assert {finding.name for finding in found} == {"ioctl", "socket", "clone"}
    for finding in found:
        assert finding.example is not None
        assert evaluate(document.policy, finding.example).allows


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("arch i386\ntcp connect: 443\nsocketcall: allow\n", True),
        ("arch i386\ntcp bind: none\nsocketcall: call == SYS_SENDTO\n", True),
        ("arch i386\ntcp bind: none\nsocketcall: call == SYS_LISTEN\n", False),
        ("arch i386\ntcp connect: any\nsocketcall: allow\n", False),
        ("arch i386\nsocketcall: allow\n", False),
        ("arch i386\ntcp connect: 443\nsocket: allow\n", False),
        ("tcp connect: 443\nsocket: allow\n", False),
    ],
)
def test_a_way_past_the_lines_about_ports(text: str, is_found: bool) -> None:
    assert ("ports-by-socketcall" in rules(text)) == is_found


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("path ./a: read\nlchown: allow\nsetxattr: flags == 0\nfchown: allow\n", ["lchown", "setxattr"]),
        ("path ./a: read\nfile_setattr: allow\nfile_getattr: allow\n", ["file_setattr"]),
        ("path ./a: read\nlchown: deny\n", []),
        ("path ./a: read\nlchown: errno EPERM if user == 0 else allow\nsetxattr: log\n", ["lchown", "setxattr"]),
        ("path ./a: read\nlchown: errno EPERM if user == 0\n", []),
        ("lchown: allow\n", []),
    ],
)
def test_owners_and_attributes_are_past_the_lines_about_files(text: str, names: list[str]) -> None:
    findings = lint(parse(text))
    assert [finding.name for finding in findings if finding.rule == "attributes-outside"] == names


def test_the_most_serious_comes_first() -> None:
    levels = [finding.level.rank for finding in lint(parse("socket: allow\nexecve: allow\nptrace: allow\n"))]
    assert levels == sorted(levels, reverse=True)
    assert {Level.DANGER.rank, Level.NOTE.rank} <= set(levels)


PROMISED = """
    ptrace process_vm_readv process_vm_writev bpf perf_event_open userfaultfd keyctl add_key request_key
    mount umount2 move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot unshare setns clone3
    io_uring_setup io_uring_enter io_uring_register execve execveat personality init_module finit_module delete_module
    kexec_load kexec_file_load mknod
"""


@pytest.mark.parametrize("name", PROMISED.split())
def test_calls_that_are_always_found(name: str) -> None:
    assert any(finding.level is not Level.NOTE for finding in lint(parse(f"{name}: allow\n")))


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        ("clone: clone_flags has CLONE_NEWUSER", "user-namespace-clone"),
        ("unshare: unshare_flags == CLONE_NEWUSER", "user-namespace"),
        ("mmap: prot == PROT_READ|PROT_WRITE|PROT_EXEC", "write-exec"),
        ("pkey_mprotect: prot == PROT_WRITE|PROT_EXEC", "write-exec"),
        ("ioctl: cmd == TIOCSTI", "tiocsti"),
        ("ioctl: cmd == TIOCLINUX", "tioclinux"),
        ("ioctl: fd == 0", "any-ioctl"),
        ("prctl: arg2 == 0", "any-prctl"),
        ("clone: newsp == 0", "any-clone"),
        ("socket: type == SOCK_STREAM", "any-socket"),
        ("socket: family == AF_INET && type == SOCK_RAW|SOCK_CLOEXEC", "raw-socket"),
        ("socket: family == AF_PACKET && type == SOCK_DGRAM", "packet-socket"),
        ("socket: family == AF_NETLINK && type == SOCK_RAW && protocol == NETLINK_NETFILTER", "netfilter"),
        ("socket: family == AF_NETLINK && type == SOCK_RAW && protocol == NETLINK_ROUTE", "netlink"),
        ("socket: family == AF_ALG", "alg-socket"),
        ("socket: family == AF_VSOCK", "vsock"),
        ("mknodat: mode & 0o170000 == S_IFBLK", "device-node"),
    ],
)
def test_arguments_that_are_always_found(rule: str, row: str) -> None:
    assert row in rules(rule)


def test_sources_are_well_formed() -> None:
    for danger in dangers():
        for cve in re.findall(r"CVE\S*", f"{danger.why} {danger.source}"):
            assert re.fullmatch(r"CVE-20[0-9]{2}-[0-9]{4,5}[,;)]?", cve), (danger.id, cve)
