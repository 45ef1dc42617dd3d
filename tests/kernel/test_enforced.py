"""Programs with filters of their own, enforced with the policy learned from them."""

from __future__ import annotations

import sys

import pytest

ENFORCE = (sys.executable, "-m", "callfence", "enforce")
FILTERS = "trapping notifying asking_for_flags for_all_threads precedence"


@pytest.mark.parametrize("check", FILTERS.split())
def test_filters_of_the_program_work_under_the_policy(program, plain, learn, check):
    """`notifying` installs a listener.  A chain of filters has one, which enforce leaves to the program."""
    learned = learn(program("filters"), check)
    done = plain(*ENFORCE, "-p", learned.policy, program("filters"), check)
    assert done.returncode == 0, done.stderr
    assert (b"violations are not reported" in done.stderr) == (check == "notifying")


def test_an_audit_keeps_the_listener(program, plain, learn):
    """Without it, what the policy does not allow would be denied."""
    learned = learn(program("filters"), "notifying")
    done = plain(*ENFORCE, "--audit", "-p", learned.policy, program("filters"), "notifying")
    assert done.returncode == 99
    assert b"nothing is enforced" in done.stderr
