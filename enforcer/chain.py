"""Several filters as one: a call must pass each, in order.

They cannot be put on one after the other: the first would judge the `seccomp` call that installs the second, and one
chain of filters has one listener only (seccomp(2), EBUSY).  So what a filter allows goes on to the next one: its
`return ALLOW` becomes a jump, which in classic BPF is as long.  The first filter that does not allow decides.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS (linux/bpf_common.h)
_SIZE = 8  # struct sock_filter {u16 code; u8 jt, jf; u32 k}
_RET_K, _JA = 0x06, 0x05  # BPF_RET | BPF_K, BPF_JMP | BPF_JA (linux/bpf_common.h)
_ALLOW, _LOG = 0x7FFF0000, 0x7FFC0000  # SECCOMP_RET_* (linux/seccomp.h)


def chain(filters: Sequence[bytes]) -> bytes:
    """One program for all of `filters`, each an array of struct sock_filter that returns constants.

    A `log` counts as `allow` except in the last.  ValueError if there are none, or more instructions than the kernel
    takes.
    """
    if not filters:
        raise ValueError("no filter")
    total = sum(map(len, filters)) // _SIZE
    if total > MAX_INSTRUCTIONS:
        raise ValueError(f"the filter has {total} instructions, and the kernel takes {MAX_INSTRUCTIONS}")
    return b"".join(map(_passing_on, filters[:-1])) + filters[-1]


def _passing_on(program: bytes) -> bytes:
    """The program with each `return ALLOW` replaced by a jump behind its end."""
    parts = []
    for start in range(0, len(program), _SIZE):
        instruction = program[start : start + _SIZE]
        code, k = int.from_bytes(instruction[:2], "little"), int.from_bytes(instruction[4:], "little")
        if code == _RET_K and k in (_ALLOW, _LOG):
            behind = (len(program) - start) // _SIZE - 1
            instruction = _JA.to_bytes(4, "little") + behind.to_bytes(4, "little")
        parts.append(instruction)
    return b"".join(parts)
