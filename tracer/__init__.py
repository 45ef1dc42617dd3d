"""Runs a program under ptrace and counts its system calls as events.  Nothing in this package uses policies."""

TYPE_CHECKING = False
"""The same as `typing.TYPE_CHECKING`, for the modules that each start of `enforce` imports, and the first connection that the
helper makes: type checkers take any such name for true, and importing `typing` takes 7 ms (ARCHITECTURE.md, "What is written by
hand, and why").  `callfence/__init__.py` and `callfence/start.py` assign it themselves, since they come before any other import
of ours."""
