"""Policies that other programs have, container profiles above all, read as ours."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from callfence.shared.losses import comment_lines, loss_lines
from policygen import formats
from policygen.formats import FormatOptions
from policygen.language.document import new_document
from policygen.values import replace

if TYPE_CHECKING:
    from policygen.language.document import Document


def read_policy(name: str, file: str, data: bytes, options: FormatOptions) -> tuple[Document, tuple[formats.Loss, ...]]:
    """What a file of that format says, its losses in comments too.  Raises UserError."""
    imported = formats.module(name).read(data, file, options)
    made = new_document(imported.policy, f"{file} ({name})")
    comments = [*comment_lines(imported.losses, "than the file")]
    if imported.instructions:
        comments += ["# its instructions:", *(f"# {line}" for line in imported.instructions)]
    layout = replace(made.layout, header=(*made.layout.header, *comments))
    return replace(made, layout=layout), imported.losses


def profile(name: str, data: bytes) -> Document:
    """What a container profile says, as `import --from oci` reads it, and what a policy cannot say on standard error."""
    made, losses = read_policy("oci", name, data, FormatOptions())
    hint = "`callfence import --from oci` has --cap, --kernel and --runtime"
    print(f"callfence: {name} is read as a container profile ({hint})", file=sys.stderr)
    for line in loss_lines(losses, f"than {name}"):
        print(f"callfence: {line}", file=sys.stderr)
    return made
