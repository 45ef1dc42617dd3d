"""Where in a program an instruction is: from /proc/PID/maps to `libc.so.6+0x10f5a3`."""

from __future__ import annotations

import os


def call_site(process: int, ip: int) -> str:
    """The mapped file's name and the offset in it; the bare address where nothing is known."""
    try:
        with open(f"/proc/{process}/maps", "rb") as file:
            for line in file:
                fields = line.rstrip(b"\n").split(maxsplit=5)
                start, end = (int(part, 16) for part in fields[0].split(b"-"))
                if start <= ip < end:
                    name = os.fsdecode(os.path.basename(fields[5])) if len(fields) == 6 else "anonymous memory"
                    return f"{name}+{ip - start + int(fields[2], 16):#x}"
    except (OSError, ValueError):
        pass
    return f"{ip:#x}"
