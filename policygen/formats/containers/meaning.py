"""The meaning of a profile to a container runtime, and the policy with the same meaning.

The meaning is that of runc and crun with libseccomp (runc libcontainer/seccomp/seccomp_linux.go, crun
src/libcrun/seccomp.c; tried with libseccomp 2.6.0): names that an architecture does not have are skipped, and so are
rules with the default action; a rule without comparisons takes precedence over rules with comparisons, and the first
such rule over the others; a rule that compares one argument twice becomes one rule for each of its comparisons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

from callfence.policygen.filter import bpf
from callfence.policygen.filter.lift import lift_function
from callfence.policygen.formats import Direction, FormatOptions, Imported, ImportFormatError, Loss
from callfence.policygen.formats.bpf import imported
from callfence.policygen.formats.containers.profile import EPERM, Act, Op, Profile, ProfileRule, RegisterComparison
from callfence.policygen.model import ENOSYS, KILL, Action, ActionKind
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError, constant
from callfence.policygen.values import replace
from callfence.tracer.abi import X32_BIT, Arch, table

SCMP = {
    "SCMP_ARCH_X86_64": Arch.X86_64,
    "SCMP_ARCH_X86": Arch.I386,
    "SCMP_ARCH_AARCH64": Arch.AARCH64,
    "SCMP_ARCH_ARM": Arch.ARM,
}
X32 = "SCMP_ARCH_X32"
_GO = {Arch.X86_64: ("amd64",), Arch.I386: ("386", "x86"), Arch.AARCH64: ("arm64",), Arch.ARM: ("arm",)}
"""The names that `includes.arches` and `excludes.arches` use for the machine."""
ACTS = {
    ActionKind.ALLOW: Act.ALLOW,
    ActionKind.KILL: Act.KILL_PROCESS,
    ActionKind.ERRNO: Act.ERRNO,
    ActionKind.TRAP: Act.TRAP,
    ActionKind.LOG: Act.LOG,
    ActionKind.NOTIFY: Act.NOTIFY,
}
_RET = {act: bpf.ret(Action(kind)) for kind, act in ACTS.items() if kind is not ActionKind.ERRNO}
_RET |= dict.fromkeys((Act.KILL, Act.KILL_THREAD), bpf.KILL_THREAD)
_MULTIPLEXED = frozenset((
    "socket", "bind", "connect", "listen", "getsockname", "getpeername", "socketpair", "sendto", "recvfrom", "shutdown",
    "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg", "semget", "semctl", "msgget",
    "msgctl", "msgsnd", "msgrcv", "shmget", "shmctl", "shmat", "shmdt",
))
"""Calls of i386 that libseccomp also means by a number of socketcall or ipc (its src/arch-x86.c)."""
_STRANGE = "names that no architecture known here has, skipped, as runtimes skip them"
_BY_SOCKETCALL = "on i386 libseccomp judges these made by socketcall and ipc as well, which the policy does not say"


_OLDEST = (5, 9)
"""Linux without which programs are not confined with reports: rules for still older ones always apply (docs/kernels.md)."""
_REVERSED = {Direction.WIDER: Direction.NARROWER, Direction.NARROWER: Direction.WIDER, Direction.OTHER: Direction.OTHER}


def return_value(act: Act, errno: int | None) -> int:
    """Return the filter's 32-bit return value for the action `act`, with `errno` (or the datum of TRACE; None means EPERM)."""
    if act in _RET:
        return _RET[act]
    base = bpf.ret(Action(ActionKind.ERRNO, EPERM)) & bpf.ACTION_MASK if act is Act.ERRNO else bpf.TRACE
    return base | (EPERM if errno is None else errno)


def policy_of(profile: Profile, options: FormatOptions, filename: str) -> Imported:
    """Return the policy that has the same meaning as the profile has to a container runtime.  Raises ImportFormatError if the
    profile is too complex to compute that."""
    applied, losses = _for_container(profile, options)
    sections, more = _architectures(applied, options)
    space = region.space()
    try:
        lifted = lift_function(space, decisions(space, applied, sections, options.runtime))
        return imported(lifted, (*losses, *more, *_about(applied, sections)))
    except TooComplexError as error:
        raise ImportFormatError(f"{filename}: too complex to be read: {error}") from error


def decisions(space: Space, profile: Profile, sections: Iterable[Arch], runtime: str = "") -> int:
    """Return the function from events (`region`) to return values (`bpf.ret`) that a runtime makes of a profile; `sections` are
    its architectures, and all of its rules must apply.

    With the runtime `runc`, numbers above the greatest that the profile names fail with ENOSYS, unless the default lets calls
    run (runc libcontainer/seccomp/patchbpf/enosys_linux.go)."""
    default = return_value(profile.default, profile.errno)
    number, result = region.number_word(space), space.terminal(bpf.ret(KILL))
    patched = runtime == "runc" and profile.default not in (Act.ALLOW, Act.LOG, Act.TRACE)
    for arch in sections:
        section = space.terminal(default)
        calls = table(arch).by_name
        rules = {calls[name].number: of_call for name, of_call in _by_name(profile).items() if name in calls}
        for nr, of_call in rules.items():
            answer = _answer(space, of_call, default, arch.bits)
            section = space.ite(space.equal(number, constant(nr, 32)), answer, section)
        if patched and rules:
            newer = space.greater(number, constant(max(rules), 32))
            section = space.ite(newer, space.terminal(bpf.ret(ENOSYS)), section)
        if arch.has_x32:  # other numbers above that are no calls of any kind
            x32 = space.and_(space.greater(number, constant(X32_BIT - 1, 32)), space.greater(constant(2 * X32_BIT, 32), number))
            section = space.ite(x32, space.terminal(bpf.ret(KILL)), section)
        result = space.ite(space.equal(region.arch_word(space), constant(arch.audit, 32)), section, result)
    return result


def _by_name(profile: Profile) -> dict[str, list[ProfileRule]]:
    """Return the rules by the names that they have, in their order."""
    rules: defaultdict[str, list[ProfileRule]] = defaultdict(list)
    for rule in profile.rules:
        for name in rule.names:
            rules[name].append(rule)
    return rules


def _effective(rules: Iterable[ProfileRule], default: int) -> list[tuple[ProfileRule, int]]:
    """Return the rules whose return value is not the default, with it."""
    values = [(rule, return_value(rule.act, rule.errno)) for rule in rules]
    return [(rule, ret) for rule, ret in values if ret != default]


def _answer(space: Space, rules: list[ProfileRule], default: int, bits: int) -> int:
    """Return the function from arguments, of that many bits, to the return value for one call."""
    effective = _effective(rules, default)
    always = [ret for rule, ret in effective if not rule.comparisons]
    if always:
        return space.terminal(always[0])
    answer = space.terminal(default)
    for rule, ret in sorted(effective, key=lambda pair: _strictness(pair[1])):  # the strictest is put on top
        answer = space.ite(_where(space, rule, bits), space.terminal(ret), answer)
    return answer


def _strictness(ret: int) -> int:
    """Return the rank of a return value in the kernel's order of actions (seccomp(2)); the strictest is the greatest."""
    signed = ret - (1 << 32) if ret >> 31 else ret
    return -(signed & ~bpf.DATA_MASK)


def _where(space: Space, rule: ProfileRule, bits: int = 64) -> int:
    """Return the set for which a rule holds; comparisons of one argument with several values are joined by OR."""
    indices = [comparison.index for comparison in rule.comparisons]
    either = len(set(indices)) < len(indices)
    result = FALSE if either else TRUE
    for comparison in rule.comparisons:
        holds = _holds(space, comparison, bits)
        result = space.or_(holds, result) if either else space.and_(holds, result)
    return result


def _holds(space: Space, comparison: RegisterComparison, bits: int) -> int:
    """Return the set for which a comparison holds.  On a 32-bit architecture, libseccomp compares only the lower halves."""
    word, value = region.argument_word(space, comparison.index)[-bits:], constant(comparison.value, bits)
    match comparison.op:
        case Op.EQ:
            return space.equal(word, value)
        case Op.NE:
            return space.invert(space.equal(word, value))
        case Op.GT:
            return space.greater(word, value)
        case Op.LE:
            return space.invert(space.greater(word, value))
        case Op.LT:
            return space.greater(value, word)
        case Op.GE:
            return space.invert(space.greater(value, word))
        case Op.MASKED_EQ:
            masked = [bit if is_compared else FALSE for bit, is_compared in zip(word, value, strict=True)]
            return space.equal(masked, constant(comparison.value_two & comparison.value, bits))


# Which rules, and for which architectures


def _for_container(profile: Profile, options: FormatOptions) -> tuple[Profile, list[Loss]]:
    """Return the rules that apply to one container on one machine, and as losses, what that assumes."""
    left_out: defaultdict[Direction, list[str]] = defaultdict(list)
    for rule in profile.rules:
        if rule.includes.caps and not _applies(rule, options):
            left_out[_without(rule, profile)] += rule.names
    caps = {cap for rule in profile.rules for cap in (*rule.includes.caps, *rule.excludes.caps)}
    losses = []
    if missing := sorted(caps - options.capabilities):
        what = f"judged for a container without {', '.join(missing)} (--cap gives one); left out for that"
        losses = [Loss(direction, what, tuple(names)) for direction, names in (left_out or {Direction.NARROWER: []}).items()]
    losses += [] if options.kernel else _of_kernels(profile)
    return replace(profile, rules=tuple(rule for rule in profile.rules if _applies(rule, options))), losses


def _of_kernels(profile: Profile) -> list[Loss]:
    """Return as losses what differs on kernels that are older than those of the profile's rules, in a policy for the newest."""
    found: defaultdict[tuple[str, Direction], list[str]] = defaultdict(list)
    for rule in profile.rules:
        missing, added = _without(rule, profile), _REVERSED[_without(rule, profile)]
        for where, direction in ((rule.includes, added), (rule.excludes, missing)):
            if where.kernel and where.kernel > _OLDEST:
                version = ".".join(map(str, where.kernel))
                what = f"on Linux before {version}, since the profile is judged for the newest (--kernel gives another)"
                found[what, direction] += rule.names
    return [Loss(direction, what, tuple(dict.fromkeys(names))) for (what, direction), names in found.items()]


def _without(rule: ProfileRule, profile: Profile) -> Direction:
    """Return how a policy without this rule relates to the profile."""
    has, default = _may_run(return_value(rule.act, rule.errno)), _may_run(return_value(profile.default, profile.errno))
    return Direction.NARROWER if has > default else Direction.WIDER if has < default else Direction.OTHER


def _may_run(ret: int) -> bool:
    try:
        return bpf.action(ret).may_allow
    except ValueError:  # killing a thread, asking a tracer
        return False


def _applies(rule: ProfileRule, options: FormatOptions) -> bool:
    includes, excludes, names = rule.includes, rule.excludes, {*_GO[options.arch]}

    def is_old_enough(version: tuple[int, int]) -> bool:
        return options.kernel is None or options.kernel >= version

    return (
        set(includes.caps) <= options.capabilities
        and (not includes.arches or not names.isdisjoint(includes.arches))
        and (includes.kernel is None or is_old_enough(includes.kernel))
        and options.capabilities.isdisjoint(excludes.caps)
        and names.isdisjoint(excludes.arches)
        and not (excludes.kernel and is_old_enough(excludes.kernel))
    )


def _architectures(profile: Profile, options: FormatOptions) -> tuple[list[Arch], list[Loss]]:
    """Return the policy's architectures: the machine's, and others that the profile names; and as losses, those left out."""
    native = next(name for name, arch in SCMP.items() if arch is options.arch)
    names = next(((main, *others) for main, others in profile.arch_map if main == native), profile.architectures)
    foreign = [name for name in names if name not in SCMP]
    losses = [Loss(Direction.NARROWER, f"calls of {', '.join(foreign)}, which a policy always kills")] if foreign else []
    wanted = {options.arch, *(SCMP[name] for name in names if name in SCMP)}
    return [arch for arch in Arch if arch in wanted], losses


def _about(profile: Profile, sections: list[Arch]) -> Iterator[Loss]:
    """Yield the losses of any policy made of the profile."""
    yield Loss(
        Direction.OTHER, "calls of other architectures are answered by killing the thread (libseccomp), here the process"
    )
    if profile.flags:
        yield Loss(Direction.OTHER, f"the flags {', '.join(profile.flags)}, which change no answer")
    calls = {name for arch in Arch for name in table(arch).by_name}
    i386 = {*multiplexed(profile)} if Arch.I386 in sections else set()
    lost: defaultdict[tuple[str, Direction], list[str]] = defaultdict(list)
    for rule in profile.rules:
        direction = _without(rule, profile)
        lost[_STRANGE, direction] += [name for name in rule.names if name not in calls]
        lost[_BY_SOCKETCALL, direction] += [name for name in rule.names if name in i386]
    for (text, direction), names in sorted(lost.items(), reverse=True):
        if names:
            yield Loss(direction, text, tuple(dict.fromkeys(names)))
    if overlapping := tuple(_overlapping(profile)):
        text = "rules with different actions hold at once; no specification says which one counts, here the strictest does"
        yield Loss(Direction.OTHER, text, overlapping)


def multiplexed(profile: Profile) -> tuple[str, ...]:
    """Return the call names that libseccomp also applies to socketcall or ipc on i386, unless the profile allows these."""
    allowed = {name for rule in profile.rules if rule.act is Act.ALLOW and not rule.comparisons for name in rule.names}
    if {"socketcall", "ipc"} <= allowed:
        return ()
    rules = _effective(profile.rules, return_value(profile.default, profile.errno))
    return tuple(name for rule, _ in rules for name in rule.names if name in _MULTIPLEXED)


def _overlapping(profile: Profile) -> Iterator[str]:
    """Yield the names with rules of different actions for the same arguments, if all these rules have comparisons."""
    default = return_value(profile.default, profile.errno)
    for name, rules in _by_name(profile).items():
        effective = _effective(rules, default)
        if len({ret for _, ret in effective}) < 2 or any(not rule.comparisons for rule, _ in effective):
            continue
        space = region.space()
        areas: defaultdict[int, int] = defaultdict(lambda: FALSE)
        for rule, ret in effective:
            areas[ret] = space.or_(_where(space, rule), areas[ret])
        if any(space.and_(a, b) != FALSE for a, b in combinations(areas.values(), 2)):
            yield name
