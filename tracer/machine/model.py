"""The words for what differs between the machines that callfence runs on: how programs make system calls, and what ptrace(2)
shows of a stopped task."""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine.numbers import NUMBERS, column

if TYPE_CHECKING:
    from collections.abc import Sequence

Registers = list[int]
"""The registers of a stopped task, 64 bits each, unsigned; the indexes are those of the task's `Convention`."""

NO_CALL = (1 << 64) - 1
"""The number of a task that is in no call: the kernel restarts none."""


class Convention:
    """The calling convention for system calls in one mode of the processor (syscall(2)).  The attributes from `arguments` to
    `link` are indexes of `Registers`."""

    __slots__ = (
        "arguments", "audit", "breakpoint", "frame", "instruction", "ip", "is_past", "link", "number", "numbers", "pointer",
        "result", "selects", "sp",
    )  # fmt: skip

    def __init__(
        self,
        audit: int,
        pointer: int,
        instruction: bytes,
        breakpoint: bytes,
        is_past: bool,
        arguments: tuple[int, ...],
        ip: int,
        sp: int,
        frame: int,
        link: int,
        result: int,
        number: int,
        selects: int,
    ) -> None:
        self.audit = audit
        """AUDIT_ARCH_*."""
        self.pointer = pointer
        """The size of a pointer in bytes."""
        self.instruction = instruction
        """The instruction by which programs make system calls."""
        self.breakpoint = breakpoint
        """The instruction that raises SIGTRAP."""
        self.is_past = is_past
        """Whether the instruction pointer is after `breakpoint` when the signal comes."""
        self.arguments = arguments
        self.ip = ip
        self.sp = sp
        self.frame = frame
        """The register with the frame pointer: -1 if there is none that unwinding uses."""
        self.link = link
        """The register with the return address: -1 if calls put it on the stack."""
        self.result = result
        self.number = number
        """Where ptrace shows the number of the call that a task is in, and where writing it changes the call."""
        self.selects = selects
        """The register in which programs put the number of a call: where ptrace shows another, as `number`."""
        self.numbers = column(audit)
        """The numbers of the calls that callfence knows of by itself, by name; others are missing."""

    def number_of(self, name: str) -> int:
        """Return the number of a call; that of mmap2 for "mmap" where mmap takes its arguments in memory, or is missing."""
        numbers = self.numbers
        return numbers["mmap2" if name == "mmap" and "mmap2" in numbers else name]

    def signed(self, value: int) -> int:
        """Return the result of a call, from its register, as a signed number."""
        bits = 8 * self.pointer
        value &= (1 << bits) - 1
        return value - (value >> (bits - 1) << bits)


class Machine:
    """A kind of machine.  The subclasses, one for each, are in modules of their own.  All methods about a task need one that is
    stopped by ptrace, and raise OSError if it is dying."""

    native: Convention
    compat: Convention
    """Of 32-bit programs."""
    foreign_bit = 0
    """A bit in the numbers of calls of another convention that arrive as native ones (x32); 0 if there is none."""
    unwinding: tuple[int, int, int, int]
    """What DWARF's call-frame information says on the machine (its psABI): the numbers of the frame pointer, of the stack
    pointer and of the return address, and the bits of the latter that are an address, since others may hold a signature."""

    @property
    def conventions(self) -> tuple[Convention, Convention]:
        """One for each architecture whose system calls programs can make here, the native one first."""
        return self.native, self.compat

    def of(self, audit: int) -> Convention:
        """Return the convention of an architecture, AUDIT_ARCH_*: the native one if it is not that of `compat`."""
        return self.compat if audit == self.compat.audit else self.native

    def of_call(self, audit: int, registers: Sequence[int]) -> Convention:
        """Return the convention by which a task with these registers has made a call of the architecture `audit`."""
        return self.of(audit)

    def numbers_by_arch(self, *names: str) -> dict[int, tuple[int, ...]]:
        """Return the numbers of the calls `names`, keys of NUMBERS, by AUDIT_ARCH_*."""
        if unknown := [name for name in names if name not in NUMBERS]:
            raise KeyError(*unknown)  # a filter would leave them out without a word
        return {each.audit: tuple(each.numbers[name] for name in names if name in each.numbers) for each in self.conventions}

    def calls(self, *names: str) -> set[tuple[int, int]]:
        """Return the pair (AUDIT_ARCH_*, number) of each of the calls `names`, on both architectures."""
        return {(arch, number) for arch, numbers in self.numbers_by_arch(*names).items() for number in numbers}

    def syscall(self, name: str, *arguments: object) -> int:
        """Make the system call `name`; return its result, or -1 if it fails (errno is set).  Integers have all 64 bits."""
        return linux.raw_syscall(self.native.numbers[name], *arguments)

    # Registers

    def registers(self, tid: int) -> Registers:
        """Return the registers of a task."""
        raise NotImplementedError

    def set_registers(self, tid: int, registers: Sequence[int]) -> None:
        """Set all registers of a task."""
        raise NotImplementedError

    def register(self, tid: int, index: int) -> int:
        """Return one register of a task."""
        raise NotImplementedError

    def set_register(self, tid: int, index: int, value: int) -> None:
        """Set one register of a task to a value, 64 bits, unsigned."""
        raise NotImplementedError

    def convention(self, registers: Sequence[int]) -> Convention:
        """Return the convention of the mode in which a task with these registers is."""
        raise NotImplementedError

    def is_stepping(self, registers: Sequence[int]) -> bool:
        """Return whether the program steps through its own instructions, and would notice that one is repeated."""
        raise NotImplementedError

    def anywhere(self, registers: Sequence[int]) -> Registers:
        """Return a copy of registers of a task that is about to go on, with which it can go on at another instruction."""
        return list(registers)

    def again(self, at_entry: Sequence[int]) -> Registers:
        """Return the registers with which a task makes a call again by its own instruction; `at_entry` are those that it had at
        the entry of the call."""
        convention = self.convention(at_entry)
        registers = list(at_entry)
        registers[convention.ip] -= len(convention.instruction)
        registers[convention.selects] = at_entry[convention.number]
        registers[convention.number] = NO_CALL
        return registers

    def after_interrupt(self, registers: Sequence[int]) -> Registers:
        """Return the registers with which a task that PTRACE_INTERRUPT has stopped goes on after calls of ours, as the kernel
        would have it go on: with the call again that the stop has interrupted, if there is one."""
        raise NotImplementedError

    # The breakpoint in the processor, which a task cannot change

    def target(self, convention: Convention, address: int) -> tuple[int, Convention]:
        """Return the address of the instruction to which a jump to `address` leads, and the convention of its mode."""
        return address, convention

    def set_breakpoint(self, tid: int, address: int, convention: Convention) -> None:
        """Have a task stop with SIGTRAP before it executes the instruction at an address; both as `target` returns them."""
        raise NotImplementedError

    def clear_breakpoint(self, tid: int) -> None:
        raise NotImplementedError
