"""Policies -> drop-ins of systemd units."""
