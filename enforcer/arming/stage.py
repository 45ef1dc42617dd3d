"""A phase of the program, as enforcing needs it: which calls lead to it, and its filter."""

from __future__ import annotations

from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DATUM = 0x7068
"""What our filters before the last phase give with SECCOMP_RET_TRACE, to tell them from the program's own."""


class Stage:
    """One phase."""

    __slots__ = ("filter", "is_entered", "is_notified", "name", "triggers", "unmaps")

    def __init__(
        self,
        name: str,
        triggers: Iterable[tuple[int, int]],
        filter_: bytes,
        *,
        is_entered: bool = False,
        is_notified: bool = False,
        unmaps: bool = False,
    ) -> None:
        self.name = name
        self.triggers = frozenset(triggers)
        """AUDIT_ARCH_* and number of each call that leads to it."""
        self.filter = filter_
        self.is_entered = is_entered
        """Whether the program may say that it enters it (include/callfence.h)."""
        self.is_notified = is_notified
        """Whether it begins when the program tells a service manager that it is ready (tracer.abi.ready)."""
        self.unmaps = unmaps
        """Whether the filter lets memory be given back."""

    @property
    def facts(self) -> tuple[object, ...]:
        """All of it, to compare."""
        return self.name, self.triggers, self.filter, self.is_entered, self.is_notified, self.unmaps

    def with_filter(self, filter_: bytes) -> Stage:
        facts = {"is_entered": self.is_entered, "is_notified": self.is_notified, "unmaps": self.unmaps}
        return Stage(self.name, self.triggers, filter_, **facts)


def traced(filter_: bytes) -> bytes:
    """The filter with SECCOMP_RET_TRACE where it answers SECCOMP_RET_USER_NOTIF.

    While the helper traces the program, a listener is not needed; and what the filter of the last phase answers is stricter."""
    size = linux.BPF_INSTRUCTION
    notify = linux.BPF_RET_K.to_bytes(4, "little") + linux.SECCOMP_RET_USER_NOTIF.to_bytes(4, "little")
    trace = linux.BPF_RET_K.to_bytes(4, "little") + (linux.SECCOMP_RET_TRACE | DATUM).to_bytes(4, "little")
    parts = (filter_[start : start + size] for start in range(0, len(filter_), size))
    return b"".join(trace if part == notify else part for part in parts)
