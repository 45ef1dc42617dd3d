"""Another proof that a filter is its policy: both as formulas of z3, which share no code with the set algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import z3

from callfence.policygen.filter import bpf
from callfence.policygen.model import KILL, Action, ActionKind, Always, And, Condition, Expression, Not, Operator, Or, Policy
from callfence.tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.tracer.abi import Argument

NUMBER, ARCH, IP = z3.BitVec("number", 32), z3.BitVec("arch", 32), z3.BitVec("ip", 64)
REGISTERS = [z3.BitVec(f"register{index}", 64) for index in range(6)]


def difference(program: bytes, policy: Policy, refused: Action = KILL) -> Event | None:
    """An event on which they differ, or None if there is none."""
    solver = z3.Solver()
    solver.set("timeout", 60_000)
    solver.add(_program(program) != _policy(policy, refused))
    answer = solver.check()
    if answer == z3.unsat:
        return None
    assert answer == z3.sat, solver.reason_unknown()
    model = solver.model()

    def value(variable: z3.BitVecRef) -> int:
        number: int = model.eval(variable, model_completion=True).as_long()
        return number

    a, b, c, d, e, f = map(value, REGISTERS)
    return Event(value(ARCH), value(NUMBER), (a, b, c, d, e, f), value(IP))


def gained(old: Policy, new: Policy) -> bool:
    """Whether some call gets further (denied, asked about, run) under the new policy than under the old one."""

    def freedom(policy: Policy) -> z3.BitVecRef:
        ret = _policy(policy, KILL)
        runs, asks = z3.UGE(ret, _ret(Action(ActionKind.LOG))), ret == _ret(Action(ActionKind.NOTIFY))
        degree = z3.If(runs, z3.BitVecVal(2, 2), z3.If(asks, z3.BitVecVal(1, 2), z3.BitVecVal(0, 2)))
        return z3.If(ret == _ret(KILL), z3.BitVecVal(0, 2), degree)

    solver = z3.Solver()
    solver.set("timeout", 60_000)
    solver.add(z3.UGT(freedom(new), freedom(old)))
    answer = solver.check()
    assert answer != z3.unknown, solver.reason_unknown()
    return bool(answer == z3.sat)


Word = z3.BitVecRef
Way = tuple[z3.BoolRef, list[Word]]
"""A condition, and the accumulator, the index register and the scratch words under it."""


def _program(program: bytes) -> Word:
    """What the program returns: every instruction has the merged state of all paths that lead to it."""
    instructions = bpf.decode(program)
    zero = z3.BitVecVal(0, 32)
    ways: list[list[Way]] = [[] for _ in instructions]
    ways[0].append((z3.BoolVal(True), [zero] * 18))
    result = zero
    for pc, instruction in enumerate(instructions):
        if not ways[pc]:
            continue
        here = z3.simplify(z3.Or([condition for condition, _ in ways[pc]]))
        state = ways[pc][0][1]
        for condition, other in ways[pc][1:]:
            state = [x if x is y else z3.If(condition, y, x) for x, y in zip(state, other, strict=True)]
        code, jt, jf, k = instruction
        operand = state[1] if code & bpf.X else z3.BitVecVal(k, 32)
        if code & 7 == bpf.RET:
            result = z3.If(here, state[0] if code & bpf.A else z3.BitVecVal(k, 32), result)
        elif code == bpf.JMP | bpf.JA:
            ways[pc + 1 + k].append((here, state))
        elif code & 7 == bpf.JMP:
            taken = {
                bpf.JEQ: state[0] == operand,
                bpf.JGT: z3.UGT(state[0], operand),
                bpf.JGE: z3.UGE(state[0], operand),
                bpf.JSET: state[0] & operand != 0,
            }[code & 0xF0]
            ways[pc + 1 + jt].append((z3.And(here, taken), state))
            ways[pc + 1 + jf].append((z3.And(here, z3.Not(taken)), state))
        else:
            if code & 0xF7 == bpf.ALU | bpf.DIV:
                here = z3.And(here, operand != 0)  # otherwise the program returns 0, which `result` begins with
            ways[pc + 1].append((here, _step(instruction, state, operand)))
    return _normal(result)


def _step(instruction: bpf.Instruction, state: list[Word], operand: Word) -> list[Word]:
    code, _, _, k = instruction
    a, x, *scratch = state
    match code & 7:
        case bpf.LD:
            a = _loaded(code, k, scratch)
        case bpf.LDX:
            x = _loaded(code, k, scratch)
        case bpf.ST:
            scratch[k] = a
        case bpf.STX:
            scratch[k] = x
        case bpf.MISC:
            a, x = (a, a) if code == bpf.MISC | bpf.TAX else (x, x)
        case bpf.ALU:
            shift = operand & 31
            a = {
                bpf.ADD: a + operand,
                bpf.SUB: a - operand,
                bpf.MUL: a * operand,
                bpf.DIV: z3.UDiv(a, operand),
                bpf.OR: a | operand,
                bpf.AND: a & operand,
                bpf.LSH: a << shift,
                bpf.RSH: z3.LShR(a, shift),
                bpf.NEG: -a,
                bpf.XOR: a ^ operand,
            }[code & 0xF0]
    return [a, x, *scratch]


def _loaded(code: int, k: int, scratch: list[Word]) -> Word:
    data = [NUMBER, ARCH]
    for wide in (IP, *REGISTERS):
        data += [z3.Extract(31, 0, wide), z3.Extract(63, 32, wide)]
    match code & 0xE0:
        case bpf.ABS:
            return data[k // 4]
        case bpf.MEM:
            return scratch[k]
        case bpf.LEN:
            return z3.BitVecVal(64, 32)
        case _:
            return z3.BitVecVal(k, 32)


def _normal(ret: Word) -> Word:
    """Without the data that mean nothing for kill, log, allow and notify, and with errno capped."""
    kind, datum = ret & 0xFFFF0000, ret & 0xFFFF
    plain = z3.Or([kind == value for value in (0x80000000, 0, 0x7FFC0000, 0x7FFF0000, 0x7FC00000)])
    carrying = z3.Or([kind == value for value in (0x30000, 0x50000, 0x7FF00000)])
    capped = z3.If(z3.And(kind == 0x50000, z3.UGT(datum, 4095)), z3.BitVecVal(0x50FFF, 32), ret)
    return z3.If(plain, kind, z3.If(carrying, capped, z3.BitVecVal(0x80000000, 32)))


def _policy(policy: Policy, refused: Action) -> Word:
    result = _ret(refused)
    for arch, entries in policy.entries.items():
        calls = table(arch)
        section = _ret(policy.default)
        for number, entry in entries.items():
            otherwise = policy.default if entry.otherwise is None else entry.otherwise
            holds = _expression(entry.expression, calls.by_number[number].arguments)
            section = z3.If(number == NUMBER, z3.If(holds, _ret(entry.action), _ret(otherwise)), section)
        newer = z3.And(z3.UGT(NUMBER, calls.newest(policy.table)), *(number != NUMBER for number in calls.private))
        section = z3.If(newer, _ret(policy.unknown), section)
        if arch is Arch.X86_64:
            section = z3.If(z3.Extract(31, 30, NUMBER) == 1, _ret(refused), section)
        result = z3.If(arch.audit == ARCH, section, result)
    return result


def _ret(action: Action) -> Word:
    return z3.BitVecVal(bpf.ret(action), 32)


def _expression(expression: Expression, arguments: Sequence[Argument]) -> z3.BoolRef:
    match expression:
        case Always(value):
            return z3.BoolVal(value)
        case And(parts):
            return z3.And([_expression(part, arguments) for part in parts])
        case Or(parts):
            return z3.Or([_expression(part, arguments) for part in parts])
        case Not(part):
            return z3.Not(_expression(part, arguments))
        case Condition():
            return _condition(expression, arguments[expression.index])


def _condition(condition: Condition, argument: Argument) -> z3.BoolRef:
    word = z3.Extract(argument.width - 1, 0, REGISTERS[condition.index])
    value = z3.BitVecVal(condition.value, argument.width)
    mask = z3.BitVecVal(condition.mask, argument.width)
    match condition.operator:
        case Operator.EQ:
            return word == value
        case Operator.NE:
            return word != value
        case Operator.LT:
            return word < value if argument.signed else z3.ULT(word, value)
        case Operator.LE:
            return word <= value if argument.signed else z3.ULE(word, value)
        case Operator.GT:
            return word > value if argument.signed else z3.UGT(word, value)
        case Operator.GE:
            return word >= value if argument.signed else z3.UGE(word, value)
        case Operator.IN:
            return word & ~value == 0
        case Operator.HAS:
            return word & value == value
        case Operator.ANY:
            return word & value != 0
        case Operator.MASKED:
            return word & mask == value
        case Operator.ONE_OF:
            return z3.Or([word == one for one in condition.values])
