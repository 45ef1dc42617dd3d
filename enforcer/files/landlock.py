"""Confine this process to files and ports by Landlock, just before its execve (landlock(7)).

The helper is cloned before and has no such rules, so it may look into the program (ptrace(2) denies that across domains).
Loaded only for policies that confine files or ports.  Ways past Landlock are closed by the program's filter
(`past_landlock.refusals`).
"""

from __future__ import annotations

import os

from callfence.enforcer import kernel
from callfence.enforcer.confinement import grant_moving
from callfence.enforcer.errors import EnforceError, refused
from callfence.policygen.files import landlock
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Confinement:
    """The Landlock rulesets of one or more policies, ready to confine this process."""

    __slots__ = (
        "_denied", "_judges_files", "_rulesets", "confines_listen", "confining", "held", "is_whole", "name", "remarks", "scope",
    )  # fmt: skip

    def __init__(
        self,
        encoded: Sequence[bytes],
        environment: Sequence[bytes],
        *,
        best_effort: bool,
        scope: int = 0,
        makes_calls: bool = False,
        makes_sends: bool = False,
        process: int = 0,
    ) -> None:
        """Create a ruleset for each policy in `encoded` (`landlock.encode`).  `scope`: LANDLOCK_SCOPE_* of the first ruleset.
        `makes_calls`: the helper makes the program's connections; with `makes_sends`, it sends to addresses for it, too.
        `process`: the id of the process that becomes the program, if not this one.

        Raises EnforceError for what this kernel cannot enforce, unless `best_effort`; GrantError for a line that no rule can
        express; and KernelError."""
        self.remarks: list[str] = []
        """Warnings for the user, one line each."""
        self.is_whole = True
        """Whether this kernel enforces all rules."""
        self._rulesets: list[int] = []
        self.held: list[int] = []
        """Descriptors of granted files of procfs, to be open as long as the program runs: the kernel drops what nobody has open
        when it needs memory, and makes another inode at the next look-up, for which there is no rule (fs/proc/generic.c)."""
        self.confining: list[int] = []
        """The index in `encoded` of each ruleset."""
        self.name: Callable[[int], bytes] | None = None
        """Returns the name of this thread while it enters a ruleset, by which audit records are found
        (`enforcer.reporting.audit`); None if they are not read."""
        self.confines_listen = False
        """Whether listen(2) on a socket without a port has to be denied, because port 0 is not granted."""
        self.scope = scope
        """The LANDLOCK_SCOPE_* bits that no ruleset has yet."""
        version = kernel.landlock_abi()
        self._denied = landlock.made(version) if makes_sends else (0, 0)
        """The rights on files and on ports that nothing grants, and that no ruleset denies yet."""
        try:
            each = [landlock.downgrade(landlock.decode(content), version, makes_calls=makes_calls) for content in encoded]
            self._judges_files = any(effective.handled_files for effective in each) or self._denied[0] != 0
            for index, effective in enumerate(each):
                if effective.lacking:
                    self._lacking(effective.lacking, version, best_effort=best_effort)
                if effective.handled_ports & landlock.BIND_TCP:
                    self.confines_listen |= all(first > 0 for first, _ in effective.rules.bind or ())
                if effective.handled_files or effective.handled_ports:
                    self._rulesets.append(self._create_ruleset(effective, environment, process))
                    self.confining.append(index)
        except OSError as error:
            raise refused(error) from error

    def rulesets(self) -> list[tuple[int, int, bytes]]:
        """Return the descriptor of each ruleset, the LANDLOCK_RESTRICT_SELF_* with which it is entered, and the name that the
        thread has meanwhile, b"" for its own; with a name, `kernel.shares_files` with the kernel's thread follows, as a first
        denial: no domain lets look at processes outside."""
        if self.name is None:
            return [(ruleset, 0, b"") for ruleset in self._rulesets]
        flags = linux.LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON
        return [(ruleset, flags, self.name(index)) for index, ruleset in enumerate(self._rulesets)]

    def enter(self) -> None:
        """Confine this process and what it starts for good.  This needs no_new_privs.  Raises KernelError."""
        try:
            for ruleset, flags, name in self.rulesets():
                if name:
                    kernel.set_name(name)
                kernel.landlock_enter(ruleset, flags)
                if name:
                    kernel.shares_files(os.getpid(), linux.KTHREADD)
        except OSError as error:
            raise refused(error) from error

    def _lacking(self, lacking: Sequence[str], version: int, *, best_effort: bool) -> None:
        text = f"this kernel has version {version} of Landlock, which cannot {', nor '.join(lacking)}"
        if not version:
            text = "this kernel has no Landlock, or it is switched off, so the policy's files and ports cannot be enforced"
        if not best_effort:
            raise EnforceError(f"{text}; --best-effort runs the program without that")
        self.remarks.append(f"{text}; the program runs without that (--best-effort)")
        self.is_whole = False

    def _create_ruleset(self, effective: landlock.Effective, environment: Sequence[bytes], process: int) -> int:
        grants_moving = self._judges_files and not effective.handled_files  # else none moves (landlock(7), REFER)
        handled = landlock.REFER if grants_moving else effective.handled_files
        files, network = self._denied
        ruleset = kernel.landlock_ruleset(handled | files, effective.handled_ports | network, self.scope)
        self.scope, self._denied = 0, (0, 0)
        if grants_moving:
            grant_moving(ruleset)
        if effective.handled_files:
            from callfence.enforcer.files.paths import Grants

            Grants(environment, process, self.remarks, self.held).add(ruleset, effective)
        for bit, ports in ((landlock.CONNECT_TCP, effective.rules.connect), (landlock.BIND_TCP, effective.rules.bind)):
            for first, last in ports or ():
                kernel.landlock_allow_ports(ruleset, bit, first, last)
        return ruleset
