"""Losses as `export` and `import` tell them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from callfence.shared.text import plural, printable
from policygen.formats import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policygen.formats import Loss

MANY = 12
"""Names of calls that a line of text has; the JSON has all."""


def loss_lines(losses: Iterable[Loss], than: str) -> list[str]:
    """One line a loss: `wider than app.policy: WHAT: read, write`."""
    lines = []
    for loss in losses:
        relation = "differs" if loss.direction is Direction.OTHER else f"{loss.direction} {than}"
        names = ", ".join(loss.calls[:MANY])
        if len(loss.calls) > MANY:
            names += f" and {plural(len(loss.calls) - MANY, 'call')} more"
        lines.append(printable(f"{relation}: {loss.what}{': ' if names else ''}{names}"))
    return lines


def as_objects(losses: Iterable[Loss]) -> list[dict[str, object]]:
    return [{"direction": loss.direction, "what": loss.what, "calls": list(loss.calls)} for loss in losses]


def comment_lines(losses: Iterable[Loss], than: str) -> list[str]:
    """As comments of a policy, wrapped."""
    return [
        f"# {line}"
        for text in loss_lines(losses, than)
        for line in textwrap.wrap(f"not said: {text}", 110, subsequent_indent="  ", break_long_words=False)
    ]
