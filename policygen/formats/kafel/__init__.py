"""Policies -> Kafel, the language of nsjail's policies."""
