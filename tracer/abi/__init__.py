"""What the kernel calls things: numbers, argument names, C types, constants.  Data, no logic."""

from tracer.abi._stub import constants, table
from tracer.abi.model import X32_BIT, Arch, Argument, Event, Kind, Syscall

__all__ = ["X32_BIT", "Arch", "Argument", "Event", "Kind", "Syscall", "constants", "table"]
