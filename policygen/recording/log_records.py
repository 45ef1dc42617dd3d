"""The kinds of records in the log of `enforce`, and the version of their format: docs/events.schema.json describes them."""

from __future__ import annotations

VERSION = 1
START, DENIED, MESSAGE, REFUSED, END = "start", "denied", "message", "refused", "end"
"""The program was started; a call was denied; a message of `enforce` about itself; the program was not run; its last process
has ended."""
KINDS = (START, DENIED, MESSAGE, REFUSED, END)
