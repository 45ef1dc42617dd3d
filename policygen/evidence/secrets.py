"""Words that look like keys, tokens and passwords, which evidence does not repeat: it is committed, and logs are kept."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

SECRET = "<secret>"
"""Stands for what looks like one."""
_SHORTEST = 12
"""Characters of a name in which one is looked for, unless it has a mark of a password."""
_TOKENS = (
    r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}",  # AWS
    r"gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",
    r"gl(?:pat|ptt|dt|rt|soat|cbt|ft|imt|agent|oas|rtr)-[\w-]{16,}",  # GitLab
    r"xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}",  # Slack
    r"sk-[\w-]*?(?=\w*[0-9])\w{16,}[\w-]*",  # OpenAI, Anthropic
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
_USER = r"[^/:@\s\"=]+:[^/:@\s\"]+@(?!sha256:)(?=[\w.\[-])"
_RANDOM = r"[A-Za-z0-9+_-]{28,}={0,2}"
_HEXADECIMAL = r"(?<![A-Za-z0-9])(?=[0-9A-F]*[0-9])(?=[0-9A-F]*[A-F])[0-9A-F]{32,}(?![A-Za-z0-9])"
"""In capitals: in small letters it is a pattern already, as digests are."""


def masked(name: str) -> str:
    """The name with `<secret>` for each part that looks like one.  Applying it again changes nothing."""
    if len(name) < _SHORTEST and "=" not in name and "@" not in name:
        return name
    known, random = _expressions()
    return random.sub(lambda found: SECRET if _is_random(found[0]) else found[0], known.sub(_replacement, name))


@cache
def _expressions() -> tuple[re.Pattern[str], re.Pattern[str]]:
    tokens = rf"(?<![A-Za-z0-9])(?:{'|'.join(_TOKENS)})"
    known = rf"{_PEM}|(?P<named>{_NAMED})[^&;,\s\"']+|(?P<user>{_USER})|{tokens}|{_HEXADECIMAL}"
    return re.compile(known, re.DOTALL), re.compile(_RANDOM)


def _replacement(found: re.Match[str]) -> str:
    if found["named"]:
        return f"{found['named']}{SECRET}"
    return f"{SECRET}@" if found["user"] else SECRET


def _is_random(text: str) -> bool:
    """Whether letters and digits follow one another as in base64 of random bytes, and not as in words."""
    plain = re.sub(r"[^A-Za-z0-9]", "", text)
    if len(plain) < 24 or sum(map(str.isdigit, plain)) < 2:
        return False
    kinds = [(c.isupper(), c.isdigit()) for c in plain]
    changes = sum(kind != following for kind, following in pairwise(kinds))
    return len({*kinds}) == 3 and changes >= 0.42 * len(plain)
