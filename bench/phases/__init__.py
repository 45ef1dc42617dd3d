"""What phases add to a program's start, and what a server that serves does under them."""

from __future__ import annotations

from harness import Section, require

from phases import serving, start

TITLE = "phases"


def section() -> Section:
    """The measurements."""
    require("redis-server", "redis-benchmark", "nginx", "wrk")
    parts = (start.section(), serving.section())
    return Section("\n".join(part.text for part in parts), tuple(figure for part in parts for figure in part.figures))
