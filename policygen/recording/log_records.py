"""The kinds of records in the log of `enforce`, which docs/events.schema.json describes; `versions.EVENTS` is their version."""

from __future__ import annotations

START, DENIED, ANSWERED, MESSAGE, REFUSED, END = "start", "denied", "answered", "message", "refused", "end"
"""The program was started; a call was denied; a question about denied calls was answered; a message of `enforce` about itself;
the program was not run; its last process has ended."""
KINDS = (START, DENIED, ANSWERED, MESSAGE, REFUSED, END)
