"""Policies -> minijail's policies."""
