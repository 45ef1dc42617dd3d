"""Landlock rules from names: opened before the program runs, put on this process just before its execve (landlock(7)).

The helper is cloned before and has no such rules, so it may look into the program (ptrace(2) denies that across domains).
Loaded only for policies that confine files or ports.
"""

from __future__ import annotations

import errno
import os
import stat

from enforcer import ffi, kernel
from enforcer.errors import EnforceError, refused
from enforcer.files.scope import REFER, abi, grant_moving
from policygen.files import landlock
from policygen.files.landlock import OWN_FOLDERS, PlaceError, located

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2  # linux/landlock.h
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_CHANGES = ~(landlock.READ_FILE | landlock.READ_DIR | landlock.EXECUTE | landlock.IOCTL_DEV)


class _PathBeneath(ffi.Structure):
    """struct landlock_path_beneath_attr (linux/landlock.h), which is packed."""

    _pack_ = 1
    _fields_ = (("access", ffi.c_uint64), ("folder", ffi.c_int32))


class GrantError(EnforceError):
    """A line about a file that no rule can be made of."""

    def __init__(self, path: bytes, text: str) -> None:
        """`path`: as the policy has it."""
        super().__init__(text)
        self.path = path


class Confinement:
    """The rules of one or more policies, each as the kernel has it, ready to be put on this process."""

    __slots__ = ("_files", "_ports", "_rulesets", "confines_listen", "is_whole", "remarks", "scope")

    def __init__(
        self, encoded: Sequence[bytes], environment: Sequence[bytes], *, best_effort: bool, scope: int = 0
    ) -> None:
        """Open what the rules name.  `scope`: LANDLOCK_SCOPE_*, which the first ruleset has.

        Raises EnforceError for what this kernel cannot enforce, unless `best_effort`,
        GrantError for names that no rule can have, and KernelError."""
        self.remarks: list[str] = []
        """What the user is told: one line each."""
        self.is_whole = True
        """Whether this kernel enforces all of it."""
        self._rulesets: list[int] = []
        self.confines_listen = False
        """Whether listen(2) on a socket without a port would take one that is not granted (port 0)."""
        self.scope = scope
        """What of the scope no ruleset has yet."""
        self._ports = 0
        """What is confined of TCP: CONNECT_TCP, BIND_TCP."""
        version = abi()
        try:
            each = [landlock.downgrade(landlock.decode(content), version) for content in encoded]
            self._files = any(effective.handled_files for effective in each)
            for effective in each:
                if effective.lacking:
                    self._lacking(effective.lacking, version, best_effort=best_effort)
                self._ports |= effective.handled_ports
                if effective.handled_ports & landlock.BIND_TCP:
                    self.confines_listen |= all(first > 0 for first, _ in effective.rules.bind or ())
                if effective.handled_files or effective.handled_ports:
                    self._rulesets.append(self._made(effective, environment))
        except OSError as error:
            raise refused(error) from error

    def guarded(self, filter_: bytes, *, reports: bool) -> bytes:
        """The program's filter, with instructions that close the ways to files and TCP ports past Landlock.

        With `reports`, the helper answers what the filter notifies of."""
        connect, bind = (bool(self._ports & bit) for bit in (landlock.CONNECT_TCP, landlock.BIND_TCP))
        if not (self._files or connect or bind):
            return filter_
        from enforcer.files.guard import guarded

        return guarded(filter_, files=self._files, connect=connect, bind=bind, reports=reports)

    def enter(self) -> None:
        """Confine this process and what it starts, for good.  It needs no_new_privs.  Raises KernelError."""
        try:
            for ruleset in self._rulesets:
                kernel.syscall("landlock_restrict_self", ruleset, 0)
        except OSError as error:
            raise refused(error) from error

    def _lacking(self, lacking: Sequence[str], version: int, *, best_effort: bool) -> None:
        text = f"this kernel has version {version} of Landlock, which cannot {', nor '.join(lacking)}"
        if not version:
            text = "this kernel has no Landlock, or it is switched off, so it cannot keep to the policy's files and ports"
        if not best_effort:
            raise EnforceError(f"{text}; --best-effort runs it without that")
        self.remarks.append(f"{text}: it runs without that")
        self.is_whole = False

    def _made(self, effective: landlock.Effective, environment: Sequence[bytes]) -> int:
        grants_moving = self._files and not effective.handled_files  # files are another ruleset's
        handled = REFER if grants_moving else effective.handled_files
        attributes = (ffi.c_uint64 * 3)(handled, effective.handled_ports, self.scope)  # struct landlock_ruleset_attr
        size = 8 * (3 if self.scope else 2)
        ruleset = kernel.syscall("landlock_create_ruleset", ffi.byref(attributes), size, 0)
        self.scope = 0
        if grants_moving:
            grant_moving(ruleset)
        for path, access in effective.rules.paths or ():
            try:
                place = located(path, environment)
            except PlaceError as error:
                raise GrantError(path, str(error)) from error
            self._grant(ruleset, path, place, access)
        for bit, ports in ((landlock.CONNECT_TCP, effective.rules.connect), (landlock.BIND_TCP, effective.rules.bind)):
            for first, last in ports or ():
                for port in range(first, last + 1):
                    rule = (ffi.c_uint64 * 2)(bit, port)  # struct landlock_net_port_attr
                    kernel.syscall("landlock_add_rule", ruleset, _RULE_NET_PORT, ffi.byref(rule), 0)
        return ruleset

    def _grant(self, ruleset: int, line: bytes, path: bytes, access: int) -> None:
        """Add the rule for one path.  One that is not there grants nothing, as it would natively; OWN_FOLDERS are made."""
        try:
            if line in OWN_FOLDERS and access & landlock.MAKE_DIR:
                os.makedirs(path, 0o700, exist_ok=True)
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NOT_THERE or access & _CHANGES:
                self.remarks.append(f"path {os.fsdecode(line)} grants nothing: {os.fsdecode(path)}: {error.strerror}")
            return
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                if excess := access & ~(landlock.OF_A_FILE | landlock.READ_DIR):
                    words = [word for word, bits in landlock.ACCESS.items() if bits & excess]
                    raise GrantError(line, f"path {os.fsdecode(line)}: only a folder can be granted {', '.join(words)}")
                access &= landlock.OF_A_FILE
            rule = _PathBeneath(access, descriptor)
            kernel.syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, ffi.byref(rule), 0)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            text = f"path {os.fsdecode(line)} is in no folder (a pipe or a socket): no rule can name it"
            raise GrantError(line, text) from error
        finally:
            os.close(descriptor)
