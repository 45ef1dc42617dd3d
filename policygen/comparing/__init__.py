"""Policies compared, and one reduced by another."""
