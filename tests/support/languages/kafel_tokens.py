"""The words of Kafel's language (src/lexer.l)."""

from __future__ import annotations

import re
from typing import NoReturn

from policygen.formats import ImportFormatError
from policygen.formats.kafel import KEYWORDS
from tracer.named import NamedTuple

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+|//[^\n]*|/\*(?s:.*?)\*/)"
    r"|(?P<number>0x[0-9a-fA-F]+|0b[01]+|0[0-9]+|0|-?[1-9][0-9]*)"
    r"|(?P<word>[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<sign>==|!=|<=|>=|\|\||&&|[<>|&\[\](){},!#])"
)


class KafelToken(NamedTuple):
    kind: str
    """`number`, `word`, `sign`, or `end` for what comes after the last one."""
    text: str
    start: int


class Tokens:
    """A text's tokens, read one by one.  Errors are ImportFormatError, with the position."""

    def __init__(self, filename: str, text: str) -> None:
        self._filename, self._text = filename, text
        self._tokens = self._split()
        self.at = 0
        """Index of the next token; may be set back."""

    def _split(self) -> list[KafelToken]:
        found = []
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if not match:
                self._fail_at(at, f"{self._text[at]!r} is not of the language")
            if match.lastgroup != "space":
                found.append(KafelToken(str(match.lastgroup), match[0], at))
            at = match.end()
        return [*found, KafelToken("end", "", len(self._text))]

    def next(self) -> KafelToken:
        return self._tokens[self.at]

    def step(self) -> KafelToken:
        token = self.next()
        self.at = min(self.at + 1, len(self._tokens) - 1)
        return token

    def take(self, text: str) -> bool:
        """Read the next token if it has that text, and return whether it has."""
        found = self.next().text == text
        if found:
            self.step()
        return found

    def need(self, text: str) -> None:
        if not self.take(text):
            self.fail(f"{text} is missing")

    def identifier(self, what: str) -> str:
        if self.next().kind != "word" or self.next().text in KEYWORDS:
            self.fail(f"{self.next().text or 'the end'} is not {what}")
        return self.step().text

    def number(self) -> int:
        """64 bits, unsigned."""
        if self.next().kind != "number":
            self.fail(f"{self.next().text or 'the end'} is no number")
        text = self.step().text
        base = 16 if text.startswith("0x") else 2 if text.startswith("0b") else 8 if text.startswith("0") else 10
        try:
            value = int(text, base) if len(text) < _DIGITS else 1 << 64
        except ValueError:
            self.fail(f"{text} is no number: an octal one has digits 0-7", back=1)
        if not -(1 << 63) <= value < 1 << 64:
            self.fail(f"{text[:_DIGITS]} does not fit in 64 bits", back=1)
        return value & (1 << 64) - 1

    def fail(self, message: str, back: int = 0) -> NoReturn:
        """Raise ImportFormatError about the next token, or one that was read before it."""
        self._fail_at(self._tokens[self.at - back].start, message)

    def _fail_at(self, at: int, message: str) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        raise ImportFormatError(f"{self._filename}:{line}:{column}: {message}")


_DIGITS = 80
"""More digits than any number of 64 bits has."""
