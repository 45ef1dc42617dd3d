"""The tables of a lake, the types of their columns, and the questions.  docs/lake.md says what each means."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

QUESTIONS: Final = ("contents", "new", "denied", "log", "used", "stale", "safe")
"""The queries of the folder questions/."""
OF_A_POLICY: Final = ("used", "stale")
"""Those about the rules of a policy, which also read the views `policy_rules` and `policy_calls` (`asking.Rules`)."""


class Type(StrEnum):
    """The type of a column, as Arrow names it."""

    TEXT = "string"
    FLAG = "bool"
    STATUS = "int16"
    WORD = "uint32"
    COUNT = "uint64"
    REGISTERS = "list<uint64>"
    VALUES = "list<decimal(20, 0)>"
    """Arguments as their C types read them: from -2**63 to 2**64 - 1, which neither a signed nor an unsigned integer of 64 bits
    holds; null where the value is not recorded."""


_IDENTITY: Final = {"host": Type.TEXT, "version": Type.TEXT, "version_order": Type.TEXT, "policy": Type.TEXT}

TABLES: Final[Mapping[str, Mapping[str, Type]]] = {
    "files": {
        "digest": Type.TEXT,
        "path": Type.TEXT,
        "kind": Type.TEXT,
        **_IDENTITY,
        "runs": Type.COUNT,
        "observations": Type.COUNT,
        "events": Type.COUNT,
        "skipped": Type.COUNT,
    },
    "runs": {
        "run": Type.TEXT,
        "started": Type.COUNT,
        **_IDENTITY,
        "command": Type.TEXT,
        "status": Type.STATUS,
        "complete": Type.FLAG,
        "incremental": Type.FLAG,
        "rehearsed": Type.TEXT,
        "gaps": Type.COUNT,
        "completeness": Type.TEXT,
        "record": Type.TEXT,
    },
    "calls": {
        "call": Type.TEXT,
        "arch": Type.TEXT,
        "number": Type.WORD,
        "name": Type.TEXT,
        "arguments": Type.VALUES,
        "executable": Type.TEXT,
        "example": Type.REGISTERS,
    },
    "observations": {
        "call": Type.TEXT,
        "run": Type.TEXT,
        "started": Type.COUNT,
        **_IDENTITY,
        "rehearsed": Type.TEXT,
        "executable": Type.TEXT,
        "rule": Type.TEXT,
        "times": Type.COUNT,
        "site": Type.TEXT,
        "example": Type.REGISTERS,
        "evidence": Type.TEXT,
        "waits": Type.TEXT,
    },
    "events": {
        "event": Type.TEXT,
        "time_ns": Type.COUNT,
        "run": Type.TEXT,
        **_IDENTITY,
        "node": Type.TEXT,
        "digest": Type.TEXT,
        "mode": Type.TEXT,
        "verdict": Type.TEXT,
        "line": Type.TEXT,
        "risk": Type.TEXT,
        "denied_call": Type.TEXT,
        "executable": Type.TEXT,
        "site": Type.TEXT,
        "phase": Type.TEXT,
        "times": Type.COUNT,
        "lost": Type.COUNT,
        "complete": Type.FLAG,
        "record": Type.TEXT,
    },
}
"""Table -> column -> type, in the order of the rows."""
