"""The machine on which this process runs: `MACHINE`, chosen here once.

It says how programs make system calls (their numbers, registers and instructions), what ptrace(2) shows of a stopped task,
and how a stack is unwound.  To add a machine, write a module like x86_64.py, and add it here and to numbers.py.
"""

from __future__ import annotations

import os

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from callfence.tracer.machine.model import Machine

KNOWN = ("x86_64", "aarch64")
"""The machines on which programs can be learned and enforced, as uname(2) names them."""
_UNAME = os.uname()
NAME = {"i686": "x86_64", "armv8l": "aarch64"}.get(_UNAME.machine, _UNAME.machine)
"""The name of this machine, whatever setarch(8) has made of it."""
IS_KNOWN = _UNAME.sysname == "Linux" and NAME in KNOWN
UNKNOWN = f"needs Linux on {' or '.join(KNOWN)}, and this is {_UNAME.sysname} on {_UNAME.machine}"
"""What to say where programs cannot be learned and enforced."""


def _chosen() -> Machine:
    """Return the machine; x86_64 where nothing can be learned or enforced, but policies can be looked at."""
    if NAME == "aarch64":
        from callfence.tracer.machine.aarch64 import Arm

        return Arm()
    from callfence.tracer.machine.x86_64 import X86

    return X86()


MACHINE = _chosen()
