"""The helper's own filter."""

from __future__ import annotations

from pathlib import Path

import make_helper_filter
import pytest

from callfence.enforcer import confinement
from callfence.judging.differences import rule_texts
from callfence.policygen.comparing.compare import compare
from callfence.policygen.filter.verify import verify
from callfence.tracer.abi import NATIVE, Arch

FILTERS = Path(confinement.__file__).with_name("filters")


@pytest.mark.parametrize("machine", make_helper_filter.MACHINES)
def test_the_filters_that_are_installed_are_the_policies(machine: str) -> None:
    """Proved on every input; `make commands` compiles them again."""
    documents = make_helper_filter.documents(FILTERS, Arch(machine))
    assert {path.stem for path in (FILTERS / machine).iterdir()} == {*documents, "shield"}
    for name, document in documents.items():
        assert verify((FILTERS / machine / f"{name}.filter").read_bytes(), document.policy) is None


def test_each_reader_reads_one_of_them() -> None:
    read = [confinement.read(), confinement.read(renews_log=True), confinement.read(makes_calls=True)]
    read += [confinement.read_follower(), confinement.read_follower(makes_calls=True)]
    assert len({*read}) == 5


def test_only_a_log_lets_the_helper_write_to_files() -> None:
    """And that by appending, through no link."""
    documents = make_helper_filter.documents(FILTERS, NATIVE)
    (added,) = compare(documents["helper"].policy, documents["helper-log"].policy).differences
    assert rule_texts(added) == ["flags == O_WRONLY|O_CREAT|O_NOCTTY|O_APPEND|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC && mode == 0666"]
