"""The plan by which the helper follows a program through its phases: the calls that lead to each phase, and the filters."""

from __future__ import annotations

from callfence.enforcer.arming.inject import Key
from callfence.enforcer.bpf import ALL_RUN, notifying
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Stage:
    """One phase, its triggers and its filters."""

    __slots__ = ("filter", "is_entered", "is_notified", "name", "silent", "triggers")

    def __init__(
        self,
        name: str,
        triggers: Iterable[tuple[int, int]],
        filter_: bytes,
        silent: bytes = b"",
        *,
        is_entered: bool = False,
        is_notified: bool = False,
    ) -> None:
        self.name = name
        self.triggers = frozenset(triggers)
        """AUDIT_ARCH_* and number of each call that leads to it."""
        self.filter = filter_
        """The filter that notifies the helper of denied calls."""
        self.silent = silent
        """The filter with which the kernel alone answers; b"" if it is not needed."""
        self.is_entered = is_entered
        """Whether the program can enter the phase by a call (include/callfence.h)."""
        self.is_notified = is_notified
        """Whether the phase begins when the program tells a service manager that it is ready (callfence.tracer.abi.waits)."""

    @property
    def facts(self) -> tuple[object, ...]:
        """All fields that come from a policy, for comparisons."""
        return self.name, self.triggers, self.filter, self.is_entered, self.is_notified

    def with_filters(self, filter_: bytes, silent: bytes) -> Stage:
        """Return the phase with other filters."""
        facts = {"is_entered": self.is_entered, "is_notified": self.is_notified}
        return Stage(self.name, self.triggers, filter_, silent, **facts)


class Plan:
    """The phases of a program, with the filters and options of its start."""

    __slots__ = (
        "has_own_filters", "is_audit", "is_optional", "is_quiet", "key", "needs_listener", "notified", "refusals", "silent",
        "stages", "start",
    )  # fmt: skip

    def __init__(
        self,
        start: bytes,
        silent: bytes,
        stages: Sequence[Stage],
        *,
        is_quiet: bool,
        is_audit: bool,
        is_optional: bool,
        has_own_filters: bool,
        notified: frozenset[tuple[int, int]] = frozenset(),
        needs_listener: bool = False,
        refusals: bytes = b"",
    ) -> None:
        self.start = start
        """The filter until the first phase begins."""
        self.silent = silent
        """The same with the kernel alone answering; b"" if it is not needed."""
        self.stages = stages
        self.is_quiet = is_quiet
        """Whether nothing is reported."""
        self.is_audit = is_audit
        """Whether denied calls are reported and run."""
        self.is_optional = is_optional
        """Whether a process that cannot enter a phase goes on in its former phase."""
        self.has_own_filters = has_own_filters
        """Whether the program may install filters itself."""
        self.notified = notified
        """AUDIT_ARCH_* and number of the calls that the helper judges by the files and ports that they name."""
        self.needs_listener = needs_listener
        """Whether the helper makes calls for the program, so that the kernel alone cannot confine it."""
        self.refusals = refusals
        """The instructions that fail calls because of lines about files, ports and hosts."""
        self.key = Key()

    @property
    def installed_refusals(self) -> bytes:
        """The instructions after `installed` that refuse these calls.  They do not give the errno where the helper reports: the
        filter of the last phase would then not be heard about a call that it denies."""
        return self.refusals if self.is_quiet or self.silent else notifying(self.refusals)

    @property
    def installed(self) -> bytes:
        """The filter with which the program starts."""
        return ALL_RUN if self.is_audit else self.silent or self.start

    def installed_in(self, stage: Stage) -> bytes:
        """Return the filter that is installed when a phase begins, and nobody listens to it."""
        return ALL_RUN if self.is_audit else stage.silent or stage.filter
