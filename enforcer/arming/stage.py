"""A phase of the program, as enforcing needs it: which calls lead to it, and its filter."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Stage:
    """One phase."""

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
        """The filter by which calls that are denied are reported."""
        self.silent = silent
        """The filter by which the kernel alone answers; b"" if it is not needed."""
        self.is_entered = is_entered
        """Whether the program may say that it enters it (include/callfence.h)."""
        self.is_notified = is_notified
        """Whether it begins when the program tells a service manager that it is ready (tracer.abi.waits)."""

    @property
    def facts(self) -> tuple[object, ...]:
        """All of it that comes from a policy, to compare."""
        return self.name, self.triggers, self.filter, self.is_entered, self.is_notified

    def with_filters(self, filter_: bytes, silent: bytes) -> Stage:
        facts = {"is_entered": self.is_entered, "is_notified": self.is_notified}
        return Stage(self.name, self.triggers, filter_, silent, **facts)
