"""Which policies let a program truncate what it may not write: Landlock is asked about that for them alone."""

from __future__ import annotations

import pytest

from policygen.files.landlock import TRUNCATE, decode, downgrade, encode
from policygen.files.ruleset import ruleset, truncates
from policygen.language.document import parse

POLICIES = (
    ("read: allow", False),
    ("implied 1\nopenat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC|O_NONBLOCK", False),
    ("openat: flags == O_WRONLY|O_TRUNC || flags == O_RDWR|O_CREAT|O_TRUNC", False),
    ("creat: allow\nftruncate: allow", False),
    ("truncate: allow", True),
    ("open: allow", True),
    ("openat: flags & O_ACCMODE == O_RDONLY", True),
    ("openat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC|O_TRUNC", True),
    ("openat: flags & O_ACCMODE != O_WRONLY && flags & O_ACCMODE != O_RDWR && flags & O_CLOEXEC == 0", True),
    ("openat2: allow", True),
    ("openat2: errno ENOSYS", False),
    ("io_uring_setup: allow", True),
    ("unknown allow\nread: allow", True),
    ("arm entry\nread: allow", True),
    ("default allow\nread: allow", True),
    ("default log\nread: allow", True),
    ("arch x86_64\nread: allow\narch i386\ntruncate64: allow", True),
    ("phase serving after accept4\nread: allow\ntruncate: allow until serving\naccept4: allow", True),
)


@pytest.mark.parametrize(("text", "can"), POLICIES)
def test_what_can_truncate(text, can):
    assert truncates(parse(text).policy) == can


@pytest.mark.parametrize("can", [True, False])
def test_it_is_handled_where_the_filter_does_not_see_to_it(can):
    files = parse("path /a: read, write\npath /b: read").policy.files
    rules = decode(encode(ruleset(files, truncates=can)))
    assert rules.truncates == can
    effective = downgrade(rules, 3)
    assert bool(effective.handled_files & TRUNCATE) == can
    assert all(not access & ~effective.handled_files for _, access in effective.rules.paths or ())
    assert [bool(downgrade(rules, version).lacking) for version in (1, 2, 3)] == [can, can, False]
