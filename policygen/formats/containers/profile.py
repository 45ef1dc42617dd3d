"""Seccomp profiles of container runtimes as values, and the JSON that they are written in.

The fields are those of the OCI runtime specification (config-linux.md, "Seccomp") and of Docker's and Podman's extension
of it (github.com/moby/profiles seccomp.go; github.com/containers/common pkg/seccomp/types.go): `archMap`, `includes`,
`excludes`, and `name` for a single name.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from policygen.formats import ImportFormatError
from policygen.model import MAX_ERRNO
from policygen.values import frozen
from tracer.abi import Arch, constants

if TYPE_CHECKING:
    from collections.abc import Iterator

_Choice = TypeVar("_Choice", bound=StrEnum)

EPERM = 1
"""What SCMP_ACT_ERRNO is where no number is given (config-linux.md, errnoRet)."""


class Op(StrEnum):
    """How a whole 64-bit register is compared, unsigned (seccomp_rule_add(3))."""

    EQ = "SCMP_CMP_EQ"
    NE = "SCMP_CMP_NE"
    LT = "SCMP_CMP_LT"
    LE = "SCMP_CMP_LE"
    GT = "SCMP_CMP_GT"
    GE = "SCMP_CMP_GE"
    MASKED_EQ = "SCMP_CMP_MASKED_EQ"
    """`argument & value == value_two`."""


class Act(StrEnum):
    """What is done with a call."""

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
    """For MASKED_EQ alone: what the masked argument is."""


@frozen
class Where:
    """For which containers a rule is meant: what `includes` requires or `excludes` rules out."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    """As Go calls them: amd64, arm64 ..."""
    kernel: tuple[int, int] | None = None


@frozen
class ProfileRule:
    """One entry of `syscalls`: for each of the names, `act` where all comparisons hold."""

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
    """SCMP_ARCH_*, besides that of the machine, which always is one."""
    errno: int | None = None
    """Of the default action."""
    flags: tuple[str, ...] = ()
    """SECCOMP_FILTER_FLAG_*: none of them changes what a call gets."""
    arch_map: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For each architecture of a machine those that go with it there."""


# Writing


def as_object(profile: Profile) -> dict[str, Any]:
    """Return the JSON object, without empty fields."""
    return {
        "defaultAction": profile.default,
        **({} if profile.errno is None else {"defaultErrnoRet": profile.errno}),
        "architectures": list(profile.architectures),
        "syscalls": [_rule_object(rule) for rule in profile.rules],
    }


def _rule_object(rule: ProfileRule) -> dict[str, Any]:
    args = [
        {"index": one.index, "value": one.value, "valueTwo": one.value_two, "op": one.op} for one in rule.comparisons
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
    """Return the JSON value in the data; ImportFormatError with line and column."""
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        raise ImportFormatError(f"{filename}: not UTF-8 text, at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ImportFormatError(f"{filename}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:  # a field twice; a number of thousands of digits (int_max_str_digits)
        raise ImportFormatError(f"{filename}: not a profile: {error}") from None
    except RecursionError:
        raise ImportFormatError(f"{filename}: nested too deeply for a profile") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; ValueError for a field given twice, since one runtime takes the first and another the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def read(found: Any, filename: str) -> Profile:
    """Return the profile in a JSON object.  Every unknown field or value is an error, since it might deny a call."""
    return _ProfileReader(filename).profile(_Node(found, ""))


@frozen
class _Node:
    """A JSON value and where it is, as `syscalls[3].args[0].op`."""

    value: Any
    path: str

    def field(self, name: str) -> _Node:
        return _Node(self.value.get(name), f"{self.path}.{name}".lstrip("."))


_PROFILE = frozenset((
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "syscalls", "flags", "listenerPath",
    "listenerMetadata", "$schema", "comment",
))
_RULE = frozenset(("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"))
_ARG = frozenset(("index", "value", "valueTwo", "op"))
_WHERE = frozenset(("caps", "arches", "minKernel"))


@frozen
class _ProfileReader:
    filename: str

    def profile(self, node: _Node) -> Profile:
        self._object(node, _PROFILE)
        pairs = []
        for one in self._list(node.field("archMap")):
            self._object(one, frozenset(("architecture", "subArchitectures")))
            pairs.append((self._text(one.field("architecture")), self._texts(one.field("subArchitectures"))))
        architectures = self._texts(node.field("architectures"))
        if pairs and architectures:
            raise self._error(node.field("archMap"), "`architectures` is given too, and only one of the two is allowed")
        default = self._choice(node.field("defaultAction"), Act)
        errno, flags = self._errno(node, "defaultErrnoRet", "defaultErrno"), self._texts(node.field("flags"))
        rules = tuple(map(self._rule, self._list(node.field("syscalls"))))
        return Profile(default, rules, architectures, errno, flags, tuple(pairs))

    def _rule(self, node: _Node) -> ProfileRule:
        self._object(node, _RULE)
        names = self._texts(node.field("names"))
        if names and node.field("name").value:  # Docker refuses it, others take one of the two
            raise self._error(node.field("name"), "`names` is given too, and only one of the two is allowed")
        names = names or (self._text(node.field("name")),)
        comparisons = tuple(map(self._comparison, self._list(node.field("args"))))
        comment = node.field("comment")
        return ProfileRule(
            names,
            self._choice(node.field("action"), Act),
            self._errno(node, "errnoRet", "errno"),
            comparisons,
            self._where(node.field("includes")),
            self._where(node.field("excludes")),
            "" if comment.value is None else self._string(comment),
        )

    def _comparison(self, node: _Node) -> RegisterComparison:
        self._object(node, _ARG)
        op = self._choice(node.field("op"), Op)
        value, two = (self._integer(node.field(name), 1 << 64) for name in ("value", "valueTwo"))
        return RegisterComparison(self._integer(node.field("index"), 6), op, value, two if op is Op.MASKED_EQ else 0)

    def _where(self, node: _Node) -> Where:
        if node.value is None:
            return Where()
        self._object(node, _WHERE)
        kernel = node.field("minKernel")
        version = re.match(r"(\d{1,9})\.(\d{1,9})", self._text(kernel)) if kernel.value else None
        if kernel.value and not version:
            raise self._error(kernel, "a kernel version is X.Y, as 4.8")
        return Where(
            self._texts(node.field("caps")),
            self._texts(node.field("arches")),
            (int(version[1]), int(version[2])) if version else None,
        )

    def _errno(self, node: _Node, number: str, name: str) -> int | None:
        """Return the error number: from its name, which Podman's files have and which takes precedence, or from its number."""
        named, given = node.field(name), node.field(number)
        if not named.value:
            return None if given.value is None else self._integer(given, MAX_ERRNO + 1)
        found = constants.family("errno", Arch.X86_64).value(self._text(named))
        if found is None:
            raise self._error(named, f"{named.value} is no error's name")
        return found

    # JSON's own types

    def _error(self, node: _Node, message: str) -> ImportFormatError:
        return ImportFormatError(f"{self.filename}: {node.path or 'the profile'}: {message}")

    def _object(self, node: _Node, fields: frozenset[str]) -> None:
        if not isinstance(node.value, dict):
            raise self._error(node, "must be an object {...}")
        for name in node.value:
            if name not in fields:
                raise self._error(node.field(name), f"is unknown; known are {', '.join(sorted(fields))}")

    def _list(self, node: _Node) -> Iterator[_Node]:
        if node.value is None:
            return iter(())
        if not isinstance(node.value, list):
            raise self._error(node, "must be a list [...]")
        return (_Node(value, f"{node.path}[{place}]") for place, value in enumerate(node.value))

    def _string(self, node: _Node) -> str:
        if not isinstance(node.value, str):
            raise self._error(node, "must be a string")
        return node.value

    def _text(self, node: _Node) -> str:
        """Return a string that is safe in a message, and in a comment of a policy."""
        text = self._string(node)
        if not text.isprintable():
            raise self._error(node, f"has invisible characters: {text!a}")
        return text

    def _texts(self, node: _Node) -> tuple[str, ...]:
        return tuple(map(self._text, self._list(node)))

    def _integer(self, node: _Node, limit: int) -> int:
        if node.value is None:
            return 0
        if not isinstance(node.value, int) or isinstance(node.value, bool) or not 0 <= node.value < limit:
            raise self._error(node, f"must be an integer from 0 to {limit - 1}")
        return node.value

    def _choice(self, node: _Node, choices: type[_Choice]) -> _Choice:
        text = self._text(node)
        if text not in set(choices):
            raise self._error(node, f"{text} is none of {', '.join(choices)}")
        return choices(text)
