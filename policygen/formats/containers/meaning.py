"""The meaning of a profile to a container runtime, and the policy with the same meaning.

The meaning is that of runc and crun with libseccomp (runc libcontainer/seccomp/seccomp_linux.go, crun
src/libcrun/seccomp.c; tried with libseccomp 2.6.0): names that an architecture does not have are skipped, and so are
rules with the default action; a rule without comparisons takes precedence over rules with comparisons, and the first
such rule over the others; a rule that compares one argument twice becomes one rule for each of its comparisons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.filter import bpf
from policygen.filter.lift import lift_function
from policygen.formats import Direction, FormatOptions, Imported, ImportFormatError, Loss
from policygen.formats.bpf import imported
from policygen.formats.containers.profile import EPERM, Act, Op, Profile, ProfileRule, RegisterComparison, Where
from policygen.model import ENOSYS, KILL, Action, ActionKind
from policygen.sets import region
from policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError, constant
from policygen.values import replace
from tracer.abi import X32_BIT, Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCMP = {"SCMP_ARCH_X86_64": Arch.X86_64, "SCMP_ARCH_X86": Arch.I386, "SCMP_ARCH_AARCH64": Arch.AARCH64}
X32 = "SCMP_ARCH_X32"
_GO = {Arch.X86_64: ("amd64",), Arch.I386: ("386", "x86"), Arch.AARCH64: ("arm64",)}
"""What `includes.arches` calls the machine."""
_RET = {
    Act.ALLOW: bpf.ret(Action(ActionKind.ALLOW)),
    Act.LOG: bpf.ret(Action(ActionKind.LOG)),
    Act.NOTIFY: bpf.ret(Action(ActionKind.NOTIFY)),
    Act.TRAP: bpf.ret(Action(ActionKind.TRAP)),
    Act.KILL_PROCESS: bpf.ret(KILL),
    Act.KILL: bpf.KILL_THREAD,
    Act.KILL_THREAD: bpf.KILL_THREAD,
}
_MULTIPLEXED = frozenset((
    "socket", "bind", "connect", "listen", "getsockname", "getpeername", "socketpair", "sendto", "recvfrom", "shutdown",
    "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg", "semget", "semctl", "msgget",
    "msgctl", "msgsnd", "msgrcv", "shmget", "shmctl", "shmat", "shmdt",
))
"""Calls of i386 that libseccomp also means by a number of socketcall or ipc (its src/arch-x86.c)."""


def return_value(act: Act, errno: int | None) -> int:
    """Return the return value of the kernel's filter, 32 bits."""
    if act in _RET:
        return _RET[act]
    base = bpf.ret(Action(ActionKind.ERRNO, EPERM)) & bpf.ACTION_MASK if act is Act.ERRNO else bpf.TRACE
    return base | (EPERM if errno is None else errno)


def policy_of(profile: Profile, options: FormatOptions, filename: str) -> Imported:
    """Return the policy that lets the same calls run as a runtime with this profile.  Raises ImportFormatError."""
    chosen, losses = _for_container(profile, options)
    sections, more = _architectures(chosen, options)
    space = region.space()
    try:
        function = decisions(space, chosen, sections, options.runtime)
        found = imported(lift_function(space, function), (*losses, *more, *_about(chosen, sections)))
    except TooComplexError as error:
        raise ImportFormatError(f"{filename}: too complex to be read: {error}") from error
    return found


def decisions(space: Space, profile: Profile, sections: Iterable[Arch], runtime: str = "") -> int:
    """Return the function from events (`region`) to return values (`bpf.ret`) that a runtime makes of a profile whose rules
    all apply.  With the runtime `runc`, numbers above the greatest that the profile names fail with ENOSYS, unless the
    default lets calls run (runc libcontainer/seccomp/patchbpf/enosys_linux.go)."""
    default = return_value(profile.default, profile.errno)
    number, result = region.number_word(space), space.terminal(bpf.ret(KILL))
    patched = runtime == "runc" and profile.default not in (Act.ALLOW, Act.LOG, Act.TRACE)
    for arch in sections:
        calls = table(arch).by_name
        section = space.terminal(default)
        named: dict[int, list[ProfileRule]] = {}
        for rule in profile.rules:
            for name in rule.names:
                if name in calls:
                    named.setdefault(calls[name].number, []).append(rule)
        for nr, rules in named.items():
            answer = _answer(space, rules, default, arch.bits)
            section = space.ite(space.equal(number, constant(nr, 32)), answer, section)
        if patched and named:
            newer = space.greater(number, constant(max(named), 32))
            section = space.ite(newer, space.terminal(bpf.ret(ENOSYS)), section)
        if arch is Arch.X86_64:  # other numbers above that are no calls of any kind
            x32 = space.and_(
                space.greater(number, constant(X32_BIT - 1, 32)), space.greater(constant(2 * X32_BIT, 32), number)
            )
            section = space.ite(x32, space.terminal(bpf.ret(KILL)), section)
        result = space.ite(space.equal(region.arch_word(space), constant(arch.audit, 32)), section, result)
    return result


def _answer(space: Space, rules: list[ProfileRule], default: int, bits: int) -> int:
    """Return the function from arguments, of that many bits, to the return value for one call."""
    given = [(rule, return_value(rule.act, rule.errno)) for rule in rules]
    given = [(rule, ret) for rule, ret in given if ret != default]
    always = [ret for rule, ret in given if not rule.comparisons]
    if always:
        return space.terminal(always[0])
    answer = space.terminal(default)
    for rule, ret in sorted(given, key=lambda pair: _strictness(pair[1])):  # the strictest is put on top
        answer = space.ite(_where(space, rule, bits), space.terminal(ret), answer)
    return answer


def _strictness(ret: int) -> int:
    """Return the rank of a return value in the kernel's order of actions (seccomp(2)); the strictest is the greatest."""
    signed = ret - (1 << 32) if ret >> 31 else ret
    return -(signed & ~bpf.DATA_MASK)


def _where(space: Space, rule: ProfileRule, bits: int = 64) -> int:
    indices = [one.index for one in rule.comparisons]
    either = len(set(indices)) < len(indices)
    result = FALSE if either else TRUE
    for one in rule.comparisons:
        holds = _holds(space, one, bits)
        result = space.or_(holds, result) if either else space.and_(holds, result)
    return result


def _holds(space: Space, one: RegisterComparison, bits: int) -> int:
    """Return the set for which a comparison holds.  On a 32-bit architecture, libseccomp compares only the lower halves."""
    word, value = region.argument_word(space, one.index)[-bits:], constant(one.value, bits)
    match one.op:
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
            chosen = [bit if keep else FALSE for bit, keep in zip(word, value, strict=True)]
            return space.equal(chosen, constant(one.value_two & one.value, bits))


# Which rules, and for which architectures


def _for_container(profile: Profile, options: FormatOptions) -> tuple[Profile, list[Loss]]:
    """Return the rules that apply to one container on one machine, and as losses, what that assumes."""
    rules: list[ProfileRule] = []
    left_out: dict[Direction, list[str]] = {}
    caps: set[str] = set()
    for rule in profile.rules:
        caps.update(rule.includes.caps, rule.excludes.caps)
        if _meant(rule.includes, rule.excludes, options):
            rules.append(rule)
        elif rule.includes.caps:
            left_out.setdefault(_without(rule, profile), []).extend(rule.names)
    missing = sorted(caps - options.capabilities)
    losses = []
    if missing:
        what = f"judged for a container without {', '.join(missing)} (--cap gives one); left out for that"
        losses = [Loss(direction, what, tuple(names)) for direction, names in (left_out or {Direction.NARROWER: []}).items()]
    return replace(profile, rules=tuple(rules)), losses


def _without(rule: ProfileRule, profile: Profile) -> Direction:
    """Return how a policy without this rule relates to the profile."""
    has, default = _freedom(return_value(rule.act, rule.errno)), _freedom(return_value(profile.default, profile.errno))
    return Direction.NARROWER if has > default else Direction.WIDER if has < default else Direction.OTHER


def _meant(includes: Where, excludes: Where, options: FormatOptions) -> bool:
    names = _GO[options.arch]

    def old_enough(version: tuple[int, int]) -> bool:
        return options.kernel is None or options.kernel >= version

    return (
        set(includes.caps) <= options.capabilities
        and (not includes.arches or any(name in includes.arches for name in names))
        and (includes.kernel is None or old_enough(includes.kernel))
        and not set(excludes.caps) & options.capabilities
        and not any(name in excludes.arches for name in names)
        and not (excludes.kernel and old_enough(excludes.kernel))
    )


def _architectures(profile: Profile, options: FormatOptions) -> tuple[list[Arch], list[Loss]]:
    """Return the policy's architectures: the machine's, and others that the profile names; and as losses, those left out."""
    native = next(name for name, arch in SCMP.items() if arch is options.arch)
    named = list(profile.architectures)
    for main, others in profile.arch_map:
        if main == native:
            named = [main, *others]
    foreign = [name for name in named if name not in SCMP]
    losses = []
    if foreign:
        text = f"calls of {', '.join(foreign)}, which a policy always kills"
        losses.append(Loss(Direction.NARROWER, text))
    wanted = {options.arch, *(SCMP[name] for name in named if name in SCMP)}
    return [arch for arch in Arch if arch in wanted], losses


def _about(profile: Profile, sections: list[Arch]) -> Iterator[Loss]:
    """Yield the losses of any policy made of the profile."""
    yield Loss(
        Direction.OTHER, "calls of other architectures are answered by killing the thread (libseccomp), here the process"
    )
    if profile.flags:
        yield Loss(Direction.OTHER, f"the flags {', '.join(profile.flags)}, which change no answer")
    known = {name for arch in Arch for name in table(arch).by_name}
    strange: dict[Direction, list[str]] = {}
    for rule in profile.rules:
        strange.setdefault(_without(rule, profile), []).extend(name for name in rule.names if name not in known)
    for direction, names in strange.items():
        if names:
            yield Loss(direction, "names that no architecture known here has, skipped, as runtimes skip them", tuple(names))
    i386 = multiplexed(profile) if Arch.I386 in sections else ()
    if i386:
        text = "on i386 libseccomp lets or keeps these through socketcall and ipc as well, which the policy does not say"
        yield Loss(Direction.NARROWER, text, i386)
    overlapping = tuple(_overlapping(profile))
    if overlapping:
        text = "rules with different actions hold at once; no specification says which one counts, here the strictest does"
        yield Loss(Direction.OTHER, text, overlapping)


def multiplexed(profile: Profile) -> tuple[str, ...]:
    """Return the names that libseccomp also applies to socketcall or ipc on i386; none if the profile allows those anyway."""
    default = return_value(profile.default, profile.errno)
    whole = {"socketcall", "ipc"} <= {
        name for rule in profile.rules if rule.act is Act.ALLOW and not rule.comparisons for name in rule.names
    }
    rules = (rule for rule in profile.rules if return_value(rule.act, rule.errno) != default)
    return () if whole else tuple(name for rule in rules for name in rule.names if name in _MULTIPLEXED)


def _overlapping(profile: Profile) -> Iterator[str]:
    """Yield the names with rules of different actions for the same arguments, if all these rules have comparisons."""
    default = return_value(profile.default, profile.errno)
    by_name: dict[str, list[ProfileRule]] = {}
    for rule in profile.rules:
        if return_value(rule.act, rule.errno) != default:
            for name in rule.names:
                by_name.setdefault(name, []).append(rule)
    for name, rules in by_name.items():
        kinds = {return_value(rule.act, rule.errno) for rule in rules}
        if len(kinds) < 2 or any(not rule.comparisons for rule in rules):
            continue
        space = region.space()
        areas = dict.fromkeys(kinds, FALSE)
        for rule in rules:
            ret = return_value(rule.act, rule.errno)
            areas[ret] = space.or_(_where(space, rule), areas[ret])
        total = FALSE
        for area in areas.values():
            if space.and_(area, total) != FALSE:
                yield name
                break
            total = space.or_(area, total)


def _freedom(ret: int) -> bool:
    try:
        return bpf.action(ret).may_allow
    except ValueError:  # killing a thread, asking a tracer
        return False
