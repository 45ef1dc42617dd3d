"""Compute the function from all events to return values of a filter, or of a policy.

Classic BPF only jumps forward, so one pass down the program finds every state in which each instruction can be reached, and one
pass up combines what follows.  Every operation of the language is modelled exactly, bit by bit; what grows too large
(`algebra.TooComplexError`) or is not a function to constants (`UnsupportedError`) is refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from callfence.policygen.filter import bpf
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.model import KILL, Action, ActionKind
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError, constant
from callfence.policygen.sets.region import Word, arch_word, number_word, to_bdd
from callfence.tracer.abi import X32_BIT, table
from callfence.tracer.errors import UserError

Registers = tuple[Word | None, ...]

_A, _X, _M = 0, 1, 2  # places in Registers: the accumulator, the index register, then the scratch words
_REGISTERS = 2 + bpf.SCRATCH

MAX_STATES = 100_000
"""The most states: a filter of libseccomp has about one for each instruction; a hostile filter can have exponentially many."""


class UnsupportedError(UserError):
    """The filter has an operation that cannot be modelled for all inputs."""


def function(space: Space, program: bytes) -> int:
    """Return the function from events (`region`) to the return values of a filter, in canonical form (`meaning`).  Raises
    InvalidProgramError if the kernel would not load the filter, and UnsupportedError or algebra.TooComplexError if the function
    cannot be computed exactly."""
    instructions = bpf.decode(program)
    live = _live(instructions)
    data = region.data_words(space)
    zero = constant(0, 32)
    start: Registers = tuple(zero if name in live[0] else None for name in range(_REGISTERS))
    reached: list[dict[Registers, int]] = [{} for _ in instructions]
    reached[0][start] = FALSE
    following: dict[tuple[int, Registers], Registers] = {}
    for pc, instruction in enumerate(instructions):
        for registers in reached[pc]:
            after = _step(space, pc, instruction, registers, data)
            following[pc, registers] = after
            if len(following) > MAX_STATES:
                raise TooComplexError(f"more than {MAX_STATES} states of the registers")
            for target, outcome in zip(bpf.successors(pc, instruction), _outcomes(instruction, after), strict=True):
                reached[target][_only(outcome, live[target])] = FALSE
    for pc in range(len(instructions) - 1, -1, -1):
        instruction = instructions[pc]
        for registers in reached[pc]:
            after = following[pc, registers]
            ways = zip(bpf.successors(pc, instruction), _outcomes(instruction, after), strict=True)
            values = [reached[target][_only(outcome, live[target])] for target, outcome in ways]
            reached[pc][registers] = _value(space, pc, instruction, registers, values)
    return reached[0][start]


def meaning(ret: int) -> int:
    """Return the canonical form of a filter's return value: two values with the same effect have the same form.  Unused data
    bits are cleared, an errno is capped at 4095, and an unknown action becomes KILL_PROCESS (kernel/seccomp.c
    __seccomp_filter)."""
    kind = ret & bpf.ACTION_MASK
    if kind in (bpf.TRACE, bpf.ret(Action(ActionKind.TRAP))) or ret == _ERRNO_0:
        return ret  # whose datum is seen by the tracer, by the signal's handler, as success of the call
    return kind if kind == bpf.KILL_THREAD else bpf.ret(bpf.action(ret))


_ERRNO_0 = bpf.ret(Action(ActionKind.ERRNO, 1)) - 1


def _outcomes(instruction: bpf.Instruction, registers: Registers) -> Sequence[Registers]:
    """Return the registers at each of the instruction's successors.  After a comparison with a bound, the accumulator's bits
    above those of the bound are zero: what follows depends on nine bits of a call's number instead of 32."""
    code, k = instruction.code, instruction.k
    if code & 7 == bpf.RET:
        return ()
    if code & 7 != bpf.JMP or code == bpf.JMP | bpf.JA:
        return (registers,)
    if code != bpf.JMP | bpf.JGT | bpf.K:
        return (registers, registers)
    zeros = 32 - k.bit_length()
    return registers, (constant(0, zeros) + _word(registers, _A)[zeros:], *registers[1:])


def _only(registers: Registers, live: frozenset[int]) -> Registers:
    """Return the registers without those that are not read again, so that paths that differ only in them share a state."""
    return tuple(word if name in live else None for name, word in enumerate(registers))


def _live(instructions: tuple[bpf.Instruction, ...]) -> list[frozenset[int]]:
    """Return, for each instruction, the registers whose value before it can matter."""
    live: list[frozenset[int]] = [frozenset()] * len(instructions)
    for pc in range(len(instructions) - 1, -1, -1):
        after = frozenset().union(*(live[target] for target in bpf.successors(pc, instructions[pc])))
        reads, writes = _uses(instructions[pc])
        live[pc] = after - writes | reads
    return live


def _uses(instruction: bpf.Instruction) -> tuple[frozenset[int], frozenset[int]]:
    """Return the registers that the instruction reads, and those that it overwrites."""
    code, k = instruction.code, instruction.k
    kind = code & 7
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    if kind in (bpf.LD, bpf.LDX):
        reads = (_M + k,) if code & 0xE0 == bpf.MEM else ()
        writes = (_A if kind == bpf.LD else _X,)
    elif kind in (bpf.ST, bpf.STX):
        reads, writes = (_A if kind == bpf.ST else _X,), (_M + k,)
    elif kind == bpf.MISC:
        reads, writes = ((_A,), (_X,)) if code == bpf.MISC | bpf.TAX else ((_X,), (_A,))
    elif kind == bpf.RET:
        reads = (_A,) if code & bpf.A else ()
    elif code != bpf.JMP | bpf.JA:
        reads = (_A, _X) if code & bpf.X else (_A,)
        writes = (_A,) if kind == bpf.ALU else ()
    return frozenset(reads), frozenset(writes)


def _word(registers: Registers, name: int) -> Word:
    word = registers[name]
    if word is None:
        raise AssertionError("a register that is read was taken for dead")
    return word


def _step(space: Space, pc: int, instruction: bpf.Instruction, registers: Registers, data: tuple[Word, ...]) -> Registers:
    """Return the registers after the instruction."""
    code, k = instruction.code, instruction.k
    kind = code & 7
    if kind in (bpf.LD, bpf.LDX):
        mode = code & 0xE0
        if mode == bpf.ABS:
            word = data[k >> 2]
        elif mode == bpf.MEM:
            word = _word(registers, _M + k)
        else:
            word = constant(bpf.DATA_SIZE if mode == bpf.LEN else k, 32)
        target = _A if kind == bpf.LD else _X
    elif kind in (bpf.ST, bpf.STX):
        word = _word(registers, _A if kind == bpf.ST else _X)
        target = _M + k
    elif kind == bpf.MISC:
        source, target = (_A, _X) if code == bpf.MISC | bpf.TAX else (_X, _A)
        word = _word(registers, source)
    elif kind == bpf.ALU:
        word, target = _compute(space, pc, code, _word(registers, _A), _operand(instruction, registers)), _A
    else:
        return registers
    return (*registers[:target], word, *registers[target + 1 :])


def _operand(instruction: bpf.Instruction, registers: Registers) -> Word:
    return _word(registers, _X) if instruction.code & bpf.X else constant(instruction.k, 32)


def _number(word: Word) -> int | None:
    """Return the value of a constant word, or None if the word depends on the input."""
    if any(bit not in (FALSE, TRUE) for bit in word):
        return None
    return int("".join(map(str, word)), 2)


def _compute(space: Space, pc: int, code: int, a: Word, operand: Word) -> Word:
    operation = code & 0xF0
    bitwise: dict[int, Callable[[int, int], int]] = {bpf.AND: space.and_, bpf.OR: space.or_, bpf.XOR: space.xor}
    if operation in bitwise:
        return tuple(map(bitwise[operation], a, operand))
    if operation == bpf.ADD:
        return _sum(space, a, operand, FALSE)
    if operation == bpf.SUB:
        return _sum(space, a, tuple(map(space.invert, operand)), TRUE)
    if operation == bpf.NEG:
        return _sum(space, constant(0, 32), tuple(map(space.invert, a)), TRUE)
    number, value = _number(operand), _number(a)
    if number is not None and operation in (bpf.LSH, bpf.RSH):
        zeros = constant(0, number & 31)
        return (*a[number & 31 :], *zeros) if operation == bpf.LSH else (*zeros, *a[: 32 - (number & 31)])
    if number is not None and value is not None and (operation != bpf.DIV or number):
        return constant(bpf.compute(operation, value, number), 32)
    raise UnsupportedError(f"instruction {pc}: {_NAMES[operation]} of values that depend on the input is not supported")


_NAMES = {bpf.MUL: "multiplication", bpf.DIV: "division", bpf.LSH: "shift", bpf.RSH: "shift"}


def _sum(space: Space, a: Word, b: Word, carry: int) -> Word:
    bits = []
    for x, y in zip(reversed(a), reversed(b), strict=True):
        differ = space.xor(x, y)
        bits.append(space.xor(differ, carry))
        carry = space.ite(differ, carry, x)
    return tuple(reversed(bits))


def _value(space: Space, pc: int, instruction: bpf.Instruction, registers: Registers, values: list[int]) -> int:
    """Return the program's function from this instruction on, given the functions of its successors."""
    code = instruction.code
    if code & 7 == bpf.RET:
        ret = _number(_word(registers, _A)) if code & bpf.A else instruction.k
        if ret is None:
            raise UnsupportedError(f"instruction {pc}: a return value that depends on the input is not supported")
        return space.terminal(meaning(ret))
    if len(values) == 1:
        return values[0]
    a, operand = _word(registers, _A), _operand(instruction, registers)
    jump = code & 0xF0
    if jump == bpf.JEQ:
        condition = space.equal(a, operand)
    elif jump == bpf.JSET:
        common = tuple(map(space.and_, a, operand))
        condition = space.invert(space.equal(common, constant(0, 32)))
    elif jump == bpf.JGT:
        condition = space.greater(a, operand)
    else:
        condition = space.invert(space.greater(operand, a))
    return space.ite(condition, *values)


def decisions(space: Space, policy: Resolved, refused: Action = KILL) -> int:
    """Return the function from events (`region`) to return values (`bpf.ret`) that the policy describes.  Its value is that of
    `policygen.evaluate` for every event, except that calls of foreign architectures and x32 calls get `refused`."""
    leaf = {action: space.terminal(bpf.ret(action)) for action in policy.actions() | {refused, policy.default, policy.unknown}}
    number, arch = number_word(space), arch_word(space)
    result = leaf[refused]
    for name, entries in policy.entries.items():
        calls = table(name)
        section = leaf[policy.default]
        newest = calls.newest(policy.table)
        zeros = 32 - newest.bit_length()
        low_number = (*constant(0, zeros), *number[zeros:])  # of calls up to the newest
        private: list[tuple[int, int]] = []
        for nr, entry in entries.items():
            holds = to_bdd(space, entry.expression, calls.by_number[nr].arguments)
            verdict = space.ite(holds, leaf[entry.action], leaf[entry.otherwise or policy.default])
            if nr in calls.private:
                private.append((nr, verdict))
            else:
                section = space.ite(space.equal(low_number, constant(nr, 32)), verdict, section)
        above = space.greater(number, constant(newest, 32))
        section = space.ite(above, leaf[policy.unknown], section)
        for nr in calls.private:
            section = space.ite(space.equal(number, constant(nr, 32)), leaf[policy.default], section)
        for nr, verdict in private:
            section = space.ite(space.equal(number, constant(nr, 32)), verdict, section)
        if name.has_x32:
            below = space.greater(constant(X32_BIT, 32), number)
            above = space.greater(number, constant(2 * X32_BIT - 1, 32))
            section = space.ite(space.or_(below, above), section, leaf[refused])
        result = space.ite(space.equal(arch, constant(name.audit, 32)), section, result)
    return result


