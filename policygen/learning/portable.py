"""Make a policy portable to other C libraries, by adding the equivalents of what it allows.

Equivalents are ordinary entries, so code that judges a policy does not treat them specially.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from callfence.policygen.equivalents.links import Conjunction, Link, image, links, own_calls, simple
from callfence.policygen.implied.resolve import Call, resolved
from callfence.policygen.language.normal import normal, normal_entry
from callfence.policygen.learning.extend import Grown, regions
from callfence.policygen.model import ALLOW, Always, And, Arm, Condition, Entry, Expression, Operator, Or, Policy, alternatives
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.join import Form, JoinError, form_of, join_entries
from callfence.policygen.values import replace
from callfence.tracer.abi import Argument, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from callfence.policygen.model import Action

_MAX_CUBES = 64
"""The most alternatives into which a condition that learning did not write is split; a condition that takes more gets no
equivalents."""


def made_portable(policy: Policy) -> Grown:
    """Return the policy with a `portable` line, the equivalents of all that it allows, and the calls that C libraries make on
    their own.

    Nothing is added that an entry denies explicitly, or that the policy's table does not have.  Idempotent; the policy never
    allows less."""
    policy = normal(policy)
    growth = _Growth(replace(policy, portable=True))
    for arch, section in policy.entries.items():
        for own in own_calls(arch) if section or policy.implied else ():  # an implied set may be all there is
            if not own.loader or policy.arm is not Arm.ENTRY:
                for conditions in own.side.alternatives:
                    growth.add((arch, own.side.number), conditions, ALLOW, own.why)
        for number, entry in section.items():
            form = _allowed(entry, policy.default)
            if form is not None and form.action is not None:
                growth.follow((arch, number), alternatives(form.allowed), form.action)
    return growth.result()


def with_equivalents(policy: Policy, new: Mapping[Call, Iterable[Expression]]) -> Grown:
    """Return the policy with the equivalents of `new`: alternatives of the calls' entries.  Equivalents of other alternatives
    are not added: a person may have removed them."""
    growth = _Growth(policy)
    for (arch, number), parts in new.items():
        action = policy.entries[arch][number].action
        if action.allows:
            growth.follow((arch, number), parts, action)
    return growth.result()


def _allowed(entry: Entry, default: Action) -> Form | None:
    try:
        return form_of(entry, default)
    except JoinError:
        return None


class _Growth:
    """A policy while it grows: allowed calls are followed along the links until nothing new is found."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.sets = region.space()
        self.known: dict[Call, tuple[int, int]] = {}
        """Call -> the sets that its entry now allows, and explicitly denies."""
        self.parts: dict[Call, list[Expression]] = {}
        self.actions: dict[Call, Action] = {}
        self.reasons: dict[Call, str] = {}
        self.failing: dict[Call, Entry] = {}
        self.ahead: deque[tuple[Call, Conjunction, Action]] = deque()

    def follow(self, call: Call, parts: Iterable[Expression], action: Action) -> None:
        """Add the equivalents of rules that are already allowed."""
        self.ahead.extend((call, conditions, action) for part in parts for conditions in self._conjunctions(call, part))

    def add(self, call: Call, conditions: Conjunction, action: Action, reason: str) -> None:
        """Allow more of a call and add its equivalents, unless the call is already allowed, explicitly denied, or not in the
        policy's table."""
        arch, number = call
        if table(arch).is_newer(number, self.policy.table) or not self._takes(call, action):
            return
        if call not in self.known:
            self.known[call] = self._regions(call)
        allowed, refused = self.known[call]
        conditions = self._tidy(call, conditions)
        expression = And(conditions) if conditions else Always(True)
        where = region.to_bdd(self.sets, expression, table(arch).by_number[number].arguments)
        if self.sets.ite(allowed, FALSE, where) == FALSE or self.sets.and_(refused, where) != FALSE:
            return
        self.known[call] = self.sets.or_(where, allowed), refused
        self.parts.setdefault(call, []).append(expression)
        self.actions[call] = action
        self.reasons.setdefault(call, f"portable: {reason}")
        self.ahead.append((call, conditions, action))

    def result(self) -> Grown:
        while self.ahead:
            call, conditions, action = self.ahead.popleft()
            for link in links(call[0]).get(call[1], ()):
                self._step(call, conditions, action, link)
        entries = {arch: dict(section) for arch, section in self.policy.entries.items()}
        for call, entry in self.failing.items():
            if call not in self.parts:
                entries[call[0]].setdefault(call[1], entry)
        for (arch, number), parts in self.parts.items():
            fewest = minimise(parts, table(arch).by_number[number].arguments)
            more = normal_entry(arch, number, Entry(Or(fewest), self.actions[arch, number]))
            joined = join_entries(arch, number, entries[arch].get(number), more, self.policy.default)
            if joined is not None:
                entries[arch][number] = joined
        policy = normal(replace(self.policy, entries=entries))
        before = self.policy.entries
        changed = [(arch, number) for arch, number, entry in policy.each() if entry != before[arch].get(number)]
        fresh = {call: self.reasons[call] for call in changed if call in self.reasons and not self._old(call)}
        return Grown(policy, tuple(changed), fresh)

    def _step(self, call: Call, conditions: Conjunction, action: Action, link: Link) -> None:
        target = (call[0], link.target.number)
        ours = table(call[0]).by_number[call[1]].arguments
        parameters = table(call[0]).by_number[target[1]].arguments
        for here in link.source.alternatives:
            if region.to_bdd(self.sets, And((*conditions, *here)), ours) == FALSE:
                continue
            if not link.target.entry.action.allows:
                if not self._old(target) and not self.policy.default.allows:
                    self.failing.setdefault(target, link.target.entry)
                continue
            carried = image(conditions, here, link, ours, parameters)
            if carried is not None:
                word = "as" if link.strict else "with"
                for there in link.target.alternatives:
                    for conjunction in carried:
                        self.add(target, (*conjunction, *there), action, f"{word} {table(call[0]).by_number[call[1]].name}")

    def _old(self, call: Call) -> Entry | None:
        return self.policy.entries[call[0]].get(call[1])

    def _takes(self, call: Call, action: Action) -> bool:
        """Return whether the entry, old or new, can allow more with that action."""
        if self.actions.get(call, action) != action:
            return False
        old = self._old(call)
        if old is None:
            return True
        form = _allowed(old, self.policy.default)
        return form is not None and form.action in (None, action)

    def _regions(self, call: Call) -> tuple[int, int]:
        default, old = self.policy.default, resolved(self.policy).entries[call[0]].get(call[1])
        if old is None:
            return (TRUE if default.allows else FALSE), FALSE
        return regions(self.sets, old, default, table(call[0]).by_number[call[1]].arguments)

    def _tidy(self, call: Call, conditions: Conjunction) -> Conjunction:
        """Return the conditions without those that the others imply."""
        arguments = table(call[0]).by_number[call[1]].arguments
        remaining = list(dict.fromkeys(conditions))
        for condition in sorted(remaining, key=lambda condition: condition.operator is Operator.EQ):
            others = [other for other in remaining if other != condition]
            held = region.to_bdd(self.sets, And(tuple(others)), arguments)
            if self.sets.ite(region.to_bdd(self.sets, condition, arguments), FALSE, held) == FALSE:
                remaining = others
        return tuple(remaining)

    def _conjunctions(self, call: Call, part: Expression) -> Iterator[Conjunction]:
        """Yield an alternative as conjunctions of conditions."""
        conditions = simple(part)
        if conditions is not None:
            yield conditions
            return
        arguments = table(call[0]).by_number[call[1]].arguments
        try:
            cubes = region.alternatives(self.sets, region.to_bdd(self.sets, part, arguments), _MAX_CUBES)
        except TooComplexError:
            return  # no policy whose filter can be proved has it
        for cube in cubes or ():
            yield tuple(_masked(index, value, mask, arguments[index]) for index, mask, value in cube)


def _masked(index: int, value: int, mask: int, argument: Argument) -> Condition:
    if mask == argument.mask:
        return Condition(index, Operator.EQ, argument.value(value))
    return Condition(index, Operator.MASKED, value, mask)
