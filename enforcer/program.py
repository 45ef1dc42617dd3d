"""Finding and executing a program by name as execvp(3) does, with the environment that we were given, on bytes."""

from __future__ import annotations

import errno
import os

from enforcer.errors import NOT_EXECUTABLE, NOT_FOUND, EnforceError
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.kernel import Image

_DEFAULT_PATH = b"/bin:/usr/bin"  # glibc's _CS_PATH
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)  # glibc posix/execvpe.c
_NO_TEXT = {errno.ENOENT: "not found", errno.ENOTDIR: "not found"}


def initial_environment() -> list[bytes]:
    """The environment as this process was given it: CPython may have changed its copy (PEP 538, LC_CTYPE)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        return [name + b"=" + value for name, value in os.environb.items()]
    return block.split(b"\0")[:-1]


def candidates(name: bytes, environment: Sequence[bytes]) -> list[bytes]:
    """The paths to try in turn.  An empty element of PATH is the current folder, as POSIX has it."""
    if b"/" in name or not name:
        return [name]
    path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), _DEFAULT_PATH)
    return [folder + b"/" + name if folder else name for folder in path.split(b":")]


def locate(name: bytes, environment: Sequence[bytes]) -> bytes:
    """The path that `execute` would most likely run.  EnforceError if there is none."""
    problem = errno.ENOENT
    for path in candidates(name, environment):
        if os.path.isfile(path):
            if os.access(path, os.X_OK, effective_ids=True):
                return path
            problem = errno.EACCES
        elif os.path.isdir(path) and b"/" in name:
            problem = errno.EACCES
    raise failure(name, problem)


def execute(image: Image, script: Image, paths: Sequence[bytes]) -> int:
    """Execute the first of `paths` that can be: returns only if none can, with the errno.

    `script` is run instead, its argv[1] set to the path, where the file is executable but of no known format, as
    execvp(3) and shells do.
    """
    denied = 0
    for path in paths:
        try:
            image.execute(path)
        except OSError as error:
            number = error.errno or errno.EIO
        if number == errno.ENOEXEC:
            script.argv[1] = path
            try:
                script.execute(linux.SHELL)
            except OSError as error:
                return error.errno or errno.EIO
        if number == errno.EACCES:
            denied = number
        elif number not in _NOT_HERE:
            return number
    return denied or number


def failure(name: bytes, number: int) -> EnforceError:
    """What to say, and which status to end with, when a program could not be executed."""
    shown = os.fsdecode(name) or "''"
    if number in _NO_TEXT:
        if os.path.isfile(name) and b"/" in name:
            return EnforceError(f"{shown}: the interpreter that it names was not found", NOT_FOUND)
        return EnforceError(f"{shown}: not found", NOT_FOUND)
    if os.path.isdir(name):
        return EnforceError(f"{shown}: is a directory", NOT_EXECUTABLE)
    return EnforceError(f"{shown}: {os.strerror(number)}", NOT_EXECUTABLE)
