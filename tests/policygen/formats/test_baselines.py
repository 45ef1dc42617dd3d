"""Units of systemd and profiles of firejail, read as baselines: what they leave a program of files, ports and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from policygen import formats
from policygen.evaluate import evaluate
from policygen.files.algebra import granted
from policygen.formats import Direction, FormatOptions, ImportFormatError
from policygen.formats.carved import TOPS, carved
from policygen.grants import ALL, NOTHING, Right, format_rights
from tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from policygen.grants import Files
    from policygen.model import Policy

READS, CHANGES = Right.READ | Right.EXECUTE, ALL & ~Right.READ & ~Right.EXECUTE


def read(name: str, text: str, **others: str) -> formats.Imported:
    options = FormatOptions(read=lambda file: others[file].encode() if file in others else None)
    imported: formats.Imported = formats.module(name).read(text.encode(), "it", options)
    return imported


def unit(text: str) -> formats.Imported:
    return read("systemd", f"[Unit]\nDescription=it\n[Service]\n{text}")


def held(files: Files, path: str) -> Right:
    return granted(files.grants, path)


def wider(imported: formats.Imported) -> str:
    return "\n".join(loss.what for loss in formats.wider(imported.losses))


SYSTEMD = (
    # settings, path, what may be done there
    ("", "/etc/x", ALL),
    ("ProtectSystem=yes", "/usr/bin/x", READS),
    ("ProtectSystem=yes", "/etc/x", ALL),
    ("ProtectSystem=full", "/etc/x", READS),
    ("ProtectSystem=full", "/srv/x", ALL),
    ("ProtectSystem=strict", "/srv/x", READS),
    ("ProtectSystem=strict", "/dev/null", ALL),
    ("ProtectSystem=strict\nReadWritePaths=/srv/x", "/srv/x/y", ALL),
    ("ProtectSystem=strict\nReadWritePaths=/srv/x\nReadWritePaths=", "/srv/x/y", READS),
    ('ProtectSystem=strict\nReadWritePaths="/a b" \\\n  -/c', "/c", ALL),
    ('ProtectSystem=strict\nReadWritePaths="/a b" \\\n  -/c', "/a b", ALL),
    ("ProtectSystem=strict\nStateDirectory=x", "/var/lib/x", ALL),
    ("ProtectSystem=strict\nReadWritePaths=%h/x", "$HOME/x", ALL),
    ("ProtectSystem=strict\nReadWritePaths=%S/x", "/var/lib/x", ALL),
    ("ProtectHome=yes", "$HOME/.ssh", NOTHING),
    ("ProtectHome=yes", "/home/x", NOTHING),
    ("ProtectHome=yes", "/srv/x", ALL),
    ("ProtectHome=read-only", "$HOME/.ssh", READS),
    ("DynamicUser=yes", "/srv/x", READS),
    ("ReadOnlyPaths=/srv", "/srv/x", READS),
    ("InaccessiblePaths=/srv", "/srv/x", NOTHING),
    ("InaccessiblePaths=/srv\nReadWritePaths=/srv/x", "/srv/x", NOTHING),
    ("NoExecPaths=/\nExecPaths=/usr/bin/x", "/usr/bin/x", ALL),
    ("NoExecPaths=/\nExecPaths=/usr/bin/x", "/usr/bin/y", ALL & ~Right.EXECUTE),
    ("ProtectSystem=strict\nWorkingDirectory=/srv/x\nReadWritePaths=/srv/x", "./y", ALL),
    ("ProtectSystem=strict", "./y", READS),
)


@pytest.mark.parametrize(("settings", "path", "rights"), SYSTEMD)
def test_a_unit_leaves_files(settings: str, path: str, rights: Right) -> None:
    files = unit(settings).policy.files
    assert format_rights(held(files, path)) == format_rights(rights)


def test_what_cannot_be_taken_is_told() -> None:
    told = wider(unit("InaccessiblePaths=/etc/shadow\nRestrictAddressFamilies=AF_INET\nPrivateTmp=yes\n"))
    assert "/etc/shadow" in told
    assert "not read: PrivateTmp, RestrictAddressFamilies" in told
    narrower = [loss.what for loss in unit("ProtectHome=yes").losses if loss.direction is Direction.NARROWER]
    assert any("folders of the root with other names" in what for what in narrower)


PORTS = (
    ("", None),
    ("SocketBindDeny=any", ()),
    ("SocketBindDeny=any\nSocketBindAllow=tcp:80 8000-8009", ((80, 80), (8000, 8009))),
    ("SocketBindDeny=any\nSocketBindAllow=udp:80", ()),
    ("SocketBindDeny=ipv4:tcp:0-1023", ((1024, 65535),)),
)


@pytest.mark.parametrize(("settings", "ports"), PORTS)
def test_a_unit_leaves_ports(settings: str, ports: object) -> None:
    assert unit(settings).policy.files.bind == ports


CALLS = (
    ("", "ptrace", "allow"),
    ("SystemCallFilter=read ~write", "read", "allow"),
    ("SystemCallFilter=read", "ptrace", "kill"),
    ("SystemCallFilter=read", "exit_group", "allow"),
    ("SystemCallFilter=@system-service\nSystemCallFilter=~@resources", "setpriority", "kill"),
    ("SystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM", "ptrace", "errno"),
    ("SystemCallFilter=~ptrace", "ptrace", "kill"),
    ("SystemCallFilter=~ptrace", "read", "allow"),
    ("SystemCallFilter=~ptrace:EACCES", "ptrace", "errno"),
    ("SystemCallFilter=~ptrace\nSystemCallFilter=", "ptrace", "allow"),
)


def answer(policy: Policy, name: str) -> str:
    number = table(Arch.X86_64).by_name[name].number
    return str(evaluate(policy, Event(Arch.X86_64.audit, number, (0, 0, 0, 0, 0, 0))).kind)


@pytest.mark.parametrize(("settings", "call", "kind"), CALLS)
def test_a_unit_leaves_calls(settings: str, call: str, kind: str) -> None:
    assert answer(unit(settings).policy, call) == kind


MISTAKES = (
    ("systemd", "ProtectSystem=strict\n", "it:1: a unit has sections|neither"),
    ("systemd", "[Service]\nwhat\n", "it:2: neither a section nor NAME=VALUE: what"),
    ("systemd", "[Service]\nProtectSystem=odd\n", "it:2: ProtectSystem=odd: it is none of"),
    ("systemd", "[Service]\nReadWritePaths=relative\n", "it:2: ReadWritePaths: relative is relative to no folder"),
    ("systemd", "[Service]\nReadWritePaths=/a/../b\n", "it:2: ReadWritePaths: a path has no `..`"),
    ("systemd", "[Service]\nReadWritePaths=/a/%q\n", "it:2: ReadWritePaths: the specifier in /a/%q"),
    ("systemd", '[Service]\nReadWritePaths="/a\n', "it:2: ReadWritePaths: No closing quotation"),
    ("systemd", "[Service]\nSocketBindDeny=tcp:70000\n", "it:2: SocketBindDeny=tcp:70000: ports are 0 to 65535"),
    ("systemd", "[Service]\nSocketBindDeny=odd\n", "it:2: SocketBindDeny=odd: it is no rule"),
    ("systemd", "[Service]\nSystemCallFilter=@odd\n", "it:2: SystemCallFilter: systemd 257 has no group @odd"),
    ("systemd", "[Service]\nSystemCallFilter=read\nSystemCallErrorNumber=EODD\n", "EODD is no errno"),
    ("firejail", "\n# nothing\n", "it: it has no line"),
    ("firejail", "blacklist /a\nX = 3\n", "it:2: no line of a profile begins with 'X'"),
    ("firejail", "blacklist /a/../b\n", "it:1: blacklist: a path has no `..`"),
    ("firejail", "blacklist a\n", "it:1: blacklist: a is relative to no folder"),
    ("firejail", "seccomp.drop mount:EODD\n", "it:1: EODD is no errno"),
)


@pytest.mark.parametrize(("name", "text", "message"), MISTAKES)
def test_mistakes_have_positions(name: str, text: str, message: str) -> None:
    with pytest.raises(ImportFormatError, match=message):
        read(name, text)


FIREJAIL = (
    ("blacklist /opt", "/opt/x", NOTHING),
    ("blacklist /opt", "/srv/x", ALL),
    ("noblacklist /opt\nblacklist /opt", "/opt/x", ALL),
    ("whitelist /srv/a", "/srv/a/x", ALL),
    ("whitelist /srv/a", "/srv/b", NOTHING),
    ("whitelist /srv/a", "/opt/b", ALL),
    ("whitelist-ro /srv/a", "/srv/a", READS),
    ("whitelist ${HOME}/work", "$HOME/work/x", ALL),
    ("whitelist ~/work", "$HOME/.ssh", NOTHING),
    ("read-only /usr", "/usr/bin/x", READS),
    ("read-only /\nread-write /srv", "/srv/x", ALL),
    ("read-only /\nread-write /srv", "/opt/x", READS),
    ("noexec /tmp", "/tmp/x", ALL & ~Right.EXECUTE),
    ("read-only /srv\nnoexec /srv", "/srv/x", Right.READ),
    ("private", "$HOME/x", NOTHING),
    ("private-tmp", "/tmp/x", ALL),
    ("include more.inc", "/opt/x", NOTHING),
)


@pytest.mark.parametrize(("lines", "path", "rights"), FIREJAIL)
def test_a_profile_leaves_files(lines: str, path: str, rights: Right) -> None:
    files = read("firejail", f"caps.drop all\n{lines}\n", **{"more.inc": "blacklist /opt\n"}).policy.files
    assert format_rights(held(files, path)) == format_rights(rights)


def test_what_is_not_read_of_a_profile_is_told() -> None:
    files = "include none.inc\ninclude own.local\nblacklist /a*\nblacklist ${PATH}/su\nprivate-bin cat\n"
    told = wider(read("firejail", f"{files}seccomp\n?HAS_X11: include x\n"))
    for part in ("none.inc", "/a*", "${PATH}/su", "private-bin cat", "own list of calls", "?HAS_X11: include x"):
        assert part in told
    assert "own.local" not in told


def test_a_profile_leaves_calls_and_ports() -> None:
    imported = read("firejail", "net none\nseccomp.drop mount,umount2:EACCES\nseccomp-error-action kill\n").policy
    assert (imported.files.connect, imported.files.bind) == ((), ())
    assert [answer(imported, name) for name in ("mount", "umount2", "read")] == ["kill", "errno", "allow"]
    kept = read("firejail", "seccomp.keep read,write\n").policy
    assert [answer(kept, name) for name in ("read", "ptrace", "execve")] == ["allow", "errno", "allow"]


def test_grants_are_never_wider_than_marks_but_as_told() -> None:
    marks = {"/": ALL, "/etc": READS, "/home": NOTHING, "/root": NOTHING, "/srv/a": READS}
    grants, losses = carved(marks)
    assert [granted(grants, path) for path in ("/etc/x", "/home/x", "$HOME/x", "/opt/x")] == [READS, NOTHING, NOTHING, ALL]
    assert granted(grants, "/srv/a") == ALL
    assert "/srv/a" in losses[0].what
    assert set(TOPS) >= set(grants) - {"/", "$HOME", "$TMPDIR"}
