"""What the calls of one run point to, while it runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from policygen.evidence.facts import Union, Varying, facts, is_library, made_at, makes
from policygen.evidence.pointed import PAGE, evident, folder, pointed
from tracer.abi import Kind

if TYPE_CHECKING:
    from policygen.evidence.facts import Places
    from policygen.evidence.pointed import Caller
    from tracer.abi import Event

_BEGIN = 128
"""Bytes of a path that are read to see where it is."""
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
        """The known facts with those of an event, and whether more events are worth following.

        They are if this one told something new, is a shared library, of which a program opens some dozens before it does
        anything of its own, or has an absolute path within a folder of which many names are known, which is soon seen.
        """
        known = Union() if known is None else known
        if known.wide and (where := _within(event, caller, known.wide)):
            return known, where == "absolute"
        values = pointed(event, caller)
        if (made := makes(event, values)) and len(self._made) < MANY_MADE:
            self._made.add(made)
        is_new = False
        for fact in facts(event, values, self._where, Varying(caller.ids, self._made)):
            is_new |= known.add(fact) or is_library(fact)
        return known, is_new


def _within(event: Event, caller: Caller, wide: tuple[bytes, ...]) -> str:
    """Whether the one path of a call is within such a folder, `absolute` or `relative`, and is not made by it; "" if not."""
    pointers = evident(event.arch, event.number)
    if len(pointers) != 1 or pointers[0][1].kind is not Kind.PATH or made_at(event) >= 0:
        return ""
    index, argument = pointers[0]
    address = event.arguments[index] & argument.mask
    begin = caller.read(address, min(PAGE - address % PAGE, _BEGIN))
    if begin.startswith(b"/") or b"\0" not in begin:
        return "absolute" * begin.startswith(wide)
    return "relative" * os.fsencode(f"{folder(event, index, caller)}/").startswith(wide)
