"""The files and ports that policies grant, looked up when the program is started, by which calls are judged later.

Used only with `--explain` and `--audit`.  A line grants the file that its name meant at the start, as Landlock's rules do.
"""

from __future__ import annotations

import os

from callfence.enforcer.bpf import Filter
from callfence.enforcer.files.paths import unlisted
from callfence.policygen.files import landlock
from callfence.policygen.files.places import (
    OWN_FOLDERS,
    Linking,
    PlaceError,
    here,
    is_led,
    located,
    look,
    of_process,
    real_path,
)
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcer.listener import Notification

    Identity = tuple[int, int]
    """Device and inode."""


class Granted:
    """The files and ports that one policy grants."""

    __slots__ = ("bind", "by_file", "by_name", "connect", "file", "own", "paths")

    def __init__(self, file: str, encoded: bytes, environment: Sequence[bytes], process: int) -> None:
        """`file`: the policy's path.  `encoded`: its rules (`landlock.encode`).  `environment`: the program's.  `process`: the
        id of the process that becomes the program; 0 for this one.

        This process must be in the working folder of the program."""
        rules = landlock.decode(encoded)
        self.file = file
        self.paths = rules.paths is not None
        """Whether files are confined."""
        self.connect = rules.connect
        self.bind = rules.bind
        self.by_file: dict[Identity, int] = {}
        """Landlock's access rights by the identity of the file that a line named."""
        self.by_name: dict[bytes, int] = {}
        """The same by the file's path, with symbolic links resolved."""
        self.own: set[bytes] = set()
        """The granted folders that `enforce` creates, so that the program need not."""
        lines = []
        for path, access in rules.paths or ():
            try:
                lines.append((path, of_process(located(path, environment), process), access))
            except PlaceError:
                continue  # it grants nothing; without --audit, enforce has refused
        links = Linking((name, access) for _, name, access in lines)
        for path, name, access in lines:
            try:
                place = real_path(name)
                status = os.stat(place)
            except OSError:
                continue
            if is_led(name, place, links):  # neither grants anything; enforce has said so
                continue
            identity = status.st_dev, status.st_ino
            self.by_file[identity] = self.by_file.get(identity, 0) | access
            self.by_name[place] = self.by_name.get(place, 0) | access
            if path in OWN_FOLDERS:
                self.own.add(place)
        for path, descriptor, access in unlisted(process):
            status = os.fstat(descriptor)
            os.close(descriptor)
            identity = status.st_dev, status.st_ino
            self.by_file[identity] = self.by_file.get(identity, 0) | access
            if path:
                self.by_name[path] = self.by_name.get(path, 0) | access


class Reach:
    """The files and ports that all policies of a program grant."""

    __slots__ = ("_filters", "environment", "here", "is_audit", "policies")

    def __init__(
        self,
        confining: Sequence[tuple[str, bytes]],
        filters: Sequence[bytes],
        environment: Sequence[bytes],
        *,
        is_audit: bool,
        process: int = 0,
    ) -> None:
        """`confining`: the path and the rules (`landlock.encode`) of each policy that confines files or ports.  `filters`: the
        filters of all policies.  `process`: that of `Granted`."""
        self._filters = [Filter(program) for program in filters]
        self.policies = [Granted(file, encoded, environment, process) for file, encoded in confining]
        self.environment = environment
        self.here = here()
        look(environment)
        self.is_audit = is_audit
        """Whether nothing is enforced."""

    def allows(self, call: Notification) -> bool:
        """Return whether the policies' filters allow a call of a program without phases, whatever its files or ports."""
        return all(program.allows(call.arch, call.number, call.ip, call.arguments) for program in self._filters)

    def calls(self) -> list[tuple[int, int]]:
        """Return AUDIT_ARCH_* and number of each call that has to be judged, in ascending order."""
        from callfence.policygen.files.calls import BY_HANDLE, PATH_CALLS, SOCKETS, numbers
        from callfence.tracer.linux import OPAQUE

        files = any(policy.paths for policy in self.policies)
        uses = {use for use in SOCKETS if files or any(getattr(policy, use) is not None for policy in self.policies)}
        # callfence.enforcer.files.past_landlock fails the opaque ones
        names = [name for name in (*PATH_CALLS, BY_HANDLE) * files if self.is_audit or name not in OPAQUE]
        return sorted(numbers((*names, *uses)))
