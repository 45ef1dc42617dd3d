"""The remarks of lifting a filter, as losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats import Direction, Imported, Loss

if TYPE_CHECKING:
    from policygen.filter.lift import Lifted


def imported(lifted: Lifted, more: tuple[Loss, ...] = ()) -> Imported:
    """Return the policy of a lifted filter, with its remarks as losses."""
    losses = []
    for remark in lifted.remarks:
        directions = [d for d, held in ((Direction.WIDER, remark.wider), (Direction.NARROWER, remark.narrower)) if held]
        calls = (remark.call,) if remark.call else ()
        losses += [Loss(direction, remark.text, calls) for direction in directions or [Direction.OTHER]]
    return Imported(lifted.policy, (*losses, *more))
