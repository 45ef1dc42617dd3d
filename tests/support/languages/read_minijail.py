"""What minijail's policies mean to its C library (syscall_filter.c compile_file, util.c parse_constant): exports are held
against it, since Debian has no minijail0.

minijail's tools/compile_seccomp_policy.py takes a larger language in which `EXPRESSION; return ERROR` means the reverse: what
only that compiler takes is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from language_filters import ERRNO, policy_of

from policygen.errors import did_you_mean
from policygen.filter import bpf
from policygen.formats import Direction, Imported, ImportFormatError, Loss
from policygen.formats.effect import NATIVE
from policygen.model import ALLOW
from policygen.sets import region
from policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError, constant
from tracer.abi import constants, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.formats import FormatOptions

_WORD = (1 << 64) - 1
_MAX_DEPTH = 64
_DIGITS = 80
"""More digits than any number of 64 bits has."""
_ATOM = re.compile(r"arg(\d{1,3})\s+(==|!=|<=|>=|<|>|&|in)\s+(\S+)")
_CONSTANT = re.compile(r"\s*(~)?(?:(\()|([A-Za-z_]\w*)|(-?(?:0[xX][0-9a-fA-F]+|\d+))(?!\w))")
_OTHER = "is of compile_seccomp_policy.py, not of minijail0 -S: compile it with that and import the result with --from bpf"


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    """Return the policy of a file for `minijail0 -S` on x86_64."""
    try:
        return _MinijailReader(filename).read(data.decode("utf-8", "replace"))
    except TooComplexError as error:
        raise ImportFormatError(f"{filename}: no policy says what it does: {error}") from error


class _MinijailReader:
    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.line = 0
        self.space = region.space()
        self.allow = self.space.terminal(bpf.ret(ALLOW))
        self.kill = self.space.terminal(bpf.KILL_THREAD)
        self.reversed: list[str] = []
        """Calls with a line that the two compilers read differently."""

    def read(self, text: str) -> Imported:
        answers: dict[int, int] = {}
        for line in self._lines(text):
            name, colon, body = (part.strip() for part in line.partition(":"))
            if not colon or not body:
                self._fail(f"a line is `NAME: FILTER`, not {line!r}")
            number = self._number(name)
            if number in answers:
                self._fail(f"{name} is there twice")
            answers[number] = self._answer(name, body)
        losses: tuple[Loss, ...] = ()
        if self.reversed:
            text = "compile_seccomp_policy.py reads `EXPRESSION; return` the other way round; this is what minijail0 -S does"
            losses = (Loss(Direction.OTHER, text, tuple(self.reversed)),)
        return policy_of(self.space, answers, bpf.KILL_THREAD, losses)

    def _lines(self, text: str) -> Iterator[str]:
        """Yield the statements; a line that ends in a backslash continues in the next one."""
        whole = ""
        for self.line, line in enumerate(text.split("\n"), 1):
            whole += line
            if whole.endswith("\\"):
                whole = whole[:-1] + " "
                continue
            statement, whole = whole.strip(), ""
            if statement.startswith("@frequency"):
                continue  # for speed only
            if statement.startswith("@include"):
                self._fail("includes are not followed: put the content of the file in their place")
            if statement.startswith(("@", "{")):
                self._fail(f"{statement.split()[0]} {_OTHER}")
            if statement and not statement.startswith("#"):
                yield statement
        if whole:
            self._fail("the last line goes on")

    def _number(self, name: str) -> int:
        call = table(NATIVE).by_name.get(name)
        if call is None:
            hint = did_you_mean(name, table(NATIVE).by_name)
            self._fail(f"{NATIVE} has no system call {name}{': ' if hint else ''}{hint}")
        return call.number

    def _answer(self, name: str, body: str) -> int:
        """Return the function from arguments to the filter's return value, for one call."""
        if body == "1":
            return self.allow
        if body.startswith("return"):
            return self._returned(body)
        condition, semicolon, returned = (part.strip() for part in body.partition(";"))
        otherwise = self.kill
        if semicolon:
            otherwise = self._returned(returned)
            self.reversed.append(name)
        holds = FALSE
        for group in condition.split("||"):
            both = TRUE
            for atom in group.split("&&"):
                both = self.space.and_(self._atom(atom.strip()), both)
            holds = self.space.or_(both, holds)
        return self.space.ite(holds, self.allow, otherwise)

    def _returned(self, text: str) -> int:
        words = text.split()
        if words == ["return"]:
            return self.kill
        if len(words) != 2 or words[0] != "return":
            self._fail(f"{text!r} is no `return ERROR`")
        return self.space.terminal(ERRNO | self._constant(words[1]) & bpf.DATA_MASK)

    def _atom(self, text: str) -> int:
        match = _ATOM.fullmatch(text)
        if not match:
            self._fail(f"{text!r} is no comparison `argN OPERATOR VALUE`" + (f"; it {_OTHER}" if text in _ACTIONS else ""))
        index, operator, value = int(match[1]), match[2], self._constant(match[3])
        if index > 5:
            self._fail(f"a call has arg0 to arg5, and no arg{index}")
        return compared(self.space, region.argument_word(self.space, index), operator, value)

    def _constant(self, text: str) -> int:
        """Return the 64-bit value of constants and numbers, complemented and joined by `|`."""
        value, end = self._joined(text, 0)
        if end < len(text):
            self._fail(f"{text!r} is no constant from {text[end:]!r} on")
        return value

    def _joined(self, text: str, at: int, depth: int = 0) -> tuple[int, int]:
        """Return the value that begins at that place, and the place after it."""
        if depth > _MAX_DEPTH:
            self._fail(f"a constant is nested more than {_MAX_DEPTH} deep")
        value = 0
        while True:
            match = _CONSTANT.match(text, at)
            if not match:
                self._fail(f"{text[at:]!r} is no constant")
            complement, parenthesis, name, number = match.groups()
            at = match.end()
            if parenthesis:
                one, at = self._joined(text, at, depth + 1)
                if not text.startswith(")", at):
                    self._fail("a parenthesis is not closed")
                at += 1
            else:
                one = self._named(name) if name else self._integer(number)
            value |= (~one if complement else one) & _WORD
            if not text.startswith("|", at):
                return value, at
            at += 1

    def _named(self, name: str) -> int:
        value = constants.value(name, NATIVE)
        if value is None:
            self._fail(f"no constant is named {name}")
        return value

    def _integer(self, text: str) -> int:
        digits = text.removeprefix("-")
        base = 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" else 10
        try:
            value = int(text, base) if len(text) < _DIGITS else 1 << 64
        except ValueError:
            self._fail(f"{text} is no number: an octal one has digits 0-7")
        if not -(1 << 63) <= value <= _WORD:
            self._fail(f"{text[:_DIGITS]} does not fit in 64 bits")
        return value

    def _fail(self, message: str) -> NoReturn:
        raise ImportFormatError(f"{self.filename}:{self.line}: {message}")


_ACTIONS = frozenset(("allow", "kill", "kill-process", "kill-thread", "trap", "trace", "log", "user-notify"))


def compared(space: Space, word: tuple[int, ...], operator: str, value: int) -> int:
    """Return the set where the unsigned comparison of a 64-bit word with the value holds (bpf.c bpf_arg_comp)."""
    other = constant(value, 64)
    match operator:
        case "==":
            return space.equal(word, other)
        case "!=":
            return space.invert(space.equal(word, other))
        case ">":
            return space.greater(word, other)
        case "<=":
            return space.invert(space.greater(word, other))
        case "<":
            return space.greater(other, word)
        case ">=":
            return space.invert(space.greater(other, word))
    chosen = constant(value if operator == "&" else ~value & _WORD, 64)
    some = FALSE  # whether any of those bits is set
    for bit, keep in zip(word, chosen, strict=True):
        some = space.or_(bit, some) if keep else some
    return some if operator == "&" else space.invert(some)
