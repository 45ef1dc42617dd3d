"""Make words from a program's memory safe to print, and write patterns where they vary from run to run.

Text that looks like a key, a token or a password is replaced, because evidence is committed and logs are stored.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import pairwise

from callfence.policygen.text import UNSEEN

SECRET = "<secret>"
"""Replaces text that looks like a secret."""
_SHORTEST = 12
"""The fewest characters of a name that is searched for a secret, unless the name has the mark of a password."""
_TOKENS = (
    r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}",  # AWS
    r"gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",
    r"gl(?:pat|ptt|dt|rt|soat|cbt|ft|imt|agent|oas|rtr)-[\w-]{16,}",  # GitLab
    r"xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}",  # Slack
    r"sk-(?:\w*-)*?(?=\w*[0-9])\w{16,}[\w-]*",  # OpenAI, Anthropic; each part is read from its beginning alone
    r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+]{16,}",  # Stripe
    r"npm_[A-Za-z0-9]{30,}|pypi-(?=[\w-]*[A-Z])(?=[\w-]*[0-9])[\w-]{20,}|rubygems_[0-9a-f]{32,}",
    r"dckr_pat_[\w-]{20,}|hf_[A-Za-z0-9]{20,}|dop_v1_[0-9a-f]{32,}|shp(?:at|ss|ca|pa)_[0-9a-fA-F]{32}|lin_api_[A-Za-z0-9]{20,}",
    r"AIza[\w-]{30,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,}",  # Google
    r"SG\.[\w-]{16,}\.[\w-]{16,}|hv[sb]\.[\w-]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{16,}",
    r"eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)*",  # JSON web tokens (RFC 7519)
    r"\b[0-9]{8,10}:[\w-]{35}\b",  # Telegram
)
_NAMED = (
    r"(?i:(?<![a-z])(?:pass|passwd|password|passphrase|pwd|secret|token|apikey|(?:api|access|secret|private|auth)[_-]?key"
    r"|(?:access|auth|client|refresh|bearer|id|session)[_-]?(?:token|secret)|credentials?|authorization)=)"
)
_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*"
_USER = r"[^/:@\s\"=]{1,256}:[^/:@\s\"]+@(?!sha256:)(?=[\w.\[-])"
"""A name, of which no more than the end counts, or a long word would be read again from each of its characters; a password."""
_BASE64 = r"[A-Za-z0-9+_-]{28,}={0,2}"
_HEXADECIMAL = r"(?<![A-Za-z0-9])(?=[0-9A-F]*[0-9])(?=[0-9A-F]*[A-F])[0-9A-F]{32,}(?![A-Za-z0-9])"
"""A hexadecimal secret in capitals; one in small letters already becomes a pattern (`_RANDOM`)."""


def masked(name: str) -> str:
    """Return the name with `<secret>` in place of each part that looks like a secret.  Idempotent."""
    if len(name) < _SHORTEST and "=" not in name and "@" not in name:
        return name
    tokens, base64 = _expressions()
    return base64.sub(lambda match: SECRET if _is_random(match[0]) else match[0], tokens.sub(_replacement, name))


@cache
def _expressions() -> tuple[re.Pattern[str], re.Pattern[str]]:
    tokens = rf"(?<![A-Za-z0-9])(?:{'|'.join(_TOKENS)})"
    whole = rf"{_PEM}|(?P<named>{_NAMED})[^&;,\s\"']+|(?P<user>{_USER})|{tokens}|{_HEXADECIMAL}"
    return re.compile(whole, re.DOTALL), re.compile(_BASE64)


def _replacement(match: re.Match[str]) -> str:
    if match["named"]:
        return f"{match['named']}{SECRET}"
    return f"{SECRET}@" if match["user"] else SECRET


def _is_random(text: str) -> bool:
    """Whether letters and digits alternate as in base64 of random bytes, not as in words."""
    plain = re.sub(r"[^A-Za-z0-9]", "", text)
    if len(plain) < 24 or sum(map(str.isdigit, plain)) < 2:
        return False
    kinds = [(c.isupper(), c.isdigit()) for c in plain]
    changes = sum(kind != following for kind, following in pairwise(kinds))
    return len({*kinds}) == 3 and changes >= 0.42 * len(plain)


# Patterns are compiled when they are first used: a learn of a moment uses few of them.
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_UUID_LENGTH = 36
_RANDOM = r"[0-9]{7,}|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,}"
"""Pattern of times, and of digests in hexadecimal."""
_RANDOM_LENGTH = 7
_DIGITS = r"[0-9]+"
_TEMPORARY = r"(?P<start>.*?)(?P<random>[A-Za-z0-9_]{6,})(?P<end>(?:\.[a-z]{1,5}){0,2})"
"""A name as mkstemp(3), mktemp(1) and others make: at least six characters of the random kind before any suffix."""
_MAX_WORD = 64
"""The most characters of one word of a pattern."""


def escaped(data: bytes | str) -> str:
    r"""Return the text with each `*` as `\*`, and each unprintable or invisible character, backslash or quote escaped, so that
    it can neither control a terminal nor fake a line, the end of a quoted text or another name."""
    text = data.decode(errors="surrogateescape") if isinstance(data, bytes) else data
    is_seen = text.isprintable() and (text.isascii() or UNSEEN.isdisjoint(text))
    if is_seen and '"' not in text and "\\" not in text and "*" not in text:
        return text
    return "".join(_shown(c) for c in text)


def _shown(c: str) -> str:
    if c in "\\*":
        return f"\\{c}"
    if c.isprintable() and c != '"' and c not in UNSEEN:
        return c
    return "".join(f"\\x{byte:02x}" for byte in c.encode(errors="surrogateescape" if c >= "\udc80" else "replace"))


@lru_cache(maxsize=4096)
def steady(word: str, ids: tuple[int, ...], *, temporary: bool = False, created: bool = False, process: bool = False) -> str:
    """Return the word with `*` in place of the parts that vary from run to run (`sort*` for `/tmp/sortA7xK2q`, `*` for a pid in
    /proc), and with `<secret>` in place of secrets.

    `ids`: numbers that vary, such as the pid of the caller.  `temporary`: the word is in a folder of temporary files;
    `created`: the program has created the name as mkstemp(3) does; `process`: the word is part of a path in /proc."""
    if process and word.isdigit():
        return "*"
    word = masked(word)
    if not (temporary or created or re.search(_DIGITS, word)):  # most names: times, digests and numbers have digits
        return word if len(word) <= _MAX_WORD else _cut(word)
    if created and (match := re.fullmatch(_TEMPORARY, word)):
        end = match["random"][-6:]
        temporary = not (end.isalpha() and end.islower())  # as one in 200 random ones is
    text = re.sub(_UUID, "*", word) if len(word) >= _UUID_LENGTH else word
    text = re.sub(_RANDOM, "*", text) if len(text) >= _RANDOM_LENGTH else text
    if temporary:
        text = re.sub(_DIGITS, lambda match: "*" if len(match[0]) > 2 else match[0], _without_random(text))
    elif ids:
        text = re.sub(_DIGITS, lambda match: "*" if int(match[0]) in ids else match[0], text)
    while "**" in text:  # two stars are a pattern of their own
        text = text.replace("**", "*")
    return text if len(text) <= _MAX_WORD else _cut(text)


def _cut(text: str) -> str:
    return f"{text[:_MAX_WORD].rstrip(chr(92))}*"


def _without_random(word: str) -> str:
    """Return a temporary name without its random end.

    The random end is a guess: everything after a dot, a dash, `tmp` or `cc`, all of a short name, else the last six characters.
    """
    match = re.fullmatch(_TEMPORARY, word)
    if match is None:
        return word
    start, random = match["start"], match["random"]
    if not start:
        start = next((prefix for prefix in ("tmp", "cc") if random.startswith(prefix)), random[:-6] if len(random) > 8 else "")
    return f"{start}*{match['end']}"
