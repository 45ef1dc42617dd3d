"""Policies that other programs have, container profiles above all, read as ours; losses as `export` and `import` tell them."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from callfence.shared.text import plural, printable
from policygen import formats
from policygen.formats import Direction, FormatOptions
from policygen.language.document import new_document
from policygen.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policygen.formats import Loss
    from policygen.language.document import Document

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


def read_policy(name: str, file: str, data: bytes, options: FormatOptions) -> tuple[Document, tuple[formats.Loss, ...]]:
    """Return what a file of that format says, its losses in comments too.  Raises UserError."""
    imported = formats.reader(name)(data, file, options)
    made = new_document(imported.policy, f"{file} ({name})")
    comments = [*comment_lines(imported.losses, "than the file")]
    if imported.instructions:
        comments += ["# its instructions:", *(f"# {line}" for line in imported.instructions)]
    layout = replace(made.layout, header=(*made.layout.header, *comments))
    return replace(made, layout=layout), imported.losses


def profile(name: str, data: bytes) -> Document:
    """Return what a container profile says, as `import --from oci` reads it, and what a policy cannot say on standard error."""
    made, losses = read_policy("oci", name, data, FormatOptions())
    hint = "`callfence import --from oci` has --cap, --kernel and --runtime"
    print(f"callfence: {name} is read as a container profile ({hint})", file=sys.stderr)
    for line in loss_lines(losses, f"than {name}"):
        print(f"callfence: {line}", file=sys.stderr)
    return made
