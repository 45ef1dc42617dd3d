"""listen(2) made for a program."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.files import listening
from callfence.enforcer.files.listening import _listen_as

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with few tasks, of which `_shares_descriptors` looks at task 1; as its tasks are listed, others start."""
    made = SimpleNamespace(listings=[{1}], last=[7], started=[100], sharing=set(), compared=[])

    def shares(_: int, other: int) -> bool:
        made.compared.append(other)
        return other in made.sharing

    def following(values: list[Any]) -> Callable[[], Any]:
        return lambda: values.pop(0) if len(values) > 1 else values[0]

    monkeypatch.setattr(listening, "_tasks", lambda: following(made.listings)())
    monkeypatch.setattr(listening, "_last", lambda: following(made.last)())
    monkeypatch.setattr(listening, "_started", lambda: following(made.started)())
    monkeypatch.setattr(listening, "_pid_max", lambda: 1000)
    monkeypatch.setattr(listening.kernel, "shares_files", shares)
    return made


@pytest.mark.parametrize(
    ("changes", "shares", "compared"),
    [
        ({}, False, []),
        ({"listings": [{1, 2, 3}]}, False, [2, 3]),
        ({"listings": [{1, 2}], "sharing": {2}}, True, [2]),
        # a task starts while they are listed, and is looked at, too, but none twice
        ({"listings": [{1, 2}, {1, 2, 3}], "last": [7, 8]}, False, [2, 3]),
        ({"listings": [{1, 2}, {1, 2, 3}], "last": [7, 8], "sharing": {3}}, True, [2, 3]),
        # the tenth listing is the last one, and only that it has all tasks
        ({"last": [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10]}, False, []),
        ({"last": [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11]}, True, []),
        # numbers may have begun anew: of 1000, less 300 and 3 of each task that was looked at
        ({"started": [100, 796]}, False, []),
        ({"started": [100, 797]}, True, []),
        ({"started": [100, 793], "listings": [{1, 2}]}, False, [2]),
        ({"started": [100, 794], "listings": [{1, 2}]}, True, [2]),
    ],
)
def test_whether_another_task_shares_the_descriptors(
    machine: SimpleNamespace, changes: dict[str, Any], shares: bool, compared: list[int]
) -> None:
    vars(machine).update(changes)
    assert listening._shares_descriptors(1) is shares
    assert machine.compared == compared


@pytest.mark.parametrize(("fields", "shares"), [({"Seccomp": "2"}, True), ({"Seccomp": "0"}, False), ({}, False)])
def test_a_task_that_cannot_be_looked_into_may_share_if_it_is_confined(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], shares: bool
) -> None:
    monkeypatch.setattr(listening.kernel, "shares_files", lambda *_: None)
    monkeypatch.setattr(listening, "fields_of", lambda _: fields)
    assert listening._may_share(1, 2) is shares


def test_what_the_kernel_says_of_its_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        "loadavg": "0.10 0.20 0.30 1/345 4711\n",
        "stat": "intr " + "0 " * 100_000 + "\nctxt 5\nprocesses 815\nprocs_running 1\n",
        "sys/kernel/pid_max": "4194304\n",
    }
    (tmp_path / "sys/kernel").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for task in ("7/task/7", "7/task/8", "9/task/9", "self/task/1"):
        (tmp_path / task).mkdir(parents=True)
    (tmp_path / "10").mkdir()  # it ends
    monkeypatch.chdir(tmp_path)
    assert (listening._last(), listening._started(), listening._pid_max()) == (4711, 815, 4194304)
    assert listening._tasks() == {7, 8, 9}


@pytest.mark.parametrize(
    ("change", "is_like"),
    [
        ({}, True),
        ({"Uid": "0 1 0 0"}, False),
        ({"Gid": "0 0 0 1"}, False),
        ({"Uid": "1 1 1 1"}, False),
        ({"Gid": "1 1 1 1"}, False),
    ],
)
def test_a_task_is_like_this_process_if_all_its_ids_are_the_same(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], is_like: bool
) -> None:
    own = {"Uid": "0 0 0 0", "Gid": "0 0 0 0"}
    monkeypatch.setattr(listening, "fields_of", lambda _: own)
    assert listening._is_like_us({**own, **change}) is is_like


def test_a_descriptor_is_still_the_socket_or_another_one() -> None:
    with socket.socket() as first, socket.socket() as other:
        before = len(os.listdir("/proc/self/fd"))
        assert listening._is_still(first.fileno(), os.getpid(), os.getpid(), first.fileno())
        assert not listening._is_still(first.fileno(), os.getpid(), os.getpid(), other.fileno())
        assert len(os.listdir("/proc/self/fd")) == before


def request_of(descriptor: int, *, is_waiting: bool = True) -> Any:
    """The call `listen(descriptor, 1)` of this process; of both arguments the kernel reads 32 bits."""
    arguments = (1 << 32 | descriptor, 1 << 32 | 1, 0, 0, 0, 0)
    call = SimpleNamespace(task=os.getpid(), arguments=arguments)
    return SimpleNamespace(call=call, is_waiting=lambda: is_waiting)


def listened(request: Any, *granted: int) -> int | None:
    def acting(task: int, make: Callable[[], int]) -> int:
        assert task == os.getpid()
        return make()

    before = len(os.listdir("/proc/self/fd"))
    try:
        return listening.listen(request, granted.__contains__, acting)
    finally:
        assert len(os.listdir("/proc/self/fd")) == before, "a copy of the socket stays open"


def test_a_tcp_socket_listens_at_a_port_that_is_granted_or_that_it_has() -> None:
    with socket.socket() as own:
        assert listened(request_of(own.fileno())) == errno.EACCES, "it has no port"
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
        assert listened(request_of(own.fileno()), port + 1) == errno.EACCES
        assert listened(request_of(own.fileno(), is_waiting=False), port) == errno.ESRCH
        assert not own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert listened(request_of(own.fileno()), port) == 0
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert listened(request_of(own.fileno())) == 0, "it listens already"


def test_a_port_that_is_taken_while_the_call_is_made_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's socket may lose its port in between: the kernel then gives it any."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        ports = [own.getsockname()[1], own.getsockname()[1] + 1]
        monkeypatch.setattr(listening, "port_of", lambda _: ports.pop(0))
        assert listened(request_of(own.fileno()), ports[0]) == errno.EACCES
        assert not own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@pytest.mark.parametrize(
    ("is_like", "shares", "is_still", "expected"),
    [(True, False, True, 0), (False, False, True, None), (False, True, True, 0), (False, False, False, 0)],
)
def test_who_can_change_no_others_descriptor_makes_the_call_on_a_unix_socket_itself(
    monkeypatch: pytest.MonkeyPatch, is_like: bool, shares: bool, is_still: bool, expected: int | None
) -> None:
    monkeypatch.setattr(listening, "_is_like_us", lambda _: is_like)
    monkeypatch.setattr(listening, "_shares_descriptors", lambda _: shares)
    monkeypatch.setattr(listening, "_is_still", lambda *_: is_still)
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("")
        assert listened(request_of(own.fileno())) == expected
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == (expected == 0)


def test_what_is_no_socket_or_no_descriptor_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    assert listened(request_of(reading)) == errno.ENOTSOCK
    os.close(reading)
    os.close(writing)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert listened(request_of(datagrams.fileno())) == errno.EOPNOTSUPP
    monkeypatch.setattr(listening.kernel, "descriptor_of", lambda *_: fails(errno.EBADF))
    assert listened(request_of(0)) == errno.EBADF
    monkeypatch.setattr(listening.kernel, "descriptor_of", lambda *_: fails(errno.EPERM))
    with pytest.raises(PermissionError):
        listened(request_of(0))


def fails(number: int) -> int:
    raise OSError(number, os.strerror(number))
