"""Kafel, the language of nsjail's policies -> policies, and back."""
