"""The helper's own filter."""

from __future__ import annotations

from pathlib import Path

import pytest

from callfence.judging.differences import rule_texts
from enforcer import confinement
from policygen.comparing import compare
from policygen.filter.verify import verify
from policygen.language.document import parse_file
from policygen.merging import unite

POLICY = Path(confinement.__file__).with_name("helper.policy")


@pytest.mark.parametrize("renews_log", [False, True])
def test_the_filter_that_is_installed_is_the_policy(renews_log: bool) -> None:
    """Proved on every input; `make commands` compiles it again."""
    policy = parse_file(POLICY)
    if renews_log:
        policy = unite(policy, parse_file(POLICY.with_name("helper-log.policy")))
    assert verify(confinement.read(renews_log=renews_log), policy.policy) is None


def test_only_a_log_lets_the_helper_write_to_files() -> None:
    """And that by appending, through no link."""
    plain = parse_file(POLICY)
    (added,) = compare(plain.policy, unite(plain, parse_file(POLICY.with_name("helper-log.policy"))).policy).differences
    assert rule_texts(added) == ["flags == O_WRONLY|O_CREAT|O_NOCTTY|O_APPEND|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC && mode == 0666"]
