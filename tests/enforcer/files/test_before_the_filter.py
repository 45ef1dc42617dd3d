"""What runs before the filter, under `arm entry`, is kept from truncating by the lines about files, wherever that is said."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from callfence.enforcer.kernel import landlock_abi

pytestmark = pytest.mark.skipif(landlock_abi() < 3, reason="needs Landlock's ABI 3 (Linux 6.2)")
SOURCE = Path(__file__).resolve().parents[1] / "programs" / "empties.c"
DENIES = """\
arm {}
default allow
open: flags & O_TRUNC == 0 else errno EPERM
openat: flags & O_TRUNC == 0 else errno EPERM
open_by_handle_at: errno EPERM
openat2: errno ENOSYS
truncate: errno EPERM
io_uring_setup: errno ENOSYS
path /: read, execute
"""


@pytest.mark.parametrize("how", ["open", "truncate"])
@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize(
    ("written", "given", "denied"),
    [
        ("exec", "entry", errno.EACCES), ("now", "entry", errno.EACCES), ("entry", "", errno.EACCES),
        ("exec", "now", errno.EPERM), ("entry", "exec", errno.EPERM), ("exec", "", errno.EPERM),
    ],
)  # fmt: skip
def test_files_stay_as_they_are(place, compile_c, how, is_cached, written, given, denied):
    library = compile_c(SOURCE, "-DLIBRARY", "-shared", "-fPIC")
    program = compile_c(SOURCE, str(library))
    place.policy(DENIES.format(written), "late.policy")
    data = place.folder / "data" / "a"
    before = data.read_bytes()
    assert before
    options = (*(("--arm", given) if given else ()), *(() if is_cached else ("--no-cache",)))
    done = place.enforce("-p", "late.policy", *options, program, data, how)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [str(denied)]), done.stderr
    assert data.read_bytes() == before
