"""The list of Debian packages that the Makefile's targets install."""

from __future__ import annotations

from collections import Counter

import set_up


def test_each_package_is_in_one_section() -> None:
    """Of two rows, `set_up.missing` has the second: `make test` would not install what stands under circumstances as well."""
    assert not [name for name, count in Counter(package.name for package in set_up.packages()).items() if count > 1]
