"""Tests that name no architecture are of x86_64, whatever the machine: texts of policies, and options of formats."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from policygen import formats
from policygen.language import attach, document, parser
from tracer.abi import Arch

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from policygen.formats import FormatOptions
    from policygen.language.document import Document


@contextmanager
def x86_64() -> Iterator[None]:
    """Within, a text without an `arch` line is of x86_64."""
    native = parser.NATIVE
    parser.NATIVE = attach.NATIVE = Arch.X86_64
    try:
        yield
    finally:
        parser.NATIVE = attach.NATIVE = native


def parse(text: str, filename: str = "<policy>", *, read: Callable[[str], str] | None = None) -> Document:
    """`document.parse`, for x86_64."""
    with x86_64():
        return document.parse(text, filename, read=read)


def format_options(**given: Any) -> FormatOptions:
    """The options of a format on a machine of x86_64."""
    return formats.FormatOptions(**{"arch": Arch.X86_64, **given})


def parse_file(path: str | os.PathLike[str]) -> Document:
    """`document.parse_file`, for x86_64."""
    with x86_64():
        return document.parse_file(path)
