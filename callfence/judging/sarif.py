"""Findings in SARIF 2.1.0 (docs.oasis-open.org/sarif/sarif/v2.1.0), which code-scanning services read."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from callfence.version import __version__
from policygen.lint.catalogue import Level
from policygen.values import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final = {Level.DANGER: "error", Level.WARNING: "warning", Level.NOTE: "note"}


@frozen
class SarifRule:
    id: str
    short: str
    full: str
    help: str


@frozen
class Result:
    rule: SarifRule
    level: Level
    message: str
    file: str
    line: int | None
    identity: str
    """What identifies the result in other versions of the file: independent of line numbers and order."""
    accepted: str = ""


def sarif(results: Sequence[Result]) -> dict[str, object]:
    """The log of one run."""
    rules = sorted({result.rule.id: result.rule for result in results}.values(), key=lambda rule: rule.id)
    index = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "callfence",
        "version": __version__,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": rule.short},
                "fullDescription": {"text": rule.full},
                "help": {"text": rule.help},
            }
            for rule in rules
        ],
    }
    run = {"tool": {"driver": driver}, "results": [_result(result, index[result.rule.id]) for result in results]}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(result: Result, index: int) -> dict[str, object]:
    place: dict[str, object] = {"artifactLocation": {"uri": quote(os.fsencode(result.file))}}
    if result.line is not None:
        place["region"] = {"startLine": result.line}
    made: dict[str, object] = {
        "ruleId": result.rule.id,
        "ruleIndex": index,
        "level": LEVELS[result.level],
        "message": {"text": result.message.replace("](", "] (")},  # else an embedded link (SARIF 2.1.0, 3.11.6)
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"callfence/v1": f"{zlib.crc32(f'{result.rule.id} {result.identity}'.encode()):08x}"},
    }
    if result.accepted:
        made["suppressions"] = [{"kind": "inSource", "justification": result.accepted}]
    return made
