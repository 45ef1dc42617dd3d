"""The remarks of lifting a filter, as losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats import Direction, Imported, Loss

if TYPE_CHECKING:
    from policygen.filter.lift import Lifted


def imported(lifted: Lifted, more: tuple[Loss, ...] = (), *, instructions: str = "") -> Imported:
    """Return the policy of a lifted filter, with its remarks as losses, and its instructions where these do not say all."""
    losses = []
    for remark in lifted.remarks:
        directions = [d for d, held in ((Direction.WIDER, remark.wider), (Direction.NARROWER, remark.narrower)) if held]
        calls = (remark.call,) if remark.call else ()
        losses += [Loss(direction, remark.text, calls) for direction in directions or [Direction.OTHER]]
    are_needed = not all(remark.whole for remark in lifted.remarks)
    return Imported(lifted.policy, (*losses, *more), tuple(instructions.splitlines()) if are_needed else ())
