"""The system calls that public shellcodes make, by what they want: each is a sequence, stopped when one call of it is.

They are written as on x86_64, and made as this machine has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.files.algebra import united
from callfence.tracer.abi import COMPAT, NATIVE, table

if TYPE_CHECKING:
    from callfence.policygen.model import Policy
    from callfence.tracer.abi import Event


_ELSEWHERE = {
    "access": "faccessat AT_FDCWD", "chmod": "fchmodat AT_FDCWD", "chown": "fchownat AT_FDCWD", "dup2": "dup3",
    "fork": "clone CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD", "mkdir": "mkdirat AT_FDCWD",
    "open": "openat AT_FDCWD", "unlink": "unlinkat AT_FDCWD",
}  # fmt: skip
"""What C libraries call on a machine without these calls, with the first arguments."""


def _here(call: str) -> Event:
    """The call as a program makes it on this machine; `i386` is its 32-bit architecture."""
    name, _, arguments = call.partition(" ")
    if name == "i386":
        return event(arguments, arch=COMPAT)
    return event(call if name in table(NATIVE).by_name else f"{_ELSEWHERE[name]} {arguments}", arch=NATIVE)


class Shellcode(NamedTuple):
    name: str
    calls: tuple[str, ...]
    """In order, as `calls.event` reads them on x86_64; pointers are 0, descriptors what they would be."""
    only_reads_or_writes: bool = False
    """It opens files as programs do that read or write files anyway, and does nothing else: a filter sees no names."""
    files: str = ""
    """What it needs of files, as a line of a policy."""

    def is_stopped(self, policy: Policy) -> bool:
        """Whether a policy without phases denies one of its calls, or a file that it needs."""
        if any(not evaluate(policy, _here(call)).allows for call in self.calls):
            return True
        lines = [self.files, "path /bin/sh: read, execute" if _SHELL in self.calls else ""]
        needed = [parse(line).policy.files for line in lines if line]
        return policy.files.paths is not None and any(united(policy.files, one).paths != policy.files.paths for one in needed)


_OUT = "write 1 0 64"
_SOCKET = "socket AF_INET SOCK_STREAM 0"
_DUPS = ("dup2 3 0", "dup2 3 1", "dup2 3 2")
_SHELL = "execve"

SHELLCODES = (
    Shellcode("shell", (_SHELL,)),
    Shellcode("shell as root", ("setuid 0", _SHELL)),
    Shellcode("shell as root, real and effective", ("setreuid 0 0", _SHELL)),
    Shellcode("shell by execveat", ("execveat AT_FDCWD 0 0 0 0",)),
    Shellcode("shell in a child", ("fork", _SHELL)),
    Shellcode("connect back", (_SOCKET, "connect 3 0 16", *_DUPS, _SHELL)),
    Shellcode("connect back by IPv6", ("socket AF_INET6 SOCK_STREAM 0", "connect 3 0 28", *_DUPS, _SHELL)),
    Shellcode("connect back, UDP", ("socket AF_INET SOCK_DGRAM 0", "connect 3 0 16", *_DUPS, _SHELL)),
    Shellcode("bind a port", (_SOCKET, "bind 3 0 16", "listen 3 0", "accept 3 0 0", "dup2 4 0", "dup2 4 1", _SHELL)),
    Shellcode("find the socket", ("getpeername 3 0 0", *_DUPS, _SHELL)),
    Shellcode("download and execute", (_SOCKET, "connect 3 0 16", "openat AT_FDCWD 0 O_WRONLY|O_CREAT 0o777", _SHELL),
             files="path /tmp/x: write, create"),
    Shellcode("execute from memory", ("memfd_create 0 0", "write 3 0 4096", "execveat 3 0 0 0 AT_EMPTY_PATH")),
    Shellcode("second stage", ("mmap 0 4096 PROT_READ|PROT_WRITE|PROT_EXEC MAP_PRIVATE|MAP_ANONYMOUS -1 0", "read 0 0 4096")),
    Shellcode("second stage by mprotect", ("mprotect 0 4096 PROT_READ|PROT_WRITE|PROT_EXEC", "read 0 0 4096")),
    Shellcode("staged from the network", (_SOCKET, "connect 3 0 16", "mmap 0 4096 7 0x22 -1 0", "read 3 0 4096")),
    Shellcode("read a file", ("openat AT_FDCWD 0 O_RDONLY", "read 3 0 4096", _OUT), only_reads_or_writes=True,
             files="path /etc/passwd: read"),
    Shellcode("read a file with open", ("open 0 O_RDONLY", "read 3 0 4096", _OUT), only_reads_or_writes=True,
             files="path /etc/shadow: read"),
    Shellcode("send a file", ("openat AT_FDCWD 0 O_RDONLY", "sendfile 1 3 0 4096"), files="path /etc/shadow: read"),
    Shellcode("list a folder", ("openat AT_FDCWD 0 O_RDONLY|O_DIRECTORY", "getdents64 3 0 4096"), only_reads_or_writes=True,
             files="path /home: read"),
    Shellcode("add a user", ("open 0 O_WRONLY|O_APPEND", "write 3 0 40"), only_reads_or_writes=True,
             files="path /etc/passwd: write"),
    Shellcode("change /etc/shadow's mode", ("chmod 0 0o777",)),
    Shellcode("change a mode by descriptor", ("openat AT_FDCWD 0 O_RDONLY", "fchmod 3 0o4755"), files="path /etc/shadow: read"),
    Shellcode("make a set-user-ID shell", ("chown 0 0 0", "chmod 0 0o4755")),
    Shellcode("create a set-user-ID file", ("openat AT_FDCWD 0 O_WRONLY|O_CREAT 0o4755", "write 3 0 4096"),
             files="path /tmp/sh: write, create"),
    Shellcode("append to sudoers", ("open 0 O_WRONLY|O_CREAT|O_APPEND 0o644", "write 3 0 40"), only_reads_or_writes=True,
             files="path /etc/sudoers: write"),
    Shellcode("remove a file", ("unlink",), files="path /etc/shadow: remove"),
    Shellcode("kill everything", ("kill -1 SIGKILL",)),
    Shellcode("kill one process", ("kill 4242 SIGKILL",)),
    Shellcode("fork bomb", ("fork", "fork")),
    Shellcode("egg hunt by access", ("access 0 F_OK", "mprotect 0 4096 PROT_READ|PROT_EXEC")),
    Shellcode("egg hunt by sigaction", ("rt_sigaction SIGTERM 0 0 8", "mprotect 0 4096 PROT_READ|PROT_EXEC")),
    Shellcode("break out of a chroot", ("mkdir 0 0o755", "chroot", "chdir", "chroot")),
    Shellcode("load a module", ("init_module",)),
    Shellcode("load a module by descriptor", ("openat AT_FDCWD 0 O_RDONLY", "finit_module 3 0 0"),
             files="path /tmp/m.ko: read"),
    Shellcode("reboot", ("sync", "reboot 0xfee1dead 0x28121969 0x1234567")),
    Shellcode("set the host's name", ("sethostname 0 4",)),
    Shellcode("trace another process", ("ptrace PTRACE_ATTACH 4242 0 0",)),
    Shellcode("write another process's memory", ("process_vm_writev 4242 0 1 0 1 0",)),
    Shellcode("type into the terminal", ("ioctl 0 TIOCSTI 0",)),
    Shellcode("eject the disk", ("openat AT_FDCWD 0 O_RDONLY|O_NONBLOCK", "ioctl 3 0x5309 0"), files="path /dev/cdrom: read"),
    Shellcode("flush the firewall", ("socket AF_INET SOCK_RAW IPPROTO_RAW", "setsockopt 3 0 64 0 0")),
    Shellcode("sniff packets", ("socket AF_PACKET SOCK_RAW 768", "recvfrom 3 0 4096 0 0 0")),
    Shellcode("mount", ("mount 0 0 0 0 0",)),
    Shellcode("new user namespace", ("unshare CLONE_NEWUSER",)),
    Shellcode("use the 32-bit gate", ("i386 execve 0 0 0",)),
    Shellcode("io_uring", ("io_uring_setup 8 0", "io_uring_enter 3 1 1 0 0 0")),
    Shellcode("keyring", ("add_key 0 0 0 16 -2",)),
    Shellcode("bpf", ("bpf 5 0 72",)),
    Shellcode("perf", ("perf_event_open 0 0 -1 -1 0",)),
    Shellcode("userfaultfd", ("userfaultfd 0",)),
)
