"""Symbolic links in place of a folder that a policy grants by a relative name, or below it.

Landlock looks at where a name leads when `enforce` starts: a link in place of `./data` grants what it leads to.  A link below
a granted folder grants nothing, since Landlock judges the file that it leads to; but the program follows it to a file that
another line may grant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from callfence.policygen.files.places import real_path
from callfence.policygen.grants import path_line
from callfence.policygen.language.document import Document
from callfence.policygen.lint.files import Risk
from callfence.policygen.lint.findings import Finding, about_files
from callfence.policygen.paths import HERE, covers, encoded, folders
from callfence.policygen.values import replace
from callfence.shared.inputs import git
from callfence.shared.text import printable

IN_PLACE, BELOW = "link-in-place", "link-below"
_WHY = "the line reads as if it granted a folder of the project"
_SAFER = "replace the link by a folder or a file, or name the place that is meant"
_LED = "Landlock grants nothing by it, but the program follows it to a file that another line may grant"
_SOURCE = "docs/files.md"
_LINK = b"120000"
"""The file mode of a symbolic link in git (git-fast-import(1))."""


def links(document: Document, revision: str | None) -> Iterator[Finding]:
    """Yield a finding for each link in place of a path that the policy grants below the current folder, if it leads outside of
    that folder; and with a git revision, for each other link there or below that leads outside of what is granted, or elsewhere
    than in the revision.

    A reason accepts a finding only if it names the finding's rule."""
    for finding in about_files(document, _risks(document, revision)):
        named = finding.rule in re.findall(r"[\w-]+", finding.accepted)
        yield finding if named else replace(finding, accepted="")


def _risks(document: Document, revision: str | None) -> Iterator[tuple[str, Risk]]:
    granted = [path for path in document.policy.files.paths or {} if path.startswith(HERE)]
    places = list(dict.fromkeys(place for path in granted for place in folders(path) if place not in (HERE, "/")))
    here = _real(HERE)
    changed = _changed(granted, places, revision) if revision is not None and granted else {}
    for path in granted:
        line, real = path_line(path), _real(path)
        within = [place for place in changed if place != path and covers(path, place)]
        in_place = [place for place in changed if covers(place, path)]
        if not _is_in(real, here):
            yield line, _risk(IN_PLACE, "danger", f"leads to {printable(real)} by a symbolic link, and grants that", _WHY)
        elif in_place:
            link = f"the symbolic link {printable(in_place[0])}, which {revision} has not, or has with another target"
            yield line, _risk(IN_PLACE, "warning", f"leads to ./{printable(os.path.relpath(real))} by {link}", _WHY)
        for place in within:
            target = _real(os.path.join(os.path.dirname(place), changed[place]))
            if not _is_in(target, real):
                what = printable(f"{place} -> {changed[place]}")
                yield line, _risk(BELOW, "warning", f"has a new symbolic link below it that leads outside: {what}", _LED)


def _risk(rule: str, level: str, grants: str, why: str) -> Risk:
    return Risk(rule, level, (), (), grants, why, _SAFER, _SOURCE)


def _real(path: str) -> str:
    return os.fsdecode(real_path(encoded(path)))


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _changed(granted: list[str], places: list[str], revision: str) -> dict[str, str]:
    """Return the links that git has there and that are not the same in the revision: path -> what it leads to."""
    asked = [f"{place}/" if place == HERE else place for place in dict.fromkeys((*places, *granted))]
    now = _links(git("ls-files", "-s", "-z", "--", *asked) or b"")
    before = _links(git("ls-tree", "-r", "-z", revision, "--", *asked) or b"")
    result = {}
    for place, blob in now.items():
        if before.get(place) != blob:
            result[place] = os.fsdecode(git("cat-file", "blob", blob) or b"")
    return result


def _links(listing: bytes) -> dict[str, str]:
    """Return the links of `git ls-files -s -z` or `git ls-tree -r -z`: path -> name of the blob that holds the target."""
    result = {}
    for row in listing.split(b"\0"):
        head, tab, path = row.partition(b"\t")
        words = head.split()
        if tab and words[0] == _LINK:
            blob = words[2] if words[1] == b"blob" else words[1]  # of a tree; of the index
            result[f"{HERE}/{os.fsdecode(path)}"] = blob.decode()
    return result
