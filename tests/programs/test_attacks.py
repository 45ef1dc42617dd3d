"""Attacks inside a benign program, under the policy of its benign run: stopped, named, and explained.

`attacks/victim.c` has one function an attack; the table below says what the kernel makes of it without a policy and
what the report must say.  The plain run matters: an attack that never reached its call would prove nothing.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import native

from callfence.enforcer import kernel
from callfence.policygen.model import ALLOW, KILL
from callfence.tracer.abi import NATIVE, Arch

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

    from callfence.policygen.model import Action

    Follow = Callable[[Path, dict[str, Any]], tuple[Action, Action]]

WORKS = ""
"""The plain run's call succeeds."""
NOT_BUILT = "ENOSYS"
"""Also accepted from the plain run: kernels are commonly built without the call (CONFIG_MODULES, CONFIG_KEXEC, ...)."""


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    call: str
    """The denied call's name."""
    arguments: tuple[str, ...]
    """What the report must say about its arguments."""
    plain: tuple[str, ...] = (WORKS,)
    """What the plain run may answer as root: WORKS or the names of errors."""
    arch: Arch = NATIVE
    only: Arch | None = None
    """The one machine that has this door."""
    allowable: bool = True
    """Whether a line of a policy could allow it."""
    ended_by: signal.Signals = signal.SIGSYS
    fails: bool = False
    """Whether a policy with the implied set fails the call (ENOSYS), without a report; a policy of `learn --exact` kills it."""


PORTS = 4
"""The version of Landlock that has TCP ports.  Without it the helper judges them, and no line permits the program sockets that
it could not judge."""
FORK_FLAGS = "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD"
WX = "prot=PROT_READ|PROT_WRITE|PROT_EXEC"

_ATTACKS = (
    # glibc's fork blocks all signals, so nothing but SIGKILL ends a process there
    Attack("shell", "clone", (f"clone_flags={FORK_FLAGS}",), ended_by=signal.SIGKILL),
    Attack("exec_shell", "execve", ("filename=", "argv=")),
    Attack("exec_at", "execveat", ("fd=AT_FDCWD", "flags=0")),
    Attack("exec_memfd", "memfd_create", ("flags=0",)),
    Attack("raw_fork", "fork", (), only=Arch.X86_64),
    Attack("raw_vfork", "vfork", (), only=Arch.X86_64),
    Attack("clone_newuser", "clone", ("clone_flags=CLONE_NEWUSER|SIGCHLD",)),
    Attack("clone_newpid", "clone", ("clone_flags=CLONE_NEWPID|CLONE_NEWUSER|SIGCHLD",)),
    Attack("connect_back", "socket", ("family=AF_INET", "type=SOCK_STREAM", "protocol=")),
    Attack("udp", "socket", ("family=AF_INET", "type=SOCK_DGRAM")),
    Attack("unix_datagram", "socket", ("family=AF_UNIX", "type=SOCK_DGRAM")),
    Attack("sniffer", "socket", ("family=AF_PACKET", "type=SOCK_RAW"), allowable=kernel.landlock_abi() >= PORTS),
    Attack("netlink", "socket", ("family=AF_NETLINK", "type=SOCK_RAW")),
    Attack("socket_option", "setsockopt", ("level=SOL_SOCKET", "optname=SO_ATTACH_BPF"), ("ENOTSOCK",)),
    Attack("mprotect_wx", "mprotect", (WX,)),
    Attack("mprotect_exec", "mprotect", ("prot=PROT_READ|PROT_EXEC",)),
    Attack("pkey_wx", "pkey_mprotect", (WX, "pkey=-1")),
    Attack("mmap_wx", "mmap", (WX, "flags=MAP_ANONYMOUS|MAP_PRIVATE")),
    Attack("madvise_other", "madvise", ("behavior=MADV_DODUMP",)),
    Attack("secret_memory", "memfd_secret", ("flags=0",), (WORKS, NOT_BUILT)),
    Attack("page_faults", "userfaultfd", ("flags=O_CLOEXEC|UFFD_USER_MODE_ONLY",), (WORKS, NOT_BUILT)),
    Attack("ptrace_attach", "ptrace", ("request=PTRACE_ATTACH", "pid="), ("EPERM",)),
    Attack("write_memory", "process_vm_writev", ("pid=", "liovcnt=1")),
    Attack("read_memory", "process_vm_readv", ("pid=", "riovcnt=1")),
    Attack("probe_parent", "kill", ("pid=", "sig=0")),
    Attack("kill_thread", "tgkill", ("sig=SIGKILL",), ("ESRCH",)),
    Attack("pidfd", "pidfd_open", ("pid=", "flags=0"), fails=True),
    Attack("steal_fd", "pidfd_getfd", ("pidfd=-1", "fd=0"), ("EBADF",)),
    Attack("type_ahead", "ioctl", ("fd=0", "cmd=TIOCSTI"), ("ENOTTY",)),
    Attack("int80_getpid", "getpid", (), arch=Arch.I386, only=Arch.X86_64),
    Attack("int80_setuid", "setuid32", ("uid=",), arch=Arch.I386, only=Arch.X86_64),
    Attack("x32_getpid", "getpid", (), (WORKS, NOT_BUILT), only=Arch.X86_64, allowable=False),
    Attack("ring", "io_uring_setup", ("entries=1",), (WORKS, NOT_BUILT), fails=True),
    Attack("open_at_2", "openat2", ("dfd=AT_FDCWD",), fails=True),
    Attack("open_for_both", "openat", ("dfd=AT_FDCWD", "flags=O_RDWR")),
    Attack("set_user_id", "chmod", ("mode=S_ISUID|0755",)),
    Attack("make_link", "symlink", ("oldname=", "newname=")),
    Attack("remove_file", "unlink", ("pathname=",), ("ENOENT",)),
    Attack("make_device", "mknodat", ("dfd=-1", "mode=S_IFCHR|0600"), ("EBADF",)),
    Attack("open_by_handle", "open_by_handle_at", ("mountdirfd=-1", "flags=O_RDONLY"), ("EBADF", "EINVAL", NOT_BUILT)),
    Attack("become_user", "setuid", ("uid=",)),
    Attack("become_users", "setresuid", ("ruid=", "euid=", "suid=")),
    Attack("raise_capabilities", "capset", ("header=", "data=")),
    Attack("personality_exec", "personality", ("personality=PER_LINUX|READ_IMPLIES_EXEC",)),
    Attack("process_dumpable", "prctl", ("option=PR_SET_DUMPABLE", "arg2=")),
    Attack("descriptor_owner", "fcntl", ("fd=0", "cmd=F_SETOWN")),
    Attack("limits", "prlimit64", ("pid=0", "resource=RLIMIT_CORE")),
    Attack("arch_base", "arch_prctl", ("option=ARCH_SET_GS",), only=Arch.X86_64),
    Attack("filter_query", "seccomp", ("op=SECCOMP_GET_ACTION_AVAIL", "flags=0")),
    Attack("new_namespace", "unshare", ("unshare_flags=CLONE_NEWUSER",)),
    Attack("enter_namespace", "setns", ("fd=-1", "flags=CLONE_NEWNET"), ("EBADF",)),
    Attack("mount_nothing", "mount", ("flags=MS_NODEV|MS_NOSUID",), ("ENOENT",)),
    Attack("unmount", "umount2", ("flags=MNT_DETACH",), ("ENOENT",)),
    Attack("change_root", "chroot", ("filename=",), ("ENOENT",)),
    Attack("pivot", "pivot_root", ("new_root=", "put_old="), ("ENOENT",)),
    Attack("new_mount", "fsopen", ("flags=FSOPEN_CLOEXEC",)),
    Attack("bpf_map", "bpf", ("cmd=BPF_MAP_CREATE", "size="), (WORKS, NOT_BUILT)),
    Attack("performance", "perf_event_open", ("pid=0", "cpu=-1", "group_fd=-1"), (WORKS, "EACCES", NOT_BUILT)),
    Attack("keys", "keyctl", ("option=KEYCTL_GET_KEYRING_ID",), ("ENOKEY", NOT_BUILT)),
    Attack("add_key", "add_key", ("plen=1", "ringid="), (WORKS, NOT_BUILT)),
    Attack("new_kernel", "kexec_load", ("nr_segments=0",), ("EINVAL", NOT_BUILT)),
    Attack("load_module", "finit_module", ("fd=-1",), ("EBADF", NOT_BUILT)),
    Attack("unload_module", "delete_module", ("flags=O_RDONLY|O_NONBLOCK",), ("ENOENT", NOT_BUILT)),
    Attack("restart", "reboot", ("magic1=", "magic2="), ("EINVAL",)),
    Attack("kernel_log", "syslog", ("type=", "len=0"), (WORKS, NOT_BUILT)),
    Attack("accounting", "acct", ("name=",), ("ENOENT", NOT_BUILT)),
    Attack("swap", "swapon", ("swap_flags=0",), ("ENOENT", NOT_BUILT)),
    Attack("host_name", "sethostname", ("len=-1",), ("EINVAL",)),
    Attack("clock_back", "clock_settime", ("which_clock=CLOCK_REALTIME",), ("EINVAL",)),
)
SILENT = (
    Attack("clone_3", "clone3", ()),  # the policy writes `clone3: errno ENOSYS`
    Attack("future_call", "4000", (), ("ENOSYS",)),  # newer than the policy's table
)
"""Answered ENOSYS in the kernel, without a report: libc asks for these and has a fallback."""
ATTACKS = tuple(one for one in _ATTACKS if one.only in (None, NATIVE))


@pytest.fixture(scope="module")
def victim(compile_c: Callable[..., Path]) -> Path:
    return compile_c(Path(__file__).parent / "attacks" / "victim.c")


@pytest.fixture(scope="module")
def policies(victim: Path, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The policies of one benign run each: what `learn` makes of it, and what `learn --exact` does."""
    folder = tmp_path_factory.mktemp("benign")
    files = folder / "victim.policy", folder / "exact.policy"
    for file, flags in zip(files, ((), ("--exact",)), strict=True):
        learned = commands.learn(file, [victim, "benign"], folder, *flags)
        assert (learned.returncode, learned.stdout) == (0, b"benign work done\n"), learned.stderr.decode()
    return files


@pytest.fixture(scope="module")
def policy(policies: tuple[Path, Path]) -> Path:
    return policies[0]


def named(attack: Attack) -> str:
    return attack.name


def test_every_attack_has_a_row(victim: Path, commands: Commands, tmp_path: Path) -> None:
    listed = commands.plain([victim, "list"], tmp_path).stdout.decode().split()
    assert sorted(listed) == sorted(attack.name for attack in (*ATTACKS, *SILENT))


@pytest.mark.parametrize("attack", (*ATTACKS, *SILENT), ids=named)
def test_without_a_policy_the_call_is_reached(attack: Attack, victim: Path, commands: Commands, tmp_path: Path) -> None:
    ran = commands.plain([victim, attack.name], tmp_path)
    assert ran.returncode == 0, ran.stderr.decode()
    found = re.search(rf"^attack {attack.name}: (-?\d+)$", ran.stdout.decode(), re.MULTILINE)
    assert found, ran.stdout.decode()
    answer = int(found[1])
    expected = {*attack.plain} if os.geteuid() == 0 else {*attack.plain, "EPERM"}
    # -4096 < result < 0 is an error (MAX_ERRNO, linux/err.h); a mapping's address may be negative as a long
    assert (errno.errorcode[-answer] if -4096 < answer < 0 else WORKS) in expected


def test_the_benign_run_is_allowed(policy: Path, victim: Path, commands: Commands, tmp_path: Path) -> None:
    enforced = commands.enforce(policy, [victim, "benign"], tmp_path)
    assert (enforced.ran.returncode, enforced.ran.stdout) == (0, b"benign work done\n")
    assert enforced.violations == []
    assert enforced.ran.stderr == b""


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_stopped_and_explained(
    attack: Attack, policies: tuple[Path, Path], victim: Path, commands: Commands, follow_advice: Follow, tmp_path: Path
) -> None:
    policy = policies[attack.fails]
    enforced = commands.enforce(policy, [victim, attack.name], tmp_path)

    assert enforced.ran.stdout == b"benign work done\n", "the attack succeeded, or the benign work was stopped"
    assert enforced.ran.returncode == -attack.ended_by
    assert len(enforced.violations) == 1
    violation = enforced.violations[0]
    assert violation["arch"] == attack.arch
    name, _, arguments = violation["call"].removeprefix("x32 ").partition("(")
    assert name == native(attack.call)
    shown = [normal(text) for text in arguments.removesuffix(")").split(", ")]
    for wanted in attack.arguments:
        assert any(text.startswith(wanted) if wanted.endswith("=") else text == normal(wanted) for text in shown), shown

    if attack.allowable:
        assert follow_advice(policy, violation) == (KILL, ALLOW)
    else:
        assert not any(advice["line"] for advice in violation["allow"])


@pytest.mark.parametrize("attack", [*SILENT, *(one for one in ATTACKS if one.fails)], ids=named)
def test_answered_without_a_report(
    attack: Attack, policy: Path, victim: Path, commands: Commands, tmp_path: Path
) -> None:
    enforced = commands.enforce(policy, [victim, attack.name], tmp_path)
    assert enforced.ran.stdout.decode() == f"benign work done\nattack {attack.name}: -{errno.ENOSYS}\n"
    assert enforced.ran.returncode == 0
    assert enforced.violations == []


def normal(text: str) -> str:
    """`name=A|B` with its bits in one order, and without the note about a register's ignored upper half."""
    name, _, value = text.partition("=")
    return f"{name}={'|'.join(sorted(value.partition(' (register')[0].split('|')))}"
