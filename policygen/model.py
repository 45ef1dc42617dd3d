"""The values that a policy is made of: actions, conditions, expressions, entries.

A *condition* compares one argument.  A *rule* is conditions joined by AND; the rules of a syscall are joined by OR. The
language also has `!` and parentheses, so an entry has an *expression*, usually rules joined by OR. Actions and conditions check
themselves.  No value carries text: comments and layout belong to `language.document`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from operator import ge
from types import MappingProxyType
from typing import TYPE_CHECKING

from callfence.policygen.grants import NOT_CONFINED, Files
from callfence.policygen.values import field, frozen, replace
from callfence.tracer.abi import Arch
from callfence.tracer.abi.waits import ENTER as ENTER, NOTIFY as NOTIFY

if TYPE_CHECKING:
    from typing import Self

SIGNALS, ABSTRACT = "signals", "abstract sockets"
SCOPES = (SIGNALS, ABSTRACT)
"""The words of a scope: the actions that a policy can restrict to the program's own processes (landlock(7), "scope"), which are
sending signals, and connecting to abstract sockets (unix(7))."""

IMPLIED = (1,)
"""The existing versions of the implied set (`policygen.implied`), ascending.  A released version never changes."""

MAX_ERRNO = 4095
"""The kernel caps the datum of SECCOMP_RET_ERRNO at this (linux/err.h MAX_ERRNO)."""


class ActionKind(StrEnum):
    """What the kernel does with a call: the kind of an action, without an errno."""

    ALLOW = "allow"
    KILL = "kill"
    """Kill the process (SECCOMP_RET_KILL_PROCESS); killing a thread is never used."""
    ERRNO = "errno"
    """Fail the call with an error, without running it."""
    TRAP = "trap"
    """Send SIGSYS with siginfo (SECCOMP_RET_TRAP)."""
    LOG = "log"
    """Allow, and ask the kernel to log (SECCOMP_RET_LOG)."""
    NOTIFY = "notify"
    """Ask the supervisor that holds the listener (SECCOMP_RET_USER_NOTIF)."""


@frozen
class Action:
    kind: ActionKind
    errno: int = 0
    """The error number, 1-4095, for ERRNO alone."""

    def __post_init__(self) -> None:
        if self.kind is ActionKind.ERRNO:
            if not 1 <= self.errno <= MAX_ERRNO:
                raise ValueError(f"errno {self.errno} is not in 1-{MAX_ERRNO}")
        elif self.errno:
            raise ValueError(f"{self.kind} has no errno")

    @property
    def allows(self) -> bool:
        """Whether the kernel carries out the call."""
        return self.kind in (ActionKind.ALLOW, ActionKind.LOG)

    @property
    def may_allow(self) -> bool:
        """Whether the kernel carries out the call, or a supervisor may let it; without one, it fails with ENOSYS."""
        return self.allows or self.kind is ActionKind.NOTIFY


_PRECEDENCE = (ActionKind.KILL, ActionKind.TRAP, ActionKind.ERRNO, ActionKind.NOTIFY, ActionKind.LOG, ActionKind.ALLOW)
"""The kernel's order of precedence, highest first (seccomp(2), "the action value ... of highest precedence")."""


def strictest(actions: Iterable[Action]) -> Action:
    """Return the action that the kernel takes if several filters, in the order of their installation, answer a call with these
    actions.  Of several errnos, that of the filter installed last counts (kernel/seccomp.c seccomp_run_filters)."""
    return min(reversed(list(actions)), key=lambda action: _PRECEDENCE.index(action.kind))


ALLOW = Action(ActionKind.ALLOW)
KILL = Action(ActionKind.KILL)
ENOSYS = Action(ActionKind.ERRNO, 38)  # asm-generic/errno.h


class Operator(Enum):
    """A comparison of an argument, which is read with its C type's width and signedness."""

    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    """No bits but these: `x & ~value == 0`."""
    HAS = "has"
    """All of these bits: `x & value == value`."""
    ANY = "&"
    """Any of these bits: `x & value != 0`."""
    MASKED = "& =="
    """`x & mask == value`."""
    ONE_OF = "in {}"
    """One of `values`."""


BITWISE = (Operator.IN, Operator.HAS, Operator.ANY, Operator.MASKED)
"""Operators that compare patterns of bits, which have no sign."""
_LEAST, _GREATEST = -(1 << 63), (1 << 64) - 1


@frozen
class Condition:
    """One comparison of one argument.

    Numbers are values of the C type: -1 for an `int`, never 0xffffffff.  For BITWISE operators they are patterns of bits, hence
    unsigned.  A condition checks itself as far as it can without the argument, in about 0.6 us; `sets.region.to_bdd` checks
    that numbers fit the argument's width."""

    index: int
    """The index of the argument: 0-5."""
    operator: Operator
    value: int = 0
    mask: int = 0
    """The mask, for MASKED only."""
    values: tuple[int, ...] = ()
    """The values, for ONE_OF only, instead of `value`: at least one, ascending, without repetition."""

    def __post_init__(self) -> None:
        if not 0 <= self.index <= 5:
            raise ValueError(f"a call has no argument {self.index}")
        if self.operator is Operator.ONE_OF or self.values:
            self._check_values()
        least = 0 if self.operator in BITWISE else _LEAST
        if not (least <= self.value <= _GREATEST and 0 <= self.mask <= _GREATEST):
            raise ValueError(f"{self.value} & {self.mask} is more than 64 bits, or negative where bits are compared")
        if self.mask and self.operator is not Operator.MASKED:
            raise ValueError(f"`{self.operator.value}` takes no mask")

    def _check_values(self) -> None:
        if self.operator is not Operator.ONE_OF or self.value or not self.values:
            raise ValueError("several values are those of `in {}`, which has at least one and no other")
        if any(map(ge, self.values, self.values[1:])):
            raise ValueError(f"the values are not ascending: {self.values}")
        if self.values[0] < _LEAST or self.values[-1] > _GREATEST:
            raise ValueError(f"the values are more than 64 bits: {self.values}")


@frozen
class Always:
    """An expression that has the same truth value for all arguments."""

    value: bool


@frozen
class And:
    parts: tuple[Expression, ...]


@frozen
class Or:
    parts: tuple[Expression, ...]

    @staticmethod
    def of(parts: Sequence[Expression]) -> Expression:
        """Return the expression that joins at least one expression by OR."""
        return parts[0] if len(parts) == 1 else Or(tuple(parts))


@frozen
class Not:
    part: Expression


Expression = Always | Condition | And | Or | Not


def alternatives(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions that this one joins by OR, or the expression alone; () if it never holds."""
    if expression == Always(False):
        return ()
    return expression.parts if isinstance(expression, Or) else (expression,)


def conjuncts(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions that this one joins by AND, or the expression alone; () if it always holds."""
    if expression == Always(True):
        return ()
    return expression.parts if isinstance(expression, And) else (expression,)


def constrained(expression: Expression) -> frozenset[int]:
    """Return the indexes of the arguments that every alternative of an expression compares."""
    match expression:
        case Condition(index):
            return frozenset((index,))
        case And(parts):
            return frozenset().union(*map(constrained, parts))
        case Or(parts):
            return frozenset.intersection(*map(constrained, parts))
        case Not(part):
            return constrained(part)
        case Always():
            return frozenset()


def conditions(expression: Expression) -> Iterator[Condition]:
    """Yield all conditions in an expression."""
    if isinstance(expression, Condition):
        yield expression
    elif not isinstance(expression, Always):
        for part in (expression.part,) if isinstance(expression, Not) else expression.parts:
            yield from conditions(part)


def mentioned(expression: Expression) -> frozenset[int]:
    """Return the indexes of all arguments that an expression compares."""
    return frozenset(condition.index for condition in conditions(expression))


@frozen
class Entry:
    """The rule for one syscall: `action` where `expression` holds, else `otherwise`."""

    expression: Expression
    action: Action = ALLOW
    otherwise: Action | None = None
    """The action where `expression` does not hold; None is the policy's default."""

    @property
    def only_allows(self) -> bool:
        """Whether the entry only allows calls, and leaves the others to the default.  An entry with `deny`, with another action
        or with `else` denies explicitly."""
        return self.action == ALLOW and self.otherwise is None and self.expression != Always(False)

    def may_run(self, default: Action) -> bool:
        """Return whether some calls may run, those for which `expression` holds or the others, where the policy has this
        default.  An expression that always holds, or never does, in another form is not seen as that."""
        rest = (self.otherwise or default).may_allow
        if isinstance(self.expression, Always):
            return self.action.may_allow if self.expression.value else rest
        return self.action.may_allow or rest

    def grants(self, default: Action) -> bool:
        """Return whether the calls for which `expression` holds may do more than the others, which get `default` if the entry
        has no `otherwise`."""
        otherwise = self.otherwise or default
        return (self.action.may_allow, self.action.allows) > (otherwise.may_allow, otherwise.allows)


Entries = Mapping[Arch, Mapping[int, Entry]]
"""Architecture -> syscall number -> entry."""


class HasEntries:
    """Something with entries."""

    __slots__ = ()
    entries: Entries

    def each(self) -> Iterator[tuple[Arch, int, Entry]]:
        """Yield each entry, after its architecture and number."""
        return ((arch, number, entry) for arch, section in self.entries.items() for number, entry in section.items())

    def actions(self) -> set[Action]:
        """Return the actions of all entries."""
        return {action for _, _, entry in self.each() for action in (entry.action, entry.otherwise) if action}

    def changed(self, change: Callable[[Arch, int, Entry], Entry | None]) -> Self:
        """Return the same with each entry as `change` returns it, without those for which that is None."""
        entries: dict[Arch, dict[int, Entry]] = {arch: {} for arch in self.entries}
        for arch, number, entry in self.each():
            if (after := change(arch, number, entry)) is not None:
                entries[arch][number] = after
        return replace(self, entries=entries)


class Arm(StrEnum):
    """The moment at which the filter takes effect."""

    NOW = "now"
    """Before the program's execve, which the policy must then allow."""
    EXEC = "exec"
    """When the execve returns: the dynamic loader is confined too."""
    ENTRY = "entry"
    """At the program's ELF entry point, after the dynamic loader."""


@frozen
class Phase(HasEntries):
    """The permissions of a process once it has made one of `triggers`: fewer than before."""

    name: str
    triggers: tuple[str, ...]
    """Names of calls, ENTER or NOTIFY, ascending: a process enters the phase when it makes the first of them."""
    entries: Entries
    """The entries, as in `Policy`.  In normal form, the entries before the phase allow everything that these do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", _frozen(self.entries))


@frozen
class Policy(HasEntries):
    """The entries for one or more architectures, with the policy's settings."""

    entries: Entries
    """Architecture -> syscall number -> entry, in the order of the calls' names.  An architecture that is a key is *known* to
    the policy even without entries; calls of all other architectures are killed."""
    table: tuple[int, int] = (6, 18)
    """The kernel version whose syscall table the policy was written for."""
    arm: Arm = Arm.EXEC
    default: Action = KILL
    """The action for every call of the table that no entry decides."""
    unknown: Action = ENOSYS
    """The action for numbers above the newest of `table`."""
    portable: bool = False
    """Whether learning and merging add equivalents (`learning.portable`).  The action for a call does not depend on this."""
    implied: int = 0
    """The version of the implied set (`policygen.implied`), which allows what grants nothing beyond the entries; 0: none."""
    phases: tuple[Phase, ...] = ()
    """The phases, in the order in which a process enters them; before the first, `entries` apply (`policygen.phases`)."""
    phases_optional: bool = False
    """Whether a process that cannot enter a phase keeps its permissions instead of being killed."""
    scope: str = SIGNALS
    """The actions that Landlock restricts to the program's own processes: words of SCOPES, in that order, with commas; "" for
    none. The filter does not depend on this."""
    files: Files = NOT_CONFINED
    """The files and ports that calls can reach, enforced by Landlock.  The filter does not depend on this."""
    memo: dict[str, object] = field(factory=dict, init=False)
    """A cache of values that are computed from this policy alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", _frozen(self.entries))


def scopes(text: str) -> tuple[str, ...]:
    """Return the words (of SCOPES) in the text of a policy's scope."""
    return tuple(text.split(", ")) if text else ()


def scope_of(words: Collection[str]) -> str:
    """Return the text of a scope with these words; the inverse of `scopes`."""
    return ", ".join(word for word in SCOPES if word in words)


def _frozen(entries: Entries) -> Entries:
    return MappingProxyType({arch: MappingProxyType(dict(section)) for arch, section in entries.items()})
