"""Configuration of programs: folders that are granted for reading as a whole, and files that were looked for and not there.

A folder holds the configuration of one program, and no secret: an editor or an update replaces files there, and a reload reads
others than the start.  That a folder is PUBLIC is recorded as a use (`generalise.Use`): PUBLIC, the folder, and "".

A file that a program looks for, and reads if it is there (`$HOME/.curlrc`), is recorded as SOUGHT, the path, and "": another
user has one, or this one will some day.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from callfence.policygen.grants import Right, rights_of
from callfence.policygen.paths import covers, folders

PUBLIC = "public"
"""The first field of a use that names a folder which, with all that is in it, is root's and readable for every user."""
SOUGHT = "sought"
"""The first field of a use that names a file of configuration which the run would have read, and which was not there."""
_MAX_SOUGHT = 16
"""Number of files in one folder up to which they are looked for by their names; more are a search."""
_MAY_BE_SOUGHT = re.compile(r"(?:\$HOME|\.)/\.[^/]+|\$HOME/\.config/.+|/etc/(?!ld\.so\.)[^/]+")
"""Not the files of the loader, for which each program looks (ld.so(8))."""
_ABOVE = ("/etc/", "/usr/local/etc/")
_OF_MANY = re.compile(
    r"alternatives|default|init\.d|opt|pam\.d|rc.\.d|security|skel|sysconfig|systemd|xdg"
    r"|apt|docker|ipsec\.d|kubernetes|letsencrypt|network|NetworkManager|openvpn|pki|ppp|ssh|ssl|sudoers\.d|swanctl|wireguard"
    r"|wpa_supplicant"
)
"""Names of folders that many programs share, or that are there for keys."""


def configures(path: str) -> list[str]:
    """Return the folders of one program's configuration in which a path is, the outermost first: `/etc/app` and
    `/etc/app/conf.d` of `/etc/app/conf.d/x`."""
    above = next((above for above in _ABOVE if path.startswith(above)), "")
    name = path[len(above) :].partition("/")[0]
    if not above or _OF_MANY.fullmatch(name):
        return []
    return [folder for folder in reversed([*folders(path)][1:]) if covers(above + name, folder)]


def public(runs: Sequence[Iterable[tuple[str, str, str]]]) -> set[str]:
    """Return the folders that were public in each run that read a file in them, by themselves or with one above."""
    found: set[str] = set()
    others: set[str] = set()
    for run in runs:
        uses = [*run]
        of_run = {path for what, path, _ in uses if what == PUBLIC}
        found |= of_run
        read = {folder for path, rights, _ in uses for folder in configures(path) if Right.READ in rights_of(rights)}
        others |= {folder for folder in read if of_run.isdisjoint(folders(folder))}
    return found - others


def may_be_sought(path: str) -> bool:
    """Return whether a file is configuration which a user or the machine's owner may make: a hidden file in the home or in the
    working folder, one below `$HOME/.config`, or one in `/etc`."""
    return _MAY_BE_SOUGHT.fullmatch(path) is not None


def few(paths: Iterable[str]) -> list[str]:
    """Return the paths without those of folders in which more than `_MAX_SOUGHT` are."""
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[path.rpartition("/")[0]].append(path)
    return [path for some in by_folder.values() if len(some) <= _MAX_SOUGHT for path in some]


def sought(runs: Sequence[Iterable[tuple[str, str, str]]]) -> set[str]:
    """Return the files of configuration that runs looked for and that were not there."""
    return {path for run in runs for what, path, _ in run if what == SOUGHT}
