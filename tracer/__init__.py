"""A process under ptrace -> events.  Knows nothing of policies."""
