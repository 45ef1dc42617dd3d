"""Make a policy's Landlock ruleset, and decide whether Landlock has to handle truncating, and TCP ports.

If Landlock handles truncating, each opening of a file costs a fifth of a microsecond more: it checks all folders up to the root
for the right to truncate later (security/landlock/fs.c, hook_file_open()).  Opening for writing needs `write` anyway, which
includes truncating, so Landlock handles truncating only if the policy's calls can truncate a file that is not open for writing.
For the same reason it handles ports only if the policy's calls can connect or bind: then most programs start without Landlock,
and on kernels whose Landlock has no ports.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import reduce
from operator import or_

from callfence.policygen.evaluate import answers
from callfence.policygen.files import landlock
from callfence.policygen.files.calls import BY_HANDLE, INTERNET, MOUNTING, PATH_CALLS, SENDING
from callfence.policygen.grants import ALL, BARE, KINDS, TCP, Right
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import Always, And, Arm, Condition, Expression, Operator, Or, Policy
from callfence.policygen.paths import encoded
from callfence.policygen.sets.algebra import FALSE, TooComplexError
from callfence.policygen.sets.region import space, to_bdd
from callfence.tracer.abi import table
from callfence.tracer.linux import MSG_FASTOPEN


def ruleset(policy: Policy, arm: Arm = Arm.EXEC) -> landlock.Ruleset:
    """Return the ruleset of a policy whose filter takes effect at `arm`; a line that grants nothing gives no rule.  A port that
    is granted at one host is granted at every host: Landlock knows none."""
    files, paths = policy.files, None
    if files.paths is not None and files.paths.get("/") != ALL:
        paths = [(encoded(path), access(rights)) for path, rights in files.paths.items() if rights]
    is_open = arm is Arm.ENTRY or policy.unknown.may_allow  # to what runs before the filter; to calls that nobody knows
    return landlock.Ruleset(
        paths,
        files.every_port("connect") if is_open or _may(policy, _CONNECTING) else None,
        files.bind if is_open or _may(policy, _BINDING) else None,
        truncates=paths is None or is_open or _may(policy, _TRUNCATING),
    )


def makes_tcp(policy: Policy) -> bool:
    """Return whether the policy lets a process make a TCP socket; True for a policy that is too complex to find out."""
    return policy.unknown.may_allow or _may(policy, _MAKING_TCP)


def changes_files(policy: Policy) -> bool:
    """Return whether the policy lets a process change a file that it does not hold open, or what a path leads to, or another
    process or the kernel in its stead; True for a policy that is too complex to find out."""
    return policy.default.may_allow or policy.unknown.may_allow or _may(policy, _CHANGING)


def access(rights: Right) -> int:
    """Return the Landlock rights for the rights of a `path` line."""
    return reduce(or_, (landlock.ACCESS[right.word] for right in rights), 0)


def _truncating(flags: int) -> Expression:
    """Return the condition for O_TRUNC without write access: O_RDONLY, or the third access mode (open(2))."""
    modes = Or(tuple(Condition(flags, Operator.MASKED, mode, os.O_ACCMODE) for mode in (os.O_RDONLY, os.O_ACCMODE)))
    return And((Condition(flags, Operator.ANY, os.O_TRUNC), modes))


_ALWAYS: Expression = Always(True)
_TRUNCATING = {
    **dict.fromkeys(("truncate", "truncate64", "openat2", "io_uring_setup"), _ALWAYS),
    **{name: _truncating(flags) for name, flags in {"open": 1, "openat": 2, "open_by_handle_at": 2}.items()},
}
"""The calls that truncate a file which is not open for writing: by its name, or with flags that a filter sees or does not."""
_CONNECTING = {
    **dict.fromkeys(("connect", "socketcall", "io_uring_setup"), _ALWAYS),
    **{name: Condition(index, Operator.ANY, MSG_FASTOPEN) for name, index in SENDING.items()},
}
_BINDING = dict.fromkeys(("bind", "listen", "socketcall", "io_uring_setup"), _ALWAYS)
"""The calls that take a TCP port; listen(2) takes one for a socket that has none (ip(7))."""
_STREAM_OF_IP = And(
    (
        Or(tuple(Condition(0, Operator.EQ, family) for family in INTERNET)),
        Condition(1, Operator.MASKED, 1, 0xF),  # SOCK_STREAM; linux/net.h, SOCK_TYPE_MASK
    )
)
_MAKING_TCP = {"socket": _STREAM_OF_IP, "socketcall": _ALWAYS}
"""The calls that make a TCP socket where ports are confined, so that io_uring is off (`enforcer.files.landlock`), and where no
socket listens yet."""
_OPENING = dict.fromkeys((*PATH_CALLS, BY_HANDLE, "io_uring_setup"), _ALWAYS)
_OPENING_TO_CHANGE = {"open": 1, "openat": 2, BY_HANDLE: 2}
"""The calls that change files by some flags only -> the index of these."""
_CHANGING = {
    **dict.fromkeys({*PATH_CALLS} - {*_OPENING_TO_CHANGE, "execve", "execveat", "mq_open"}, _ALWAYS),
    **{
        name: Condition(flags, Operator.ANY, os.O_ACCMODE | os.O_CREAT | os.O_TRUNC)
        for name, flags in _OPENING_TO_CHANGE.items()
    },
    "ioctl": Or(tuple(Condition(1, Operator.EQ, request) for request in landlock.UNSEEN_REQUESTS)),
    **dict.fromkeys((*MOUNTING, "io_uring_setup", "ptrace", "process_vm_writev", "pidfd_getfd"), _ALWAYS),
    **dict.fromkeys(("bpf", "init_module", "finit_module", "kexec_load", "kexec_file_load", "iopl", "ioperm"), _ALWAYS),
}
_SENDING = dict.fromkeys((*SENDING, "connect", "socketcall", "io_uring_setup"), _ALWAYS)
"""The calls that send to a UDP port or a unix socket, or connect to it."""
_REACHING = {"paths": _OPENING, "connect": _CONNECTING, "bind": _BINDING, "send": _SENDING, **dict.fromkeys(BARE, _SENDING)}
"""The calls that reach what a policy can confine, by its kind (`grants.KINDS`)."""


def kept_by_the_filter(policy: Policy) -> tuple[str, ...]:
    """Return the kinds (`grants.KINDS`) that the policy's calls do not reach, so that lines about them need not be enforced."""
    if policy.default.may_allow or policy.unknown.may_allow:
        return ()
    return tuple(kind for kind in KINDS if not _may(policy, _REACHING[kind]))


def unconfined(policy: Policy, also: Collection[str] = ()) -> tuple[str, ...]:
    """Return the kinds (`grants.KINDS`) that the policy has no line about, although its calls reach them.

    Of hosts, unix sockets and names, which few policies confine, there are only those in `also`; UDP in a policy that confines
    TCP to hosts, since what may not be sent to others so, can be by UDP; and names in one that lets name servers be asked by
    UDP lines, since these ask others: `dns query: none` is then no more than a word, as where there are no UDP lines."""
    if policy.default.may_allow:  # which says more
        return ()
    files = policy.files
    asks_some = files.send is not None and files.asks_servers
    judged = {"paths", *TCP, *also, *["send"] * bool(files.connect_to), *["query"] * asks_some}
    free = [kind for kind in KINDS if kind in judged and getattr(files, kind) is None]
    free += ["query"] * files.asks_freely
    return tuple(kind for kind in free if _may(policy, _REACHING[kind]))


def _may(policy: Policy, calls: Mapping[str, Expression]) -> bool:
    """Return whether the policy lets a process make one of these calls with arguments that meet the call's condition; True for
    a policy that is too complex to find out."""
    try:
        return _allows(policy, calls)
    except TooComplexError:
        return True


def _allows(policy: Policy, calls: Mapping[str, Expression]) -> bool:
    start, sets = resolved(policy), space()
    for arch in policy.entries:
        for name, condition in calls.items():
            if name not in table(arch).by_name:
                continue
            call = table(arch).by_name[name]
            some = to_bdd(sets, condition, call.arguments)
            for where, action in answers(sets, start, arch, call.number):
                if action.may_allow and sets.and_(where, some) != FALSE:
                    return True
    return False
