"""The secret that signs a user's cache of filters, and programs that may use add_key(2)."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.enforcer import kernel
from callfence.enforcing import cache

HERE = Path(__file__).parent / "keyring"
ROOT = Path(__file__).parents[3]
FORGED = "A" * 32
"""What setkey.c writes."""
USABLE, ADDED, FORMER = "0b0b0000", "3f010000", "3f0b0000"
"""Permissions: of our key, of one that add_key(2) makes, and of those that earlier versions of callfence made."""
DENIED = "Operation not permitted"


@pytest.fixture(scope="module")
def earlier():
    """None: each test compiles what it needs, and signs it with the secret that it has."""


@pytest.fixture
def inside(place, attacker):
    """inside(line, ...) -> what these commands write to both streams, in a user namespace.

    It has user keyrings of its own (user_keyrings(7)), so those of other tests stay as they are.  `enforce` and `callfence` are
    commands there; `inside`: inside.py; `setkey`: the attack, confined by a policy that allows add_key."""
    program = attacker("keyring/setkey")
    place.policy("default allow\nmkdir: errno EPERM\n", "mkdir.policy")
    with (place.folder / "setkey.policy").open("a") as policy:
        policy.write("write: allow\nexecve: allow\n")
    python = shlex.quote(sys.executable)
    commands = f"""
enforce() {{ {python} -m callfence enforce "$@"; }}
callfence() {{ {python} -m callfence "$@"; }}
inside() {{ {python} {HERE}/inside.py "$@"; }}
setkey() {{ enforce "$@" -p setkey.policy {program}; }}
"""
    environment = place.environment | {"XDG_CACHE_HOME": str(place.folder / "cache"), "PYTHONPATH": str(ROOT)}

    def run(*lines):
        words = ["unshare", "--user", "--map-root-user", "sh", "-c", commands + "\n".join(lines)]
        settings = {"cwd": place.folder, "env": environment, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        done = subprocess.run(words, **settings, stdout=subprocess.PIPE, text=True, timeout=240, check=False)
        if "unshare:" in done.stdout:
            pytest.skip("no user namespace can be made")
        return done.stdout

    if not run("inside show").split()[0]:
        pytest.skip("the kernel, or a container's filter, has no keyrings")
    return run


@pytest.mark.long
def test_a_program_that_may_add_keys_cannot_set_the_secret(inside, place):
    """setkey.c, and then forge: add_key(2) writes a key that is there already, if it may be written."""
    said = inside("enforce mkdir made", "setkey", f"inside forge mkdir.policy {FORGED}", "enforce mkdir made", "inside show")
    assert "add_key: -1 Permission denied" in said
    assert said.count(DENIED) == 2, said
    assert said.split()[-1] == USABLE
    assert not (place.folder / "made").exists()


def test_a_digest_with_the_key_is_no_signature(inside, place):
    """The kernel makes such for a program that has a socket of AF_ALG: linux/if_alg.h, ALG_SET_KEY_BY_KEY_SERIAL."""
    said = inside(
        f"inside make {USABLE} {FORGED}; inside forge mkdir.policy {FORGED}; enforce mkdir made; inside show",
    )
    assert said.count(DENIED) == 1, said
    assert FORGED.encode().hex() not in said
    assert not (place.folder / "made").exists()


@pytest.mark.long
@pytest.mark.parametrize("options", ["--no-cache", "--quiet-kernel"])
def test_a_key_that_a_program_has_made_first_is_no_secret(inside, place, options):
    """It can be made where `enforce` did not need the secret: without the cache, or with one of root's or of a file."""
    said = inside(
        "callfence compile -o setkey.filter setkey.policy",
        f"setkey {options} --compiled setkey.filter" if options != "--no-cache" else "setkey --no-cache",
        f"inside forge mkdir.policy {FORGED}",
        "echo FORGED; enforce mkdir made; callfence verify --cached; callfence doctor",
        "inside unlink; echo REMOVED; enforce mkdir made; enforce mkdir made; inside show",
    )
    before, _, rest = said.partition("FORGED")
    told, _, after = rest.partition("REMOVED")
    assert "add_key: -1" not in before
    assert "add_key: " in before, said
    assert DENIED in told
    why = f"has the permissions {ADDED} instead of {USABLE}, so another program may have made it; `keyctl unlink "
    assert told.count(why) == 3, "enforce, verify --cached and doctor say it"
    assert "enforce: the policy is compiled at each start, because the key callfence:cache (" in told
    assert after.count(DENIED) == 2, after
    assert "enforce:" not in after
    assert after.split()[-1] == USABLE
    assert not (place.folder / "made").exists()


@pytest.mark.parametrize(
    ("permissions", "content", "problem"),
    [
        (USABLE, "short", "has 5 bytes instead of 32"),
        (USABLE, FORGED + "A", "has 33 bytes instead of 32"),
        ("3f3f3f3f", FORGED, "has the permissions 3f3f3f3f instead of"),
        ("0b0b0b00", FORGED, "has the permissions 0b0b0b00 instead of"),
        ("2b0b0000", FORGED, "has the permissions 2b0b0000 instead of"),
    ],
)
def test_a_key_that_is_not_as_ours_is_an_error(inside, place, permissions, content, problem):
    """Where it has no secret, `enforce` does not take a checksum for one."""
    said = inside(
        f"inside make {permissions} {content}",
        f"inside forge mkdir.policy {FORGED}; enforce mkdir made",
        "inside forge mkdir.policy ''; enforce mkdir made",
    )
    assert said.count(problem) == said.count(DENIED) == 2, said
    assert not (place.folder / "made").exists()


def test_a_key_of_an_earlier_version_is_replaced(inside, place):
    """A program may have written it."""
    said = inside(
        f"inside make {FORMER} {FORGED}",
        f"inside forge mkdir.policy {FORGED}; enforce mkdir made; inside show; inside show",
    )
    assert said.count(DENIED) == 1, said
    assert "enforce:" not in said
    secrets = {line for line in said.splitlines() if line.endswith(USABLE)}
    assert len(secrets) == 1
    assert FORGED.encode().hex() not in said
    assert not (place.folder / "made").exists()


def test_a_session_that_does_not_possess_the_keyring_has_the_same_secret(inside):
    made_here = inside("inside show; inside show session").splitlines()
    made_there = inside("inside show session; inside show").splitlines()
    for lines in (made_here, made_there):
        assert len(lines) == 2
        assert lines[0] == lines[1]
        assert lines[0].endswith(USABLE)


@pytest.mark.parametrize(
    ("number", "is_error"),
    [(errno.ENOSYS, False), (errno.EPERM, False), (errno.EDQUOT, True), (errno.EACCES, True), (errno.EKEYREVOKED, True)],
)
def test_only_where_there_are_no_keyrings_there_is_no_secret(monkeypatch, number, is_error):
    """A program that uses up the user's quota of keys would otherwise have a checksum taken for a signature."""

    def call(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kernel, "syscall", call)
    if is_error:
        with pytest.raises(cache.SecretError, match=os.strerror(number)):
            cache.secret()
    else:
        assert cache.secret() == b""
