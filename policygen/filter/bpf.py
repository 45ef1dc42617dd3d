"""Classic BPF as seccomp runs it: instructions, the kernel's checks, an interpreter, a disassembler.

A program is the bytes of an array of struct sock_filter (linux/filter.h) in the host's byte order, 8 bytes each, over
struct seccomp_data (linux/seccomp.h), which it reads as sixteen 32-bit words.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache

from callfence.policygen.model import MAX_ERRNO, Action, ActionKind
from callfence.tracer.abi import Event
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

# linux/bpf_common.h: an opcode is a class and what the class adds to it
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
IMM, ABS, MEM, LEN = 0x00, 0x20, 0x60, 0x80  # addressing modes of LD and LDX; the size is always BPF_W, 0
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, XOR = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xA0
JA, JEQ, JGT, JGE, JSET = 0x00, 0x10, 0x20, 0x30, 0x40
K, X, A = 0x00, 0x08, 0x10  # the operand; A for RET alone
TAX, TXA = 0x00, 0x80  # linux/filter.h

OPERATIONS = {ADD: "add", SUB: "sub", MUL: "mul", DIV: "div", OR: "or", AND: "and", LSH: "lsh", RSH: "rsh", XOR: "xor"}
JUMPS = {JEQ: "jeq", JGT: "jgt", JGE: "jge", JSET: "jset"}

STRUCT = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
WORD = 0xFFFFFFFF
DATA_SIZE = 64  # sizeof(struct seccomp_data)
NUMBER, ARCH = 0, 4  # offsetof(struct seccomp_data, nr) and (..., arch)
SCRATCH = 16  # BPF_MEMWORDS

# The opcodes that seccomp_check_filter accepts (kernel/seccomp.c); BPF_MOD is not one.
OPCODES = (
    {LD | ABS, LD | LEN, LDX | LEN, LD | IMM, LDX | IMM, LD | MEM, LDX | MEM, ST, STX}
    | {ALU | operation | operand for operation in OPERATIONS for operand in (K, X)}
    | {ALU | NEG, MISC | TAX, MISC | TXA, JMP | JA, RET | K, RET | A}
    | {JMP | jump | operand for jump in JUMPS for operand in (K, X)}
)

ACTION_MASK, DATA_MASK = 0xFFFF0000, 0x0000FFFF  # SECCOMP_RET_ACTION_FULL, SECCOMP_RET_DATA
KILL_PROCESS, KILL_THREAD, TRACE = 0x80000000, 0x00000000, 0x7FF00000  # SECCOMP_RET_*; no policy uses the last two
_RET = {
    ActionKind.KILL: KILL_PROCESS,
    ActionKind.TRAP: 0x00030000,
    ActionKind.ERRNO: 0x00050000,
    ActionKind.NOTIFY: 0x7FC00000,  # SECCOMP_RET_USER_NOTIF
    ActionKind.LOG: 0x7FFC0000,
    ActionKind.ALLOW: 0x7FFF0000,
}
_KINDS = {ret: kind for kind, ret in _RET.items()}


class InvalidProgramError(UserError, ValueError):
    """The kernel would refuse to load the program (EINVAL)."""


class Instruction(NamedTuple):
    """An instruction: struct sock_filter.  A tuple, because thousands of them are interpreted."""

    code: int
    jt: int = 0
    jf: int = 0
    k: int = 0


def ret(action: Action) -> int:
    """Return the 32-bit return value by which a filter has the kernel take the action."""
    return _RET[action.kind] | action.errno


def action(ret: int) -> Action:
    """Return the action that the kernel takes on a filter's return value.  Raises ValueError for an effect that no policy has:
    killing only the thread, stopping for a tracer, failing with errno 0."""
    kind = _KINDS.get(ret & ACTION_MASK)
    if kind is ActionKind.ERRNO:
        errno = min(ret & DATA_MASK, MAX_ERRNO)  # __seccomp_filter caps it
        return Action(kind, errno)
    if kind is not None:
        return Action(kind)
    if ret & ACTION_MASK in (KILL_THREAD, TRACE):
        raise ValueError(f"return value {ret:#010x} is not an action of a policy")
    return Action(ActionKind.KILL)  # __seccomp_filter's default branch


def encode(instructions: Iterable[Instruction]) -> bytes:
    return b"".join(STRUCT.pack(*instruction) for instruction in instructions)


@lru_cache(maxsize=16)
def decode(program: bytes) -> tuple[Instruction, ...]:
    """Return the instructions of a program.  Raises InvalidProgramError if the kernel would not load it."""
    count, rest = divmod(len(program), 8)
    if rest:
        raise InvalidProgramError(f"{len(program)} bytes are not a whole number of 8-byte instructions")
    if not 1 <= count <= MAX_INSTRUCTIONS:
        raise InvalidProgramError(f"{count} instructions, but the kernel accepts 1 to {MAX_INSTRUCTIONS}")
    instructions = tuple(map(Instruction._make, STRUCT.iter_unpack(program)))
    for pc, instruction in enumerate(instructions):
        if problem := _problem(instruction, count - pc - 1):
            raise InvalidProgramError(f"instruction {pc}: {problem}")
    if instructions[-1].code not in (RET | K, RET | A):
        raise InvalidProgramError("the last instruction does not return")
    _check_scratch(instructions)
    return instructions


def _problem(instruction: Instruction, following: int) -> str | None:
    """Return why the kernel refuses an instruction, or None (net/core/filter.c, bpf_check_classic; seccomp_check_filter)."""
    code, jt, jf, k = instruction
    problem = None
    if code not in OPCODES:
        problem = f"opcode {code:#06x} is not allowed in a seccomp filter"
    elif code == LD | ABS and (k >= DATA_SIZE or k & 3):
        problem = f"offset {k} is not the offset of a word of struct seccomp_data"
    elif code in (LD | MEM, LDX | MEM, ST, STX) and k >= SCRATCH:
        problem = f"there is no scratch word {k}"
    elif code == ALU | DIV | K and k == 0:
        problem = "division by zero"
    elif code in (ALU | LSH | K, ALU | RSH | K) and k >= 32:
        problem = f"shift by {k} bits"
    elif code & 7 == JMP and (k if code == JMP | JA else max(jt, jf)) >= following:
        problem = "jump beyond the end"
    return problem


def _check_scratch(instructions: tuple[Instruction, ...]) -> None:
    """Raise InvalidProgramError if a scratch word can be read before it is written (check_load_and_stores())."""
    everything = (1 << SCRATCH) - 1
    masks = [everything] * len(instructions)
    written = 0
    for pc, (code, jt, jf, k) in enumerate(instructions):
        written &= masks[pc]
        if code in (ST, STX):
            written |= 1 << k
        elif code in (LD | MEM, LDX | MEM):
            if not written >> k & 1:
                raise InvalidProgramError(f"instruction {pc}: scratch word {k} is read before it is written")
        elif code & 7 == JMP:
            for target in (pc + 1 + k,) if code == JMP | JA else (pc + 1 + jt, pc + 1 + jf):
                masks[target] &= written
            written = everything


def successors(pc: int, instruction: Instruction) -> tuple[int, ...]:
    """Return the indexes of the instructions that can follow the instruction at index `pc`: none, one or two."""
    code, jt, jf, k = instruction
    if code & 7 == RET:
        return ()
    if code & 7 != JMP:
        return (pc + 1,)
    if code == JMP | JA:
        return (pc + 1 + k,)
    return (pc + 1 + jt, pc + 1 + jf)


def words(event: Event) -> tuple[int, ...]:
    """Return the struct seccomp_data of an event as sixteen 32-bit words: nr, arch, then the low and the high half of the
    instruction pointer and of each argument (all architectures of `tracer.abi.Arch` are little-endian)."""
    halves = [half for wide in (event.ip, *event.arguments) for half in (wide & WORD, wide >> 32)]
    return (event.number, event.arch, *halves)


def run(program: bytes, event: Event) -> int:
    """Return a program's 32-bit return value for an event.  Raises InvalidProgramError if the kernel would not load it."""
    instructions = decode(program)
    data = words(event)
    a = x = pc = 0
    scratch = [0] * SCRATCH
    while True:
        code, jt, jf, k = instructions[pc]
        pc += 1
        kind = code & 7
        if kind == LD:
            a = _loaded(code, k, data, scratch)
        elif kind == JMP:
            if code == JMP | JA:
                pc += k
            else:
                pc += jt if jumps(code & 0xF0, a, x if code & X else k) else jf
        elif kind == ALU:
            operand = x if code & X else k
            if code & 0xF0 == DIV and operand == 0:
                return 0  # bpf_convert_filter (net/core/filter.c) ends the program
            a = compute(code & 0xF0, a, operand)
        elif kind == RET:
            return a if code & A else k
        elif kind == LDX:
            x = _loaded(code, k, data, scratch)
        elif kind == ST:
            scratch[k] = a
        elif kind == STX:
            scratch[k] = x
        elif code == MISC | TAX:
            x = a
        else:
            a = x


def _loaded(code: int, k: int, data: tuple[int, ...], scratch: list[int]) -> int:
    mode = code & 0xE0
    if mode == ABS:
        return data[k >> 2]
    if mode == MEM:
        return scratch[k]
    return DATA_SIZE if mode == LEN else k


def jumps(jump: int, a: int, operand: int) -> bool:
    """Return whether a conditional jump takes its `jt` branch.  `jump` is the comparison; the accumulator `a` and `operand` are
    unsigned."""
    if jump == JEQ:
        return a == operand
    if jump == JGT:
        return a > operand
    if jump == JGE:
        return a >= operand
    return a & operand != 0


_COMPUTED: dict[int, Callable[[int, int], int]] = {
    ADD: operator.add,
    SUB: operator.sub,
    MUL: operator.mul,
    DIV: operator.floordiv,
    OR: operator.or_,
    AND: operator.and_,
    XOR: operator.xor,
    LSH: lambda a, operand: a << (operand & 31),
    RSH: lambda a, operand: a >> (operand & 31),
    NEG: lambda a, _: -a,
}


def compute(operation: int, a: int, operand: int) -> int:
    """Return the accumulator after an arithmetic operation, 32 bits; a divisor must not be 0.  A shift by a register is modulo
    32, as in eBPF, to which the kernel translates it (Documentation/bpf/standardization/instruction-set.rst)."""
    return _COMPUTED[operation](a, operand) & WORD


_FIELDS = ("nr", "arch", *(f"{w}.{h}" for w in ("ip", *(f"args[{i}]" for i in range(6))) for h in ("low", "high")))


def disassemble(program: bytes) -> str:
    """Return the program as text, one numbered instruction a line; targets of jumps are these numbers.  Raises
    InvalidProgramError if the kernel would not load the program."""
    return "\n".join(f"{pc:4}: {_text(pc, instruction)}" for pc, instruction in enumerate(decode(program)))


def _text(pc: int, instruction: Instruction) -> str:
    code, jt, jf, k = instruction
    kind = code & 7
    operand = "x" if code & X else f"{k:#x}"
    if kind in (LD, LDX):
        source = {ABS: _FIELDS[k >> 2 & 15], MEM: f"m[{k}]", LEN: "len", IMM: f"{k:#x}"}[code & 0xE0]
        text = f"{'ld' if kind == LD else 'ldx'} {source}"
    elif kind in (ST, STX):
        text = f"{'st' if kind == ST else 'stx'} m[{k}]"
    elif kind == ALU:
        text = "neg" if code & 0xF0 == NEG else f"{OPERATIONS[code & 0xF0]} {operand}"
    elif code == JMP | JA:
        text = f"ja {pc + 1 + k}"
    elif kind == JMP:
        text = f"{JUMPS[code & 0xF0]} {operand}, {pc + 1 + jt}, {pc + 1 + jf}"
    elif kind == RET:
        text = "ret a" if code & A else f"ret {action_text(k)}"
    else:
        text = "tax" if code == MISC | TAX else "txa"
    return text


def action_text(ret: int) -> str:
    """Return the action for a return value as in a policy, such as `errno 38`; in hexadecimal if no policy has it."""
    try:
        meaning = action(ret)
    except ValueError:
        return f"{ret:#010x}"
    return f"{meaning.kind} {meaning.errno}" if meaning.errno else str(meaning.kind)
