"""listen(2) made for a program."""

from __future__ import annotations

import errno
import socket

import pytest

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
