"""The phrases about phases: `phase NAME after TRIGGER, ...`, and what `until NAME` makes of an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.errors import did_you_mean
from policygen.model import ENTER, NOTIFY, Always, Phase
from policygen.phases import START, reached
from tracer.abi import Arch, table
from tracer.abi.waits import calls_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policygen.language.cursor import Cursor
    from policygen.language.lexer import Token
    from policygen.model import Action, Entry, Expression, Policy


def phase(cursor: Cursor, before: Sequence[Phase]) -> Phase:
    """Parse what follows the word `phase`, without entries.  Raises PolicyError."""
    token = cursor.token
    if token.kind != "word" or token.text in ("after", "until"):
        raise cursor.expected("the name of a phase", "phase NAME after CALL")
    if token.text == START or token.text in (one.name for one in before):
        hint = f"{START} is what comes before the first phase" if token.text == START else ""
        raise cursor.error(f"there is a phase {token.text} already", token, hint)
    cursor.take()
    if not cursor.accept("after"):
        raise cursor.expected("`after`", "name the call with which a process enters it: phase serving after epoll_wait")
    triggers: list[str] = []
    while True:
        triggers.append(_trigger(cursor, [*triggers, *(name for one in before for name in one.triggers)]))
        if not cursor.accept(","):
            return Phase(token.text, tuple(sorted(triggers)), {})


def _trigger(cursor: Cursor, taken: Sequence[str]) -> str:
    token = cursor.token
    if token.kind != "word":
        raise cursor.expected("the name of a call", "phase NAME after CALL")
    known = {ENTER, NOTIFY, *(name for arch in Arch for name in table(arch).by_name)}
    if token.text not in known:
        raise cursor.error(f"there is no syscall {token.text}", token, did_you_mean(token.text, known))
    if token.text in taken:
        raise cursor.error(f"{token.text} is a trigger already", token, "a call leads to one phase")
    return cursor.take().text


def staged(
    cursor: Cursor, name: Token, policy: Policy, entry: Entry, until: Sequence[tuple[Expression, int]]
) -> tuple[Entry | None, ...]:
    """The entry in each phase.  Raises PolicyError if a phase would allow what was denied before."""
    count = len(policy.phases)
    ends = dict.fromkeys(range(count), entry)
    if all(end == count for _, end in until):
        return tuple(ends.values())
    other = entry.otherwise or policy.default
    if not entry.action.may_run or (other.may_run, other.lets_run) >= (entry.action.may_run, entry.action.lets_run):
        hint = "a phase only takes away: mark what is allowed"
        raise cursor.error(f"`until` would not make the entry of {name.text} narrower", name, hint)
    return tuple(reached(entry, [part for part, end in until if end > number]) for number in range(count))


def _actions(entry: Entry) -> tuple[Action, ...]:
    """The actions that an entry writes for some calls."""
    written = (entry.action if entry.expression != Always(False) else None, entry.otherwise)
    return tuple(action for action in written if action)


def require_trigger(
    cursor: Cursor, token: Token, policy: Policy, one: Phase, entries: Mapping[Arch, Mapping[int, Entry]]
) -> None:
    """Raise PolicyError if the entries say that the phase denies each of its triggers: it could not be entered for good.

    What an implied set allows is not known here."""
    for name in one.triggers:
        if name == ENTER or policy.default.may_run:
            return
        for arch, section, one_call in ((*item, call) for item in entries.items() for call in calls_of(name)):
            call = table(arch).by_name.get(one_call)
            entry = section.get(call.number) if call else None
            if entry is not None and any(action.may_run for action in _actions(entry)):
                return
            if entry is None and call and policy.implied:
                return
    what = "is" if len(one.triggers) == 1 else "are"
    hint = "a process makes it again and again in the phase"
    if one.triggers == (NOTIFY,):
        hint = "the message is sent in the phase, by sendmsg, sendto or write"
    raise cursor.error(f"{', '.join(one.triggers)} {what} denied in {one.name}", token, hint)
