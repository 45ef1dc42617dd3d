"""Write the section of another architecture, in one phase: follow each alternative of the source's entries along the links."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from callfence.policygen.equivalents.between import Hop, Node, ends, hops, renumberings, unneeded
from callfence.policygen.equivalents.effects import allowed, image, meaningful
from callfence.policygen.equivalents.links import own_calls
from callfence.policygen.equivalents.rewrite import rewritten
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.naming import format_action, format_expression
from callfence.policygen.language.normal import normal, normal_entry, normal_expression
from callfence.policygen.model import ALLOW, Always, And, Arm, Condition, Entry, Operator, Or, Policy, alternatives
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.express import express, minimise, negated
from callfence.policygen.sets.join import Form, JoinError, form_of, join_entries, refuses
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, constants, name_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from callfence.policygen.model import Action, Expression

_MAX_ALTERNATIVES = 64
"""The most alternatives of a set that is not written as its source is."""
_CODE = Condition(2, Operator.HAS, 4)
"""PROT_EXEC in mmap's prot, on every architecture (asm-generic/mman-common.h)."""


@frozen
class Loss:
    """Something that the source allows and the carried section does not."""

    name: str
    """The name of the call."""
    what: str
    """The alternative of its entry, in the policy language; '' for the whole entry."""
    why: str
    needed: bool = True
    """Whether a program on the target may need it; if not, its purpose needs no call there."""
    partly: bool = False
    """Whether the rest of the alternative was carried."""


@frozen
class _Part:
    """A set of calls on the way from an alternative of the source's entries to the target."""

    node: Node
    where: int
    expression: Expression
    action: Action
    origin: tuple[int, Expression]
    """The call of the source, and the alternative of its entry."""
    is_same: bool = True
    """Whether no other call than that of one name was on the way."""
    more: str = ""


class Writer:
    """The section of the target while it is written, in one phase."""

    def __init__(self, policy: Policy, source: Arch, target: Arch) -> None:
        self._policy, self._source, self._target = policy, source, target
        self._sets = region.space()
        self._links = hops(source, target)
        self._parts: dict[int, list[_Part]] = {}
        self._failing: dict[int, Entry] = {}
        self._reached: dict[tuple[int, Expression], set[int]] = {}
        self.losses: list[Loss] = []
        self.special: tuple[tuple[str, str], ...] = ()

    def ways(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        names: dict[str, set[str]] = {}
        for (number, _), targets in self._reached.items():
            if targets:
                names.setdefault(name_of(self._source, number), set()).update(name_of(self._target, end) for end in targets)
        return tuple((name, tuple(sorted(ends))) for name, ends in sorted(names.items()))

    def wider(self) -> tuple[tuple[str, str, str], ...]:
        rows = {
            (name_of(self._source, part.origin[0]), name_of(self._target, number), part.more)
            for number, parts in self._parts.items()
            for part in parts
            if part.more
        }
        return tuple(sorted(rows))

    def origins(self) -> dict[int, tuple[tuple[int, Expression, Expression], ...]]:
        return {number: tuple((*part.origin, part.expression) for part in parts) for number, parts in self._parts.items()}

    def result(self) -> Policy:
        """Return the policy with a section for the target architecture, carried from that of the source.  Raises
        TooComplexError."""
        forms = self._follow()
        section: dict[int, Entry] = {}
        linked: list[tuple[int, Entry, int]] = []
        for number in dict.fromkeys((*self._parts, *self._explicit(forms))):
            own, others = self._entries(number, forms)
            if own is not None:
                section[number] = own
            linked += [(number, *other) for other in others]
        for number, entry in self._failing.items():
            section.setdefault(number, entry)
        policy = self._with(section)
        implied = resolved(policy).entries[self._target] if policy.implied else {}
        for number, entry, origin in linked:
            if not self._is_implied(number, entry, implied.get(number)):
                section[number] = self._joined(number, section.get(number), entry, origin)
        for number, entry, why in self._special():
            if not self._is_implied(number, entry, implied.get(number)):
                section[number] = self._joined(number, section.get(number), entry)
                self.special += ((f"{name_of(self._target, number)}: {self._shown(number, entry)}", why),)
        for number in self._denied_elsewhere():
            old = section.get(number, Entry(Always(False)))
            section[number] = old if old.otherwise else replace(old, otherwise=self._policy.default)
        return self._with(section, is_last=True)

    def _special(self) -> Iterator[tuple[int, Entry, str]]:
        """Yield the calls that C libraries make on the target alone, each with the reason: in the loader, if the source maps
        code, and at the start, if the source lets a C library start."""
        meant, names = resolved(self._policy), table(self._source).by_name
        here = allowed(self._sets, meant.entries[self._source], self._source, self._policy.default)
        maps = [names[name] for name in ("mmap", "mmap2") if name in names]
        loads = any(
            self._sets.and_(here.get(call.number, FALSE), region.to_bdd(self._sets, _CODE, call.arguments)) != FALSE
            for call in maps
            if len(call.arguments) > _CODE.index
        )
        starts = here.get(names["set_tid_address"].number, FALSE) != FALSE
        for own in own_calls(self._target):
            if own.is_special and (loads and self._policy.arm is not Arm.ENTRY if own.loader else starts):
                yield own.side.number, own.side.entry, own.why

    def _shown(self, number: int, entry: Entry) -> str:
        return format_expression(self._target, number, entry.expression)

    def _with(self, section: Mapping[int, Entry], *, is_last: bool = False) -> Policy:
        """Return the policy with these entries added to its section for the target; what cannot be added is a loss."""
        before = self._policy.entries.get(self._target, {})
        whole = dict(before)
        for number, entry in section.items():
            origin = self._parts[number][0].origin[0] if is_last and number in self._parts else None
            whole[number] = self._joined(number, before.get(number), entry, origin)
        return normal(replace(self._policy, entries={**self._policy.entries, self._target: whole}))

    def _joined(self, number: int, old: Entry | None, new: Entry, origin: int | None = None) -> Entry:
        """Return the entry that allows what both allow; the old one if it denies the new explicitly, which is a loss of the
        call `origin` of the source."""
        default = self._policy.default
        try:
            if old is None or not refuses(self._target, number, old, form_of(new, default).allowed, default):
                return join_entries(self._target, number, old, new, default) or new
            why = "is denied explicitly"
        except JoinError as error:
            why = f"cannot be joined: {error}"
        if origin is not None:
            name = name_of(self._target, number)
            what = self._shown(number, new)
            self.losses.append(Loss(name_of(self._source, origin), "", f"{name}: {what}, which does this there, {why}"))
        return old or new

    def _follow(self) -> dict[int, Form]:
        """Follow each alternative of the source's entries along the links, and return the entries by what they allow."""
        forms: dict[int, Form] = {}
        ahead: deque[_Part] = deque()
        for number, entry in self._policy.entries[self._source].items():
            try:
                forms[number] = form = form_of(entry, self._policy.default)
            except JoinError:  # two actions that both allow, or both deny, the call
                self._answers(number, entry)
                continue
            if form.action is None:
                self._note_answer(number, entry)
            for part in alternatives(form.allowed):
                where = region.to_bdd(self._sets, part, table(self._source).by_number[number].arguments)
                assert form.action is not None
                if where != FALSE:
                    self._reached[number, part] = set()
                    ahead.append(_Part((self._source, number), where, part, form.action, (number, part)))
        reached: dict[tuple[Node, tuple[int, Expression]], int] = {}
        written: dict[int, int] = {}
        while ahead:
            step = ahead.popleft()
            arch, number = step.node
            before = reached.get((step.node, step.origin), FALSE)
            if self._sets.ite(before, FALSE, step.where) == FALSE:
                continue
            reached[step.node, step.origin] = self._sets.or_(step.where, before)
            if arch is self._target:
                self._reached[step.origin].add(number)
                if self._sets.ite(written.get(number, FALSE), FALSE, step.where) != FALSE:
                    written[number] = self._sets.or_(step.where, written.get(number, FALSE))
                    self._parts.setdefault(number, []).append(step)
            ahead += [after for hop in self._links.get(step.node, ()) if (after := self._after(step, hop)) is not None]
        self._note_losses()
        return forms

    def _answers(self, number: int, entry: Entry) -> None:
        """Write an entry that allows its call whatever the arguments, or never, by two different actions."""
        for hop in self._links.get((self._source, number), ()):
            if hop.is_same:
                expression = rewritten(hop, entry.expression)
                self._failing[hop.target.number] = normal_entry(
                    self._target, hop.target.number, replace(entry, expression=expression)
                )
                return
        self._note_answer(number, entry)

    def _note_answer(self, number: int, entry: Entry) -> None:
        """Note that the answer of an entry, another than the default, is lost with its call."""
        name = name_of(self._source, number)
        if name not in table(self._target).by_name and entry.action not in (ALLOW, self._policy.default):
            why = f"{self._target} has no {name}: the answer has to be written for what does this there"
            self.losses.append(Loss(name, format_action(entry.action), why))

    def _after(self, part: _Part, hop: Hop) -> _Part | None:
        """Return what a link makes of a part; None if it carries nothing."""
        name = name_of(hop.arches[1], hop.target.number)
        if not hop.target.entry.action.allows:
            if (call := table(self._target).by_name.get(name)) and call.number not in self._policy.entries[self._source]:
                self._failing.setdefault(call.number, hop.target.entry)
            return None
        where = image(self._sets, hop, part.where)
        if where == FALSE:
            return None
        expression = self._written(part, hop, where)
        if expression is None:
            return None
        written = region.to_bdd(self._sets, expression, table(hop.arches[1]).by_number[hop.target.number].arguments)
        if written == FALSE:
            return None
        is_same = part.is_same and hop.is_same
        return _Part(hop.end, written, expression, part.action, part.origin, is_same, part.more or hop.more)

    def _written(self, part: _Part, hop: Hop, where: int) -> Expression | None:
        """Return an expression for calls in the set `where` of the link's target, all of those that mean something on both
        architectures; None if there is none."""
        arch, number = hop.end
        arguments = table(arch).by_number[number].arguments
        try:
            proposal = normal_expression(arch, number, And((hop.target.entry.expression, rewritten(hop, part.expression))))
            written = region.to_bdd(self._sets, proposal, arguments)
        except ValueError:  # a number that the other argument's type does not have
            proposal, written = Always(False), FALSE
        if self._sets.ite(where, FALSE, written) == FALSE:
            missing = self._sets.ite(written, FALSE, where)
            if missing == FALSE or self._sets.and_(missing, meaningful(self._sets, hop)) == FALSE:
                return proposal
        return express(self._sets, where, arch, number, _MAX_ALTERNATIVES)

    def _note_losses(self) -> None:
        """Note the alternatives of the source that led to nothing on the target, or to less."""
        for (number, part), targets in self._reached.items():
            name, text = name_of(self._source, number), format_expression(self._source, number, part)
            lost = self._odd(number, part)
            reasons = [why for side, why in unneeded(self._source).get(number, ()) if self._is_in(number, part, side.entry)]
            if targets and lost:
                self.losses.append(Loss(name, text, f"{self._target} has no {lost}", partly=True))
            elif not targets and reasons:
                self.losses.append(Loss(name, text, reasons[0], needed=False))
            elif not targets:
                has_call = (self._source, number) in self._links
                why = "what does this there has such arguments in memory" if has_call else f"{self._target} has no call for it"
                why = f"{self._target} has no {lost}" if lost else why
                self.losses.append(Loss(name, text, why))

    def _is_in(self, number: int, part: Expression, entry: Entry) -> bool:
        arguments = table(self._source).by_number[number].arguments
        here, there = (region.to_bdd(self._sets, each, arguments) for each in (part, entry.expression))
        return self._sets.ite(there, FALSE, here) == FALSE

    def _odd(self, number: int, part: Expression) -> str:
        """Return the arguments of an alternative whose values the target lacks, ' or ' between them; '' if there is none."""
        same = [hop for hop in self._links.get((self._source, number), ()) if hop.is_same]
        return " or ".join(dict.fromkeys(name for hop in same for name in _unnamed(hop, part)))

    def _explicit(self, forms: Mapping[int, Form]) -> list[int]:
        """Return the numbers, on the target, of the calls that the source's entries only deny."""
        names = [name_of(self._source, number) for number, form in forms.items() if form.action is None]
        return [table(self._target).by_name[name].number for name in names if name in table(self._target).by_name]

    def _entries(self, number: int, forms: Mapping[int, Form]) -> tuple[Entry | None, list[tuple[Entry, int]]]:
        """Return the entry that the source's entry of the same name became, and those that other calls became, with these."""
        call = table(self._source).by_name.get(name_of(self._target, number))
        form = forms.get(call.number) if call else None
        parts = self._parts.get(number, [])
        same = [part for part in parts if part.is_same]
        others = [(self._entry(number, [part.expression], part.action), part.origin[0]) for part in parts if not part.is_same]
        if call is None or form is None:
            return None, others
        before = self._policy.entries[self._source][call.number]
        if not same:
            return (before if form.action is None else None), others
        own = self._entry(number, [part.expression for part in same], same[0].action)
        if not before.action.allows and not isinstance(own.expression, Always):  # `kill if X else allow` stays so
            own = Entry(negated(own.expression), before.action, before.otherwise)
        elif form.refusal is not None and own.expression != Always(True):
            own = replace(own, otherwise=form.refusal)
        return normal_entry(self._target, number, own), others

    def _entry(self, number: int, parts: Sequence[Expression], action: Action) -> Entry:
        fewest = minimise(parts, table(self._target).by_number[number].arguments) if len(parts) > 1 else tuple(parts)
        return normal_entry(self._target, number, Entry(Or.of(fewest), action))

    def _is_implied(self, number: int, entry: Entry, implied: Entry | None) -> bool:
        """Return whether an entry allows nothing beyond what the implied set, and the section, allow."""
        if implied is None or not implied.only_allows or entry.action != ALLOW:
            return False
        arguments = table(self._target).by_number[number].arguments
        here, there = (region.to_bdd(self._sets, each.expression, arguments) for each in (entry, implied))
        return self._sets.ite(there, FALSE, here) == FALSE

    def _denied_elsewhere(self) -> list[int]:
        """Return the calls that only the target has, whose counterparts on the source are denied explicitly in part: the
        implied set must not add to them."""
        result = []
        for number, entry in self._policy.entries[self._source].items() if self._policy.implied else ():
            if not entry.only_allows:
                for name in ends((self._source, number), self._source, self._target):
                    if name not in table(self._source).by_name:
                        result.append(table(self._target).by_name[name].number)
        return list(dict.fromkeys(result))


def _unnamed(hop: Hop, expression: Expression) -> Iterator[str]:
    """Yield the constants in an expression of the link's source that mean something there only."""
    match expression:
        case And(parts) | Or(parts):
            for part in parts:
                yield from _unnamed(hop, part)
        case Condition(index, operator) if operator in (Operator.EQ, Operator.ONE_OF, Operator.IN, Operator.HAS):
            for pair in hop.pairs:
                if pair.source == index and pair.ours.constants:
                    moves, family = renumberings(hop, pair)[0][1], constants.family(pair.ours.constants, hop.arches[0])
                    for value in expression.values or (expression.value,):
                        bits = moves.bits_there(value & pair.ours.mask)
                        lost = value if not moves.values_there(bits) else 0
                        single = [value & 1 << bit for bit in range(pair.ours.width)]
                        lost |= sum(bit for bit in single if moves.bits_there(bit) & moves.odd)
                        if lost:
                            yield family.format_bits(lost)
        case _:
            pass
