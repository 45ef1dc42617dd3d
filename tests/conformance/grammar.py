"""The grammar of docs/grammar.md, read from the page: whether it derives a text, and texts that it derives."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lark import Lark
from lark.exceptions import UnexpectedInput
from lark.grammar import NonTerminal
from lark.lexer import PatternStr

from callfence.policygen.language.operands import operands
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lark import Token
    from lark.grammar import Rule, Symbol

PAGE = Path(__file__).parent.parent.parent / "docs" / "grammar.md"
GRAMMAR = re.findall(r"^```lark\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


class _WholeWords:
    """Makes Lark's lexer read `errno18` as one word also where no name can follow."""

    always_accept = ("NAME",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


LARK = Lark(GRAMMAR[0], start=["file", "statement"], parser="lalr", lexer="contextual", postlex=_WholeWords())
KINDS = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
"""The kinds of mistakes that the page lists."""


class _Reductions(dict[Any, Any]):
    """The callbacks of Lark's parser, which notes the productions that it reduces by."""

    used: set[Rule]

    def __getitem__(self, rule: Rule) -> Any:
        self.used.add(rule)
        return super().__getitem__(rule)


_REDUCTIONS = _Reductions(LARK.parser.parser.parser.callbacks)
LARK.parser.parser.parser.callbacks = _REDUCTIONS


def productions(text: str) -> set[Rule]:
    """The productions by which the grammar derives a text, whose byte order mark and carriage returns are skipped.  Raises
    UnexpectedInput."""
    _REDUCTIONS.used = set()
    LARK.parse(text.removeprefix("\ufeff").replace("\r\n", "\n"), start="file")
    return _REDUCTIONS.used


def derives(text: str) -> bool:
    """Whether the grammar derives a text."""
    try:
        productions(text)
    except UnexpectedInput:
        return False
    return True


TEXTS = {
    "FILE": ["rules.policy", "a b # c", "in"],
    "PATH": ["/etc", ".", "$HOME/a", '"/a b\\n\\x41"', "relative", "$CWD", "/a/../b"],
    "SOCKET": ["/run/a", "@name", "@a*", "any", '"/run/a b"', "@a*b"],
    "HOST": ["example.org", "*.example.org", "10.0.0.0/8", "10.0.0.1/8", "192.0.2.7", "[2001:db8::1]", "2001:db8::/32", "any"],
    "INTEGER": ["0", "1", "1", "1", "2", "6", "18", "0x1f", "010", "0o17", "-1", "443"],
    "RANGE": ["8000-8099", "9-8"],
    "_LINES": [""],
}
"""What stands for terminals that are patterns."""
_ENDS = ["\n", " # comment\n", "\n\n  # comment\n\t", " "]
_GOES_ON = ["", "", "", "\n  ", " # comment\n\n "]


class Deriver:
    """Derives texts from the grammar, at random; names are, mostly, those of one call, its arguments and their constants."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.used: set[Rule] = set()
        self.call, self.argument = _CALLS[0], 0

    def text(self, start: str, depth: int = 25) -> str:
        return "".join(f"{part} " if not part.endswith("\n") else part for part in self._derived(NonTerminal(start), depth))

    def _derived(self, symbol: Symbol, depth: int) -> Iterator[str]:
        if not isinstance(symbol, NonTerminal):
            yield self._terminal(symbol.name)
            return
        rules = [rule for rule in LARK.rules if rule.origin == symbol]
        if depth <= 0:
            least = min(map(_height, rules))
            rules = [rule for rule in rules if _height(rule) == least]
        rule = self.random.choice(rules)
        self.used.add(rule)
        if (named := _NAMES.get(str(symbol.name))) and any(part.name == "NAME" for part in rule.expansion):
            yield named(self)
            return
        for part in rule.expansion:
            yield from self._derived(part, depth - 1)

    def _terminal(self, name: str) -> str:
        if name in TEXTS:
            return self.random.choice(TEXTS[name])
        if name == "_ENDS":
            return self.random.choice(_ENDS[:3])
        pattern = next(terminal.pattern for terminal in LARK.terminals if terminal.name == name)
        if isinstance(pattern, PatternStr):
            return pattern.value
        text = self.random.choice(_WORDS[name])
        before, after = _SIDES[name]
        return self._ends(before) + text + self._ends(after)

    def _ends(self, is_possible: bool) -> str:
        return self.random.choice(_GOES_ON) if is_possible else ""

    def _syscall(self) -> str:
        self.call = self.random.choice(_CALLS)
        return table(Arch.X86_64).by_number[self.call].name

    def _argument(self) -> str:
        known = operands(Arch.X86_64, self.call)
        names = known.constrainable()
        name = self.random.choice(names) if names else "fd"
        self.argument = known.index(name) or 0
        return name

    def _constant(self) -> str:
        families = operands(Arch.X86_64, self.call).families(self.argument)
        names = [name for family in families for name in family.names]
        return self.random.choice(names or ["O_RDONLY"])


_NAMED = ("openat", "mmap", "read", "socket", "fcntl", "lseek", "prlimit64")
_CALLS = [table(Arch.X86_64).by_name[name].number for name in _NAMED]
_NAMES: dict[str, Callable[[Deriver], str]] = {
    "syscall": Deriver._syscall,
    "argument": Deriver._argument,
    "constant": Deriver._constant,
    "errno": lambda deriver: "EPERM",
    "phase_name": lambda deriver: "serving",
    "trigger": lambda deriver: deriver.random.choice(["read", "epoll_wait", "enter"]),
}
_WORDS = {
    "_OR": ["||"], "_AND": ["&&"], "_BAR": ["|"], "_MASK": ["&"], "_COMMA": [","], "_COLON": [":"], "_NOT": ["!"],
    "_OPEN": ["("], "_CLOSE": [")"], "_BEGIN": ["{"], "_STOP": ["}"], "_IN": ["in"], "_IF": ["if"], "_ELSE": ["else"],
    "_UNTIL": ["until"], "_AFTER": ["after"], "EQUALITY": ["==", "!="], "COMPARISON": ["<", "<=", ">", ">=", "has"],
}  # fmt: skip
_ONLY_AFTER, _ONLY_BEFORE = ("_COLON", "_NOT", "_OPEN", "_BEGIN"), ("_CLOSE", "_STOP", "_UNTIL", "_AFTER")
_SIDES = {name: (name not in _ONLY_AFTER, name not in _ONLY_BEFORE) for name in _WORDS}
"""Whether lines may end before and after it."""


def _heights() -> dict[Symbol, int]:
    """The least depth of what each symbol derives."""
    heights: dict[Symbol, int] = {}
    while True:
        before = dict(heights)
        for rule in LARK.rules:
            parts = [0 if not isinstance(part, NonTerminal) else heights.get(part, 1 << 20) for part in rule.expansion]
            heights[rule.origin] = min(heights.get(rule.origin, 1 << 20), 1 + max(parts, default=0))
        if heights == before:
            return heights


_HEIGHTS = _heights()


def _height(rule: Rule) -> int:
    return max((_HEIGHTS.get(part, 0) for part in rule.expansion), default=0)


def completed(text: str) -> str:
    """The text with what its phases need: a phase is declared and ends something."""
    if "phase serving" in text:
        return f"{text}\nread: allow\nepoll_wait: allow\nbind: allow until serving\n"
    return f"phase serving after enter\n{text}\nbind: allow until serving\n" if re.search(r"\buntil serving", text) else text
