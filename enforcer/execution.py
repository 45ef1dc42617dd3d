"""Find a program by its name, as execvp(3) does, and execute it with what this process was given.

The client of a spawner imports this as well, so it imports little.
"""

from __future__ import annotations

import errno
import os

from callfence.enforcer import kernel
from callfence.enforcer.errors import NOT_EXECUTABLE, NOT_FOUND, EnforceError
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import Array

NOT_GRANTED = (
    "the policy does not grant `read, execute` to the program, or to its interpreter or dynamic loader; `learn` adds such lines"
)
_DEFAULT_PATH = b"/bin:/usr/bin"  # glibc's _CS_PATH
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)  # glibc posix/execvpe.c
_NO_TEXT = {errno.ENOENT: "not found", errno.ENOTDIR: "not found"}


def forget_interrupt_handler() -> None:
    """Make SIGINT end this process without a traceback, or be ignored if the parent ignores it."""
    if kernel.disposition(linux.SIGINT, linux.SIG_DFL) == linux.SIG_IGN:
        kernel.disposition(linux.SIGINT, linux.SIG_IGN)


def restore_signals() -> None:
    """Set the signals that CPython ignores to their default; their former disposition is not known.

    SIGPIPE stays ignored in a service of systemd, which ignores it by default (systemd.exec(5), IgnoreSIGPIPE=) and names the
    process that it started in SYSTEMD_EXEC_PID."""
    kernel.disposition(linux.SIGXFSZ, linux.SIG_DFL)
    if os.environb.get(b"SYSTEMD_EXEC_PID") != b"%d" % os.getpid():
        kernel.disposition(linux.SIGPIPE, linux.SIG_DFL)


def initial_environment() -> list[bytes]:
    """Return the environment with which this process was started, as NAME=VALUE; CPython may change its copy (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        return [name + b"=" + value for name, value in os.environb.items()]
    return block.split(b"\0")[:-1]


def candidates(name: bytes, environment: Sequence[bytes]) -> list[bytes]:
    """Return the paths at which a program is looked for, in order.  An empty element of PATH is the current folder (POSIX)."""
    if b"/" in name or not name:
        return [name]
    path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), _DEFAULT_PATH)
    return [folder + b"/" + name if folder else name for folder in path.split(b":")]


def locate(name: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the path that `execute` would most likely run.  Raises EnforceError if there is none."""
    problem = errno.ENOENT
    for path in candidates(name, environment):
        if os.path.isfile(path):
            if os.access(path, os.X_OK, effective_ids=True):
                return path
            problem = errno.EACCES
        elif os.path.isdir(path) and b"/" in name:
            problem = errno.EACCES
    raise failure(name, problem)


def execute(
    argv: Array[linux.c_char_p], script: Array[linux.c_char_p], environment: Array[linux.c_char_p], paths: Sequence[bytes]
) -> int:
    """Execute the first of `paths` that the kernel can execute; return only if there is none, with the errno.

    If a file is executable but of no known format, run `script` instead of `argv`, with the path as its second word, as
    execvp(3) and shells do."""
    denied = number = 0
    for path in paths:
        linux.functions.execve(path, argv, environment)
        number = linux.get_errno()
        if number == errno.ENOEXEC:
            script[1] = path
            linux.functions.execve(linux.SHELL, script, environment)
            return linux.get_errno()
        if number == errno.EACCES:
            denied = number
        elif number not in _NOT_HERE:
            return number
    return denied or number


def failure(name: bytes, number: int) -> EnforceError:
    """Return the error for a program that could not be executed with the errno `number`."""
    from callfence.policygen.text import printable  # only a failure needs it

    shown = printable(os.fsdecode(name)) or "''"
    if number in _NO_TEXT:
        if os.path.isfile(name) and b"/" in name:
            missing = "its interpreter (first line of a script) or its dynamic loader was not found"
            return EnforceError(f"{shown}: {missing}", NOT_FOUND)
        here = f"; the file of this folder is ./{shown}" if b"/" not in name and os.path.isfile(name) else ""
        return EnforceError(f"{shown}: not found{here}", NOT_FOUND)
    if os.path.isdir(name):
        return EnforceError(f"{shown}: is a directory", NOT_EXECUTABLE)
    return EnforceError(f"{shown}: {os.strerror(number)}", NOT_EXECUTABLE)


def is_open(descriptor: int) -> bool:
    """Return whether this process has a descriptor of that number."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
