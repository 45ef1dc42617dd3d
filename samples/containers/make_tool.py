"""Puts callfence, with the Python and the libraries that it runs on, into one folder that containers can mount.

    python make_tool.py FOLDER

Run it by the interpreter that has callfence.  In a container that has FOLDER at /callfence, whatever its own libraries are,

    /callfence/lib/ld-linux-x86-64.so.2 --library-path /callfence/lib /callfence/bin/python3 -I /callfence/callfence.py COMMAND

is `callfence COMMAND`.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("callfence", "ptrace", "pyseccomp", "rich", "pygments", "markdown_it", "mdurl")
UNUSED = (
    *("test", "idlelib", "tkinter", "_tkinter*", "lib2to3", "ensurepip", "turtledemo"),
    *("site-packages", "dist-packages", "config-*", "__pycache__"),
)
START = """\
import ctypes.util
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "packages"))
found = ctypes.util.find_library
# the container has no cache of what is in our folder
ctypes.util.find_library = lambda name: next(map(str, sorted((HERE / "lib").glob(f"lib{name}.so*"))), None) or found(name)

from callfence.cli import main

main()
"""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    library = folder / "lib"
    standard = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(standard, library / standard.name, ignore=shutil.ignore_patterns(*UNUSED))
    (folder / "bin").mkdir()
    python = Path(shutil.copy(Path(sys.executable).resolve(), folder / "bin" / "python3"))
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin, target = Path(spec.origin), folder / "packages"
            if origin.name == "__init__.py":
                shutil.copytree(origin.parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(exist_ok=True)
                shutil.copy(origin, target)
    for needed in libraries([python, *library.rglob("*.so"), seccomp()]):
        if not (library / needed.name).exists():
            shutil.copy(needed, library / needed.name)
    (folder / "callfence.py").write_text(START)


def seccomp() -> Path:
    """The shared library libseccomp, of which only the loader's cache knows the folder."""
    name = ctypes.util.find_library("seccomp")
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"^\s*{re.escape(str(name))} .*x86-64.*=> (\S+)$", cache, re.MULTILINE)
    if not found:
        sys.exit("libseccomp is not installed (Debian: libseccomp2)")
    return Path(found[1])


def libraries(programs: list[Path]) -> set[Path]:
    """Those, if they are libraries, and the shared libraries that they need, the loader among them."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(?:=> )?(/\S+) \(0x", listed)}
    return found | {path for path in programs if path.name.startswith("lib")}


if __name__ == "__main__":
    main()
