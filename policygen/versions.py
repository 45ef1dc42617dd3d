"""The version of each format that callfence writes and others read; docs/compatibility.md says what may change in it.

A reader refuses a version that it does not know: what a newer callfence has added may be what matters.
"""

from __future__ import annotations

LANGUAGE = 1
"""The policy language: the `callfence` line of a policy.  The versions of the implied set are `model.IMPLIED`."""
RECORDING = 4
"""Recordings, `.callfence/NAME.rec`; all before it are read."""
EVIDENCE = 1
"""The companions of policies, `NAME.evidence`."""
EVENTS = 1
"""The records of `enforce --log`: docs/events.schema.json."""
QUESTIONS = 1
"""The questions and answers of `enforce --ask=unix:PATH`: docs/asking.md."""
LAKE = 1
"""The tables of a lake: docs/lake.md."""
SHIPPER = 1
"""The state of a shipper, which callfence alone reads."""
OUTPUTS = {"carry": 1, "check": 1, "diff": 1, "lake": 1, "lint": 1, "losses": 1, "report": 1, "status": 1}
"""What commands print as JSON: docs/outputs.schema.json has a definition of each."""


def unknown(written: object, known: int) -> str:
    """Return why a version that was `written` cannot be read, for the end of a message."""
    newer = " of a newer callfence" if type(written) is int and written > known else ""
    return f"version {written!r} is{newer or ' unknown'} (this callfence reads {known}{' and older' * (known > 1)})"
