"""What a test needs of the machine: packages of .ci/packages, root.  Without it the test is skipped; in CI it fails."""

from __future__ import annotations

import os

import pytest
import set_up

PACKAGES = "needs packages: "
"""How the reason begins, if packages are missing."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip a test if one of these packages is missing."""
    reason = _lacking(packages)
    return pytest.mark.skipif(bool(reason), reason=reason)


def require(*packages: str) -> None:
    """Skip the test that calls it, or whose fixture does, if one of these packages is missing."""
    if reason := _lacking(packages):
        pytest.skip(reason)


def _lacking(packages: tuple[str, ...]) -> str:
    """The reason for skipping; empty if nothing is missing."""
    unknown = set(packages) - {package.name for package in set_up.packages()}
    assert not unknown, f"not in .ci/packages: {sorted(unknown)}"
    missing = sorted(set_up.missing().keys() & set(packages))
    return f"{PACKAGES}{' '.join(missing)}" if missing else ""
