"""Convert policies of other programs, such as container profiles, and describe what the conversion loses."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

from callfence.policygen import formats
from callfence.policygen.formats import Direction, FormatOptions, Loss
from callfence.policygen.language.document import Document, new_document
from callfence.policygen.values import replace
from callfence.shared.text import plural, printable

MAX_LISTED = 12
"""The most names of calls that a line of text lists; the JSON lists all."""


def loss_lines(losses: Iterable[Loss], than: str) -> list[str]:
    """Return a line for each loss, such as `wider than app.policy: WHAT: read, write`.  `than`: `than app.policy`."""
    lines = []
    for loss in losses:
        relation = "differs" if loss.direction is Direction.OTHER else f"{loss.direction} {than}"
        names = ", ".join(loss.calls[:MAX_LISTED])
        if len(loss.calls) > MAX_LISTED:
            names += f" and {plural(len(loss.calls) - MAX_LISTED, 'more call')}"
        lines.append(printable(f"{relation}: {loss.what}{': ' if names else ''}{names}"))
    return lines


def as_objects(losses: Iterable[Loss]) -> list[dict[str, object]]:
    return [{"direction": loss.direction, "what": loss.what, "calls": list(loss.calls)} for loss in losses]


def read_policy(name: str, file: str, data: bytes, options: FormatOptions) -> tuple[Document, tuple[formats.Loss, ...]]:
    """Convert a file of the format `name` into a policy.  Return the document, which has the losses in comments, and the
    losses.  `file` is the name to show, `data` the content.  Raises UserError if the content is not of the format."""
    imported = formats.reader(name)(data, file, options)
    made = new_document(imported.policy, f"{file} ({name})")
    comments = [
        f"# {line}"
        for text in loss_lines(imported.losses, "than the file")
        for line in textwrap.wrap(f"not said: {text}", 110, subsequent_indent="  ", break_long_words=False)
    ]
    if imported.instructions:
        comments += ["# its instructions:", *(f"# {line}" for line in imported.instructions)]
    return replace(made, layout=replace(made.layout, header=(*made.layout.header, *comments))), imported.losses


def profile(name: str, data: bytes) -> Document:
    """Convert a container profile into a policy, as `import --from oci` does, and print the losses on standard error.  `name`
    is the file's name to show.  Raises UserError if `data` is not a profile."""
    made, losses = read_policy("oci", name, data, FormatOptions())
    hint = "`callfence import --from oci` has --cap, --kernel and --runtime"
    print(f"callfence: {name} is read as a container profile ({hint})", file=sys.stderr)
    for line in loss_lines(losses, f"than {name}"):
        print(f"callfence: {line}", file=sys.stderr)
    return made
