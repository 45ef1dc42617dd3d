"""Read any filter back as a policy.

The policy is proved equal to the filter for every call except those that a *remark* names: for what the language cannot
express, a remark says how the two differ, and the policy is the stricter.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from callfence.policygen.filter import bpf, symbolic
from callfence.policygen.filter.symbolic import decisions
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.naming import format_action
from callfence.policygen.language.normal import normal
from callfence.policygen.language.operands import operands
from callfence.policygen.model import ENOSYS, KILL, Action, ActionKind, Always, Entry, Policy, alternatives, strictest
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, constant
from callfence.policygen.sets.express import express, nameable
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import NATIVE, X32_BIT, Arch, name_of, table
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from callfence.policygen.model import Expression

MAX_RULES = 256
"""The most alternatives of one entry; a call whose condition needs more is denied."""
MAX_ALL_RULES = 4096
"""The most alternatives of all entries; a policy with more could not be compiled again."""

_LONGER = 4
"""A deny alternative costs as much as this many allow alternatives (`_cost`)."""
_ARGUMENTS = (1 << region.BITS - 64) - (1 << 64)
"""The bits of the arguments in an assignment."""
_POINTER = (1 << 64) - 1
"""The bits of the instruction pointer in an assignment."""


@frozen
class Remark:
    """A set of calls for which the policy differs from the filter."""

    text: str
    whole: bool
    """Whether the text describes the whole difference; if not, read the instructions."""
    call: str = ""
    """The name of the call, or '' if the remark is not about a single call."""
    wider: bool = False
    """Whether the policy allows some of these calls that the filter denies."""
    narrower: bool = False
    """Whether the policy denies some of these calls that the filter allows."""

    def __str__(self) -> str:
        return self.text


@frozen
class Lifted:
    policy: Policy
    remarks: tuple[Remark, ...]
    """The differences; empty if the policy is equivalent to the filter."""


def lift(program: bytes) -> Lifted:
    """Return the policy that a filter is equivalent to, and remarks about the calls for which the language cannot express the
    filter.  Raises bpf.InvalidProgramError if the kernel would not load the filter, and symbolic.UnsupportedError or
    algebra.TooComplexError if it cannot be followed."""
    space = region.space()
    return lift_function(space, symbolic.function(space, program))


def lift_function(space: Space, function: int) -> Lifted:
    """Return the policy that is equivalent to a function from events (`region`) to return values (`bpf.ret`), with remarks as
    in `lift`.  Raises algebra.TooComplexError if its sets are too complex to compute."""
    return _Lifting(space, function).result()


class _Answers(NamedTuple):
    """The two actions for one call: `action` in the set `where`, `otherwise` elsewhere."""

    action: Action
    where: int
    otherwise: Action


class _Lifting:
    def __init__(self, space: Space, function: int) -> None:
        self.space = space
        self.remarks: list[tuple[Remark, int]] = []
        """Each remark with the set of events that it covers; FALSE if filter and policy allow the same calls."""
        self.rules = 0
        """The number of alternatives so far."""
        self.excepted = FALSE
        """The union of the remarks' sets."""
        self.kill = space.terminal(bpf.ret(KILL))
        self.function = self._in_words(function)

    def result(self) -> Lifted:
        sections = self._sections()
        default, unknown, version = self._settings(sections)
        policy = Policy({arch: {} for arch in sections}, version, default=default, unknown=unknown)
        entries = {arch: self._entries(arch, function, policy) for arch, function in sections.items()}
        policy = normal(replace(policy, entries=entries))
        decided = decisions(self.space, resolved(policy))
        choose = self.space.ite
        if choose(self.excepted, self.kill, self.function) != choose(self.excepted, self.kill, decided):
            raise AssertionError("the policy that was read back is not what the filter does")
        before, after = self._runs(self.function), self._runs(decided)
        more, less = (self.space.and_(a, self.space.invert(b)) for a, b in ((after, before), (before, after)))
        directed = (
            replace(remark, wider=self.space.and_(where, more) != FALSE, narrower=self.space.and_(where, less) != FALSE)
            for remark, where in self.remarks
        )
        return Lifted(policy, tuple(dict.fromkeys(directed)))

    def _runs(self, function: int) -> int:
        """Return the set of events that the function may allow."""
        result = FALSE
        for ret in self.space.values(function):
            if bpf.action(_integer(ret)).may_allow:
                result = self.space.or_(self.space.where(function, self.space.terminal(ret)), result)
        return result

    def _except(self, where: int, text: str, *, whole: bool = True, call: str = "") -> None:
        self.excepted = self.space.or_(where, self.excepted)
        self.remarks.append((Remark(text, whole, call), where))

    def _in_words(self, function: int) -> int:
        """Return the function with an action in place of each return value that no policy has, and add a remark on each."""
        for ret in sorted(value for value in self.space.values(function) if isinstance(value, int)):
            said, text = _said(ret)
            if text:
                self.remarks.append((Remark(text, True), FALSE))
                where = self.space.where(function, self.space.terminal(ret))
                function = self.space.ite(where, self.space.terminal(bpf.ret(said)), function)
        return function

    def _constant(self, function: int) -> Action | None:
        values = self.space.values(function)
        return bpf.action(_integer(next(iter(values)))) if len(values) == 1 else None

    # Architectures

    def _sections(self) -> dict[Arch, int]:
        """Return the architectures whose calls the filter distinguishes, each with the function for its calls."""
        foreign = self._of_arch(0)
        functions = {arch: self._of_arch(arch.audit) for arch in Arch}
        sections = {arch: function for arch, function in functions.items() if function != foreign}
        if NATIVE not in sections and (foreign != self.kill or not sections):
            sections = {arch: sections.get(arch, foreign) for arch in Arch if arch is NATIVE or arch in sections}
        foreign_arches = TRUE
        for arch in sections:
            foreign_arches = self.space.and_(foreign_arches, self.space.invert(self._is_arch(arch)))
        rest = self.space.ite(foreign_arches, self.function, self.kill)
        if rest != self.kill:
            text = self._answers_text(foreign)
            self._except(foreign_arches, f"calls of other architectures ({text}), which a policy always kills")
        return sections

    def _of_arch(self, audit: int) -> int:
        return self.space.fixed(self.function, (bpf.WORD << 480, audit << 480))

    def _is_arch(self, arch: Arch) -> int:
        return self.space.equal(region.arch_word(self.space), constant(arch.audit, 32))

    def _answers_text(self, function: int) -> str:
        action = self._constant(function)
        return f"{format_action(action)} here" if action else "judged here by number and arguments like others"

    # Settings

    def _settings(self, sections: dict[Arch, int]) -> tuple[Action, Action, tuple[int, int]]:
        """Return the default action, that for newer numbers, and the table's version, with which few entries are needed."""
        answers: dict[Arch, dict[int, Action | None]] = {}
        for arch, function in sections.items():
            calls = table(arch)
            numbers = (*range(calls.newest(calls.versions()[-1]) + 2), *calls.private)
            answers[arch] = {number: self._constant(self._of_number(function, number)) for number in numbers}
        every = [(arch, number, action) for arch, by_number in answers.items() for number, action in by_number.items()]
        # Unused numbers cannot have an entry, so the default has to be their action.
        last = {arch: table(arch).newest(table(arch).versions()[-1]) for arch in sections}
        unused = (action for arch, number, action in every if number < last[arch] and number not in table(arch).by_number)
        gaps = [action for action in unused if action]
        default = _commonest(gaps) or _commonest(action for _, _, action in every) or KILL
        unknown = _commonest(answers[arch][last[arch] + 1] for arch in sections) or KILL
        best = None
        for version in table(next(iter(sections))).versions():
            cost = sum(action != default for arch, number, action in every if not table(arch).is_newer(number, version))
            newer = [action for arch, number, action in every if table(arch).is_newer(number, version)]
            newest = version == table(next(iter(sections))).versions()[-1]
            if (newest or all(action == unknown for action in newer)) and (best is None or cost <= best[0]):
                best = (cost, version)
        if best is None:
            raise AssertionError("a table has at least one version")
        return default, unknown, best[1]

    def _of_number(self, function: int, number: int) -> int:
        return self.space.fixed(function, (bpf.WORD << 448, number << 448))

    # Calls

    def _entries(self, arch: Arch, function: int, policy: Policy) -> dict[int, Entry]:
        space, calls = self.space, table(arch)
        newest = calls.newest(policy.table)
        number_word = region.number_word(space)
        default = space.terminal(bpf.ret(policy.default))
        entries: dict[int, Entry] = {}
        odd: list[str] = []
        no_calls = FALSE
        for number in (*range(newest + 1), *calls.private):
            answer = self._of_number(function, number)
            if answer == default:
                continue
            here = space.and_(self._is_arch(arch), space.equal(number_word, constant(number, 32)))
            if number in calls.by_number:
                entry = self._entry(arch, number, answer, here, policy)
                if entry != Entry(Always(True), policy.default):
                    entries[number] = entry
            else:
                odd.append(f"{number} ({self._answers_text(answer)})")
                no_calls = space.or_(here, no_calls)
        if odd:
            self._except(no_calls, f"numbers of {arch} that are no calls: {', '.join(odd)}", whole=True)
        self._edges(arch, function, policy, newest)
        return entries

    def _edges(self, arch: Arch, function: int, policy: Policy, newest: int) -> None:
        """Add a remark on each number that cannot have an entry and for which policy and filter differ."""
        space, number = self.space, region.number_word(self.space)
        above = space.greater(number, constant(newest, 32))
        for private in table(arch).private:
            above = space.and_(above, space.invert(space.equal(number, constant(private, 32))))
        x32 = FALSE
        if arch.has_x32:
            x32 = space.and_(space.equal(number[:2], (FALSE, TRUE)), above)
            if space.ite(x32, function, self.kill) != self.kill:
                text = self._answers_text(self._of_number(function, X32_BIT))
                self._except(space.and_(self._is_arch(arch), x32), f"x32 calls ({text}), which a policy always kills")
            above = space.and_(above, space.invert(x32))
        unknown = space.terminal(bpf.ret(policy.unknown))
        negative = space.and_(above, number[0])
        if space.ite(negative, function, unknown) != unknown:
            values = space.values(space.ite(negative, function, unknown)) - {space.value(unknown)}
            texts = " or ".join(format_action(bpf.action(value)) for value in sorted(map(_integer, values)))
            whole = not space.support(space.ite(negative, function, unknown)) & (1 << 448) - 1
            text = f"negative numbers, which are no calls ({texts} here; {format_action(policy.unknown)} in the policy)"
            self._except(space.and_(self._is_arch(arch), negative), text, whole=whole)
        above = space.and_(above, space.invert(negative))
        if space.ite(above, function, unknown) != unknown:
            text = f"numbers of {arch} above {newest}, some of which do not get {format_action(policy.unknown)} here"
            self._except(space.and_(self._is_arch(arch), above), text, whole=False)

    def _entry(self, arch: Arch, number: int, answer: int, here: int, policy: Policy) -> Entry:
        answers = self._two(arch, number, self._seen_by_kernel(arch, number, answer, here), here)
        if answers.where in (FALSE, TRUE):
            return Entry(Always(True), answers.action if answers.where == TRUE else answers.otherwise)
        limit = min(MAX_RULES, MAX_ALL_RULES - self.rules)
        ways = [
            (action, otherwise, expression)
            for action, where, otherwise in (
                answers,
                _Answers(answers.otherwise, self.space.invert(answers.where), answers.action),
            )
            if limit > 0 and (expression := express(self.space, where, arch, number, limit))
        ]
        if not ways:
            name = name_of(arch, number)
            text = f"{name}, whose condition has too many alternatives: denied in this policy"
            self._except(here, text, whole=False, call=name)
            return Entry(Always(True), strictest((answers.action, answers.otherwise, policy.default)))
        ways.sort(key=lambda way: _cost(*way))
        action, otherwise, expression = ways[0]
        self.rules += len(alternatives(expression))
        return Entry(expression, action, None if otherwise == policy.default else otherwise)

    def _seen_by_kernel(self, arch: Arch, number: int, answer: int, here: int) -> int:
        """Return the function with all register bits that the kernel ignores zero; add a remark if they made a difference."""
        arguments = operands(arch, number).syscall.arguments
        looked_at = sum(argument.mask << region.shift(index) for index, argument in enumerate(arguments))
        ignored = self.space.support(answer) & _ARGUMENTS & ~looked_at
        if not ignored:
            return answer
        name = name_of(arch, number)
        zero = self._zero(ignored)
        self._except(
            self.space.and_(here, self.space.invert(zero)),
            f"{name} with something in the bits {self._names(arch, number, ignored)} that the kernel ignores; "
            "the policy ignores them too",
            call=name,
        )
        return self.space.fixed(answer, (ignored, 0))

    def _zero(self, bits: int) -> int:
        """Return the set in which all these bits are zero."""
        result = TRUE
        for place in range(region.BITS):
            if bits >> place & 1:
                variable = self.space.variable(region.BITS - 1 - place)
                result = self.space.and_(self.space.invert(variable), result)
        return result

    def _names(self, arch: Arch, number: int, bits: int) -> str:
        arguments = operands(arch, number).syscall.arguments
        names = [
            f"of {arguments[index].name}" if index < len(arguments) else f"of argument {index + 1}"
            for index in range(6)
            if bits >> region.shift(index) & ((1 << 64) - 1)
        ]
        return ", ".join(names)

    def _two(self, arch: Arch, number: int, answer: int, here: int) -> _Answers:
        """Return at most two actions in sets that conditions can express, stricter where they differ from the filter."""
        space = self.space
        name = name_of(arch, number)
        actions = [bpf.action(_integer(value)) for value in sorted(map(_integer, space.values(answer)))]
        free = [action for action in actions if action.may_allow]
        allowed = FALSE
        for action in free:
            allowed = space.or_(allowed, space.where(answer, space.terminal(bpf.ret(action))))
        if hidden := space.support(answer) & ~nameable(arch, number):
            what = "the instruction pointer" if hidden & _POINTER else f"the addresses {self._names(arch, number, hidden)}"
            text = f"{name}, which is also judged by {what}: "
            if free and len(free) < len(actions):
                self._except(here, text + "the policy denies it wherever the filter may", whole=False, call=name)
                denied = strictest(action for action in actions if not action.may_allow)
                return _Answers(strictest(free), space.always(allowed, ~nameable(arch, number)), denied)
            self._except(here, text + "the policy always takes the strictest action", whole=False, call=name)
            return _Answers(strictest(actions), TRUE, strictest(actions))
        if len(actions) > 2:
            texts = ", ".join(map(format_action, actions))
            text = f"{name}, which has more than two actions ({texts}): the policy takes the strictest"
            self._except(here, text, whole=False, call=name)
            denials = [action for action in actions if not action.may_allow] or actions
            return _Answers(strictest(free), allowed, strictest(denials)) if free else _Answers(strictest(actions), TRUE, KILL)
        first, last = actions[0], actions[-1]
        return _Answers(last, space.where(answer, space.terminal(bpf.ret(last))), first)


def _said(ret: int) -> tuple[Action, str]:
    """Return the nearest action for a return value, and how the two differ, or '' if they are the same."""
    kind, datum = ret & bpf.ACTION_MASK, ret & bpf.DATA_MASK
    if kind == bpf.KILL_THREAD:
        return KILL, "kills only the calling thread, where the policy kills the process"
    if kind == bpf.TRACE:
        return ENOSYS, "stops for a tracer (SECCOMP_RET_TRACE); the policy fails it with ENOSYS, as without a tracer"
    if kind == bpf.ret(Action(ActionKind.ERRNO, 1)) & bpf.ACTION_MASK and datum == 0:
        return KILL, "skips calls, which then succeed (errno 0), where the policy kills"
    action = bpf.action(ret)
    if action.kind is ActionKind.TRAP and datum:
        return action, f"traps with the datum {datum} (si_errno), where the policy's traps have 0"
    return action, ""


def _integer(value: Hashable) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value


def _commonest(actions: Iterable[Action | None]) -> Action | None:
    """Return the most frequent action; the first if several are."""
    counted = Counter(action for action in actions if action is not None)
    return counted.most_common(1)[0][0] if counted else None


def _cost(action: Action, otherwise: Action, expression: Expression) -> int:
    """Return how hard an entry is to read: one that names what it allows is easiest, unless it is much longer."""
    allows = action.may_allow and not otherwise.may_allow
    return len(alternatives(expression)) * (1 if allows else _LONGER) + otherwise.may_allow
