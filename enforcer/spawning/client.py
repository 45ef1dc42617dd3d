"""The client of `callfence spawn` in Python: this process becomes the program.  include/callfence_spawn.h does the same in C.

As a script it is what include/callfence-run.c is, and takes longer: the interpreter has to start.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.abspath(__file__).removesuffix("/callfence/enforcer/spawning/client.py"))

import _socket
import errno

from callfence.enforcer import execution, helper, kernel
from callfence.enforcer.errors import FAILED, NOT_EXECUTABLE, EnforceError, refused
from callfence.enforcer.spawning import protocol
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import CallfenceError
from callfence.tracer.proc import fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_ROOM = 4096
_CMSG_CLOEXEC, _NOSIGNAL = 0x40000000, 0x4000  # linux/socket.h: MSG_*
_O_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def become(socket: str, words: Sequence[bytes], environment: list[bytes]) -> NoReturn:
    """Become the program of an `enforce` command line, given as its words without the command's name.  Raises CallfenceError or
    OSError if the program was not run.  This process may be traced and confined then: end it."""
    has_stderr = execution.is_open(2)  # before another descriptor has that number
    was_traced = _is_traced()
    connection = connected(socket)
    own = [os.open(".", _O_PATH), *([2] if has_stderr else [])]
    send(connection, protocol.encoded(words, environment), own)
    os.close(own[0])
    text, rulesets, first = answer(connection)
    connection.close()
    if was_traced or not _is_traced():  # a confined program cannot do that, and may have bound the socket
        raise EnforceError(f"{socket}: who listens there does not trace this process, and cannot confine it")
    argv = words[first:]
    command, script = linux.strings(argv), linux.strings(linux.script_arguments(b"", argv))
    variables = linux.strings(environment)
    execution.restore_signals()
    try:
        kernel.set_no_new_privs()
        for descriptor, flags, name in rulesets:
            if name:
                kernel.set_name(name)
            kernel.landlock_enter(descriptor, flags)
            if name:
                kernel.shares_files(os.getpid(), linux.KTHREADD)
            os.close(descriptor)
    except OSError as error:
        raise refused(error) from error
    problem = execution.execute(command, script, variables, text.split(b"\0")[:-1])
    if rulesets and problem == errno.EACCES:
        raise EnforceError(f"{os.fsdecode(argv[0])} cannot be executed: {execution.NOT_GRANTED}", NOT_EXECUTABLE)
    raise execution.failure(argv[0], problem)


def _is_traced() -> bool:
    return fields("/proc/self").get("TracerPid", "0") != "0"


def connected(socket: str) -> _socket.socket:
    """Connect to a spawner of this user, and permit it to trace this process.  Raises EnforceError."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(socket)
    except OSError as error:
        raise EnforceError(f"{socket}: {error.strerror or error}") from error
    credentials = connection.getsockopt(_socket.SOL_SOCKET, 17, 12)  # SO_PEERCRED: struct ucred
    pid, user = (int.from_bytes(credentials[place : place + 4], "little") for place in (0, 4))
    if user != os.geteuid():
        raise EnforceError(f"{socket}: another user listens there")
    kernel.allow_tracer(pid)
    return connection


def send(connection: _socket.socket, request: bytes, descriptors: Sequence[int]) -> None:
    """Send a request.  An error is not raised: its reason is in the answer."""
    try:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, protocol.packed(descriptors))]
        sent = connection.sendmsg([request], rights if descriptors else [], _NOSIGNAL)
        while sent < len(request):
            sent += connection.send(request[sent : sent + (1 << 20)], _NOSIGNAL)
    except OSError:
        return


def answer(connection: _socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
    """Receive an answer; return its text, descriptor, flags and name of each ruleset, and the index of the program.  Raises
    EnforceError, also with the spawner's own reason."""
    descriptors: list[int] = []

    def read(size: int) -> bytes:
        content = b""
        while len(content) < size:
            chunk, parts, _, _ = connection.recvmsg(size - len(content), _ROOM, _CMSG_CLOEXEC)
            for level, kind, data in parts:
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                    descriptors.extend(protocol.descriptors(data))
            if not chunk:
                raise EnforceError("`callfence spawn` has not answered")
            content += chunk
        return content

    try:
        head = read(protocol.ANSWER_HEAD)
        place = len(protocol.MAGIC)
        status, count, first, size = (protocol.number(head, place + 4 * index) for index in range(4))
        names = read(count * (4 + protocol.NAME))
        text = read(size)
    except OSError as error:
        raise EnforceError(f"`callfence spawn` has not answered: {error.strerror}") from error
    if not head.startswith(protocol.MAGIC) or (not status and len(descriptors) != count):
        raise EnforceError("`callfence spawn` has answered what this version cannot read: start it from the same installation")
    if status:
        raise EnforceError(os.fsdecode(text), status)
    each = [names[at : at + 4 + protocol.NAME] for at in range(0, len(names), 4 + protocol.NAME)]
    parts = zip(descriptors, each, strict=True)
    return text, [(descriptor, protocol.number(part, 0), part[4:].rstrip(b"\0")) for descriptor, part in parts], first


def default_socket() -> str:
    """Return the socket that callfence-run takes if none is named."""
    return os.environ.get("CALLFENCE_SPAWN") or f"{os.environ.get('XDG_RUNTIME_DIR', '')}/callfence/spawn"


def main() -> int:
    """Run the script.  Return only if the program was not run: the exit status."""
    execution.forget_interrupt_handler()
    words = sys.argv[1:]
    socket = words[1] if len(words) > 1 and words[0] == "-s" else default_socket()
    words = words[2:] if len(words) > 1 and words[0] == "-s" else words
    stderr = 2 if execution.is_open(2) else -1
    try:
        become(socket, [os.fsencode(word) for word in words], execution.initial_environment())
    except CallfenceError as error:
        status, text = error.status if isinstance(error, EnforceError) else FAILED, str(error)
    except OSError as error:
        status, text = FAILED, f"{error.filename or 'the client'}: {error.strerror}"
    helper.write(stderr, f"callfence-run: {text}\n".encode(errors="surrogateescape"))
    return status


if __name__ == "__main__":
    sys.exit(main())
