"""Expressions as exact sets of calls (`algebra`, `region`), and back: joined (`join`), as short expressions (`express`)."""
