"""What commands print, whole: one row for each answer."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

import pytest

from callfence.cli import module_of

WRITTEN = "callfence 1\narch x86_64\ntable 6.18\narm exec\ndefault kill\nunknown errno ENOSYS\n"
POLICIES = {
    "deny": "read: deny\nwrite: fd == 1\n",
    "old": "table 6.1\nread: allow\n",
    "portable": "portable\nread: allow\n",
    "files": "path /b: read\nunix connect /y\nread: allow\n",
    "names": "tcp connect a.example: 443\nudp send: none\ndns query *.x.org\nread: allow\n",
    "implied": "implied 1\nread: allow\n",
    "partly": "read: fd == 1\nwrite: allow\n",
    "other": "read: allow\nwrite: fd == 1\n",
    "open": "open: allow\nread: allow\n",
    "before": "read: fd == 1\nwrite: allow\nsync: allow\n",
    "after": "read: allow\nwrite: fd == 1\nconnect: allow\n",
    "plain": "read: allow\n",
    "settings": "default errno EPERM\nimplied 1\nread: allow\n",
    "etc": "path /etc: read\nread: allow\n",
    "cron": "path /etc: read, write\ntcp connect: 443\nread: allow\n",
    "sockets": "socket: allow\nconnect: allow\n",
    "shell": "socket: allow\nconnect: allow\ndup2: allow\nexecve: allow\n",
    "failing": "read: errno EPERM\n",
    "one": "read: fd == 1\n",
    "either": "read: fd == 1 || fd == 2\n",
    "two": "read: fd == 1 || fd == 2\nkill: sig == 0\n",
    "risky": "read: allow\nptrace: allow\nsetns: allow  # why: it must\n",
}
CARRY = "callfence carry: deny.policy has sections for x86_64 only: `callfence carry deny.policy --to {}` adds that one\n"
PTRACE = """\
risky.policy:3: danger: ptrace: it reads and changes the memory and registers of other processes [ptrace]
  entry   ptrace: allow
  allows  ptrace(request=PTRACE_TRACEME, pid=0, addr=0, data=0)
  why     what it attaches to makes calls on its behalf, outside this policy; with CAP_SYS_PTRACE that is any process; \
CVE-2019-13272 gave root through PTRACE_TRACEME
  safer   debug from outside; a crash handler can be a process of its own
  source  ptrace(2)
"""
SETNS = """\
risky.policy:4: danger: setns: it moves into the namespaces of other processes [setns]
  entry   setns: allow
  allows  setns(fd=0, flags=0)
  why     the program then sees what those processes see, perhaps all of the host
  safer   enter namespaces before the program starts (nsenter)
  source  setns(2)
  accepted: it must
"""
UNRECORDED = (
    "callfence why: no calls can be shown, because there is neither .callfence/deny.rec nor deny.evidence: learn writes both\n"
)
SHELL = """\
danger: dup2 and execve, with connect and socket: it gives a shell to others over the network, by a connection of its own \
[reverse-shell]
  why     an attacker who takes the program over gets a shell on the machine, past most firewalls: the connection goes out
  safer   start programs from a separate process without sockets, or connect before the policy holds"""
ANSWERS: dict[str, tuple[int, str, str]] = {
    "allow deny.policy 'read: allow'": (
        1, "", "deny.policy denies read explicitly: read: deny\n  the policy is unchanged; --force allows the call anyway\n",
    ),
    "allow --force deny.policy 'read: allow'": (0, "deny.policy: read\n  + read: allow\n", ""),
    "allow deny.policy 'write: fd == 1' 'write: fd == 2' 'path /a: read'": (0, "deny.policy: write\n  + write: fd == 2\n", ""),
    "allow deny.policy 'write: fd == 1' 'path /a: read' 'unix connect /x'": (
        0,
        "deny.policy: write: already allowed\ndeny.policy: path /a: already allowed\n"
        "deny.policy: unix connect /x: already allowed\n",
        "",
    ),
    "allow files.policy 'path /a: read' 'path /b/c: read' 'unix connect /x'": (
        0, "files.policy: path /a\n  + read\nfiles.policy: unix connect /x\n", "",
    ),
    "allow --until later deny.policy 'write: fd == 2'": (
        2, "", "callfence allow: --until later: deny.policy has no such phase to enter; it has no phase\n",
    ),
    "allow --until later deny.policy 'path /a: read'": (
        2, "", "callfence allow: --until: lines about files, ports and hosts hold in all phases; leave out --until\n",
    ),
    "allow old.policy 'futex_wait: allow'": (
        0,
        "old.policy: futex_wait\n  + futex_wait: allow\nold.policy: table 6.1 -> 6.18: other calls that Linux 6.18 has and 6.1 "
        "has not get `default` (kill), not `unknown` (errno ENOSYS)\n",
        "",
    ),
    "allow portable.policy 'open: allow'": (
        0,
        "portable.policy: open\n  + open: allow\n"
        "  portable: creat\n    + creat: allow\n"
        "  portable: fcntl\n    + fcntl: cmd == F_SETFD && arg == FD_CLOEXEC\n"
        "  portable: openat\n    + openat: dfd == AT_FDCWD\n"
        "  portable: unlink\n    + unlink: allow\n"
        "  portable: unlinkat\n    + unlinkat: dfd == AT_FDCWD && flag == 0\n",
        "",
    ),
    "carry --check --from aarch64 deny.policy": (2, "", CARRY.format("aarch64")),
    "carry --check deny.policy": (
        2,
        "",
        "callfence carry: deny.policy has no two sections to compare: `callfence carry deny.policy --to ARCH` adds one\n",
    ),
    "carry --to aarch64 open.policy": (
        0,
        "open.policy: arch aarch64: 2 calls carried from x86_64, 1 as other calls\n  open -> openat\n"
        "proved: aarch64 allows no effect that x86_64 denies\nproved: the same effects for 2 of 2 calls\n",
        "",
    ),
    "git-setup": (2, "", "callfence git-setup: fatal: not a git repository (or any of the parent directories): .git\n"),
    "lint deny.policy": (0, "no findings\n", ""),
    "lint risky.policy": (1, f"{PTRACE}1 danger; 1 accepted\n", ""),
    "lint --level danger risky.policy": (1, f"{PTRACE}1 danger; 1 accepted\n", ""),
    "lint --accepted risky.policy": (1, f"{PTRACE}{SETNS}1 danger; 1 accepted\n", ""),
    "merge --intersect partly.policy other.policy": (
        0,
        f"{WRITTEN}\nread: fd == 1\nwrite: fd == 1\n",
        "callfence merge: partly.policy denies for some arguments, which other.policy allows: read\n",
    ),
    "merge --intersect partly.policy --why write other.policy": (
        0, "x86_64\n  other.policy:  fd == 1\n  partly.policy: allow\n  both:          fd == 1\n", "",
    ),
    "merge --intersect partly.policy --why close other.policy": (
        0, "x86_64\n  other.policy:  kill\n  partly.policy: kill\n  both:          kill\n", "",
    ),
    "merge --intersect partly.policy --why 'write(fd=2)' other.policy": (
        2, "", "callfence merge: --why write(fd=2): x86_64 has no such call\n",
    ),
    "merge -o out.rec deny.policy": (2, "", "deny.policy:1: not a callfence recording\n"),
    "report -": (
        2,
        "",
        "callfence report: a report names its files, so POLICY cannot be standard input: name a file (./- for a file -)\n",
    ),
    "review -": (
        2, "", "callfence review: POLICY cannot be standard input, because the review changes the file: name a file\n",
    ),
    "review --no-terminal --against before.policy after.policy": (
        1,
        """
(1 of 2)
note: connect: it newly connects to addresses [connect]
  why     no filter sees which addresses: services of this machine and of its network are among them
  safer   hand it connected sockets, or confine addresses by a firewall or a network namespace
  + connect: allow
  allows  connect(fd=0, uservaddr=NULL, addrlen=0)
  seen    in no recorded run

(2 of 2)
  - read: fd == 1
  + read: allow
  new     fd != 1
  allows  read(fd=0, buf=NULL, count=0)
  seen    in no recorded run

after.policy: 2 undecided
""",
        "",
    ),
    "review --accept-all --against before.policy after.policy": (
        0,
        "after.policy: 2 accepted\ncommit after.policy: until then, the next review asks about the accepted changes again\n",
        "",
    ),
    "review --reject-all --against before.policy after.policy": (
        0,
        "after.policy: 2 rejected\n  - connect: allow\n"
        "      allow -> kill, for example connect(fd=0, uservaddr=NULL, addrlen=0)\n"
        "- no longer allowed, and granted nothing beyond the rest (1 call): read\n",
        "",
    ),
    "review --no-terminal --against plain.policy settings.policy": (
        1,
        """
(1 of 2)
warning: default kill -> errno EPERM: calls that no entry names fail, and the program goes on [setting-default]
  - default kill
  + default errno EPERM
  errno EPERM write(fd=0, buf=NULL, count=0)

(2 of 2)
note: implied none -> 1: calls that grant nothing beyond its entries are allowed without an entry [setting-implied]
  - implied none
  + implied 1
  allows  alarm(seconds=0)
  allows  arch_prctl(option=ARCH_SET_FS, arg2=0)
  allows  brk(brk=0)
  and 124 more kinds of calls

settings.policy: 2 undecided
""",
        "",
    ),
    "review --no-terminal --against etc.policy cron.policy": (
        1,
        """
(1 of 1)
danger: path /etc: + write: it can have the system execute programs [scheduled]
  why     cron, at, systemd, udev and package managers execute them without a policy
  safer   write the program's own folder only
  - path /etc: read
  + path /etc: read, write

cron.policy: 1 undecided
""",
        "",
    ),
    "review --no-terminal --against sockets.policy shell.policy": (
        1,
        f"""
(1 of 2)
{SHELL}
warning: execve: it newly starts other programs [execute]
  why     any program on the machine can then be started, a shell too, all under this policy
  safer   start what must be started from a separate process, with its own policy
  + execve: allow
  allows  execve(filename=NULL, argv=NULL, envp=NULL)
  seen    in no recorded run

(2 of 2)
{SHELL}
  + dup2: allow
  allows  dup2(oldfd=0, newfd=0)
  seen    in no recorded run

shell.policy: 2 undecided
""",
        "",
    ),
    "review --no-terminal --against one.policy two.policy": (
        1,
        """
(1 of 2)
warning: kill: it newly sends signals to any process of its user [signals-to-others]
  why     other programs of the user can be ended or stopped
  safer   `scope signals`, if it signals only what it starts; or require pid == 0, its own process group
  + kill: sig == 0
  allows  kill(pid=0, sig=0)
  seen    in no recorded run

(2 of 2)
  + read: fd == 2
  allows  read(fd=2, buf=NULL, count=0)
  seen    in no recorded run

two.policy: 2 undecided
""",
        "",
    ),
    "review --no-terminal --against failing.policy either.policy": (
        1,
        """
(1 of 1)
  - read: errno EPERM
  + read: fd == 1 || fd == 2
  allows  read(fd=1, buf=NULL, count=0)
  kill    read(fd=0, buf=NULL, count=0)
  seen    in no recorded run

either.policy: 1 undecided
""",
        "",
    ),
    "show --implied deny.policy": (0, "# deny.policy: the policy has no `implied` line that adds entries\n", ""),
    "verify deny.policy": (
        0, "proved: the filter (15 instructions; 15 with reports) is equivalent to the policy, for every call\n", "",
    ),
    "why deny.policy read": (
        0,
        "read: deny\n  no recorded run needed it: written by hand, or learned from runs that are not recorded\n\n",
        UNRECORDED,
    ),
    "why deny.policy getpid": (1, "getpid: the policy has no entry, so its default applies: kill\n", UNRECORDED),
    "why deny.policy 'write(fd=2)'": (
        1,
        "write(fd=2, buf=NULL, count=0)\n  the policy says: kill\n  nearest rule: write: fd == 1\n"
        "  condition not met: fd == 1 (fd is 2)\n  to allow it: callfence allow deny.policy 'write: fd == 2'\n",
        "",
    ),
    "why deny.policy 'read(fd=2)'": (
        1,
        "read(fd=2, buf=NULL, count=0)\n  the policy says: kill\n  by this entry: read: deny\n"
        "  deny.policy denies it explicitly\n",
        "",
    ),
    "why deny.policy 'getpid()'": (
        1,
        "getpid()\n  the policy says: kill\n  it has no entry for the call, so its default applies\n"
        "  to allow it: callfence allow deny.policy 'getpid: allow'\n",
        "",
    ),
    "why --arch aarch64 deny.policy 'getpid()'": (
        1,
        "getpid()\n  the policy says: kill\n  it has no section `arch aarch64`\n"
        "  to allow it: callfence allow --arch aarch64 deny.policy 'getpid: allow'\n",
        "",
    ),
    "why names.policy 'dns query' a": (2, "", "callfence why: a is too much: a look-up has no ports\n"),
    "why names.policy 'dns query b.x.org'": (0, "dns query b.x.org: granted\n  dns query *.x.org\n", ""),
    "why names.policy 'dns query a.example'": (0, "dns query a.example: granted\n  tcp connect a.example: 443\n", ""),
    "why names.policy 'dns query b.example'": (
        1,
        "dns query b.example: not granted\n  no line grants dns query b.example\n"
        "  to grant it: callfence allow names.policy 'dns query b.example'\n",
        "",
    ),
    "why names.policy 'unix connect /x'": (
        0,
        "unix connect /x: granted\n"
        "  the policy has no `unix connect` line, so it grants all unix sockets to the calls that it allows\n",
        "",
    ),
    "why files.policy 'dns query a'": (
        0,
        "dns query a: granted\n  the policy has no `dns query` line, so it grants all look-ups to the calls that it allows\n",
        "",
    ),
    "why names.policy /etc xyzzy": (
        2,
        "",
        "callfence why: no right is named xyzzy: the rights are read, list, write, create, remove, execute, move, symlink,"
        " socket, fifo, device\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", ANSWERS)
def test_the_answer(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in POLICIES.items():
        settings = [row for row in text.splitlines() if row.startswith(("table", "portable", "implied", "default"))]
        rows = [row for row in text.splitlines() if row not in settings]
        Path(f"{name}.policy").write_text("\n".join((*settings, "arch x86_64", *rows, "")))
    command, *words = shlex.split(line)
    status = import_module(module_of(command)).main(words)
    done = capsys.readouterr()
    assert (status, done.out, done.err) == ANSWERS[line]
