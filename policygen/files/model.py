"""What a policy says of files and ports, beside its calls."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from policygen.files.paths import order, shown
from policygen.files.ports import ANY_PORT, Ports, format_ports
from policygen.files.rights import ALL, NOTHING, Right, format_rights
from policygen.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

TCP = ("connect", "bind")
"""What may be done with a TCP port."""


@frozen
class Files:
    """The files, and the TCP ports, that the program can reach; None where it can reach all that its calls permit."""

    paths: Mapping[str, Right] | None = None
    """By canonical path (`paths.canonical`): each holds for the file, or for the folder and everything below it."""
    connect: Ports | None = None
    bind: Ports | None = None

    def __post_init__(self) -> None:
        if self.paths is not None:  # without a line, no files are confined
            sorted_ = {path: self.paths[path] for path in sorted(self.paths, key=order)} or {"/": NOTHING}
            object.__setattr__(self, "paths", MappingProxyType(sorted_))

    @property
    def grants(self) -> Mapping[str, Right]:
        """What is granted; everything where files are not confined."""
        return {"/": ALL} if self.paths is None else self.paths

    def ports(self, use: str) -> Ports:
        """Return the ports of one of TCP; all where they are not confined."""
        found: Ports | None = getattr(self, use)
        return ANY_PORT if found is None else found

    def lines(self) -> dict[str, str]:
        """Return what is confined as the policy's lines, in canonical order: `path PATH` or `tcp USE` -> what it grants."""
        found = {path_line(path): format_rights(rights) for path, rights in (self.paths or {}).items()}
        return found | {f"tcp {use}": format_ports(self.ports(use)) for use in TCP if getattr(self, use) is not None}


NOT_CONFINED = Files()


def path_line(path: str) -> str:
    """Return what comes before the colon."""
    return f"path {shown(path)}"
