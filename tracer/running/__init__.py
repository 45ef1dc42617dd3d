"""Processes that run already -> their calls (`attach`), their filters (`filters`)."""
