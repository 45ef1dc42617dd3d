"""Whether a file's mode lets a task do something, as the kernel has it (generic_permission, fs/namei.c)."""

from __future__ import annotations

import stat

import pytest

from callfence.enforcer.files.ungranted import permits
from callfence.policygen.files.calls import File
from callfence.policygen.grants import Right

READ, WRITE, EXECUTE = Right.READ, Right.WRITE, Right.EXECUTE
OWNER, MEMBER, OTHER = (
    {"Uid": f"9 {uid} 9 9", "Gid": f"9 {gid} 9 9", "Groups": groups, "CapEff": "0"}
    for uid, gid, groups in ((1, 9, ""), (8, 9, "7 2"), (8, 9, "7"))
)
BY_GROUP = {**OTHER, "Gid": "9 2 9 9"}
ROOT = {**OTHER, "CapEff": "2"}


@pytest.mark.parametrize(
    ("mode", "rights", "fields", "expected"),
    [
        (0o400, READ, OWNER, True),
        (0o400, WRITE, OWNER, False),
        (0o400, READ, OTHER, False),
        (0o040, READ, MEMBER, True),
        (0o040, READ, BY_GROUP, True),
        (0o040, READ, OTHER, False),
        (0o004, READ, OTHER, True),
        (0o044, READ, OWNER, False),
        (0o604, READ, MEMBER, False),
        (0o600, READ | WRITE, OWNER, True),
        (0o400, READ | WRITE, OWNER, False),
        (0o500, READ | EXECUTE, OWNER, True),
        (0o600, EXECUTE, OWNER, False),
        (0o000, READ | WRITE, ROOT, True),
        (0o000, EXECUTE, ROOT, False),
        (0o001, EXECUTE, ROOT, True),
    ],
)
def test_by_the_mode(mode: int, rights: Right, fields: dict[str, str], expected: bool) -> None:
    assert permits(File(b"/f", stat.S_IFREG | mode, 1, 2), rights, fields) is expected


def test_root_enters_any_folder() -> None:
    assert permits(File(b"/d", stat.S_IFDIR, 1, 2), EXECUTE, ROOT)
    assert not permits(File(b"/d", stat.S_IFDIR, 1, 2), EXECUTE, OWNER)
