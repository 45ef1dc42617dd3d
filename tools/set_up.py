"""Installs the Debian packages that are missing: set_up.py [SECTION ...] of the list .ci/packages; without a section,
those that callfence itself needs.

Root installs them with apt-get, unless NO_INSTALL is set.  Otherwise the command that would is printed.  The exit status is 1
if callfence itself cannot run without what is missing; tests that need it are skipped, in CI they fail."""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ITSELF = "callfence itself"
"""The section of the list without which nothing runs."""
LIST = Path(__file__).parents[1] / ".ci" / "packages"
PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "--no-upgrade")


class Package(NamedTuple):
    name: str
    sign: str
    """What shows that it is installed: see the head of the list."""
    section: str

    def is_there(self) -> bool:
        kind, _, name = self.sign.rpartition(":")
        if kind == "module":
            return importlib.util.find_spec(name) is not None
        if kind == "library":
            return _loads(name)
        return bool(glob.glob(name)) if name.startswith("/") else shutil.which(name, path=PATH) is not None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def packages() -> Iterator[Package]:
    section = machine = ""
    for line in LIST.read_text().splitlines():
        if line.startswith("["):
            section, _, machine = line.strip("[]").partition(" on ")
        elif (words := line.partition("#")[0].split()) and machine in ("", os.uname().machine):
            yield Package(words[0], words[1], section)


@cache
def missing() -> dict[str, Package]:
    return {package.name: package for package in packages() if not package.is_there()}


def command(names: Collection[str]) -> str:
    """What root types to install them."""
    return shlex.join([*INSTALL, *names])


def main(sections: Collection[str]) -> int:
    lacking = {name: package for name, package in missing().items() if package.section in (ITSELF, *sections)}
    if not lacking:
        return 0
    needing = " and ".join(["callfence", *(f"its {section}" for section in sections)])
    print(f"Debian packages that {needing} need{'' if sections else 's'} are missing: {' '.join(lacking)}", file=sys.stderr)
    if os.geteuid() == 0 and shutil.which("apt-get") and not os.environ.get("NO_INSTALL"):
        print("They are installed now; NO_INSTALL=1 prevents that.", file=sys.stderr, flush=True)
        if _install(lacking):
            return 0
        print("apt-get failed.", file=sys.stderr)
    vital = [name for name, package in lacking.items() if package.section == ITSELF]
    rest = f"Without {' and '.join(vital)} nothing runs." if vital else "What needs them is left out."
    print(f"To install them, as root: {command(lacking)}\n{rest}", file=sys.stderr)
    return bool(vital)


def _install(names: Collection[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return all(
        subprocess.run([*command, *names], env=environment, check=False, stdout=sys.stderr).returncode == 0
        for command, names in ((("apt-get", "update", "-qq"), ()), ((*INSTALL, "-qq"), names))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
