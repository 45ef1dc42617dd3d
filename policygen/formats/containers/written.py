"""A policy as a profile for container runtimes.

libseccomp, which runc and crun give the profile to, miscompiles comparisons by order and knows no 32-bit arguments, so
every condition becomes masked equalities; a call's rules exclude one another; and before the profile is returned, the
filter that libseccomp makes of it here is proved to have the profile's meaning.

A runtime loads the filter before it executes the program, so the filter must allow the calls that it makes in between:
runtimes.tsv.  The list is reviewed, and is added only on export, where it is visible: policies hold what the program does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from callfence.policygen.comparing.compare import change_of
from callfence.policygen.filter import bpf, symbolic
from callfence.policygen.filter.libseccomp import LibseccompRule, generate
from callfence.policygen.formats import Addition, Direction, ExportError, FormatOptions, Loss
from callfence.policygen.formats.containers.meaning import ACTS, SCMP, decisions, multiplexed, return_value
from callfence.policygen.formats.containers.profile import Act, Op, Profile, ProfileRule, RegisterComparison
from callfence.policygen.formats.effect import DIRECTIONS, Masked, machines, masked_answers
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.language.document import parse
from callfence.policygen.language.naming import format_action
from callfence.policygen.model import ENOSYS, Action, ActionKind, Arm, strictest
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import TooComplexError
from callfence.policygen.sets.join import JoinError, join_entries
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, name_of, table
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.errors import CallfenceError
from callfence.tracer.named import NamedTuple

MAX_ENTRIES = 128
"""The most entries of a profile that every runtime accepts: crun 1.21 and runc 1.1.15 have no limit, newer ones may (1 MiB is
far beyond it)."""
LIBSECCOMP_KNOWS = 466
"""The newest call that libseccomp 2.6.0 has a name for (removexattrat; its src/syscalls.csv); numbers since 424 are those of
all architectures."""
LIBSECCOMP_LACKS = ("uprobe",)
"""Newer calls than that (Linux 6.18) with numbers below it, which x86_64 had left free."""

_WHOLE = (1 << 64) - 1
MAX_ALTERNATIVES = 512
"""The most alternatives for one call and one action; each becomes an entry of the profile."""
Plan = tuple[tuple[Action, tuple[Masked, ...]], ...]
"""The actions of one call, other than the default, each with the alternatives in which it is taken."""
Plans = Mapping[Arch, Mapping[str, Plan]]
"""Plans by name of the call, for each architecture."""


def act_of(action: Action) -> tuple[Act, int | None]:
    """Return the action in the words of a profile, and its errno (None if it has none)."""
    return ACTS[action.kind], action.errno or None


def instead(given: Action, meant: Iterable[Action], what: str, calls: Iterable[str] = ()) -> Iterator[Loss]:
    """Yield the losses of giving calls the action `given` instead of the actions `meant`, one for each direction.  `what`
    describes the loss, and `calls` are the names."""
    changes = {change_of(action, given) for action in meant if action != given}
    for change in sorted(changes):
        yield Loss(DIRECTIONS[change], what, tuple(calls))


def has_boundary(policy: Resolved) -> bool:
    """Return whether runc fails calls whose number is above the greatest that the profile names with ENOSYS: so it does unless
    the default lets calls run (its patchbpf/enosys_linux.go, isAllowAction)."""
    return policy.default.kind not in (ActionKind.ALLOW, ActionKind.LOG)


def unsaid(policy: Resolved, profile: Profile, runtime: str) -> Iterator[Loss]:
    """Yield the losses of the profile as a whole.  `runtime` is the runtime that will read it, or '' for any."""
    newer = {"crun": policy.default, "runc": ENOSYS if has_boundary(policy) else policy.default}
    for name, action in newer.items():
        if runtime in ("", name) and action != policy.unknown:
            what = "calls newer than Linux {}.{} get {} with {}, not {}".format(
                *policy.table, format_action(action), name, format_action(policy.unknown)
            )
            yield from instead(action, [policy.unknown], what)
    archs = [SCMP[name] for name in profile.architectures]
    named = {name for rule in profile.rules for name in rule.names}
    if runtime in ("", "runc") and has_boundary(policy):
        for arch in archs:
            if named & {name_of(arch, number) for number in table(arch).private}:
                why = "its private calls have greater numbers"
                what = f"calls of {arch} newer than its table get {format_action(policy.default)} with runc: {why}"
                yield from instead(policy.default, [policy.unknown], what)
    if not runtime:
        what = "it takes effect before the execve: without --runtime it lacks what the runtime itself calls from then on"
        yield Loss(Direction.NARROWER, what)
    if policy.arm is Arm.ENTRY:
        what = "it takes effect before the execve, not after the dynamic loader, whose calls it may lack"
        yield Loss(Direction.NARROWER, what)
    yield from _newest(policy, profile)
    yield from _about(policy, profile)


def _newest(policy: Resolved, profile: Profile) -> Iterator[Loss]:
    """Yield the losses of names that runtimes do not know and skip."""
    unknown = {
        name
        for calls in map(table, Arch)
        for name, call in calls.by_name.items()
        if (call.number > LIBSECCOMP_KNOWS and call.number not in calls.private) or name in LIBSECCOMP_LACKS
    }
    names: defaultdict[tuple[Direction, str], set[str]] = defaultdict(set)
    for rule in profile.rules:
        if (rule.act, rule.errno) == act_of(policy.default):
            key = (Direction.OTHER, "libseccomp 2.6 does not know these by name: runc fails them with ENOSYS, as unknown calls")
        else:
            what = f"libseccomp 2.6 does not know these by name, so runtimes with it skip them: {format_action(policy.default)}"
            (loss,) = instead(policy.default, [_action(rule)], what)
            key = (loss.direction, what)
        names[key].update(unknown.intersection(rule.names))
    for (direction, what), calls in names.items():
        if calls:
            yield Loss(direction, what, tuple(calls))


def _action(rule: ProfileRule) -> Action:
    kind = next(kind for kind, act in ACTS.items() if act is rule.act)
    return Action(kind, (rule.errno or 0) if kind is ActionKind.ERRNO else 0)


def _about(policy: Resolved, profile: Profile) -> Iterator[Loss]:
    if len(profile.rules) > MAX_ENTRIES:
        what = f"it takes {len(profile.rules)} entries, which runtimes that take no more than {MAX_ENTRIES} refuse"
        yield Loss(Direction.OTHER, what)
    yield Loss(Direction.OTHER, "calls of other architectures are answered by killing the thread (libseccomp), not the process")
    if Arch.I386 in {SCMP[name] for name in profile.architectures} and (names := multiplexed(profile)):
        direction = Direction.NARROWER if policy.default.may_allow else Direction.WIDER
        yield Loss(direction, "on i386 libseccomp also means socketcall and ipc by these, with the same conditions", names)
    notified = {name for rule in profile.rules if rule.act is Act.NOTIFY for name in rule.names}
    if notified or profile.default is Act.NOTIFY:
        what = "the container's configuration must name a listenerPath, whose supervisor answers notify; runc takes notify "
        what += "neither as the default nor for write"
        yield Loss(Direction.OTHER, what, tuple(notified))


@frozen
class Written:
    profile: Profile
    losses: tuple[Loss, ...]
    additions: tuple[Addition, ...]


def profile_of(policy: Resolved, options: FormatOptions) -> Written:
    """Return the policy as a profile, with its losses and additions.  Raises ExportError if it has entries for 32-bit programs
    only, if `options.runtime` is unknown, or if libseccomp would miscompile the profile."""
    if not any(arch.compat for arch in policy.entries):
        names = " and ".join(policy.entries)
        raise ExportError(f"a profile always holds for the machine's own calls, and this policy has only those of {names}")
    policy, additions, more = with_own_calls(policy, options.runtime, gaining=not options.no_new_privileges)
    losses = list(more)
    plans: dict[Arch, dict[str, Plan]] = {arch: _plans(policy, arch, losses) for arch in policy.entries}
    archs = _agreeing(plans, machines(policy, options.arch)[0], losses)
    profile = _profile(policy, plans, archs, options, additions)
    for call in _miscompiled(profile, archs[0]):
        losses += _one_action_losses(policy, plans[archs[0]][call], call)
        plans = {arch: _with_one_action(policy, call, of_arch) for arch, of_arch in plans.items()}
        profile = _profile(policy, plans, archs, options, additions)
    if remaining := _miscompiled(profile, archs[0]):
        raise ExportError(f"libseccomp miscompiles what a profile can say of {', '.join(remaining)}")
    losses += unsaid(policy, profile, options.runtime)
    return Written(profile, tuple(losses), additions)


# What runtimes call themselves


class RuntimeCall(NamedTuple):
    """One call that a runtime makes itself."""

    runtime: str
    versions: str
    """The runtime's versions in which the call was seen, or found in the source."""
    when: str
    """`always`, or `gaining`: only where the container may gain privileges (no_new_privs is off)."""
    entry: str
    """The call's entry, in the policy language."""
    why: str


class RuntimeAdditions(NamedTuple):
    policy: Resolved
    additions: tuple[Addition, ...]
    losses: tuple[Loss, ...]


@cache
def own_calls() -> tuple[RuntimeCall, ...]:
    return tuple(RuntimeCall(*row) for row in table_rows(__spec__, "runtimes.tsv"))


def with_own_calls(policy: Resolved, runtime: str, *, gaining: bool = True) -> RuntimeAdditions:
    """Return the policy extended to allow the calls that `runtime` makes itself, with the additions and losses; without a
    runtime, the policy itself.

    `gaining`: whether the container may gain privileges.  Raises ExportError if `runtime` is unknown."""
    if not runtime:
        return RuntimeAdditions(policy, (), ())
    runtimes = sorted({call.runtime for call in own_calls()})
    if runtime not in runtimes:
        raise ExportError(f"no runtime {runtime} is known: there are {', '.join(runtimes)}")
    sections = {arch: dict(section) for arch, section in policy.entries.items()}
    additions, losses = [], []
    wanted = [own for own in own_calls() if own.runtime == runtime and (own.when != "gaining" or gaining)]
    for arch, own in ((arch, own) for arch in machines(policy) for own in wanted):
        entries = sections[arch]
        ((number, entry),) = parse(f"arch {arch}\n{own.entry}\n", "runtimes.tsv").policy.entries[arch].items()
        name = name_of(arch, number)
        try:
            joined = join_entries(arch, number, entries.get(number), entry, policy.default)
        except JoinError as error:
            what = f"{runtime} itself calls it, but the policy has another answer ({error}): not added"
            losses.append(Loss(Direction.NARROWER, what, (name,)))
            continue
        if joined is not None and joined != entries.get(number):
            entries[number] = joined
            additions.append(Addition(name, f"{runtime} {own.versions} itself, before the program: {own.why}"))
    unique = tuple(dict.fromkeys(additions)), tuple(dict.fromkeys(losses))
    return RuntimeAdditions(replace(policy, entries=sections), *unique)


# Calls


def _plans(policy: Resolved, arch: Arch, losses: list[Loss]) -> dict[str, Plan]:
    """Return the plans by name, without calls that always get the default."""
    plans: dict[str, Plan] = {}
    for number in policy.entries[arch]:
        name, plan = name_of(arch, number), _plan(policy, arch, number)
        if plan is None:
            actions = [policy.entries[arch][number].action, policy.entries[arch][number].otherwise or policy.default]
            plan = {strictest(actions): ((),)}
            what = f"its condition takes more than {MAX_ALTERNATIVES} alternatives: always {format_action(strictest(actions))}"
            losses += instead(strictest(actions), actions, what, [name])
        if others := tuple((action, alternatives) for action, alternatives in plan.items() if action != policy.default):
            plans[name] = others
    return plans


def _plan(policy: Resolved, arch: Arch, number: int) -> dict[Action, tuple[Masked, ...]] | None:
    """Return the alternatives in which a call gets each action; None if they are too many."""
    try:
        answers = masked_answers(policy, number, MAX_ALTERNATIVES, arch)
    except TooComplexError:
        return None
    plan = {action: alternatives for action, alternatives in answers.items() if alternatives is not None}
    return plan if len(plan) == len(answers) else None


def _agreeing(plans: Plans, first: Arch, losses: list[Loss]) -> tuple[Arch, ...]:
    """Return the architectures that one list of names can serve: `first`, the machine's, and others with the same plans."""
    others = [arch for arch in Arch if arch in plans and arch is not first]
    agreeing = [first]
    for arch in others:
        shared = [name for name in table(first).by_name if name in table(arch).by_name]
        differing = [name for name in shared if _narrowed(plans[first].get(name, ()), arch) != plans[arch].get(name, ())]
        if differing:
            what = f"calls of {arch}, which are killed: a profile says the same for all architectures, the policy does not of"
            losses.append(Loss(Direction.NARROWER, what, tuple(differing)))
        else:
            agreeing.append(arch)
    return tuple(agreeing)


def _narrowed(plan: Plan, arch: Arch) -> Plan:
    """Return the plan as libseccomp compiles it for that architecture: on 32 bits, without the upper halves."""
    bits = (1 << arch.bits) - 1

    def low(alternative: Masked) -> Masked:
        return tuple((index, mask & bits, value & bits) for index, mask, value in alternative if mask & bits)

    return tuple((action, tuple(map(low, alternatives))) for action, alternatives in plan)


def _with_one_action(policy: Resolved, name: str, plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Return the plans with one action instead of two for that call: calls that do not run get the default, if that denies."""
    if name not in plans:
        return dict(plans)
    plan = tuple((action, alternatives) for action, alternatives in plans[name] if action.may_allow)
    if policy.default.may_allow or not plan:
        plan = ((strictest([action for action, _ in plans[name]]), ((),)),)
    return {**plans, name: plan}


def _one_action_losses(policy: Resolved, plan: Plan, name: str) -> Iterator[Loss]:
    actions = [action for action, _ in plan]
    if policy.default.may_allow or not any(action.may_allow for action in actions):
        text = "libseccomp cannot be given two actions for it: always the strictest"
        return instead(strictest(actions), [*actions, policy.default], text, [name])
    text = f"libseccomp cannot be given two actions for it: {format_action(policy.default)} where it is denied"
    return instead(policy.default, [action for action in actions if not action.may_allow], text, [name])


# The profile


def _profile(
    policy: Resolved, plans: Plans, archs: tuple[Arch, ...], options: FormatOptions, additions: tuple[Addition, ...]
) -> Profile:
    added = {addition.call: addition.why for addition in additions}
    names: dict[tuple[Action, Masked, str], list[str]] = {}
    for name in sorted({name for arch in archs for name in plans[arch]}):
        plan = next(plans[arch][name] for arch in archs if name in plans[arch])
        for action, alternatives in plan:
            for masked in alternatives:
                names.setdefault((action, masked, added.get(name, "")), []).append(name)
    if len(names) >= MAX_ENTRIES and len(set(added.values())) > 1:  # one reason for all is one entry for most
        short = tuple(replace(addition, why=f"{options.runtime} itself, before the program") for addition in additions)
        return _profile(policy, plans, archs, options, short)
    rules = [_rule(tuple(of), action, masked, comment) for (action, masked, comment), of in names.items()]
    rules.sort(key=lambda rule: (bool(rule.comparisons), rule.comment, rule.act, rule.errno or 0, rule.names))
    if has_boundary(policy) and options.runtime in ("", "runc"):
        rules += _boundary(policy, archs, {name for rule in rules for name in rule.names})
    scmp = {arch: name for name, arch in SCMP.items()}
    act, errno = act_of(policy.default)
    return Profile(act, tuple(rules), tuple(scmp[arch] for arch in archs), errno)


def _rule(names: tuple[str, ...], action: Action, masked: Masked, comment: str) -> ProfileRule:
    comparisons = tuple(
        RegisterComparison(index, *((Op.EQ, value) if mask == _WHOLE else (Op.MASKED_EQ, mask, value)))
        for index, mask, value in masked
    )
    act, errno = act_of(action)
    return ProfileRule(names, act, errno, comparisons, comment=comment)


def _boundary(policy: Resolved, archs: tuple[Arch, ...], named: set[str]) -> Iterator[ProfileRule]:
    """Yield a rule with the default action for the calls between the last named one and the newest of the policy's table:
    runc fails every call after the last named one with ENOSYS."""
    after: set[str] = set()
    for arch in archs:
        calls = table(arch)
        last = max((calls.by_name[name].number for name in named if name in calls.by_name), default=0)
        after.update(calls.by_number[nr].name for nr in calls.by_number if last < nr <= calls.newest(policy.table))
    if after:
        comment = "the default, said so that runc takes no call of Linux {}.{} for an unknown one".format(*policy.table)
        yield ProfileRule(tuple(sorted(after)), *act_of(policy.default), comment=comment)


# What libseccomp makes of it


def _miscompiled(profile: Profile, arch: Arch) -> list[str]:
    """Return the calls for which libseccomp's filter differs from the profile's meaning.  ExportError without a filter."""
    default = return_value(profile.default, profile.errno)
    rules = [
        LibseccompRule(table(arch).by_name[name].number, return_value(rule.act, rule.errno), (_masked(rule),))
        for rule in profile.rules
        for name in rule.names
        if name in table(arch).by_name and return_value(rule.act, rule.errno) != default
    ]
    try:
        program = generate(default, rules)
        if len(program) > bpf.MAX_INSTRUCTIONS:
            raise ExportError(f"the runtime's filter would need {len(program)} instructions; the kernel takes 4096")
        space = region.space()
        entered = [bpf.Instruction(bpf.LD | bpf.ABS, k=bpf.NUMBER), *program]
        compiled = symbolic.function(space, bpf.encode(entered))
        meant = decisions(space, profile, [arch])
        miscompiled = []
        for number in sorted({rule.number for rule in rules}):
            here = (bpf.WORD << 480 | bpf.WORD << 448, arch.audit << 480 | number << 448)
            if space.fixed(compiled, here) != space.fixed(meant, here):
                miscompiled.append(name_of(arch, number))
    except TooComplexError as error:
        raise ExportError(f"too complex to be proved: {error}") from error
    except CallfenceError as error:
        raise ExportError(str(error)) from error
    return miscompiled


def _masked(rule: ProfileRule) -> Masked:
    return tuple(
        (each.index, *((_WHOLE, each.value) if each.op is Op.EQ else (each.value, each.value_two))) for each in rule.comparisons
    )
