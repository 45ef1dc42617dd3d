"""Seccomp profiles of container runtimes as values, and the JSON that they are written in.

The fields are those of the OCI runtime specification (config-linux.md, "Seccomp") and of Docker's and Podman's extension
of it (github.com/moby/profiles seccomp.go; github.com/containers/common pkg/seccomp/types.go): `archMap`, `includes`,
`excludes`, and `name` for a single name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, TypeVar

from callfence.policygen.formats import ImportFormatError
from callfence.policygen.model import MAX_ERRNO
from callfence.policygen.values import frozen
from callfence.tracer.abi import NATIVE, constants

_Choice = TypeVar("_Choice", bound=StrEnum)

EPERM = 1
"""The errno of SCMP_ACT_ERRNO if none is given (config-linux.md, errnoRet)."""


class Op(StrEnum):
    """An operator that compares a whole 64-bit register, unsigned (seccomp_rule_add(3))."""

    EQ = "SCMP_CMP_EQ"
    NE = "SCMP_CMP_NE"
    LT = "SCMP_CMP_LT"
    LE = "SCMP_CMP_LE"
    GT = "SCMP_CMP_GT"
    GE = "SCMP_CMP_GE"
    MASKED_EQ = "SCMP_CMP_MASKED_EQ"
    """`argument & value == value_two`."""


class Act(StrEnum):
    """What a container profile (OCI, Docker) has seccomp do with a call, by its name in the JSON."""

    ALLOW = "SCMP_ACT_ALLOW"
    ERRNO = "SCMP_ACT_ERRNO"
    KILL = "SCMP_ACT_KILL"
    """The thread, like KILL_THREAD."""
    KILL_PROCESS = "SCMP_ACT_KILL_PROCESS"
    KILL_THREAD = "SCMP_ACT_KILL_THREAD"
    LOG = "SCMP_ACT_LOG"
    NOTIFY = "SCMP_ACT_NOTIFY"
    TRACE = "SCMP_ACT_TRACE"
    TRAP = "SCMP_ACT_TRAP"


@frozen
class RegisterComparison:
    index: int
    op: Op
    value: int
    """64 bits, unsigned; of MASKED_EQ the mask."""
    value_two: int = 0
    """For MASKED_EQ alone: the value that the masked argument must have."""


@frozen
class Where:
    """A set of containers and machines: those for which a rule's `includes` or `excludes` holds."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    """Architectures by the names that Go uses: amd64, arm64 ..."""
    kernel: tuple[int, int] | None = None


@frozen
class ProfileRule:
    """One entry of `syscalls`: calls with one of `names` get `act` if all comparisons hold."""

    names: tuple[str, ...]
    act: Act
    errno: int | None = None
    comparisons: tuple[RegisterComparison, ...] = ()
    includes: Where = Where()
    excludes: Where = Where()
    comment: str = ""


@frozen
class Profile:
    default: Act
    rules: tuple[ProfileRule, ...]
    architectures: tuple[str, ...] = ()
    """SCMP_ARCH_* in addition to the machine's own, which is always included."""
    errno: int | None = None
    """The errno of the default action; None means EPERM."""
    flags: tuple[str, ...] = ()
    """SECCOMP_FILTER_FLAG_*: none of them changes what a call gets."""
    arch_map: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For each architecture of a machine: the further architectures whose calls such a machine has."""


# Writing


def as_object(profile: Profile) -> dict[str, Any]:
    """Return the profile as a JSON object, without empty fields."""
    return {
        "defaultAction": profile.default,
        **({} if profile.errno is None else {"defaultErrnoRet": profile.errno}),
        "architectures": list(profile.architectures),
        "syscalls": [_rule_object(rule) for rule in profile.rules],
    }


def _rule_object(rule: ProfileRule) -> dict[str, Any]:
    args = [
        {"index": comparison.index, "value": comparison.value, "valueTwo": comparison.value_two, "op": comparison.op}
        for comparison in rule.comparisons
    ]
    return {
        "names": list(rule.names),
        "action": rule.act,
        **({} if rule.errno is None else {"errnoRet": rule.errno}),
        **({"args": args} if args else {}),
        **({"comment": rule.comment} if rule.comment else {}),
    }


# Reading


def load(data: bytes, filename: str) -> Any:
    """Return the JSON value in `data`.  Raises ImportFormatError, with line and column where possible, if it is not JSON, or
    has a field twice."""
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=without_doubles)
    except UnicodeDecodeError as error:
        raise ImportFormatError(f"{filename}: not UTF-8 text, at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ImportFormatError(f"{filename}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:  # a field twice; a number of thousands of digits (int_max_str_digits)
        raise ImportFormatError(f"{filename}: not a profile: {error}") from None
    except RecursionError:
        raise ImportFormatError(f"{filename}: nested too deeply for a profile") from None


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; ValueError for a field given twice, since one reader takes the first and another the last.  Go's JSON,
    which runtimes and registries read, takes `Layers` for `layers`."""
    names: set[str] = set()
    for name, _ in pairs:
        if (folded := name.casefold()) in names:
            raise ValueError(f"the field {name!r} is given twice")
        names.add(folded)
    return dict(pairs)


def read(value: Any, filename: str) -> Profile:
    """Return the profile in a JSON object.  Raises ImportFormatError for unknown fields and values, which might deny."""
    node = _Node(value, "", filename).object(_PROFILE)
    pairs = []
    for entry in node.field("archMap").list():
        entry.object(frozenset(("architecture", "subArchitectures")))
        pairs.append((entry.field("architecture").text(), entry.field("subArchitectures").texts()))
    architectures = node.field("architectures").texts()
    if pairs and architectures:
        raise node.field("archMap").error("`architectures` is given too, and only one of the two is allowed")
    default = node.field("defaultAction").choice(Act)
    errno, flags = _errno(node, "defaultErrnoRet", "defaultErrno"), node.field("flags").texts()
    rules = tuple(map(_rule, node.field("syscalls").list()))
    return Profile(default, rules, architectures, errno, flags, tuple(pairs))


_PROFILE = frozenset((
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "syscalls", "flags", "listenerPath",
    "listenerMetadata", "$schema", "comment",
))
_RULE = frozenset(("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"))
_ARG = frozenset(("index", "value", "valueTwo", "op"))
_WHERE = frozenset(("caps", "arches", "minKernel"))


def _rule(node: _Node) -> ProfileRule:
    node.object(_RULE)
    names = node.field("names").texts()
    if names and node.field("name").value:  # Docker refuses it, others take one of the two
        raise node.field("name").error("`names` is given too, and only one of the two is allowed")
    comment = node.field("comment")
    return ProfileRule(
        names or (node.field("name").text(),),
        node.field("action").choice(Act),
        _errno(node, "errnoRet", "errno"),
        tuple(map(_comparison, node.field("args").list())),
        _where(node.field("includes")),
        _where(node.field("excludes")),
        "" if comment.value is None else comment.string(),
    )


def _comparison(node: _Node) -> RegisterComparison:
    node.object(_ARG)
    op = node.field("op").choice(Op)
    value, two = (node.field(name).integer(1 << 64) for name in ("value", "valueTwo"))
    return RegisterComparison(node.field("index").integer(6), op, value, two if op is Op.MASKED_EQ else 0)


def _where(node: _Node) -> Where:
    if node.value is None:
        return Where()
    node.object(_WHERE)
    kernel = node.field("minKernel")
    version = re.match(r"(\d{1,9})\.(\d{1,9})", kernel.text()) if kernel.value else None
    if kernel.value and not version:
        raise kernel.error("a kernel version is X.Y, as 4.8")
    return Where(
        node.field("caps").texts(), node.field("arches").texts(), (int(version[1]), int(version[2])) if version else None
    )


def _errno(node: _Node, number: str, name: str) -> int | None:
    """Return the error number: from its name, which Podman's files have and which takes precedence, or from its number."""
    named, numbered = node.field(name), node.field(number)
    if not named.value:
        return None if numbered.value is None else numbered.integer(MAX_ERRNO + 1)
    errno = constants.family("errno", NATIVE).value(named.text())
    if errno is None:
        raise named.error(f"{named.value} is no error's name")
    return errno


@frozen
class _Node:
    """A JSON value and where it is, as `syscalls[3].args[0].op`."""

    value: Any
    path: str
    filename: str

    def field(self, name: str) -> _Node:
        return _Node(self.value.get(name), f"{self.path}.{name}".lstrip("."), self.filename)

    def error(self, message: str) -> ImportFormatError:
        return ImportFormatError(f"{self.filename}: {self.path or 'the profile'}: {message}")

    def object(self, fields: frozenset[str]) -> _Node:
        if not isinstance(self.value, dict):
            raise self.error("must be an object {...}")
        for name in self.value:
            if name not in fields:
                raise self.field(name).error(f"is unknown; known are {', '.join(sorted(fields))}")
        return self

    def list(self) -> Iterator[_Node]:
        if self.value is None:
            return iter(())
        if not isinstance(self.value, list):
            raise self.error("must be a list [...]")
        return (_Node(value, f"{self.path}[{place}]", self.filename) for place, value in enumerate(self.value))

    def string(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("must be a string")
        return self.value

    def text(self) -> str:
        """Return a string that is safe in a message, and in a comment of a policy."""
        text = self.string()
        if not text.isprintable():
            raise self.error(f"has invisible characters: {text!a}")
        return text

    def texts(self) -> tuple[str, ...]:
        return tuple(node.text() for node in self.list())

    def integer(self, limit: int) -> int:
        if self.value is None:
            return 0
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value < limit:
            raise self.error(f"must be an integer from 0 to {limit - 1}")
        return self.value

    def choice(self, choices: type[_Choice]) -> _Choice:
        text = self.text()
        if text not in set(choices):
            raise self.error(f"{text} is none of {', '.join(choices)}")
        return choices(text)
