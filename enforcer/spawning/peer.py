"""Who a client is, and whether it has every right that this process has.

The helper acts for its program: it reads policies, opens the log, connects.  So a process that is confined more than the
spawner must not get a helper of it.  The kernel says nothing of a process's Landlock domain, but it lets a process look into
another only from the same domain or one above (ptrace(2)).  So the client is stopped, and made to look into this process, which
looks into the client: both may only if both are in the same domain.
"""

from __future__ import annotations

import os

from callfence.enforcer import helper, kernel
from callfence.enforcer.arming import inject, seized
from callfence.enforcer.arming.inject import Surgery
from callfence.enforcer.errors import EnforceError, GoneError
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import content, fields, fields_of, proc
from callfence.tracer.stops import TRAP

if TYPE_CHECKING:
    import _socket

_SO_PEERCRED, _SO_PEERPIDFD = 17, 77  # asm-generic/socket.h
_SCM_CREDENTIALS = 2
"""The type of a message's part that names its sender: struct ucred (linux/socket.h)."""
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_SETS = ("CapPrm", "CapEff", "CapBnd")
_KCMP_FILES = 2  # linux/kcmp.h


class Rights:
    """What decides what a process may do, as far as the kernel tells."""

    __slots__ = ("fields", "groups", "label", "namespaces", "root")

    def __init__(self, process: str) -> None:
        """`process`: its folder in /proc.  Raises OSError."""
        self.fields = fields(process)
        if not self.fields:
            raise ProcessLookupError
        self.groups = frozenset(self.fields["Groups"].split())
        self.namespaces = [_link(f"{process}/ns/{name}") for name in _NAMESPACES]
        root = os.stat(f"{process}/root")
        self.root = os.readlink(f"{process}/root"), root.st_dev, root.st_ino
        try:
            self.label = content(f"{process}/attr/current").rstrip(b"\0\n")
        except OSError:
            self.label = b""  # no security module gives processes a label

    def excess(self, client: Rights) -> str:
        """Return what this process may do, or is, and the client not; "" if there is nothing."""
        ours, theirs = self.fields, client.fields
        if ours["Uid"] != theirs["Uid"] or ours["Gid"] != theirs["Gid"]:
            return "it has other user or group ids"
        if not self.groups <= client.groups:
            return "it is not in all groups"
        if any(int(ours[name], 16) & ~int(theirs[name], 16) for name in _SETS):
            return "it lacks capabilities"
        if theirs.get("NoNewPrivs") != "0" and ours.get("NoNewPrivs") == "0":
            return "it has no_new_privs, so it may be confined"
        if any(ours.get(name) != theirs.get(name) for name in ("Seccomp", "Seccomp_filters")):
            return "it has other seccomp filters"
        other = [name for name, a, b in zip(_NAMESPACES, self.namespaces, client.namespaces, strict=True) if a != b]
        if other:
            return f"it is in another namespace ({', '.join(other)})"
        if self.root != client.root:
            return "it has another root folder"
        return "its security module's label is another" if self.label != client.label else ""


def _link(path: str) -> str:
    """Return what a link leads to; "" if the kernel does not have it."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def require_plain(own: Rights) -> None:
    """Raise EnforceError if this process has a filter that not all processes of its pid namespace have: of two filters, the
    number alone can be compared."""
    filters = own.fields.get("Seccomp_filters")
    if own.fields.get("Seccomp") != "0" and (filters is None or fields("/proc/1").get("Seccomp_filters") != filters):
        raise EnforceError("it has a seccomp filter, and cannot tell whether a client has the same: start it outside of that")


class Peer:
    """The process that has called connect(2)."""

    __slots__ = ("pid", "pidfd", "umask")

    def __init__(self, connection: _socket.socket) -> None:
        """Raises EnforceError, OSError."""
        self.umask = 0o077
        """Its mask for new files, once its rights are known."""
        credentials = connection.getsockopt(linux.SOL_SOCKET, _SO_PEERCRED, 12)
        self.pid, user = (int.from_bytes(credentials[place : place + 4], "little") for place in (0, 4))
        if user != os.geteuid():
            raise EnforceError("the spawner is another user's")
        if not self.pid:
            raise EnforceError("the client is in another pid namespace")
        try:
            self.pidfd = connection.getsockopt(linux.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:  # before Linux 6.5 a pid may be that of another process by now
            raise EnforceError(f"spawning needs SO_PEERPIDFD (Linux 6.5): {error.strerror}") from error

    def require_alive(self) -> None:
        """Raise GoneError if it has ended: its pid may be another process's.  What was read by the pid before was its own."""
        if helper.has_ended(self.pidfd):
            raise GoneError

    def has_sent(self, parts: list[tuple[int, int, bytes]]) -> bool:
        """Return whether the parts of a message say that this process has sent it, and not one that it gave the socket to."""
        senders = [data[:4] for level, kind, data in parts if (level, kind) == (linux.SOL_SOCKET, _SCM_CREDENTIALS)]
        return senders == [self.pid.to_bytes(4, "little")]

    def stop(self) -> None:
        """Trace this process from now on, and stop it.  If the caller ends, the process goes on.  Raises KernelError,
        GoneError, OSError."""
        try:
            linux.ptrace(linux.PTRACE_SEIZE, self.pid, 0, linux.PTRACE_O_TRACESYSGOOD)
        except PermissionError as error:
            raise self._refused(error) from error
        self.require_alive()
        linux.ptrace(linux.PTRACE_INTERRUPT, self.pid)
        while (stop := inject.wait(self.pid)).kind != TRAP:
            inject.go_on(linux.PTRACE_CONT, self.pid, stop)

    def _refused(self, error: OSError) -> KernelError:
        """Return the error for a process that cannot be traced, with the likely cause."""
        tracer, scope = fields_of(self.pid).get("TracerPid", "0"), linux.yama_scope()
        reason = f"ptrace is denied ({error.strerror})"
        if tracer != "0":
            reason = f"it is traced by pid {tracer} already"
        elif scope in ("2", "3"):
            reason = f"{linux.YAMA_SCOPE} is {scope}"
        return KernelError(f"the spawner cannot confine its client, because {reason}", "ptrace", error.errno or 0)

    def require_rights(self, own: Rights) -> None:
        """Raise EnforceError unless this process, which is stopped, has each right of the caller, `own`."""
        theirs = Rights(f"{proc()}/{self.pid}")
        self.require_alive()
        self.umask = int(theirs.fields["Umask"], 8)
        if reason := own.excess(theirs):
            raise EnforceError(f"the spawner may do what its client may not: {reason}")
        if theirs.fields.get("Threads") != "1":
            raise EnforceError("the client has several threads, and only one of them would become the program")
        linux.checked(linux.prctl(linux.PR_SET_DUMPABLE, 1), "prctl(PR_SET_DUMPABLE)")  # or only CAP_SYS_PTRACE lets look
        try:
            self.hold()  # if this process ended now, the client would go on with registers that are not its own
            probe = _Probe(self.pid)
            result = probe.call("kcmp", self.pid, os.getpid(), _KCMP_FILES, 0, 0)
            probe.close()
            linux.ptrace(linux.PTRACE_SETOPTIONS, self.pid, 0, linux.PTRACE_O_TRACESYSGOOD)
        except OSError as error:
            raise GoneError from error  # the kernel kills it with this process
        finally:
            kernel.set_undumpable()
        if result < 0:
            raise EnforceError(
                "the spawner may do what its client may not: the client may not look into the spawner's process "
                f"({os.strerror(-result)}: Landlock?)"
            )

    def hold(self) -> None:
        """Have the kernel kill this process, which is stopped, if the caller ends.  Raises GoneError, OSError."""
        try:
            linux.ptrace(linux.PTRACE_SETOPTIONS, self.pid, 0, seized.OPTIONS)
        except ProcessLookupError as error:
            raise GoneError from error

    def release(self) -> None:
        """Let this process go on, untraced."""
        try:
            linux.ptrace(linux.PTRACE_DETACH, self.pid)
        except OSError:
            return


class _Probe(Surgery):
    """A process that was stopped in a call or between two, and makes a call of ours."""

    def close(self) -> None:
        """Restore the process; the call that the stop interrupted is made again."""
        super().close()
        MACHINE.set_registers(self.pid, MACHINE.after_interrupt(self._registers))
