"""Parse the statements of a policy and their parts, except expressions: words and numbers, actions and entries, phases,
files, ports, hosts and unix sockets.

Each function parses one part at the cursor, or raises PolicyError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.policygen.errors import did_you_mean
from callfence.policygen.grants import (
    ALL,
    ANY,
    ANY_PORT,
    BARE,
    MAX_PORT,
    NO_PORT,
    NONE,
    NOT_CONFINED,
    NOTHING,
    TO_HOSTS,
    USES,
    WORDS,
    Files,
    Ports,
    Right,
    bare_line,
    host_line,
    path_line,
    ranges,
)
from callfence.policygen.hosts import PLACES, canonical as canonical_host
from callfence.policygen.language import hints
from callfence.policygen.language.lexer import RESERVED, Cursor, Token
from callfence.policygen.language.operands import OperandError, parse_integer
from callfence.policygen.model import ALLOW, ENTER, NOTIFY, SCOPES, Action, ActionKind, Always, Entry, Phase, scope_of
from callfence.policygen.paths import TextError, canonical, unquoted
from callfence.policygen.phases import START, reached
from callfence.policygen.values import replace
from callfence.tracer.abi import NATIVE, Arch, constants, table
from callfence.tracer.abi.waits import calls_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from callfence.policygen.language.expressions import ExpressionParser
    from callfence.policygen.model import Expression, Policy


def integer(cursor: Cursor, what: str) -> int:
    token = cursor.token
    if token.kind != "number":
        raise cursor.expected(what)
    cursor.take()
    return _number(cursor, token)


def one_of(cursor: Cursor, what: str, words: Sequence[str], hinted: Callable[[str], str] | None = None) -> str:
    """Parse one of `words`, and return it; `what` is their common name for the error message, and `hinted` returns a hint for
    another word, by default the most similar ones."""
    token = cursor.token
    if token.kind != "word":
        raise cursor.expected(f"one of {', '.join(words)}")
    if token.text not in words:
        hint = hinted(token.text) if hinted else did_you_mean(token.text, words)
        hint = hint or f"it is one of {', '.join(words)}"
        raise cursor.error(f"unknown {what} {token.text}", token, hint, "name")
    return cursor.take().text


def scope(cursor: Cursor) -> str:
    """Parse the value of `scope`: `signals`, `abstract sockets`, both with a comma, or `none`; return `Policy.scope`."""
    if cursor.accept("none"):
        return ""
    words = {word.split()[0]: word for word in SCOPES}
    scopes_read: list[str] = []
    while True:
        word = words[one_of(cursor, "scope", [*words, "none"] if not scopes_read else [*words])]
        for rest in word.split()[1:]:
            one_of(cursor, f"scope after {word.split()[0]}", [rest])
        scopes_read.append(word)
        if not cursor.accept(","):
            return scope_of(scopes_read)


def version(cursor: Cursor) -> tuple[int, int]:
    """Parse a kernel version whose syscall table is known, and return (major, minor)."""
    what = "a kernel version such as 6.18"
    start = cursor.token.start
    major = integer(cursor, what)
    if not cursor.accept("."):
        raise cursor.expected(what)
    read = (major, integer(cursor, what))
    try:
        table(NATIVE).newest(read)  # every architecture has the same versions
    except ValueError as error:
        raise cursor.source.error(str(error), start, cursor.previous_end, kind="version") from None
    return read


def action(cursor: Cursor, what: str) -> Action:
    token = cursor.token
    if token.text not in list(ActionKind):
        hint = did_you_mean(token.text, ActionKind) or hints.action(token.text)
        hint = hint or f"an action is one of {', '.join(ActionKind)}"
        if token.text == "deny":
            hint = "deny is the default action: leave it out"
        raise cursor.expected(what, hint)
    cursor.take()
    if token.text != ActionKind.ERRNO:
        return Action(ActionKind(token.text))
    named = cursor.token
    number = _error(cursor)
    try:
        return Action(ActionKind.ERRNO, number)
    except ValueError as error:
        raise cursor.error(str(error), named, kind="value") from None


def _error(cursor: Cursor) -> int:
    """Parse an errno, by name or number; the numbers are the same on all known architectures."""
    token = cursor.token
    if token.kind != "word":
        return integer(cursor, "the name or number of an errno")
    errors = constants.family("errno", NATIVE)
    number = errors.value(cursor.take().text)
    if number is None:
        raise cursor.error(f"no errno is named {token.text}", token, did_you_mean(token.text, errors.names), "name")
    return number


_ACTIONS = frozenset((*ActionKind, "deny"))


def syscall(cursor: Cursor, token: Token, arch: Arch, version: tuple[int, int]) -> int:
    """Return the number of the syscall that `token` names, or that is the number there.  Raises PolicyError if the architecture
    does not have it in that kernel version."""
    calls = table(arch)
    if token.kind == "number":
        number = _number(cursor, token)
        if arch.is_x32(number):
            raise cursor.error("calls of x32 are always killed", token, kind="value")
        is_known = number in calls.by_number
    else:
        call = calls.by_name.get(token.text) or calls.by_name.get(token.text.removeprefix("sys_"))
        number, is_known = (call.number, True) if call else (0, False)
    if calls.is_newer(number, version):
        hint = "it falls under `unknown`; name a newer kernel in the `table` line"
        raise cursor.error(f"{token.text} is newer than the policy's table, {version[0]}.{version[1]}", token, hint, "name")
    if not is_known:
        raise cursor.error(f"{arch} has no syscall {token.text}", token, _other(token, arch), "name")
    return number


def _number(cursor: Cursor, token: Token) -> int:
    try:
        return parse_integer(token.text)[0]
    except OperandError as error:
        raise cursor.error(error.message, token, error.hint, error.kind) from None


def _other(token: Token, arch: Arch) -> str:
    """Return a hint for the name of a syscall that does not exist."""
    name = token.text.removeprefix("sys_")
    elsewhere = [other for other in Arch if name in table(other).by_name]
    if elsewhere:
        return f"it is a syscall of {' and '.join(elsewhere)}"
    if hint := hints.syscall(token.text):
        return hint
    return did_you_mean(name, table(arch).by_name) if token.kind == "word" else ""


def body(cursor: Cursor, name: Token, parser: ExpressionParser) -> Entry:
    """Parse an entry from its colon on, by `parser`, which collects the `until` of each alternative; return the entry."""
    if cursor.at_line_end() or cursor.following.text == ":":
        raise cursor.error(f"the entry of {name.text} is empty", name, "write allow, deny, an action or a condition")
    token = cursor.token
    if token.text in ("0", "1", "deny"):
        cursor.take()
        if not cursor.at_line_end():
            hint = f"`{token.text}` is complete; a condition begins with an argument"
            raise cursor.expected("the end of the line", hint)
        return Entry(Always(token.text == "1"))
    holding = ALLOW
    if token.text in _ACTIONS:
        holding = action(cursor, "an action")
        if not cursor.accept("if"):
            parser.end(Always(True))
            if parser.until[-1][1] == len(parser.phases) or not cursor.accept("||"):
                return Entry(Always(True), holding)
            parser.expression()  # what is left of it in a phase
            return Entry(Always(True), holding)
    expression = parser.expression()
    otherwise = action(cursor, "an action after `else`") if cursor.accept("else") else None
    return Entry(expression, holding, otherwise)


def phase(cursor: Cursor, before: Sequence[Phase]) -> Phase:
    """Parse the words after `phase`, and return the phase, without entries.  Raises PolicyError if they are not `NAME after
    CALL, ...`, or name or trigger belong to one of the phases `before`."""
    token = cursor.token
    if token.kind != "word" or token.text in RESERVED:
        raise cursor.expected("the name of a phase", "phase NAME after CALL")
    if token.text == START or token.text in (other.name for other in before):
        hint = f"{START} is the name of what comes before the first phase: choose another" if token.text == START else ""
        raise cursor.error(f"there is a phase {token.text} already", token, hint, "twice")
    cursor.take()
    if not cursor.accept("after"):
        raise cursor.expected("`after`", "name the call with which a process enters it: phase serving after epoll_wait")
    triggers: list[str] = []
    while True:
        triggers.append(_trigger(cursor, [*triggers, *(name for other in before for name in other.triggers)]))
        if not cursor.accept(","):
            return Phase(token.text, tuple(sorted(triggers)), {})


def _trigger(cursor: Cursor, taken: Sequence[str]) -> str:
    token = cursor.token
    if token.kind != "word":
        raise cursor.expected("the name of a call", "phase NAME after CALL")
    names = {ENTER, NOTIFY, *(name for arch in Arch for name in table(arch).by_name)}
    if token.text not in names:
        raise cursor.error(f"there is no syscall {token.text}", token, did_you_mean(token.text, names), "name")
    if token.text in taken:
        raise cursor.error(f"{token.text} is a trigger already", token, "a call can lead to only one phase", "twice")
    return cursor.take().text


def staged(
    cursor: Cursor, name: Token, policy: Policy, entry: Entry, until: Sequence[tuple[Expression, int]]
) -> tuple[Entry | None, ...]:
    """Return the entry of a call in each phase (None: no entry); `until` has the alternatives, each with the index of the phase
    that ends it.  Raises PolicyError if a phase would allow more than the phase before it."""
    count = len(policy.phases)
    if all(end == count for _, end in until):
        return (entry,) * count
    if not entry.grants(policy.default):
        hint = "a phase only denies more: put `until` on what is allowed"
        raise cursor.error(f"`until` would not make the entry of {name.text} deny more", name, hint, "phase")
    return tuple(reached(entry, [part for part, end in until if end > number]) for number in range(count))


def _actions(entry: Entry) -> tuple[Action, ...]:
    """Return the actions that an entry writes out."""
    written = (entry.action if entry.expression != Always(False) else None, entry.otherwise)
    return tuple(action for action in written if action)


def require_trigger(
    cursor: Cursor, token: Token, policy: Policy, phase: Phase, entries: Mapping[Arch, Mapping[int, Entry]]
) -> None:
    """Check that the phase allows one of its triggers, since a process makes the same call again in the phase.  Raises
    PolicyError, at `token`, if `entries`, those of the phase, deny all of them.

    A call that only an implied set could allow is not an error."""
    for name in phase.triggers:
        if name == ENTER or policy.default.may_allow:
            return
        for arch, section, one_call in ((*item, call) for item in entries.items() for call in calls_of(name)):
            call = table(arch).by_name.get(one_call)
            entry = section.get(call.number) if call else None
            if entry is not None and any(action.may_allow for action in _actions(entry)):
                return
            if entry is None and call and policy.implied:
                return
    calls = ", ".join(phase.triggers)
    message = f"phase {phase.name} begins at {calls}, which it denies"
    hint = f"allow {calls} in {phase.name}, since a process makes the same call again there"
    if phase.triggers == (NOTIFY,):
        hint = f"allow sendmsg, sendto or write in {phase.name}: the process sends the message there"
    raise cursor.error(message, token, hint, "phase")


_BARE = {
    "unix": ("unix sockets", "SOCKET", "; a blank or a colon stands in quotes"),
    "query": ("names", "NAME", ""),
}
"""Kind of BARE -> what its lines grant, in the plural and as a word of the grammar, and the rest of a hint."""


def file_line(cursor: Cursor, first: Token) -> tuple[str, Files]:
    """Parse a line about files, ports, hosts, unix sockets or names whose first word, or all up to its path, host or socket,
    has been read.  Return the canonical text of the line up to its colon, and what it grants."""
    if first.kind == "path":
        path = _named(cursor, first, canonical)
        is_right = cursor.token.text.rstrip(",") in WORDS
        quoting = 'a path with a blank or a colon stands in quotes: path "/a b": read'
        _colon(cursor, f"path {first.text}: read" if cursor.at_line_end() or is_right else quoting)
        return path_line(path), Files({path: _rights(cursor)})
    if first.kind in BARE:
        place = _named(cursor, first, PLACES[first.kind].canonical)
        if not cursor.at_line_end():
            _, what, rest = _BARE[first.kind]
            raise cursor.expected("the end of the line", f"{BARE[first.kind]} {what} has no colon{rest}")
        return bare_line(first.kind, place), replace(NOT_CONFINED, **{first.kind: (place,)})
    if first.kind in USES:
        return _at_host(cursor, first)
    if first.text == "path":
        raise cursor.expected("a path", "path PATH: RIGHTS")
    starts = {line.split()[1]: use for use, line in (USES | BARE).items() if line.split()[0] == first.text}
    word = cursor.token.text
    if word not in starts:
        raise cursor.expected(" or ".join(starts), did_you_mean(word, starts) or f"{first.text} {next(iter(starts))}: ...")
    cursor.take()
    use, line = starts[word], f"{first.text} {word}"
    if use in BARE:
        plural, what, _ = _BARE[use]
        _colon(cursor, f"{line} {what}, {line}: {NONE} or {line}: {ANY}")
        granted = one_of(cursor, f"grant of {plural}", (NONE, ANY))
        return line, replace(NOT_CONFINED, **{use: () if granted == NONE else (ANY,)})
    _colon(cursor, f"{line}: PORTS")
    return line, replace(NOT_CONFINED, **{use: _ports(cursor)})


def _at_host(cursor: Cursor, token: Token) -> tuple[str, Files]:
    """Parse a line about ports from its host on, which has been read."""
    use = token.kind
    if use not in TO_HOSTS:
        raise cursor.error(f"a `{USES[use]}` line names no host", token, f"{USES[use]}: PORTS")
    if token.text.rstrip(",").isdigit():
        raise cursor.error(f"expected `:`, but found `{token.text}`", token, f"{USES[use]}: PORTS")
    host = _named(cursor, token, canonical_host)
    _colon(cursor, f"{USES[use]} HOST: PORTS, with a blank after the colon")
    first = cursor.token
    ports = _ports(cursor)
    if host == ANY:
        return USES[use], replace(NOT_CONFINED, **{use: ports})
    if not ports:
        hint = f"leave the line out: `{USES[use]}: {NONE}` says that no host is granted"
        raise cursor.error(f"a line with a host grants ports: {NONE} has no effect", first, hint, "effect")
    return host_line(use, host), replace(NOT_CONFINED, **{f"{use}_to": {host: ports}})


def _named(cursor: Cursor, token: Token, canonical: Callable[[str], str]) -> str:
    """Return the canonical path, host or socket that `token` names.  Raises PolicyError."""
    try:
        return canonical(unquoted(token.text) if token.text.startswith('"') else token.text)
    except TextError as error:
        raise cursor.error(error.message, token, error.hint, error.kind) from None


def _colon(cursor: Cursor, hint: str) -> None:
    if not cursor.accept(":"):
        raise cursor.expected("`:`", hint)


def _rights(cursor: Cursor) -> Right:
    if cursor.accept(NONE):
        return NOTHING
    if cursor.accept(ANY):
        return ALL
    rights = NOTHING
    while True:
        token = cursor.token
        if token.kind != "word":
            raise cursor.expected(f"a right: {', '.join(WORDS)}, {ANY} or {NONE}")
        if token.text not in WORDS:
            hint = did_you_mean(token.text, WORDS) or f"there are {', '.join(WORDS)}; {ANY} and {NONE} stand alone"
            raise cursor.error(f"no right is named {token.text}", token, hint, "name")
        cursor.take()
        rights |= WORDS[token.text]
        if not cursor.accept(","):
            return rights


def _ports(cursor: Cursor) -> Ports:
    if cursor.accept(NONE):
        return NO_PORT
    if cursor.accept(ANY):
        return ANY_PORT
    spans: list[tuple[int, int]] = []
    while True:
        first = last = _port(cursor)
        following = cursor.token
        if following.kind == "number" and following.text.startswith("-") and following.start == cursor.previous_end:
            last = -_port(cursor, negative=True)
            if last < first:
                raise cursor.error(f"the range ends before it begins: {first}-{last}", following, kind="value")
        spans.append((first, last))
        if not cursor.accept(","):
            return ranges(spans)


def _port(cursor: Cursor, *, negative: bool = False) -> int:
    token = cursor.token
    if token.kind != "number":
        hint = "ports are numbers, and a host stands before the colon: tcp connect HOST: 443" if token.kind == "word" else ""
        raise cursor.expected(f"a port, {ANY} or {NONE}", hint or "tcp connect: 443, 8000-8099")
    try:
        number, is_decimal = parse_integer(token.text)
    except OperandError as error:
        raise cursor.error(error.message, token, error.hint, error.kind) from None
    if not 0 <= (-number if negative else number) <= MAX_PORT or not is_decimal:
        text = token.text.lstrip("-") if negative else token.text
        raise cursor.error(f"{text} is no port", token, f"ports are 0 to {MAX_PORT}", "value")
    cursor.take()
    return number
