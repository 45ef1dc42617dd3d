"""A C parameter -> an argument's width, sign and kind, by the rules of kinds.tsv."""

from __future__ import annotations

from dataclasses import dataclass

from abi_sources import TOOLS, SourceError, read_tsv

_TYPES = {
    **dict.fromkeys(("int", "__s32", "pid_t", "clockid_t", "timer_t", "key_t", "key_serial_t"), "s32"),
    **dict.fromkeys(("mqd_t", "rwf_t"), "s32"),
    **dict.fromkeys(("unsigned", "unsigned int", "u32", "__u32", "uid_t", "gid_t", "qid_t"), "u32"),
    **dict.fromkeys(("umode_t", "old_uid_t", "old_gid_t"), "u16"),
    **dict.fromkeys(("long", "off_t", "ssize_t"), "s"),
    **dict.fromkeys(("unsigned long", "size_t", "compat_size_t", "aio_context_t", "old_sigset_t"), "u"),
    "enum landlock_rule_type": "u32",
    "loff_t": "s64",
    "__u64": "u64",
}
"""How the kernel reads each scalar type, the register's width where none is given (linux/types.h, linux/posix_types.h)."""

_POINTERS = frozenset(("cap_user_header_t", "cap_user_data_t", "__sighandler_t"))
"""Typedefs of pointers (linux/capability.h, asm-generic/signal-defs.h)."""
_POINTED = frozenset(("path", "text", "words", "sockaddr", "message"))
"""Kinds of pointers alone."""


@dataclass(frozen=True)
class Parameter:
    """One C parameter, `__user` removed."""

    ctype: str
    name: str

    @property
    def bare(self) -> str:
        """The type without const."""
        return self.ctype.removeprefix("const ")

    @property
    def is_pointer(self) -> bool:
        return "*" in self.ctype or self.bare in _POINTERS

    def width(self, bits: int) -> str:
        """`s32`, `u64` ...: sign and width on an architecture whose registers have so many bits."""
        if self.is_pointer:
            return f"u{bits}"
        try:
            read = _TYPES[self.bare]
        except KeyError:
            raise SourceError(f"{self.ctype} {self.name}: a type that tools/abi_kinds.py does not know") from None
        width = read if read[1:] else f"{read}{bits}"
        if int(width[1:]) > bits:
            raise SourceError(f"{self.ctype} {self.name}: wider than a register: give the split entry point")
        return width


def parameters(signature: str) -> list[Parameter]:
    """`int dfd, const char * filename` -> its parameters."""
    found = []
    for text in filter(None, signature.split(", ")):
        ctype, _, name = text.rpartition(" ")
        found.append(Parameter(ctype, name))
    return found


@dataclass(frozen=True)
class Rule:
    """A row of kinds.tsv: what a call's argument means."""

    kind: str
    constants: str
    exact: str
    width: str
    row: int = -1


class Rules:
    """All rows of kinds.tsv.  The last that matches wins, one for the call itself before one for any call."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str, bool], Rule] = {}
        self._rows = read_tsv(TOOLS / "kinds.tsv")
        self._used: set[tuple[int, str]] = set()
        for index, row in enumerate(self._rows):
            rule = Rule(row["kind"], row["constants"], row["exact"], row["as"], index)
            for call in row["calls"].split(","):
                for argument in row["arguments"].split(","):
                    self._rules[call, argument, rule.kind in {*_POINTED, "pointer"}] = rule

    def argument(self, call: str, parameter: Parameter, bits: int) -> str:
        """The cell of a table: `name:ctype:width:kind:constants:exact`, trailing empty fields left out.

        Raises SourceError if the parameter is an integer that no row names.
        """
        rule = self._find(call, parameter)
        self._used |= {(rule.row, call), (rule.row, "*"), (rule.row, parameter.name)}
        width = parameter.width(bits)
        if rule.width and int(rule.width[1:]) <= bits:
            width = rule.width
        cell = (parameter.name, parameter.ctype, width, rule.kind, rule.constants, rule.exact)
        return ":".join(cell).rstrip(":")

    def _find(self, call: str, parameter: Parameter) -> Rule:
        """Rules of kinds in _POINTED match pointers, of kind pointer either, of any other kind integers."""
        name = parameter.name
        for asked in call, "*":
            for pointer in (True,) if parameter.is_pointer else (False, True):
                rule = self._rules.get((asked, name, pointer))
                if rule and (parameter.is_pointer or rule.kind not in _POINTED):
                    return rule
        if parameter.is_pointer:
            return Rule("pointer", "", "", "")
        raise SourceError(f"{call}: no row of tools/kinds.tsv says what {parameter.ctype} {name} means")

    def unused(self) -> list[str]:
        """Calls and arguments that a row names and that no table has there: misspelt, or shadowed by a later row."""
        return [
            f"{name} (row {row['calls']} {row['arguments']})"
            for index, row in enumerate(self._rows)
            for name in (*row["calls"].split(","), *row["arguments"].split(","))
            if (index, name) not in self._used
        ]
