"""What the kernel calls things: numbers, argument names, C types, constants.  Data, no logic."""

from callfence.tracer.abi import constants
from callfence.tracer.abi.model import AFTER, COMPAT, COUNT, NATIVE, X32_BIT, Arch, Argument, Event, EventCounter, Kind, Syscall
from callfence.tracer.abi.table import call_of, name_of, table, table_of

__all__ = [
    "AFTER", "COMPAT", "COUNT", "NATIVE", "X32_BIT", "Arch", "Argument", "Event", "EventCounter", "Kind", "Syscall",
    "call_of", "constants", "name_of", "table", "table_of",
]  # fmt: skip
