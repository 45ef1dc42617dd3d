"""A program goes in, its system calls come out as counted events.  Nothing here knows of policies."""
