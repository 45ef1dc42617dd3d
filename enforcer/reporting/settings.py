"""Where and how violations are reported: created at the start, used at the first violation."""

from __future__ import annotations

import os

from callfence.enforcer.reporting.destination import TEXT, Destination, has_room
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callfence.enforcer.files.granted import Reach
    from callfence.enforcer.hosts.granted import Hosts
    from callfence.enforcer.reporting.audit import Source
    from callfence.enforcer.reporting.events import Log
    from callfence.policygen.model import Policy

class Reporting:
    """Where reports go, and how denied calls are answered and described."""

    __slots__ = (
        "asking", "audit", "colour", "destination", "evidence", "has_tcp", "held", "hosts", "is_out_of_reach",
        "keeps_signals", "listens", "log", "policies", "reach", "records", "stderr", "to_import",
    )  # fmt: skip

    def __init__(
        self,
        destination: Destination,
        policies: Callable[[], Sequence[tuple[str, Policy]]],
        *,
        audit: bool,
        log: Log | None = None,
        evidence: bool = True,
        stderr: int = -1,
        reach: Reach | None = None,
        hosts: Hosts | None = None,
        records: Source | None = None,
        keeps_signals: bool = False,
        is_out_of_reach: bool = False,
        listens: bool = False,
        has_tcp: bool = True,
        to_import: bytes = b"",
        asking: int = -1,
        held: Sequence[int] = (),
    ) -> None:
        self.destination = destination
        self.log = log
        """What makes the records, if reports go to a log; None if they are text."""
        self.stderr = stderr if log else -1
        """The program's standard error if reports go to a log; else -1."""
        self.policies = policies
        """Returns the policies in the order of their filters, each with its file.  Called once, in the helper, at the first
        violation.  It must not depend on the working folder, which is /proc there, nor read files, which may have changed."""
        self.reach = reach
        """The files and ports that policies grant, if calls are judged by them; else None."""
        self.hosts = hosts
        """The hosts and unix sockets that policies grant; None if they confine none."""
        self.records = records
        """The audit records from which denied files and ports are reported; None if they are not reported so."""
        self.keeps_signals = keeps_signals
        """Whether the kernel denies the program's signals to all processes but its own."""
        self.is_out_of_reach = is_out_of_reach
        """Whether, besides, the policies allow no call but a signal that changes a process which the program names."""
        self.listens = listens
        """Whether the helper is notified of listen(2), which may take a port that is not granted (`files.listening`)."""
        self.has_tcp = has_tcp
        """Whether the program may begin with a TCP socket."""
        self.asking = asking
        """The socket through which denied calls are asked about (`reporting.asker`); -1 if they are not."""
        self.held = held
        """Descriptors to keep open for the program (`files.landlock.Confinement.held`)."""
        self.to_import = to_import
        """The note of the files that describing a call imports (`enforcer.importer`)."""
        self.colour = destination.form == TEXT and is_coloured(destination.descriptor)
        """Whether reports are coloured; decided now, since the helper's filter denies isatty(3)."""
        self.evidence = evidence
        """Whether to report what the pointers of a call point to."""
        self.audit = audit
        """Whether denied calls are only reported, and run."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that reporting needs, and those to keep open; -1 for none."""
        records = self.records.descriptor if self.records else -1
        return self.destination.descriptor, self.destination.folder, self.stderr, self.asking, records, *self.held

    def give_back(self) -> None:
        """Close the program's standard error, and its other descriptors, after it has ended (`Destination.give_back`)."""
        self.destination.give_back()
        if self.stderr >= 0:
            os.close(self.stderr)
            self.stderr = -1

    def complain(self, text: str) -> None:
        """Write a message about a failure of reporting itself to standard error, if that does not block."""
        descriptor = self.stderr if self.log else self.destination.descriptor
        try:
            if descriptor >= 0 and has_room(descriptor):
                os.write(descriptor, f"enforce: {text[:1000]}\n".encode(errors="replace"))
        except OSError:
            return


def is_coloured(descriptor: int) -> bool:
    """Return whether the descriptor is a terminal that shows colours, and NO_COLOR (no-color.org) is not set."""
    if descriptor < 0 or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return os.isatty(descriptor)
