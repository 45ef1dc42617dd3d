"""Compile a policy into a filter: our own dispatch around programs that libseccomp writes, proved before it is returned.

    ld arch            foreign -> kill                                  } once
    ld nr              newer than the table -> unknown, x32 -> kill     }
    calls of another base -> its program                                } for each architecture
    the program of the default base ... the programs of the other bases }

Each program of libseccomp has one default action, its *base*, and each call's rules one other action (libseccomp miscompiles
calls whose rules have several).  One of an entry's two actions becomes the base and the other is written as rules, so that
few masked comparisons are needed: `a != 0 && b != 0` is two rules that deny over a base that allows, instead of 1,024 that
allow.
"""

from __future__ import annotations

from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.policygen.filter.libseccomp import LibseccompRule, MaskedEquality, generate
from callfence.policygen.filter.verify import meaning, verify_resolved
from callfence.policygen.implied.resolve import Resolved, resolved
from callfence.policygen.language.naming import format_call
from callfence.policygen.model import Action, Always, Entry, Policy
from callfence.policygen.phases import START
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, MAX_CUBES, TRUE, TooComplexError
from callfence.tracer.abi import X32_BIT, Arch, Event, name_of, table
from callfence.tracer.errors import InternalError, UserError
from callfence.tracer.named import NamedTuple

_LOAD = bpf.LD | bpf.ABS
_RET, _JA = bpf.RET | bpf.K, bpf.JMP | bpf.JA
_JEQ, _JGT, _JGE = (bpf.JMP | jump | bpf.K for jump in (bpf.JEQ, bpf.JGT, bpf.JGE))
_ELSE = Instruction(_RET, k=bpf.TRACE)
"""The return value of a libseccomp program for calls that the next instructions decide; no policy has this action."""


class CompileError(UserError):
    """The policy cannot be compiled: its filter would be too large or too complex."""


class WrongFilterError(InternalError):
    """libseccomp wrote a filter that differs from the policy; the filter was discarded."""

    def __init__(self, program: bytes, event: Event) -> None:
        super().__init__(
            f"libseccomp wrote a wrong filter, which was discarded: it answers {format_call(event)} "
            f"with {bpf.action_text(bpf.run(program, event))}"
        )
        self.program = program
        self.event = event


def compile_policy(policy: Policy, phase: str = START, *, report: bool = False, audit: bool = False) -> bytes:
    """Return the policy's filter in `phase`: struct sock_filter, 8 bytes each, host byte order, at most 4096 of them; proved
    equal to the policy on every input.

    With `report`, the filter notifies a supervisor of calls that the default denies; with `audit`, also of calls that the
    implied set fails (`verify.reported`).  Raises CompileError if the filter would be too large or is too complex to prove,
    MissingLibraryError if libseccomp is not installed, and two internal errors: LibseccompError if libseccomp fails,
    WrongFilterError if it writes a wrong filter."""
    return compile_resolved(resolved(policy, phase), report=report, audit=audit)


def compile_resolved(policy: Resolved, *, report: bool = False, audit: bool = False) -> bytes:
    """Return the filter of one phase of a policy, as `compile_policy` does."""
    meant, refused = meaning(policy, report=report, audit=audit)
    try:
        instructions = _program(meant, refused)
        if len(instructions) > bpf.MAX_INSTRUCTIONS:
            raise CompileError(_too_large(meant, instructions))
        program = bpf.encode(instructions)
        wrong = verify_resolved(program, policy, report=report, audit=audit)
    except TooComplexError as error:
        raise CompileError(f"the filter is too complex to prove ({error}); write fewer or simpler conditions") from error
    if wrong is not None:
        raise WrongFilterError(program, wrong)
    return program


def _program(policy: Resolved, refused: Action) -> list[Instruction]:
    sections = {arch: _section(policy, arch, refused) for arch in Arch if arch in policy.entries}
    jumps: list[Instruction] = []
    distance = 1  # from the end of the jumps: the return for foreign architectures comes first
    for place, (arch, section) in enumerate(sections.items(), 1):
        jumps_left = 2 * (len(sections) - place)
        jumps += [Instruction(_JEQ, 0, 1, arch.audit), Instruction(_JA, k=jumps_left + distance)]
        distance += len(section)
    return [
        Instruction(_LOAD, k=bpf.ARCH),
        *jumps,
        Instruction(_RET, k=bpf.ret(refused)),
        *(instruction for section in sections.values() for instruction in section),
    ]


def _section(policy: Resolved, arch: Arch, refused: Action) -> list[Instruction]:
    """Return the filter for the calls of one architecture."""
    bases: dict[Action, list[LibseccompRule]] = {policy.default: []}
    for number, entry in sorted(policy.entries[arch].items()):
        plan = _plan(policy, arch, number, entry)
        if plan.base != plan.answer:
            bases.setdefault(plan.base, []).append(LibseccompRule(number, bpf.ret(plan.answer), plan.alternatives))
    programs = [_answers(bpf.ret(base), rules) for base, rules in bases.items()]
    numbers = [[rule.number for rule in rules] for rules in bases.values()]
    dispatch: list[Instruction] = []
    distance = sum(map(len, programs))
    for place in range(len(programs) - 1, 0, -1):
        distance -= len(programs[place])
        for number in numbers[place]:
            dispatch = [Instruction(_JEQ, 0, 1, number), Instruction(_JA, k=len(dispatch) + distance), *dispatch]
    return [*_edges(policy, arch, refused), *dispatch, *(instruction for program in programs for instruction in program)]


def _answers(base: int, rules: list[LibseccompRule]) -> list[Instruction]:
    """Return instructions that answer by the rules, else with `base`; calls whose arguments are compared come first.

    Numbers that are allowed whatever the arguments come last: the kernel skips the filter for them (seccomp_cache_prepare,
    since Linux 5.11)."""
    looked_at = [rule for rule in rules if () not in rule.alternatives]
    rest = [rule for rule in rules if () in rule.alternatives]
    if not looked_at or not rest:
        return generate(base, rules)
    first, last = generate(bpf.TRACE, looked_at), generate(base, rest)
    ahead = (Instruction(_JA, k=len(first) - pc - 1) for pc in range(len(first)))
    first = [next_ if instruction == _ELSE else instruction for instruction, next_ in zip(first, ahead, strict=True)]
    return [*first, Instruction(_LOAD, k=bpf.NUMBER), *last]


def _edges(policy: Resolved, arch: Arch, refused: Action) -> list[Instruction]:
    """Return instructions that answer numbers outside the table, and leave other numbers in the accumulator."""
    newest, private = table(arch).newest(policy.table), table(arch).private
    unknown = Instruction(_RET, k=bpf.ret(policy.unknown))
    if private:
        return [
            Instruction(_LOAD, k=bpf.NUMBER),
            Instruction(_JGT, 0, 3, newest),
            Instruction(_JGT, 1, 0, private[-1]),
            Instruction(_JGE, 1, 0, private[0]),
            unknown,
        ]
    if not arch.has_x32:
        return [Instruction(_LOAD, k=bpf.NUMBER), Instruction(_JGT, 0, 1, newest), unknown]
    return [
        Instruction(_LOAD, k=bpf.NUMBER),
        Instruction(_JGT, 0, 4, newest),
        Instruction(_JGT, 1, 0, 2 * X32_BIT - 1),  # larger numbers are negative: not calls
        Instruction(_JGE, 1, 0, X32_BIT),
        unknown,
        Instruction(_RET, k=bpf.ret(refused)),
    ]


class _Plan(NamedTuple):
    """How one entry is written: its rules, and the base program that they belong to."""

    base: Action
    answer: Action
    """The action of the rules."""
    alternatives: tuple[tuple[MaskedEquality, ...], ...]


def _plan(policy: Resolved, arch: Arch, number: int, entry: Entry) -> _Plan:
    syscall = table(arch).by_number.get(number)
    if syscall is None:
        raise CompileError(f"{arch} has no system call {number}")
    otherwise = entry.otherwise or policy.default
    if isinstance(entry.expression, Always):
        return _Plan(policy.default, entry.action if entry.expression.value else otherwise, ((),))
    space = region.space()
    try:
        holds = region.to_bdd(space, entry.expression, syscall.arguments)
        if holds in (TRUE, FALSE) or entry.action == otherwise:
            return _Plan(policy.default, entry.action if holds == TRUE else otherwise, ((),))
        ways = [(otherwise, entry.action, holds), (entry.action, otherwise, space.invert(holds))]
        ways.sort(key=lambda way: way[0] != policy.default)
        plan, limit = None, MAX_CUBES
        for base, answer, where in ways:
            alternatives = region.alternatives(space, where, limit) if limit else None
            if alternatives is not None:
                plan = _Plan(base, answer, alternatives)
                limit = len(alternatives) // 4  # another base costs a detour, so it must be much shorter
    except TooComplexError as error:
        raise CompileError(f"the condition of {syscall.name} is too complex: {error}") from error
    if plan is None:
        raise CompileError(f"the condition of {syscall.name} takes more than {MAX_CUBES} masked comparisons")
    return plan


def _too_large(policy: Resolved, instructions: list[Instruction]) -> str:
    """Return the error message for a filter that is too large; it names the calls that take the most instructions."""
    shares = []
    for arch, number, _ in policy.each():
        share = _share(instructions, arch, number)
        name = name_of(arch, number)
        shares.append((-share, f"{name} {share}" if len(policy.entries) == 1 else f"{name} ({arch}) {share}"))
    largest = ", ".join(text for _, text in sorted(shares)[:5])
    return (
        f"the filter needs {len(instructions)} instructions, but the kernel accepts {bpf.MAX_INSTRUCTIONS}. "
        f"Most belong to: {largest}. Write fewer alternatives or wider conditions there"
    )


def _share(instructions: list[Instruction], arch: Arch, number: int) -> int:
    """Return the number of instructions that examine this call's arguments."""
    values = {bpf.ARCH: arch.audit, bpf.NUMBER: number}
    reached: set[tuple[int, int | None]] = set()
    ahead: list[tuple[int, int | None]] = [(0, None)]
    while ahead:
        place = ahead.pop()
        if place in reached:
            continue
        reached.add(place)
        pc, accumulator = place
        instruction = instructions[pc]
        targets = bpf.successors(pc, instruction)
        if instruction.code == _LOAD:
            accumulator = values.get(instruction.k)
        elif len(targets) == 2 and accumulator is not None:
            targets = targets[:1] if bpf.jumps(instruction.code & 0xF0, accumulator, instruction.k) else targets[1:]
        ahead += [(target, accumulator) for target in targets]
    return len({pc for pc, accumulator in reached if accumulator is None})
