"""The losses of a profile, apart from conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.comparing.compare import Change, change_of
from policygen.formats import Direction, Loss
from policygen.formats.containers.meaning import SCMP, multiplexed
from policygen.formats.containers.profile import Act, Profile, ProfileRule
from policygen.language.naming import format_action
from policygen.model import ENOSYS, Action, ActionKind, Arm, Policy
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_ENTRIES = 128
"""Entries that every runtime takes: crun 1.21 and runc 1.1.15 have no limit, newer ones may (1 MiB is far beyond it)."""
LIBSECCOMP_KNOWS = 466
"""The newest call that libseccomp 2.6.0 has a name for (removexattrat; its src/syscalls.csv); numbers since 424 are those of
all architectures."""

_ACT = {
    ActionKind.ALLOW: Act.ALLOW,
    ActionKind.KILL: Act.KILL_PROCESS,
    ActionKind.ERRNO: Act.ERRNO,
    ActionKind.TRAP: Act.TRAP,
    ActionKind.LOG: Act.LOG,
    ActionKind.NOTIFY: Act.NOTIFY,
}


def act_of(action: Action) -> tuple[Act, int | None]:
    """Return a profile's name of an action, and its error number."""
    return _ACT[action.kind], action.errno or None


def instead(said: Action, meant: Iterable[Action], what: str, calls: Iterable[str] = ()) -> Iterator[Loss]:
    """Yield the losses of giving calls the action `said` instead of the policy's actions: one for each direction."""
    changes = {change_of(action, said) for action in meant if action != said}
    for change in sorted(changes):
        yield Loss(_DIRECTION[change], what, tuple(calls))


_DIRECTION = {Change.MORE: Direction.WIDER, Change.LESS: Direction.NARROWER, Change.OTHER: Direction.OTHER}


def has_boundary(policy: Policy) -> bool:
    """Whether runc fails calls after the last one named with ENOSYS (its patchbpf/enosys_linux.go, isAllowAction)."""
    return policy.default.kind not in (ActionKind.ALLOW, ActionKind.LOG)


def unsaid(policy: Policy, profile: Profile, runtime: str) -> Iterator[Loss]:
    """Yield the losses.  `runtime`: the one that will read the profile, or '' for any."""
    yield from _unknown(policy, runtime)
    yield from _arming(policy, runtime)
    yield from _newest(policy, profile)
    yield from _about(policy, profile)


def _unknown(policy: Policy, runtime: str) -> Iterator[Loss]:
    """Yield the losses of calls newer than the table."""
    said = {"crun": policy.default, "runc": ENOSYS if has_boundary(policy) else policy.default}
    asked = [name for name in said if runtime in ("", name) and said[name] != policy.unknown]
    for name in asked:
        what = "calls newer than Linux {}.{} get {} with {}, not {}".format(
            *policy.table, format_action(said[name]), name, format_action(policy.unknown)
        )
        yield from instead(said[name], [policy.unknown], what)


def _arming(policy: Policy, runtime: str) -> Iterator[Loss]:
    if not runtime:
        what = "it takes effect before the execve: without --runtime it lacks what the runtime itself calls from then on"
        yield Loss(Direction.NARROWER, what)
    if policy.arm is Arm.ENTRY:
        what = "it takes effect before the execve, not after the dynamic loader, whose calls it may lack"
        yield Loss(Direction.NARROWER, what)


def _newest(policy: Policy, profile: Profile) -> Iterator[Loss]:
    """Yield the losses of names that runtimes do not know and skip."""
    said: dict[tuple[Direction, str], set[str]] = {}
    for rule in profile.rules:
        unknown = {name for name in rule.names if any(_number(name, arch) > LIBSECCOMP_KNOWS for arch in Arch)}
        if (rule.act, rule.errno) == act_of(policy.default):
            key = (Direction.OTHER, "libseccomp 2.6 does not know these by name: runc fails them with ENOSYS, as unknown calls")
        else:
            what = f"libseccomp 2.6 does not know these by name, so runtimes with it skip them: {format_action(policy.default)}"
            (loss,) = instead(policy.default, [_action(rule)], what)
            key = (loss.direction, what)
        said.setdefault(key, set()).update(unknown)
    for (direction, what), names in said.items():
        if names:
            yield Loss(direction, what, tuple(names))


def _number(name: str, arch: Arch) -> int:
    call = table(arch).by_name.get(name)
    return call.number if call else 0


def _action(rule: ProfileRule) -> Action:
    kind = next(kind for kind, act in _ACT.items() if act is rule.act)
    return Action(kind, (rule.errno or 0) if kind is ActionKind.ERRNO else 0)


def _about(policy: Policy, profile: Profile) -> Iterator[Loss]:
    if len(profile.rules) > MAX_ENTRIES:
        what = f"it takes {len(profile.rules)} entries, which runtimes that take no more than {MAX_ENTRIES} refuse"
        yield Loss(Direction.OTHER, what)
    yield Loss(
        Direction.OTHER, "calls of other architectures are answered by killing the thread (libseccomp), not the process"
    )
    if Arch.I386 in {SCMP[name] for name in profile.architectures} and (names := multiplexed(profile)):
        direction = Direction.NARROWER if policy.default.may_run else Direction.WIDER
        yield Loss(direction, "on i386 libseccomp also means socketcall and ipc by these, with the same conditions", names)
    notified = {name for rule in profile.rules if rule.act is Act.NOTIFY for name in rule.names}
    if notified or profile.default is Act.NOTIFY:
        what = "the container's configuration must name a listenerPath, whose supervisor answers notify; runc takes notify "
        what += "neither as the default nor for write"
        yield Loss(Direction.OTHER, what, tuple(notified))


