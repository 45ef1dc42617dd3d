"""A program goes in, its system calls come out as counted events.  Nothing here knows of policies."""

TYPE_CHECKING = False
"""What `typing` calls so, for the modules that each start of `enforce` imports.  Type checkers take any such name for true,
and importing `typing` takes 7 ms (ARCHITECTURE.md, "What is written by hand, and why").  `callfence/__init__.py` and
`callfence/start.py` assign it themselves, since they come before any other import of ours."""
