"""Whether a filter might let a call run, whatever its arguments."""

from __future__ import annotations

from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LD, _JA = 0x20, linux.BPF_JA  # BPF_LD|BPF_W|BPF_ABS (linux/bpf_common.h)
_JEQ, _JGT, _JGE, _JSET = 0x15, 0x25, 0x35, 0x45  # BPF_JMP|...|BPF_K
_NUMBER, _ARCH = 0, 4  # struct seccomp_data, linux/seccomp.h


def may_run(filter_: bytes, arch: int, number: int, *, reports: bool) -> bool:
    """Whether there are arguments with which a filter might let a call run: by itself, or by asking a tracer or a supervisor,
    unless the latter is the helper (`reports`), which only answers."""
    denials = {linux.SECCOMP_RET_KILL_PROCESS, linux.SECCOMP_RET_KILL_THREAD, linux.SECCOMP_RET_TRAP, linux.SECCOMP_RET_ERRNO}
    denials |= {linux.SECCOMP_RET_USER_NOTIF} if reports else set()
    known = {_ARCH: arch, _NUMBER: number}
    reached: set[tuple[int, int | None]] = set()
    ahead: list[tuple[int, int | None]] = [(0, None)]
    while ahead:
        place = ahead.pop()
        if place in reached:
            continue
        reached.add(place)
        at, loaded = place
        instruction = filter_[8 * at : 8 * at + 8]
        code, k = int.from_bytes(instruction[:2], "little"), int.from_bytes(instruction[4:], "little")
        if code == linux.BPF_RET_K:
            if k & linux.SECCOMP_RET_ACTION_FULL not in denials:
                return True
        elif code == _JA:
            ahead.append((at + 1 + k, loaded))
        elif code & 7 == _JEQ & 7:
            holds = None if loaded is None else _TESTS[code](loaded, k) if code in _TESTS else None
            jumps = (instruction[2], instruction[3])
            ahead += [(at + 1 + jump, loaded) for jump, way in zip(jumps, (True, False), strict=True) if holds in (None, way)]
        else:
            ahead.append((at + 1, known.get(k) if code == _LD else None))
    return False


_TESTS: dict[int, Callable[[int, int], bool]] = {
    _JEQ: lambda loaded, k: loaded == k,
    _JGT: lambda loaded, k: loaded > k,
    _JGE: lambda loaded, k: loaded >= k,
    _JSET: lambda loaded, k: bool(loaded & k),
}
