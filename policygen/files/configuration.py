"""Folders that hold the configuration of one program, and no secret: they are granted for reading as a whole.

An editor or an update replaces files there, and a reload reads others than the start.  That a folder is PUBLIC is recorded as a
use (`generalise.Use`): PUBLIC, the folder, and "".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from callfence.policygen.grants import Right, rights_of

PUBLIC = "public"
"""The first field of a use that names a folder which, with all that is in it, is root's and readable for every user."""
_ABOVE = ("/etc/", "/usr/local/etc/")
_OF_MANY = re.compile(
    r"alternatives|default|init\.d|opt|pam\.d|rc.\.d|security|skel|sysconfig|systemd|xdg"
    r"|apt|docker|ipsec\.d|kubernetes|letsencrypt|network|NetworkManager|openvpn|pki|ppp|ssh|ssl|sudoers\.d|swanctl|wireguard"
    r"|wpa_supplicant"
)
"""Names of folders that many programs share, or that are there for keys."""


def configures(path: str) -> str:
    """Return the folder of one program's configuration in which a path is: `/etc/app` of `/etc/app/conf.d/x`; else ""."""
    above = next((above for above in _ABOVE if path.startswith(above)), "")
    name, slash, _ = path[len(above) :].partition("/")
    return above + name if above and slash and not _OF_MANY.fullmatch(name) else ""


def public(runs: Sequence[Iterable[tuple[str, str, str]]]) -> set[str]:
    """Return the folders that were public in each run that read a file in them."""
    found: set[str] = set()
    others: set[str] = set()
    for run in runs:
        uses = [*run]
        of_run = {path for what, path, _ in uses if what == PUBLIC}
        found |= of_run
        read = {folder for path, rights, _ in uses if (folder := configures(path)) and Right.READ in rights_of(rights)}
        others |= read - of_run
    return found - others
