"""The position of the parsers in a policy's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.errors import PolicyError
    from policygen.language.lexer import Source, Token


class Cursor:
    """A position in the tokens of one text; it never passes the last token, which is `end`."""

    def __init__(self, source: Source, tokens: Sequence[Token]) -> None:
        self.source = source
        self._tokens = tokens
        self._index = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self._tokens[self._index]

    @property
    def following(self) -> Token:
        """The token after the next one."""
        return self._tokens[min(self._index + 1, len(self._tokens) - 1)]

    @property
    def previous_end(self) -> int:
        """The offset after the last token that was read."""
        return self._tokens[self._index - 1].end if self._index else 0

    def take(self) -> Token:
        token = self._tokens[self._index]
        self._index += token.kind != "end"
        return token

    def accept(self, text: str) -> Token | None:
        """Take and return the next token if it is this mark or word; else return None."""
        return self.take() if self.token.text == text and self.token.kind in ("mark", "word") else None

    def at_line_end(self) -> bool:
        return self.token.kind in ("newline", "end")

    def error(self, message: str, token: Token | None = None, hint: str = "") -> PolicyError:
        """Return the error for a mistake at a token, by default the next one."""
        at = token or self.token
        return self.source.error(message, at.start, max(at.end, at.start + 1), hint)

    def expected(self, what: str, hint: str = "") -> PolicyError:
        """Return the error that the next token is not the expected one."""
        found = "the line ends" if self.at_line_end() else f"found `{self.token.text}`"
        return self.error(f"expected {what}, but {found}", hint=hint)
