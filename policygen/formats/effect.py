"""The effect of a policy in an export target, as a policy again, so that the losses are the exact difference of the two; and
mounts for the policy's files, in an otherwise empty root folder, for bubblewrap, nsjail and minijail.

A mount permits reading and executing, or also writing.  The links of a merged /usr are created again, since policies have the
paths to which they lead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from callfence.policygen.comparing.compare import Change, Difference, compare_resolved
from callfence.policygen.evaluate import answers
from callfence.policygen.files.algebra import granted
from callfence.policygen.formats import Addition, Direction, ExportError, Loss
from callfence.policygen.grants import ALL, Files, Right
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.language.naming import format_action
from callfence.policygen.model import ALLOW, Action, ActionKind, Always, Arm, Entry, strictest
from callfence.policygen.paths import covers
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE
from callfence.policygen.values import replace
from callfence.tracer.abi import NATIVE, Arch, name_of, table
from callfence.tracer.named import NamedTuple

DIRECTIONS = {Change.MORE: Direction.WIDER, Change.LESS: Direction.NARROWER, Change.OTHER: Direction.OTHER}
EPERM = Action(ActionKind.ERRNO, 1)  # asm-generic/errno-base.h
EXECVE = {"execve": "it starts the program after the filter has taken effect"}
"""The call that every target makes under the filter, if it loads the filter itself, and why."""
LOADERS = {Arch.X86_64: "/usr/lib64", Arch.AARCH64: "/usr/lib/ld-linux-aarch64.so.1"}
"""The dynamic loader, or its folder: on x86_64 programs name it in /lib64, which on Debian is a link to this folder."""
FOREIGN = {Arch.X86_64: "i386 and x32", Arch.AARCH64: "arm"}
"""The conventions of a machine's 32-bit programs."""
LINKS = ("bin", "lib", "lib64", "sbin")
"""Names of links in the root folder, to folders of the same name in /usr."""
PROC = "/proc"
READS = Right.READ | Right.EXECUTE
Masked = tuple[tuple[int, int, int], ...]
"""A conjunction of (index, mask, value), at most one for an argument: `argument & mask == value`; an empty one always holds."""


def machines(policy: Resolved, wanted: Arch = NATIVE, what: str = "the only architecture of this format") -> tuple[Arch, ...]:
    """Return the architectures of machines (not those of their 32-bit programs) for which the policy has entries, `wanted`
    first.  Raises ExportError if there is none; `what` says what the message calls `wanted`."""
    found = sorted((arch for arch in policy.entries if arch.compat), key=lambda arch: arch is not wanted)
    if not found:
        raise ExportError(f"the policy has no entries for {wanted}, {what}")
    return tuple(found)


def native(policy: Resolved, wanted: Arch = NATIVE) -> Resolved:
    """Return the policy with only its entries for one architecture, as formats have it that support only one: `wanted`, or
    another one if the policy has no entries for that.  Raises ExportError if it has none for any machine."""
    arch, *_ = machines(policy, wanted)
    return replace(policy, entries={arch: policy.entries[arch]})


def only(policy: Resolved) -> Arch:
    """Return the architecture of a policy that has entries for one only (`native`)."""
    (arch,) = policy.entries
    return arch


def explicit(policy: Resolved) -> Resolved:
    """Return a policy of one architecture with the newest syscall table.  Calls that are newer than the policy's own table get
    entries with the action `unknown`, so that the meaning is unchanged."""
    arch = only(policy)
    calls = table(arch)
    newer = {number: Entry(Always(True), policy.unknown) for number in calls.by_number if calls.is_newer(number, policy.table)}
    return replace(policy, entries={arch: {**policy.entries[arch], **newer}}, table=calls.versions()[-1])


def with_calls(policy: Resolved, calls: Mapping[str, str]) -> tuple[Resolved, tuple[Addition, ...]]:
    """Return the policy extended to allow `calls` (name -> reason) of machines whatever their arguments, and an addition for
    each call that it did not allow unconditionally before."""
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    added = []
    for name, why in calls.items():
        for arch in machines(policy):
            number = table(arch).by_name[name].number
            if entries[arch].get(number, Entry(Always(True), policy.default)) != Entry(Always(True), ALLOW):
                added.append(Addition(name, why))
                entries[arch][number] = Entry(Always(True), ALLOW)
    return replace(policy, entries=entries), tuple(dict.fromkeys(added))


def possible(policy: Resolved, number: int) -> list[Action]:
    """Return the actions that the call `number` of a policy of one architecture can get; those that allow it come first."""
    actions = dict.fromkeys(action for _, action in answers(region.space(), policy, only(policy), number))
    return sorted(actions, key=lambda action: (not action.may_allow, action != ALLOW))


def masked_answers(policy: Resolved, number: int, limit: int, arch: Arch) -> dict[Action, tuple[Masked, ...] | None]:
    """Return each action that the call `number` can get, with the rules under which it gets the action.  The rules are None if
    there would be more than `limit`."""
    space = region.space()
    where: dict[Action, int] = {}
    for some, action in answers(space, policy, arch, number):
        where[action] = space.or_(some, where.get(action, FALSE))
    return {action: region.alternatives(space, some, limit) if some != TRUE else ((),) for action, some in where.items()}


def names_only(policy: Resolved) -> Resolved:
    """Return a policy of one architecture without conditions.  A call that may be allowed for some arguments is allowed for
    all; any other call gets the strictest of its actions."""
    entries = {}
    arch = only(policy)
    for number in policy.entries[arch]:
        actions = possible(policy, number)
        entries[number] = Entry(Always(True), actions[0] if actions[0].may_allow else strictest(actions))
    return replace(policy, entries={arch: entries})


def fitted(action: Action, silent: Action) -> Action:
    """Return the action as a target has it that knows only ALLOW, KILL and ERRNO: `log` becomes `allow`, and any other kind
    that the target lacks becomes `silent`."""
    if action.kind in (ActionKind.ALLOW, ActionKind.KILL, ActionKind.ERRNO):
        return action
    return ALLOW if action.kind is ActionKind.LOG else silent


def action_word(action: Action) -> str:
    """Return the action as targets write it that have the policy language's words, but for an errno only its name."""
    return format_action(action).removeprefix("errno ")


def losses(
    policy: Resolved,
    effect: Resolved,
    target: str,
    added: Iterable[Addition] = (),
    reasons: Mapping[str, str] | None = None,
    *,
    before_loader: bool = True,
) -> tuple[Loss, ...]:
    """Return the differences between `policy` and `effect`, which the target enforces: one loss for each direction and reason.

    `added` are calls that were added for the target, and `reasons` has reasons of the target's own, by name of the call.
    `before_loader`: the target loads the filter before the dynamic loader runs."""
    reasons = {addition.call: f"{target} makes these calls under the filter" for addition in added} | dict(reasons or {})
    calls: defaultdict[tuple[Direction, str], list[str]] = defaultdict(list)
    for difference in compare_resolved(policy, effect).differences:
        names = calls[DIRECTIONS[difference.change], _what(policy, effect, target, difference, reasons)]
        if difference.number is not None and difference.arch in effect.entries:
            names.append(name_of(difference.arch, difference.example.number))
    lost = [Loss(direction, what, tuple(names)) for (direction, what), names in calls.items()]
    if policy.arm is Arm.ENTRY and before_loader:
        text = f"{target} loads the filter before the program is executed, so calls of the dynamic loader must be allowed too"
        lost.append(Loss(Direction.NARROWER, text))
    return tuple(sorted(lost, key=lambda loss: (list(Direction).index(loss.direction), loss.what)))


def _what(policy: Resolved, effect: Resolved, target: str, difference: Difference, reasons: Mapping[str, str]) -> str:
    after, before = format_action(difference.after), format_action(difference.before)
    if difference.arch not in effect.entries:
        return f"{target} filters only calls of {', '.join(effect.entries)}; calls of {difference.arch} kill"
    if difference.number is None:
        newer = table(difference.arch).is_newer(difference.example.number, policy.table)
        return f"calls {'newer than its table' if newer else 'that it does not name'} get {after} instead of {before}"
    if reason := reasons.get(name_of(difference.arch, difference.example.number)):
        return reason
    if difference.change is Change.MORE:
        return f"{target} cannot express these conditions on arguments"
    return f"{target} cannot express {before} here; the calls get {after}"


class Mount(NamedTuple):
    """A folder or file that is mounted in an empty root folder, so that the program can use it."""

    path: str
    changes: bool
    """Whether the folder or file is mounted writable."""
    executes: bool
    """Whether its files can be executed or mapped as executable memory; always True if it is not writable."""
    is_device: bool


def mounts(paths: Mapping[str, Right], archs: Iterable[Arch], starts: Iterable[str] = ("",)) -> list[Mount]:
    """Return the mounts for those granted paths that begin with one of `starts`, which are "" for absolute paths, or variables
    such as `$HOME`, and for the loaders of `archs`.  /proc is not among them: it is mounted separately.

    A folder comes before the paths below it."""
    mounts = [Mount(LOADERS[arch], changes=False, executes=True, is_device=False) for arch in archs if arch in LOADERS]
    for path in [path for path, rights in paths.items() if rights]:
        if path.partition("/")[0] in starts and not covers(PROC, path):
            rights = granted(paths, path)  # a mount hides that of the folder above
            changes = bool(rights & ~READS)
            mounts.append(Mount(path, changes, not changes or Right.EXECUTE in rights, covers("/dev", path)))
    return mounts


def has_proc(paths: Mapping[str, Right]) -> bool:
    """Return whether a path below /proc is granted.  If so, all of /proc has to be mounted."""
    return any(rights and covers(PROC, path) for path, rights in paths.items())


def effect(mounted: Iterable[Mount], *, proc: bool, noexec: bool) -> Files:
    """Return the `Files` that mounts enforce.  `proc`: /proc is mounted, too; `noexec`: the target enforces
    `Mount.executes`."""
    grants = {}
    for mount in mounted:
        rights = ALL if mount.changes or mount.is_device else READS
        grants[mount.path] = rights & ~Right.EXECUTE if noexec and not mount.executes else rights
    return Files(grants | ({PROC: ALL} if proc else {}))
