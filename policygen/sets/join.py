"""Join two entries of one call into their union, which allows what either allows, and nothing else."""

from __future__ import annotations

from callfence.policygen.language.normal import normal_entry, normal_expression
from callfence.policygen.model import Action, Always, Entry, Expression, Not, Or, alternatives
from callfence.policygen.sets.algebra import FALSE, TRUE, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.region import space, to_bdd
from callfence.policygen.values import frozen
from callfence.tracer.abi import Arch, table
from callfence.tracer.errors import UserError


class JoinError(UserError):
    """Two entries that cannot be joined into one; `str()` says why."""


@frozen
class Form:
    """An entry by what it allows: calls for which `allowed` holds get `action`, others get `refusal` (None: the default)."""

    allowed: Expression
    action: Action | None
    """The allowing action; None if nothing is allowed."""
    refusal: Action | None


def form_of(entry: Entry, default: Action) -> Form:
    otherwise = entry.otherwise or default
    if entry.expression == Always(False):
        if otherwise.allows:
            return Form(Always(True), otherwise, None)
        return Form(Always(False), None, entry.otherwise)
    if entry.action.allows:
        if otherwise.allows and entry.expression != Always(True):
            raise JoinError("an entry with two actions that allow the call must be merged by hand")
        return Form(entry.expression, entry.action, entry.otherwise)
    if entry.expression == Always(True):
        return Form(Always(False), None, entry.action)
    if otherwise.allows:
        return Form(Not(entry.expression), otherwise, entry.action)
    raise JoinError("an entry with two actions that deny the call must be merged by hand")


def join_entries(arch: Arch, number: int, a: Entry | None, b: Entry | None, default: Action) -> Entry | None:
    """Return the entry, in normal form, that allows what at least one of two entries allows.  If one of them does so already,
    it is returned unchanged.

    An entry that is None is a call without an entry, which gets `default`.  Calls that neither entry allows get the action that
    one of them writes for these calls, else the default.  Raises JoinError if the two entries allow calls, or deny them, with
    different actions, or are too complex to join."""
    if a == b:
        return a
    if a is None or b is None:
        return None if default.allows else a or b
    first, second = form_of(a, default), form_of(b, default)
    actions = {form.action for form in (first, second) if form.action}
    refusals = {form.refusal for form in (first, second) if form.refusal}
    if len(actions) > 1:
        raise JoinError("they allow the call with different actions: make the actions the same")
    if len(refusals) > 1:
        raise JoinError("they deny other calls with different actions: make the actions the same")
    arguments = table(arch).by_number[number].arguments
    sets = space()
    try:
        regions = [to_bdd(sets, form.allowed, arguments) for form in (first, second)]
        both = sets.or_(*regions)
    except TooComplexError as error:
        raise JoinError(str(error)) from None
    refusal = next(iter(refusals), None)
    for entry, form, region in ((a, first, regions[0]), (b, second, regions[1])):
        if region == both and (form.refusal == refusal or both == TRUE):
            return entry
    whole = normal_expression(arch, number, Or((first.allowed, second.allowed)))
    expression = Or.of(minimise(alternatives(whole), arguments))
    return normal_entry(arch, number, Entry(expression, next(iter(actions)), refusal))


def refuses(arch: Arch, number: int, entry: Entry | None, wanted: Expression, default: Action) -> bool:
    """Return whether an entry explicitly denies some of the calls for which `wanted` holds; False if `entry` is None.  Raises
    JoinError if the entry has two actions that allow, or two that deny; TooComplexError if the sets are too complex to
    compute."""
    if entry is None:
        return False
    form = form_of(entry, default)
    if form.refusal is None and form.allowed != Always(False):
        return False
    arguments = table(arch).by_number[number].arguments
    sets = space()
    return sets.ite(to_bdd(sets, form.allowed, arguments), FALSE, to_bdd(sets, wanted, arguments)) != FALSE
