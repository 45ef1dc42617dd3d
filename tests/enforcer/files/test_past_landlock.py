"""What fails before the filter, because it would get past Landlock: each call under lines about files, and about ports."""

from __future__ import annotations

import errno
import os

import pytest
from calls import event

from callfence.enforcer.files.past_landlock import refusals
from callfence.policygen.files.landlock import UNSEEN_REQUESTS, Ruleset
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.language.document import parse
from callfence.tracer.abi import COMPAT, NATIVE, table
from callfence.tracer.linux import FAMILY_ERROR, FAST_OPEN_ERROR, MSG_FASTOPEN, PROTOCOL_ERROR

ALLOWING = compile_policy(parse(f"arch {NATIVE}\ndefault allow\nunknown allow\narch {COMPAT}\n").policy)
NO_PORT, ANY_PORT = ((80, 80),), ((0, 65535),)
CONFINED = {
    "files": Ruleset([(b"/a", 4)], None, None),
    "no files": Ruleset([], None, None),
    "connect": Ruleset(None, NO_PORT, ANY_PORT),
    "bind": Ruleset(None, ANY_PORT, NO_PORT),
    "all": Ruleset([(b"/a", 4)], NO_PORT, NO_PORT),
}
FILES, CONNECT, PORTS = ("files", "no files", "all"), ("connect", "all"), ("connect", "bind", "all")
EVERY = tuple(CONFINED)
TCP, TCP_ULP, MPTCP, SMC = 6, 31, 262, 43


@pytest.mark.parametrize(
    ("call", "arguments", "error", "under"),
    [
        ("openat", (0, 0, 3), errno.EACCES, FILES),
        ("openat", (0, 0, 3 | os.O_CREAT), errno.EACCES, FILES),
        ("openat", (0, 0, 3 | os.O_PATH), 0, ()),
        ("openat", (0, 0, os.O_RDWR), 0, ()),
        ("openat", (3, 3, os.O_RDONLY), 0, ()),
        ("open", (0, 3), errno.EACCES, FILES),
        ("open", (0, os.O_RDWR, 3), 0, ()),
        ("open_by_handle_at", (0, 0, 3), errno.EACCES, FILES),
        ("openat2", (), errno.ENOSYS, FILES),
        ("fsopen", (), errno.ENOSYS, FILES),
        ("fsconfig", (), errno.ENOSYS, FILES),
        ("io_uring_setup", (), errno.ENOSYS, EVERY),
        ("io_uring_enter", (), errno.ENOSYS, EVERY),
        *(("ioctl", (3, request), errno.ENOTTY, FILES) for request in UNSEEN_REQUESTS),
        ("ioctl", (3, 0x5401), 0, ()),
        ("socket", (SMC, 1, 0), FAMILY_ERROR, PORTS),
        ("socket", (2, 1, MPTCP), PROTOCOL_ERROR, PORTS),
        ("socket", (2, 1, TCP), 0, ()),
        ("setsockopt", (3, TCP, TCP_ULP), errno.ENOENT, PORTS),
        ("setsockopt", (3, TCP, 1), 0, ()),
        ("setsockopt", (3, 1, TCP_ULP), 0, ()),
        ("sendto", (3, 0, 0, MSG_FASTOPEN), FAST_OPEN_ERROR, CONNECT),
        ("sendmsg", (3, 0, MSG_FASTOPEN), FAST_OPEN_ERROR, CONNECT),
        ("sendmmsg", (3, 0, 0, MSG_FASTOPEN), FAST_OPEN_ERROR, CONNECT),
        ("sendto", (3, 0, 0, 0), 0, ()),
        ("read", (3, 3, 3), 0, ()),
    ],
)
def test_it_fails_under_the_lines_that_it_would_get_past(
    call: str, arguments: tuple[int, ...], error: int, under: tuple[str, ...]
) -> None:
    for arch in (NATIVE, COMPAT):
        if call not in table(arch).by_name:
            continue
        for name, rules in CONFINED.items():
            answer = bpf.run(refusals(ALLOWING, rules, reports=False) + ALLOWING, event(call, *arguments, arch=arch))
            assert answer == (0x50000 | error if name in under else 0x7FFF0000), (arch, name)


def test_without_lines_there_is_nothing_to_get_past() -> None:
    for rules in (Ruleset(None, None, None), Ruleset(None, ANY_PORT, ANY_PORT)):
        assert refusals(ALLOWING, rules, reports=False) == b""
