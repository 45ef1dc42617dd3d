"""A client of `callfence spawn` that does not do what it should: hostile.py SOCKET WHAT.

What the spawner answers is printed, as `STATUS TEXT`, or `closed` if it closes the connection.
"""

from __future__ import annotations

import array
import ctypes
import os
import signal
import socket
import struct
import sys
import threading
import time

from callfence.enforcer import kernel
from callfence.enforcer.spawning import client, protocol
from callfence.tracer import linux

PATH, WHAT = sys.argv[1:]
ENVIRONMENT = [name + b"=" + value for name, value in os.environb.items()]
WORDS = [b"-p", b"it.policy", b"true"]
libc = ctypes.CDLL(None, use_errno=True)


def folder():
    return os.open(".", os.O_PATH | os.O_DIRECTORY)


def show(connection):
    try:
        head = connection.recv(protocol.ANSWER_HEAD, socket.MSG_WAITALL)
        if not head:
            print("closed")
            return
        status, rulesets, _, size = struct.unpack_from("4I", head, len(protocol.MAGIC))
        connection.recv(rulesets * 20, socket.MSG_WAITALL)
        print(status, connection.recv(size, socket.MSG_WAITALL).decode(errors="replace") if status else "")
    except ConnectionResetError:
        print("closed")


def raw(content, descriptors=(), *, ends=False):
    """Send these bytes, and show the answer."""
    connection = client.connected(PATH)
    client.send(connection, content, descriptors)
    if ends:
        connection.shutdown(socket.SHUT_WR)
    show(connection)


def request(words=WORDS):
    return protocol.encoded(words, ENVIRONMENT)


def head(words, variables, size, magic=protocol.MAGIC):
    return magic + struct.pack("3I", words, variables, size)


def landlock():
    """Be in a Landlock domain that denies nothing but what every domain does, without no_new_privs, which takes root."""
    kernel.landlock_enter(kernel.landlock_ruleset(0, 0, linux.LANDLOCK_SCOPE_SIGNAL))


def in_another(process):
    """Call `process` in a child, and wait for it."""
    child = os.fork()
    if child == 0:
        try:
            process()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)


def fork_before():
    """Who sends is not who has connected."""
    connection = client.connected(PATH)

    def send():
        client.send(connection, request(), [folder()])
        show(connection)

    in_another(send)


def pass_the_socket():
    """The same, with a process that the connection is sent to."""
    ours, others = socket.socketpair()

    def send():
        _, parts, _, _ = ours.recvmsg(1, 1000)
        number = array.array("i", parts[0][2])[0]
        connection = socket.socket(fileno=number)
        client.send(connection, request(), [folder()])
        show(connection)

    child = os.fork()
    if child == 0:
        try:
            send()
        finally:
            sys.stdout.flush()
            os._exit(0)
    connection = client.connected(PATH)
    others.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))])
    os.waitpid(child, 0)


def executed_by_another():
    """The request is right; another process reads the answer, and executes: it is not confined more than it does itself, and
    the one that has connected ends."""
    connection = client.connected(PATH)
    client.send(connection, request(), [folder(), 2])
    in_another(lambda: show(connection))


def half(first):
    def sent():
        raw(request()[:first], [folder()], ends=True)

    return sent


def silent():
    """Send nothing until the spawner has enough."""
    show(client.connected(PATH))


def slow():
    connection = client.connected(PATH)
    for byte in request():
        try:
            connection.send(bytes([byte]), socket.MSG_NOSIGNAL)
        except OSError:
            break
        time.sleep(0.5)
    show(connection)


def die_before_the_answer():
    connection = client.connected(PATH)
    client.send(connection, request(), [folder()])
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_the_answer():
    connection = client.connected(PATH)
    client.send(connection, request(), [folder(), 2])
    client.answer(connection)
    os.kill(os.getpid(), signal.SIGKILL)


def exit_after_the_answer():
    connection = client.connected(PATH)
    client.send(connection, request(), [folder(), 2])
    client.answer(connection)
    print("exits", flush=True)
    os._exit(7)


def fork_after_the_answer():
    connection = client.connected(PATH)
    client.send(connection, request(), [folder(), 2])
    client.answer(connection)
    os.fork()
    print("still here", flush=True)


def with_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    raw(request(), [folder(), 2])
    sys.stdout.flush()
    os._exit(0)


def traced():
    """A tracer of one's own."""
    child = os.fork()
    if child == 0:
        libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME
        raw(request(), [folder()])
        sys.stdout.flush()
        os._exit(0)
    while True:
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return
        libc.ptrace(7, child, None, None)  # PTRACE_CONT


def unshared(flag):
    def act():
        if libc.unshare(flag):
            raise OSError(ctypes.get_errno(), "unshare")
        raw(request(), [folder()])

    return act


def filtered():
    kernel.install(bytes(struct.pack("HBBI", 6, 0, 0, linux.SECCOMP_RET_ALLOW)), 0)
    raw(request(), [folder()])


def chrooted():
    own = folder()
    os.chroot(os.path.dirname(PATH))
    connection = client.connected(f"/{os.path.basename(PATH)}")
    client.send(connection, request(), [own])
    show(connection)


def with_domain():
    landlock()
    raw(protocol.encoded([b"--log", b"stolen", *WORDS], ENVIRONMENT), [folder()])


def without_privileges():
    kernel.set_no_new_privs()
    raw(request(), [folder()])


def without_groups():
    os.setgroups([])
    raw(request(), [folder()])


def without_capability():
    _, permitted, _ = kernel.capabilities()
    kernel.set_capabilities(permitted & ~1)
    raw(request(), [folder()])


def another_user():
    connection = client.connected(PATH)
    os.setresuid(65534, 65534, 65534)
    client.send(connection, request(), [folder()])
    show(connection)


def another_user_before():
    os.setresuid(65534, 65534, 0)
    os.seteuid(0)
    os.seteuid(65534)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(PATH)
    except PermissionError:
        print("permission denied")
        return
    show(connection)


def long_request():
    many = b"x" * (protocol.MAX_STRINGS + 1)
    raw(head(1, 0, len(many)) + many[:100000], [folder()])


ACTS = {
    "plain": lambda: raw(request(), [folder(), 2]),
    "garbage": lambda: raw(b"GET / HTTP/1.0\r\nHost: there\r\n\r\n", [folder()]),
    "zeros": lambda: raw(bytes(100), [folder()]),
    "magic": lambda: raw(head(0, 0, 0, b"cfspawn2"), [folder()]),
    "counts": lambda: raw(head(3, 4, 4) + b"a\0b\0", [folder()]),
    "more counts": lambda: raw(head(0xFFFFFFFF, 0xFFFFFFFF, 4) + b"a\0b\0", [folder()]),
    "no end": lambda: raw(head(2, 0, 3) + b"a\0b", [folder()]),
    "too much": lambda: raw(request() + b"x", [folder()]),
    "too long": long_request,
    "no words": lambda: raw(head(0, 0, 0), [folder()]),
    "nothing": lambda: raw(b"", ends=True),
    "half a head": half(5),
    "half": half(60),
    "no folder": lambda: raw(request()),
    "a file": lambda: raw(request(), [os.open("/etc/passwd", os.O_RDONLY)]),
    "three descriptors": lambda: raw(request(), [folder(), 2, 2]),
    "many descriptors": lambda: raw(request(), [folder() for _ in range(200)]),
    "silent": silent,
    "slow": slow,
    "fork": fork_before,
    "pass": pass_the_socket,
    "executed by another": executed_by_another,
    "die before": die_before_the_answer,
    "die after": die_after_the_answer,
    "exit after": exit_after_the_answer,
    "fork after": fork_after_the_answer,
    "thread": with_thread,
    "traced": traced,
    "mnt": unshared(0x20000),
    "net": unshared(0x40000000),
    "ipc": unshared(0x8000000),
    "uts": unshared(0x4000000),
    "cgroup": unshared(0x2000000),
    "user": unshared(0x10000000),
    "filter": filtered,
    "chroot": chrooted,
    "domain": with_domain,
    "no_new_privs": without_privileges,
    "groups": without_groups,
    "capability": without_capability,
    "user after": another_user,
    "user before": another_user_before,
}
ACTS[WHAT]()
