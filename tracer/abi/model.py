"""The words for what crosses the system-call boundary: architectures, arguments, calls, events.

Values only.  The tables that fill them are data files beside this one, read by `tracer.abi.table`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from typing import Any

from callfence.tracer.machine import MACHINE
from callfence.tracer.named import NamedTuple


class Arch(StrEnum):
    """A system-call convention, as the kernel reports it in `seccomp_data.arch`."""

    X86_64 = "x86_64"
    I386 = "i386"
    AARCH64 = "aarch64"
    ARM = "arm"
    """AArch32, the 32-bit programs of aarch64 kernels (EABI; the older OABI has no compat entry)."""

    @property
    def audit(self) -> int:
        """The AUDIT_ARCH_* number, 32 bits (linux/audit.h)."""
        return _AUDIT[self]

    @property
    def bits(self) -> int:
        """Width of an argument register: 32 or 64."""
        return 64 if self in _COMPAT else 32

    @property
    def compat(self) -> Arch | None:
        """The architecture of the 32-bit programs of a machine with this one; None for those architectures."""
        return _COMPAT.get(self)

    @property
    def has_x32(self) -> bool:
        """Whether the numbers with X32_BIT are calls of a second convention, x32, which arrives with the same arch."""
        return self is Arch.X86_64

    def is_x32(self, number: int) -> bool:
        """Return whether a call with this number (32 bits, unsigned) is an x32 call."""
        return self.has_x32 and X32_BIT <= number < 2 * X32_BIT

    @classmethod
    def from_audit(cls, audit: int) -> Arch | None:
        """Return the architecture whose AUDIT_ARCH_* number is `audit`; None for one that callfence does not know."""
        return _BY_AUDIT.get(audit)


# EM_* | __AUDIT_ARCH_64BIT (0x80000000) | __AUDIT_ARCH_LE (0x40000000): linux/audit.h, linux/elf-em.h
_AUDIT = {Arch.X86_64: 0xC000003E, Arch.I386: 0x40000003, Arch.AARCH64: 0xC00000B7, Arch.ARM: 0x40000028}
_BY_AUDIT = {audit: arch for arch, audit in _AUDIT.items()}

_COMPAT = {Arch.X86_64: Arch.I386, Arch.AARCH64: Arch.ARM}

X32_BIT = 0x40000000
"""Set in the number of an x32 call, which arrives with the arch of x86_64 (asm/unistd.h)."""


NATIVE, COMPAT = _BY_AUDIT[MACHINE.native.audit], _BY_AUDIT[MACHINE.compat.audit]
"""The architectures whose programs run on this machine: its own, and that of its 32-bit programs; x86_64 and i386 where nothing
can be learned or enforced."""


class Kind(StrEnum):
    """The meaning of an argument, which decides how a policy may constrain it."""

    FD = "fd"
    """A file descriptor."""
    DIRFD = "dirfd"
    """A directory's descriptor, or AT_FDCWD."""
    SELECTOR = "selector"
    """Selects what the call does (a command, an option, a family): only the observed values are allowed."""
    SIGNAL = "signal"
    """A signal number that is sent: constrained like a selector."""
    CLOCK = "clock"
    """A clock id: constrained like a selector, except negative ids, which carry a pid or a descriptor."""
    PROTECTION = "protection"
    """Bits that are dangerous together (PROT_*, CLONE_*): only the observed combinations are allowed."""
    FLAGS = "flags"
    """Independent bits: any combination of the observed bits is allowed."""
    FIELD = "field"
    """Only the bits of `Argument.exact` matter (a mode's set-id bits and file type); the rest is free."""
    POINTER = "pointer"
    """An address in the caller's memory: can never be constrained."""
    PATH = "path"
    """A pointer to a file name: can never be constrained."""
    TEXT = "text"
    """A pointer to a string that is no file name of the caller's (a symbolic link's content): can never be constrained."""
    WORDS = "words"
    """A pointer to an array of strings that ends with NULL (argv): can never be constrained."""
    SOCKADDR = "sockaddr"
    """A pointer to a socket's address that the call reads, whose length is the next argument: can never be constrained."""
    MESSAGE = "message"
    """A pointer to a message that begins with a pointer to a socket's address, and its length (struct msghdr): the same."""
    ADDRESS = "address"
    """An address used as a number (mmap's addr): not constrained when learning."""
    SIZE = "size"
    """A length or count in bytes or elements."""
    OFFSET = "offset"
    """A position in a file."""
    ID = "id"
    """A process, user, group, key or timer identifier."""
    TASK = "task"
    """The identifier of a task (or of a group or a user) where 0 is the caller's own: only 0 is constrained, to 0; any
    other is different in the next run."""
    MODE = "mode"
    """Permission bits that carry no privilege (umask)."""
    NUMBER = "number"
    """Any other integer."""

    @property
    def is_pointer(self) -> bool:
        return self in _POINTERS

    @property
    def is_evident(self) -> bool:
        """Whether an argument of this kind points to something that shows a reader the purpose of the call, such as a file
        name."""
        return self in _POINTERS and self is not Kind.POINTER

    @property
    def is_constrained(self) -> bool:
        """Whether learning constrains arguments of this kind by default (`--tight` adds other kinds)."""
        return self in _CONSTRAINED


_POINTERS = frozenset((Kind.POINTER, Kind.PATH, Kind.TEXT, Kind.WORDS, Kind.SOCKADDR, Kind.MESSAGE))
_CONSTRAINED = frozenset((Kind.SELECTOR, Kind.SIGNAL, Kind.CLOCK, Kind.PROTECTION, Kind.FLAGS, Kind.FIELD, Kind.TASK))


class Argument(NamedTuple):
    """One argument of one call."""

    name: str
    """The kernel's own name (tracefs `events/syscalls/*/format`)."""
    ctype: str
    """The kernel's C type, `__user` removed."""
    width: int
    """The number of low bits of the register that the kernel uses: 8, 16, 32 or 64."""
    signed: bool
    """Whether the C type is signed: decides how <, > and printing read the value."""
    kind: Kind
    constants: str = ""
    """The family of constants that names its values (constants.tsv), or ''."""
    exact: int = 0
    """The bits of a field that is compared as a whole (open's O_ACCMODE), besides the other bits; 0 if there is none."""

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1

    def value(self, register: int) -> int:
        """Return the value that the kernel takes from a 64-bit register: the low `width` bits, sign-extended if signed."""
        value = register & self.mask
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value


class Syscall:
    """A system call of one architecture."""

    def __init__(self, number: int, name: str, read: Callable[[], tuple[Argument, ...]]) -> None:
        """`read` returns the arguments, when they are first asked for: of most calls they never are."""
        self.number = number
        self.name = name
        self._read = read

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        return self._read()


EventCounter = list[Any]
"""What is known of an observation; a list, since nothing is cheaper to add to.  The tracer's loop adds to its elements `COUNT`
and `AFTER`; `policygen.recording.fold` has the others."""
COUNT, AFTER = 0, 1
"""The indexes of how often the call was made, and of the set of waits after which it was made: each element of the set is a sum
of bits of `tracer.abi.waits`."""


class Event(NamedTuple):
    """One call as the kernel's filter sees it (struct seccomp_data), and the task that made it."""

    arch: int
    """AUDIT_ARCH_*, 32 bits; may be one that `Arch` does not know."""
    number: int
    """32 bits, unsigned (-1 is 0xffffffff; x32 numbers keep their bit)."""
    arguments: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    """The registers: 64 bits each, unsigned, whatever the C type."""
    ip: int = 0
    """Instruction pointer, 64 bits."""
    task: int = 0
    """Thread id; 0 where there is none."""
