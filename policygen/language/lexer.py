"""Split a policy's text into tokens and comments with their places, in one pass, linear in the text.

A `Cursor` is a parser's position in the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from callfence.policygen.errors import Mistake, PolicyError
from callfence.policygen.text import UNSEEN
from callfence.tracer.named import NamedTuple


class Source(NamedTuple):
    """The text of a file, with the file's name; it converts offsets in the text into positions (line and column)."""

    filename: str
    text: str
    """With `\\n` line ends and no byte order mark."""
    chain: tuple[str, ...] = ()
    """`file:line` of the includes that led here, innermost first."""

    def line(self, offset: int) -> int:
        """Return the number, from 1, of the line that contains an offset."""
        return self.text.count("\n", 0, offset) + 1

    def place(self, offset: int) -> str:
        return f"{self.filename}:{self.line(offset)}"

    def error(self, message: str, start: int, end: int | None = None, hint: str = "", kind: Mistake = "syntax") -> PolicyError:
        """Return a PolicyError, for the caller to raise, about text[start:end]; without `end`, about one character."""
        begin = self.text.rfind("\n", 0, start) + 1
        line = self.text[begin:].partition("\n")[0]
        length = 1 if end is None else min(end - start, max(1, begin + len(line) - start))
        return PolicyError(self.filename, self.line(start), start - begin + 1, message, line, hint, length, self.chain, kind)


class Token(NamedTuple):
    kind: str
    """The kind of token: word, number, mark, newline or end; include, a file's name; path, that of a `path` line; unix, the
    socket of a `unix connect` line; query, the name of a `dns query` line; connect, bind or send, the host of a
    line about ports, by its use (`grants.USES`)."""
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Comment(NamedTuple):
    text: str
    """The comment from its `#` on, without trailing blanks."""
    start: int
    alone: bool
    """Whether the comment has a line of its own."""


_BINARY = "this file is binary: `callfence import --from bpf` converts a filter, `callfence verify` compares compiled ones"


def decode(data: bytes, filename: str, chain: tuple[str, ...] = ()) -> str:
    """Return the text of a policy file whose content is `data`.  Raises PolicyError at the first byte that is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        rest = data[error.start :].partition(b"\n")[0].decode(errors="replace")
        line = before[before.rfind("\n") + 1 :] + rest
        column = len(before) - before.rfind("\n")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        hint = _BINARY if b"\0" in data else "save the file as UTF-8"
        raise PolicyError(filename, before.count("\n") + 1, column, message, line, hint, 1, chain, "character") from None


def source(text: str, filename: str, chain: tuple[str, ...] = ()) -> Source:
    """Return a text as a `Source` for `tokenise`.  Raises PolicyError for a character that a policy must not contain."""
    result = Source(filename, text.removeprefix("\ufeff").replace("\r\n", "\n"), chain)
    if forbidden := _FORBIDDEN.search(result.text):
        character = forbidden[0]
        if "\udc80" <= character <= "\udcff":  # of a command line or a terminal (PEP 383); `decode` refuses those of files
            message, hint = f"byte 0x{ord(character) - 0xDC00:02x} is not UTF-8", "write it in UTF-8"
            raise result.error(message, forbidden.start(), hint=hint, kind="character")
        name = _FORBIDDEN_NAMES.get(character, f"the character U+{ord(character):04X}")
        raise result.error(
            f"{name} is not allowed in a policy", forbidden.start(), hint="remove it: people cannot see it", kind="character"
        )
    return result


# Control characters, those that reorder or hide the text around them (Unicode Standard Annex 9), and those that show nothing,
# such as tags (U+E0000 and following), by which a comment has a text that machines alone read.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    f"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff{''.join(sorted(UNSEEN))}]"
)
_FORBIDDEN_NAMES = {"\0": "a NUL byte", "\r": "a carriage return without a line feed"}

# A host of a line about ports.  After an IPv6 address without brackets, the line's own colon is the one that a blank follows.
_SCOPE_AND_PREFIX = r"(?:%[^\s:\#/]++)?(?:/[0-9]++)?"
_HOST = rf"""\[[^\]\s\#]*+\]?{_SCOPE_AND_PREFIX}
             | [0-9A-Fa-f:.]{{1,45}}{_SCOPE_AND_PREFIX}(?=:(?:\s|\#|\Z))
             | (?:[0-9A-Fa-f]{{0,4}}:){{2}}[0-9A-Fa-f:.]{{0,45}}{_SCOPE_AND_PREFIX}
             | [^\s\#:]++"""
_PATH = r""""(?:\\[^\n]|[^"\\\n])*+"?|[^\s"\#:]++"""
_NAMES = ("include", "path", "connect", "bind", "send", "unix", "query")
"""The kinds of tokens that are a name of files, sockets or hosts."""
_TOKEN = re.compile(
    rf"""^[ \t]*+include[ \t]++(?P<include>[^\n#][^\n]*)
      | ^[ \t]*+path[ \t]++(?P<path>{_PATH})
      | ^[ \t]*+tcp[ \t]++connect[ \t]++(?P<connect>{_HOST})
      | ^[ \t]*+tcp[ \t]++bind[ \t]++(?P<bind>{_HOST})
      | ^[ \t]*+udp[ \t]++send[ \t]++(?P<send>{_HOST})
      | ^[ \t]*+unix[ \t]++connect[ \t]++(?P<unix>{_PATH})
      | ^[ \t]*+dns[ \t]++query[ \t]++(?P<query>{_HOST})
      | [ \t]*+(?: (?P<newline>\n)
                 | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
                 | (?P<number>-?[0-9][A-Za-z0-9_]*)
                 | (?P<mark>==|!=|<=|>=|&&|\|\||[<>!&|(){{}},:.])
                 | (?P<comment>\#[^\n]*)
                 | (?P<end>\Z)
                 | (?P<stray>.) )""",
    re.VERBOSE | re.MULTILINE,
)

_CONFLICT = re.compile(r"^<{7} ", re.MULTILINE)
"""The beginning of a conflict that git, or `callfence merge`, has written into a file; no line of a policy begins so."""

# A statement continues on the next line after a token that cannot end one, and before a token that cannot begin one.
_EITHER = {"==", "!=", "<", "<=", ">", ">=", "&&", "||", "&", "|", ",", "in", "has", "if", "else"}
_CONTINUES_AFTER = _EITHER | {"!", "(", "{", ":"}
_CONTINUES_BEFORE = _EITHER | {")", "}", "until", "after"}
RESERVED = ("in", "has", "if", "else", "until", "after", "path", "include")
"""The words that are no names: a statement continues at them, or a line that begins with them is read in its own way."""

MAX_WORD = 255
"""The most characters of a name or number."""

_STRAY_HINTS = {
    "=": "equality is written ==",
    ";": "write one entry a line; join alternatives by ||",
    "~": "`x in A|B` is `x & ~(A|B) == 0`",
    "-": "write a negative number without a blank after its sign",
    "/": "files have lines such as `path ./data: read`, hosts `tcp connect example.org: 443` (without https://), sockets "
    "`unix connect /run/x` (without a colon)",
    '"': "write names and numbers without quotes",
    "'": "write names and numbers without quotes",
}


def tokenise(text: Source) -> tuple[list[Token], list[Comment]]:
    """Return the tokens of a text, of which the last is `end`, and its comments.  A newline token ends each statement.  Raises
    PolicyError for a character that begins no token, and for a name or number that is too long."""
    if marker := _CONFLICT.search(text.text):
        hint = "resolve the merge first; `callfence git-setup` has git merge policies by what they mean"
        raise text.error("this is a conflict of a merge by git", marker.start(), marker.end(), hint)
    tokens: list[Token] = []
    comments: list[Comment] = []
    newline: Token | None = None
    alone = True
    for match in _TOKEN.finditer(text.text):
        kind = match.lastgroup or "end"
        token = Token(kind, match[kind], match.start(kind))
        if kind == "newline":
            newline = newline or token
            alone = True
            continue
        if kind == "comment":
            comments.append(Comment(token.text.rstrip(), token.start, alone))
            continue
        if kind == "stray":
            raise _stray(text, token)
        if kind not in _NAMES and len(token.text) > MAX_WORD:
            raise text.error(f"this {kind} has more than {MAX_WORD} characters", token.start, token.end, kind="limit")
        goes_on = kind not in _NAMES and (
            token.text in _CONTINUES_BEFORE
            or (tokens and tokens[-1].kind not in _NAMES and tokens[-1].text in _CONTINUES_AFTER)
        )
        if newline and tokens and (kind == "end" or not goes_on):
            tokens.append(newline)
        newline = None
        if kind == "include":
            token = _path(token, comments)
        alone = False
        tokens.append(token)
        if kind == "end":
            break
    return tokens, comments


def _path(token: Token, comments: list[Comment]) -> Token:
    """Return the token with only the file's name; a comment after the name is added to `comments`."""
    if comment := re.search(r"[ \t]#", token.text):
        start = comment.end() - 1
        comments.append(Comment(token.text[start:].rstrip(), token.start + start, alone=False))
        return Token("include", token.text[:start].rstrip(), token.start)
    return Token("include", token.text.rstrip(), token.start)


def _stray(text: Source, token: Token) -> PolicyError:
    if token.text == "=" and text.text[token.end : token.end + 1] == ">":
        return text.error("`=>` is not an operator", token.start, token.end + 1, "at least is written >=")
    return text.error(f"`{token.text}` has no meaning in a policy", token.start, token.end, _STRAY_HINTS.get(token.text, ""))


class Cursor:
    """A parser's position in the tokens of one text; it does not move beyond the last token, which is `end`."""

    def __init__(self, source: Source, tokens: Sequence[Token]) -> None:
        self.source = source
        self._tokens = tokens
        self._index = 0

    @property
    def token(self) -> Token:
        """The next token, which has not been read yet."""
        return self._tokens[self._index]

    @property
    def following(self) -> Token:
        """The token after the next token, which must not be `end`."""
        return self._tokens[self._index + 1]

    @property
    def previous_end(self) -> int:
        """The offset after the last token that was read."""
        return self._tokens[self._index - 1].end if self._index else 0

    def take(self) -> Token:
        token = self._tokens[self._index]
        self._index += token.kind != "end"
        return token

    def accept(self, text: str) -> Token | None:
        """Read the next token and return it if it is the mark or word `text`; else return None, and read nothing."""
        return self.take() if self.token.text == text and self.token.kind in ("mark", "word") else None

    def has_read(self, texts: Collection[str], since: Token) -> bool:
        """Return whether a token that was read, from `since` on, has one of these texts."""
        for index in range(self._index - 1, -1, -1):
            token = self._tokens[index]
            if token.start < since.start or token.text in texts:
                return token.start >= since.start
        return False

    def at_line_end(self) -> bool:
        return self.token.kind in ("newline", "end")

    def error(self, message: str, token: Token | None = None, hint: str = "", kind: Mistake = "syntax") -> PolicyError:
        """Return a PolicyError, for the caller to raise, about a mistake at `token`, by default the next one."""
        at = token or self.token
        return self.source.error(message, at.start, max(at.end, at.start + 1), hint, kind)

    def expected(self, what: str, hint: str = "") -> PolicyError:
        """Return a PolicyError, for the caller to raise, that says that `what` was expected in place of the next token."""
        present = "the line ends" if self.at_line_end() else f"found `{self.token.text}`"
        return self.error(f"expected {what}, but {present}", hint=hint)
