"""Let libseccomp write programs for rules, through pyseccomp, which no other module imports.

libseccomp is given numbers and masked equality, never orderings, which it miscompiles.  It runs in a child process, since it
can hang.  Its output is not trusted: `compile` proves the whole filter before returning it.  It always compiles for the native
architecture, whose numbers it takes unchanged: it would translate numbers of i386 by name, and turn `socket` into `socketcall`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import Any

from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.tracer.abi import X32_BIT
from callfence.tracer.errors import InternalError, UserError
from callfence.tracer.named import NamedTuple
from callfence.tracer.running.child import fork

SECONDS = 30.0
"""Timeout of libseccomp for one program, in seconds.  The largest programs that fit a filter take it up to five."""

_ROOM = 1 << 20  # bytes: /proc/sys/fs/pipe-max-size, and 32 times what the kernel takes of a filter
_TREE_FROM = 8
"""The fewest calls for which libseccomp's binary tree is used instead of its chain.  Measured: a call of 8 takes 4.5
instructions on average instead of 5.5, one of 100 takes 8.4 instead of 51.5, and the program is a fifth larger."""

MaskedEquality = tuple[int, int, int]
"""(index, mask, value): `argument & mask == value` over 64 bits."""


class LibseccompRule(NamedTuple):
    """A call's number, its return value, and the conditions under which it gets that value."""

    number: int
    ret: int
    """32-bit return value; differs from the program's default."""
    alternatives: tuple[tuple[MaskedEquality, ...], ...]
    """The conditions, joined by OR; each has comparisons joined by AND, at most one for an argument, or is empty: true."""


def generate(default: int, rules: Sequence[LibseccompRule], seconds: float = SECONDS) -> list[Instruction]:
    """Return instructions that return what the rules say, and the 32-bit value `default` for every other call.

    The instructions before must have checked the architecture, excluded x32 numbers, and left the call's number in the
    accumulator.  Raises LibseccompError if libseccomp refuses the rules, crashes, or takes more than `seconds`;
    MissingLibraryError if it is not installed."""
    if not rules:
        return [Instruction(bpf.RET | bpf.K, k=default)]
    library = pyseccomp()
    # libseccomp checks actions with the running kernel, and refuses rules with the default one: it gets placeholders
    rets = [default, *sorted({rule.ret for rule in rules} - {default})]
    placeholders = {ret: library.ERRNO(1 + place) for place, ret in enumerate(rets)}

    def work() -> bytes:
        program = library.SyscallFilter(placeholders[default])
        if len(rules) >= _TREE_FROM:
            with contextlib.suppress(OSError):  # before libseccomp 2.5
                program.set_attr(library.Attr.CTL_OPTIMIZE, 2)
        for rule in rules:
            for alternative in rule.alternatives:
                arguments = [library.Arg(index, library.MASKED_EQ, *masked) for index, *masked in alternative]
                program.add_rule_exactly(placeholders[rule.ret], rule.number, *arguments)
        return _exported(program)

    exported = [Instruction(*fields) for fields in bpf.STRUCT.iter_unpack(_in_child(work, seconds))]
    meant = {placeholder: ret for ret, placeholder in placeholders.items()}
    return _shorten(
        [
            instruction._replace(k=meant.get(instruction.k, instruction.k))
            if instruction.code == bpf.RET | bpf.K
            else instruction
            for instruction in exported
        ]
    )


def _exported(program: Any) -> bytes:
    """Return the program that libseccomp exports, by a pipe that is large enough: RLIMIT_FSIZE could cut a file."""
    reader, writer = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _ROOM)
    with os.fdopen(reader, "rb") as result:
        with os.fdopen(writer, "wb", buffering=0) as file:
            program.export_bpf(file)
        return result.read()


def _in_child(work: Callable[[], bytes], seconds: float) -> bytes:
    """Return the result of `work`, run in a forked child that is killed after `seconds`.  Raises LibseccompError if there is no
    result, MemoryError if memory is exhausted."""
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def answer() -> None:
        _limit(seconds)
        _write(writer, b"+" + work())

    def refuse(error: BaseException) -> None:
        _write(writer, b"-" + os.fsencode(f"{type(error).__name__}: {error}"))

    try:
        child = fork(answer, refuse)
    except OSError as error:
        os.close(reader)
        raise LibseccompError(f"cannot start a process to run libseccomp in: {error.strerror}") from error
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    reply, status = None, 0
    try:
        reply = _read(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        if reply is None:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # if SIGCHLD is ignored, the kernel has reaped it
            _, status = os.waitpid(child, 0)
    if reply is None:
        raise LibseccompError(f"libseccomp did not compile the policy within {seconds:g} s")
    if not reply and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        raise LibseccompError("a seccomp filter already in force killed the process that runs libseccomp")
    if not reply:
        raise LibseccompError("libseccomp crashed")
    if reply.startswith((b"-MemoryError", b"-OSError: [Errno 12]")):
        raise MemoryError("of libseccomp")
    if reply[:1] != b"+":
        raise LibseccompError(f"libseccomp refused the rules: {os.fsdecode(reply[1:])}")
    return reply[1:]


def _limit(seconds: float) -> None:
    """Limit the child's processor time, so that it ends even if its parent is killed."""
    for limit, value in ((resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force, or a filter denies it
            resource.setrlimit(limit, (value, value))


def _write(writer: int, reply: bytes) -> None:
    with os.fdopen(writer, "wb") as file:
        file.write(reply)


def _read(reader: int, deadline: float) -> bytes | None:
    """Read until the other end is closed; return the bytes, or None if the deadline passes first."""
    reply = bytearray()
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return bytes(reply)
        reply += chunk


def _shorten(program: list[Instruction]) -> list[Instruction]:
    """Return the program without tests whose result is known: the checks of architecture and x32 at the start, and tests of an
    argument's 32-bit half in which no bit matters (`ld; and 0; jeq 0`)."""
    program = list(program)
    for pc in range(len(program) - 2):
        load, mask, test = program[pc : pc + 3]
        if load.code == _LOAD and mask == _AND_0 and test.code == _JEQ and test.k == 0:
            program[pc] = Instruction(_JA, k=2 + test.jt)
    reached = {_entry(program)}
    for pc, instruction in enumerate(program):
        if pc in reached:
            reached.update(bpf.successors(pc, instruction))
    place = {len(program): 0}  # counted from the end
    for pc in range(len(program) - 1, -1, -1):
        instruction = program[pc]
        needed = pc in reached and not (instruction.code == _JA and place[pc + 1 + instruction.k] == place[pc + 1])
        place[pc] = place[pc + 1] + needed

    def moved(pc: int) -> Instruction:
        instruction = program[pc]
        jt, jf, k = (
            place[pc] - place[pc + 1 + jump] - 1
            for jump in (instruction.jt, instruction.jf, instruction.k if instruction.code == _JA else 0)
        )
        if instruction.code == _JA:
            return instruction._replace(k=k)
        return instruction._replace(jt=jt, jf=jf) if instruction.code & 7 == bpf.JMP else instruction

    return [moved(pc) for pc in range(len(program)) if place[pc] != place[pc + 1]]


_LOAD = bpf.LD | bpf.ABS
_JA, _JEQ, _JGE = (bpf.JMP | jump | bpf.K for jump in (bpf.JA, bpf.JEQ, bpf.JGE))
_AND_0 = Instruction(bpf.ALU | bpf.AND | bpf.K)


def _entry(program: list[Instruction]) -> int:
    """Return the index of the first instruction after the checks of architecture and x32."""
    pc, loaded = 0, None
    while True:
        instruction = program[pc]
        pc += 1
        if instruction.code == _LOAD and instruction.k in (bpf.NUMBER, bpf.ARCH):
            loaded = instruction.k
        elif loaded == bpf.ARCH and instruction.code == _JEQ:
            pc += instruction.jt
        elif loaded == bpf.NUMBER and instruction.code == _JGE and instruction.k == X32_BIT:
            pc += instruction.jf
        else:
            return pc - 1


class LibseccompError(InternalError):
    """libseccomp refused the rules, crashed, or did not finish in time."""


class MissingLibraryError(UserError):
    """libseccomp or pyseccomp is not installed; `str()` says how to install it."""


def require() -> None:
    """Check that libseccomp and pyseccomp, or what takes its place, are installed.  Raises MissingLibraryError if one is not.
    pyseccomp is not loaded: that would take 8 ms."""
    with _explained():
        if PathFinder.find_spec("pyseccomp") is None and PathFinder.find_spec("seccomp") is None:
            raise ImportError("No module named 'pyseccomp'")
        ctypes.CDLL(_soname("seccomp"))


def pyseccomp() -> Any:
    """Load the module pyseccomp, and return it; where it is not installed, libseccomp's own module, which has the same
    functions, and which Debian packages.  Raises MissingLibraryError if neither or no libseccomp is installed."""
    from ctypes import util

    find = util.find_library
    util.find_library = _soname  # pyseccomp would run ldconfig(8) twice: 9 ms
    try:
        with _explained():
            if PathFinder.find_spec("pyseccomp") is None:
                import seccomp

                return seccomp
            import pyseccomp

            return pyseccomp
    finally:
        util.find_library = find


def _soname(name: str) -> str:
    return {"c": "libc.so.6", "seccomp": "libseccomp.so.2"}[name]


@contextmanager
def _explained() -> Iterator[None]:
    """Context manager that turns an ImportError into a MissingLibraryError with what to install, or a MemoryError."""
    try:
        yield
    except ImportError as error:
        raise MissingLibraryError(f"pyseccomp is missing ({error}): pip install pyseccomp") from error
    except (RuntimeError, OSError) as error:  # the shared library is missing, or cannot be loaded
        if "map segment" in str(error) or "allocate" in str(error):  # what the dynamic loader says of want of memory
            raise MemoryError(str(error)) from error
        raise MissingLibraryError(
            f"libseccomp is missing ({error}): install the package libseccomp2 (Debian, Ubuntu) or libseccomp"
        ) from error
