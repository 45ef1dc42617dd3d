"""What the calls of one run point to, while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.evidence.facts import Union, Varying, facts, is_library, makes
from policygen.evidence.pointed import evident, pointed

if TYPE_CHECKING:
    from policygen.evidence.facts import Places
    from policygen.evidence.pointed import Caller
    from tracer.abi import Event

MANY_MADE = 4096
"""Paths that a program has made which are remembered."""


class Pointers:
    """Follows the pointers of calls."""

    def __init__(self, where: Places) -> None:
        self._where = where
        self._made: set[str] = set()
        """Paths whose names the program has made up (`facts.makes`)."""

    def has(self, event: Event) -> bool:
        """Whether a call has pointers that are followed."""
        return bool(evident(event.arch, event.number))

    def follow(self, event: Event, caller: Caller, known: Union | None) -> tuple[Union, bool]:
        """The known facts with those of an event, and whether these tell something new of the program.

        A shared library does: a program opens some dozens before it does anything of its own.
        """
        known = Union() if known is None else known
        values = pointed(event, caller)
        if (made := makes(event, values)) and len(self._made) < MANY_MADE:
            self._made.add(made)
        is_new = False
        for fact in facts(event, values, self._where, Varying(caller.ids, self._made)):
            is_new |= known.add(fact) or is_library(fact)
        return known, is_new
