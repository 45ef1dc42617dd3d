"""Whom and what the calls of a program reach."""
