"""What other programs say of files, where a folder may be granted less than the one that holds it, as grants, which only add.

A *mark* is a path with the rights that hold there and below, up to deeper marks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files.algebra import reduced
from policygen.formats import Direction, Loss
from policygen.grants import ALL, NOTHING, Right
from policygen.paths import covers, folders, order, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    Marks = Mapping[str, Right]

TOPS = (
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run",
    "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
)  # fmt: skip
"""The folders of the root (hier(7))."""
_HOMES = ("/home", "/root")
_MANY = 12


def at(marks: Marks, path: str) -> Right:
    """Return the rights at a path."""
    if path.startswith("$HOME") and not any(one.startswith("$HOME") and covers(one, path) for one in marks):
        return at(marks, "/home") & at(marks, "/root")
    if path.startswith("$TMPDIR"):
        path = f"/tmp{path.removeprefix('$TMPDIR')}"
    return next((marks[one] for one in folders(path) if one in marks), ALL)


def carved(marks: Marks) -> tuple[dict[str, Right], tuple[Loss, ...]]:
    """Return the grants, and what they do not say.

    Rights that are taken from a folder of the root are granted to the others, by name.  What is taken from deeper folders
    cannot be: the grants are wider there."""
    every = {"/": at(marks, "/"), "$HOME": at(marks, "$HOME"), "$TMPDIR": at(marks, "$TMPDIR"), **marks}
    whole, holes, kept = every["/"], NOTHING, []
    for path in sorted(every, key=order):
        above = next((one for one in folders(path) if one != path and one in every), "/")
        lost = every[above] & ~every[path] if path != "/" else NOTHING
        if lost and above == "/" and (path in TOPS or path.startswith("$")):
            holes |= lost
        elif lost:
            kept.append(path)
    grants = dict(every)
    if holes:
        grants = {path: every.get(path, at(marks, path)) for path in TOPS} | every | {"/": whole & ~holes}
        if at(marks, "$HOME") != whole:
            grants |= {path: grants[path] & at(marks, "$HOME") for path in _HOMES if path not in marks}
    losses = []
    if kept:
        names = ", ".join(shown(path) for path in kept[:_MANY]) + (" and others" if len(kept) > _MANY else "")
        losses.append(Loss(Direction.WIDER, f"what is taken from folders within others is not: {names}"))
    if holes:
        losses.append(Loss(Direction.NARROWER, "folders of the root with other names than hier(7) has are not granted"))
    return reduced(grants), tuple(losses)
