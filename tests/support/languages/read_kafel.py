"""What Kafel's policies mean, as nsjail compiles them for x86_64 (src/parser.y, src/codegen.c): exports are held against it.

Calls without declared arguments use the kernel's argument names, as in Kafel's own table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kafel_expressions import Expressions, Operand
from kafel_tokens import Tokens
from language_filters import ERRNO, policy_of

from policygen.errors import did_you_mean
from policygen.filter import bpf
from policygen.formats import ImportFormatError
from policygen.formats.effect import NATIVE
from policygen.model import ALLOW, KILL, Action, ActionKind
from policygen.sets import region
from policygen.sets.algebra import TRUE, TooComplexError
from tracer.abi import table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from policygen.formats import FormatOptions, Imported

_ACTIONS = {
    "ALLOW": bpf.ret(ALLOW),
    "LOG": bpf.ret(Action(ActionKind.LOG)),
    "USER_NOTIF": bpf.ret(Action(ActionKind.NOTIFY)),
    "KILL_PROCESS": bpf.ret(KILL),
    "KILL": bpf.KILL_THREAD,
    "KILL_THREAD": bpf.KILL_THREAD,
    "DENY": bpf.KILL_THREAD,
}
_WITH_NUMBER = {"ERRNO": ERRNO, "TRAP": bpf.ret(Action(ActionKind.TRAP)), "TRACE": bpf.TRACE}
_ARCHES = frozenset((
    "arm", "aarch64", "arm64", "x86_64", "amd64", "x86", "i386", "mips", "mipso32", "mips64", "riscv64", "rv64", "m68k",
))
# src/syscalls/amd64_syscalls.c has the kernel's inner names for these
_RENAMED = {
    "newstat": "stat",
    "newfstat": "fstat",
    "newlstat": "lstat",
    "newuname": "uname",
    "sendfile64": "sendfile",
    "sysctl": "_sysctl",
    "umount": "umount2",
}


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    """Return the policy of a file for `nsjail --seccomp_policy`."""
    try:
        return _KafelReader(filename, data.decode("utf-8", "replace")).read()
    except TooComplexError as error:
        raise ImportFormatError(f"{filename}: no policy says what it does: {error}") from error


_MAX_USED = 1 << 16
"""Most rules taken from other policies: each policy may use another one twice, so thirty lines could make 2^30 rules."""


class _Rule(NamedTuple):
    ret: int
    number: int
    where: int
    """The set of arguments for which it decides."""


class _KafelReader:
    def __init__(self, filename: str, text: str) -> None:
        self.space = region.space()
        self.tokens = Tokens(filename, text)
        self.constants: dict[str, int] = {}
        self.policies: dict[str, list[_Rule]] = {}
        self.used = 0
        """Number of rules that were taken from other policies."""

    def read(self) -> Imported:
        tokens = self.tokens
        main: list[_Rule] = []
        default = None
        while tokens.next().kind != "end":
            if tokens.take("#"):
                self._define()
            elif tokens.take("POLICY"):
                name = tokens.identifier("a policy's name")
                if name in self.policies:
                    tokens.fail(f"there is a policy {name} already", back=1)
                tokens.need("{")
                self.policies[name] = [] if tokens.next().text == "}" else self._statements()
                tokens.need("}")
            elif tokens.take("DEFAULT"):
                if default is not None:
                    tokens.fail("there is a default already", back=1)
                default = self._action()
            else:
                main += self._statements()
        default = bpf.KILL_THREAD if default is None else default
        answers: dict[int, int] = {}
        for rule in reversed(main):  # the first that holds decides
            before = answers.get(rule.number, self.space.terminal(default))
            answers[rule.number] = self.space.ite(rule.where, self.space.terminal(rule.ret), before)
        return policy_of(self.space, answers, default)

    # Statements

    def _define(self) -> None:
        tokens = self.tokens
        if not tokens.take("define"):
            tokens.fail("includes are not followed: put the content of the file in their place")
        name, number = tokens.identifier("a constant's name"), tokens.number()
        if self.constants.setdefault(name, number) != number:
            tokens.fail(f"{name} is defined already, as {self.constants[name]}", back=1)

    def _statements(self) -> list[_Rule]:
        tokens = self.tokens
        rules = self._statement()
        while tokens.take(","):
            rules += self._statement()
        return rules

    def _statement(self) -> list[_Rule]:
        tokens = self.tokens
        if tokens.take("USE"):
            name = tokens.identifier("a policy's name")
            if name not in self.policies:
                tokens.fail(f"no policy is named {name} so far", back=1)
            self.used += len(self.policies[name])
            if self.used > _MAX_USED:
                tokens.fail(f"policies use more than {_MAX_USED} rules of others", back=1)
            return list(self.policies[name])
        ret = self._action()
        tokens.need("{")
        rules: list[_Rule] = []
        while not tokens.take("}"):
            rules += self._rule(ret)
            if tokens.next().text != "}":
                tokens.need(",")
        return rules

    def _action(self) -> int:
        tokens = self.tokens
        token = tokens.step()
        if token.text in _ACTIONS:
            return _ACTIONS[token.text]
        if token.text not in _WITH_NUMBER:
            tokens.fail(f"{token.text or 'the end'} is no action", back=1)
        tokens.need("(")
        number = tokens.number()
        if number > bpf.DATA_MASK:
            tokens.fail(f"{number} is not in 0-{bpf.DATA_MASK}", back=1)
        tokens.need(")")
        return _WITH_NUMBER[token.text] | number

    def _rule(self, ret: int) -> list[_Rule]:
        """One rule, or none if it is for other architectures."""
        tokens = self.tokens
        number, names = self._call()
        if tokens.take("("):
            names = []
            while not tokens.take(")"):
                names.append((tokens.identifier("an argument's name"), 64))
                if tokens.next().text != ")":
                    tokens.need(",")
            if len(names) > 6 or len(dict(names)) < len(names):
                tokens.fail("a call has at most six arguments, each with a name of its own", back=1)
        ours = not tokens.take("ON") or self._guard()
        arguments = {
            name: Operand(region.argument_word(self.space, index), width == 64) for index, (name, width) in enumerate(names)
        }
        where = TRUE
        if tokens.take("{") and not tokens.take("}"):
            where = Expressions(tokens, self.space, self.constants, arguments).alternatives()
            tokens.need("}")
        return [_Rule(ret, number, where)] if ours else []

    def _call(self) -> tuple[int, list[tuple[str, int]]]:
        """Its number, and the names and widths of its arguments."""
        tokens = self.tokens
        if tokens.take("SYSCALL"):
            tokens.need("[")
            number = tokens.number() & bpf.WORD
            tokens.need("]")
            return number, []
        name = tokens.identifier("a system call")
        if name in self.constants:
            return self.constants[name] & bpf.WORD, []
        calls = table(NATIVE).by_name
        call = calls.get(_RENAMED.get(name, name))
        if call is None:
            hint = did_you_mean(name, calls)
            tokens.fail(f"{NATIVE} has no system call {name}{': ' if hint else ''}{hint}", back=1)
        return call.number, [(argument.name, argument.width) for argument in call.arguments]

    def _guard(self) -> bool:
        """Whether a rule is for x86_64."""
        tokens = self.tokens
        if tokens.take("{"):
            names = [tokens.identifier("an architecture")]
            while tokens.take(","):
                names.append(tokens.identifier("an architecture"))
            tokens.need("}")
        else:
            names = [tokens.identifier("an architecture")]
        if unknown := [name for name in names if name.lower() not in _ARCHES]:
            tokens.fail(f"no architecture is named {unknown[0]}", back=1)
        return any(name.lower() in ("x86_64", "amd64") for name in names)
