"""Filters of one architecture, read from another language: functions from events to return values, lifted to policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policygen.filter import bpf
from policygen.filter.lift import lift_function
from policygen.formats.bpf import imported
from policygen.formats.effect import NATIVE
from policygen.sets import region
from policygen.sets.algebra import Space, constant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.formats import Imported, Loss

ERRNO: Final = 0x00050000  # SECCOMP_RET_ERRNO (linux/seccomp.h), and below it the error number


def policy_of(space: Space, answers: Mapping[int, int], default: int, losses: tuple[Loss, ...] = ()) -> Imported:
    """Return the policy of a filter for NATIVE calls; the filter kills the thread for calls of other architectures.

    `answers`: for each number, the function from arguments to the filter's return value; `default` is the return value
    for other numbers.  Raises algebra.TooComplexError."""
    section = space.terminal(default)
    for number, answer in answers.items():
        here = space.equal(region.number_word(space), constant(number, 32))
        section = space.ite(here, answer, section)
    native = space.equal(region.arch_word(space), constant(NATIVE.audit, 32))
    return imported(lift_function(space, space.ite(native, section, space.terminal(bpf.KILL_THREAD))), losses)
