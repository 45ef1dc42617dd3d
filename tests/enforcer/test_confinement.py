"""The helper's own filter."""

from __future__ import annotations

from pathlib import Path

from enforcer import confinement
from policygen.filter.verify import verify
from policygen.language.document import parse

POLICY = Path(confinement.__file__).with_name("helper.policy")


def test_the_filter_that_is_installed_is_the_policy() -> None:
    """Proved on every input; `make commands` compiles it again."""
    assert verify(confinement.read(), parse(POLICY.read_text(), str(POLICY)).policy) is None
