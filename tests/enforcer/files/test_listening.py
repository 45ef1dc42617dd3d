"""listen(2) made for a program."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from callfence.enforcer.files import listening
from callfence.enforcer.files.listening import _listen_as


def test_a_user_that_the_helper_may_not_become_does_not_listen() -> None:
    def refused(_: object) -> int:
        raise PermissionError(errno.EPERM, "setfsuid")

    with socket.socket(socket.AF_UNIX) as own:
        assert _listen_as(refused, own.fileno(), 1) == errno.EACCES
        with pytest.raises(OSError) as caught:
            own.accept()
        assert caught.value.errno == errno.EINVAL
        own.bind("")
        assert _listen_as(lambda listen: listen(), own.fileno(), 1) == 0
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(own.getsockname())


@pytest.mark.parametrize(
    ("listings", "newest", "started", "sharing", "expected"),
    [
        ([{7, 8}], [9, 9], 0, set(), False),
        ([{7, 8}], [9, 9], 0, {8}, True),
        ([{7, 8}], [9, 9], 0, {7}, False),  # it is the task itself
        ([{7}, {7, 10}], [9, 10, 10, 10], 1, {10}, True),  # it was started by one that ended before it was looked at
        ([{7}, {7, 10}], [9, 10, 10, 10], 1, set(), False),
        ([{7}] * 10, range(20), 10, set(), True),  # tasks are started all the time
        ([{7, 8}], [9, 9], 1000 - 300 - 3 * 2 - 1, set(), False),
        ([{7, 8}], [9, 9], 1000 - 300 - 3 * 2, set(), True),  # numbers may have begun anew
    ],
)
def test_descriptors_are_shared_unless_no_task_was_started_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
    listings: list[set[int]],
    newest: Iterable[int],
    started: int,
    sharing: set[int],
    expected: bool,
) -> None:
    """Of a machine with 1000 numbers of tasks; `started`: how many tasks were started."""
    tasks, last, counts = iter(listings), iter(newest), iter((50, 50 + started))
    monkeypatch.setattr(listening, "_tasks", lambda: next(tasks))
    monkeypatch.setattr(listening, "_last", lambda: next(last))
    monkeypatch.setattr(listening, "_started", lambda: next(counts))
    monkeypatch.setattr(listening, "_pid_max", lambda: 1000)
    monkeypatch.setattr(listening, "_may_share", lambda task, other: {task, other} <= {7, *sharing})
    assert listening._shares_descriptors(7) is expected


@pytest.mark.parametrize(
    ("shares", "seccomp", "expected"),
    [(True, {}, True), (False, {}, False), (None, {"Seccomp": "0"}, False), (None, {"Seccomp": "2"}, True), (None, {}, False)],
)
def test_who_may_not_be_looked_into_may_share_if_confined(
    monkeypatch: pytest.MonkeyPatch, shares: bool | None, seccomp: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(listening, "kernel", SimpleNamespace(shares_files=lambda _task, _other: shares))
    monkeypatch.setattr(listening, "fields_of", lambda _task: seccomp)
    assert listening._may_share(7, 8) is expected
