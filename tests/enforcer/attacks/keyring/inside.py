"""What an attacker who has learned, or set, a secret does with the keyring and the cache: `inside.py WHAT [ARGUMENT ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from callfence.enforcer import kernel
from callfence.enforcing import cache
from callfence.enforcing.sealed import Compiled, seal
from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction

EVERYTHING = bpf.encode([Instruction(bpf.RET | bpf.K, k=0x7FFF0000)])
"""The filter that allows every call."""
USER_KEYRING, UNLINK, SETPERM, JOIN_SESSION = -4, 9, 5, 1


def forge(policy: str, secret: str) -> None:
    """Put a filter that allows everything into the cache, signed."""
    content = Path(policy).read_bytes()
    folder = Path(os.environ["XDG_CACHE_HOME"], "callfence")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for variant in ("report", "silent"):
        forged = Compiled(EVERYTHING, "exec", [(policy, content)], variant=variant, expects_listener=False, is_settled=False)
        file = folder / cache._name(policy, variant)
        file.write_bytes(seal(forged, cache.compiler(), secret.encode()))
        file.chmod(0o600)


def make(permissions: str, content: str) -> None:
    """Put a key into the user's keyring."""
    key = kernel.syscall("add_key", b"user", b"callfence:cache", content.encode(), len(content), USER_KEYRING)
    if int(permissions, 16):
        cache._keyctl(SETPERM, key, int(permissions, 16))


def unlink() -> None:
    cache._keyctl(UNLINK, cache._key(), USER_KEYRING)


def show(*words: str) -> None:
    """Print the secret, and its key's permissions; in a session that does not possess it, if there is an argument."""
    if words:
        cache._keyctl(JOIN_SESSION, None)
    print(cache.secret().hex(), f"{cache._key_problem(cache._key())[1]:08x}")


if __name__ == "__main__":
    {"forge": forge, "make": make, "unlink": unlink, "show": show}[sys.argv[1]](*sys.argv[2:])
