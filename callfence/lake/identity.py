"""Whose a file is: the host that it comes from, the version of the program, the name of the policy."""

from __future__ import annotations

import re
from collections.abc import Callable

from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

FIELDS = ("host", "version", "policy")
_WORD = re.compile(r"\{(\w*)\}|(\*)|([^{}*]+)|(.)", re.DOTALL)


class Identity(NamedTuple):
    """Whose a file is; "" where that is unknown."""

    host: str = ""
    version: str = ""
    policy: str = ""

    def over(self, other: Identity) -> Identity:
        """Return this identity, with what it lacks from another one."""
        return Identity(*(own or others for own, others in zip(self, other, strict=True)))


def layout(pattern: str) -> Callable[[str], Identity]:
    """Return the function that reads an identity from a path by a pattern such as `{host}/{version}`.

    The pattern is that of the path's beginning: whole names, in which `{host}`, `{version}` and `{policy}` each are a part, and
    `*` is anything.  A path that it does not fit gives nothing.  Raises UserError for a pattern of another form."""
    regex = ""
    for name, any_, literal, wrong in _WORD.findall(pattern):
        if wrong or (name and name not in FIELDS) or (not name and not any_ and not literal):
            what = "names, *, {host}, {version} and {policy}, as in {host}/{version}/*"
            raise UserError(f"--layout {pattern}: it takes {what}")
        if name and f"<{name}>" in regex:
            raise UserError(f"--layout {pattern}: {{{name}}} is in it twice")
        regex += f"(?P<{name}>[^/]+?)" if name else "[^/]*" if any_ else re.escape(literal)
    matches = re.compile(f"{regex}(?:/|$)", re.DOTALL).match

    def read(path: str) -> Identity:
        fitting = matches(path)
        return Identity(**fitting.groupdict()) if fitting else Identity()

    return read


def policy_name(path: str) -> str:
    """Return the name of a policy, from the path of its file or of its recording."""
    return path.rpartition("/")[2].removesuffix(".policy").removesuffix(".rec")
