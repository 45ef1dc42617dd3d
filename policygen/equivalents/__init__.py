"""Calls that do the same: of other C libraries on one architecture, and of other architectures."""
