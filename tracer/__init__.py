"""A program goes in, its system calls come out as counted events.  Nothing here knows of policies."""

TYPE_CHECKING = False
"""That of `typing`, for what a start of `enforce` imports: type checkers take any variable of this name for true, and importing
`typing` would take XXX ms of each start."""
