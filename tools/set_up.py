"""Installs the Debian packages that are missing: set_up.py [--tests].  The list is .ci/packages.

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
    section = ""
    for line in LIST.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif words := line.partition("#")[0].split():
            yield Package(words[0], words[1], section)


@cache
def missing() -> dict[str, Package]:
    return {package.name: package for package in packages() if not package.is_there()}


def command(names: Collection[str]) -> str:
    """What root types to install them."""
    return shlex.join([*INSTALL, *names])


def main(tests: bool) -> int:
    lacking = {name: package for name, package in missing().items() if tests or package.section != "tests"}
    if not lacking:
        return 0
    for_tests = "and its tests need" if tests else "needs"
    print(f"callfence {for_tests} Debian packages that are missing here: {' '.join(lacking)}", file=sys.stderr)
    if os.geteuid() == 0 and shutil.which("apt-get") and not os.environ.get("NO_INSTALL"):
        print("They are installed now; NO_INSTALL=1 prevents that.", file=sys.stderr, flush=True)
        if _install(lacking):
            return 0
        print("apt-get failed.", file=sys.stderr)
    vital = [name for name, package in lacking.items() if package.section != "tests"]
    rest = f"Without {' and '.join(vital)} nothing runs." if vital else "The tests that need them are skipped."
    print(f"To install them, as root: {command(lacking)}\n{rest}", file=sys.stderr)
    return bool(vital)


def _install(names: Collection[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return all(
        subprocess.run([*command, *names], env=environment, check=False, stdout=sys.stderr).returncode == 0
        for command, names in ((("apt-get", "update", "-qq"), ()), ((*INSTALL, "-qq"), names))
    )


if __name__ == "__main__":
    sys.exit(main("--tests" in sys.argv[1:]))
