"""The filter of a policy file: from the cache if nothing has changed since it was compiled, or compiled now.

Every start of `enforce` imports this module, so the compiler is imported only when something has to be compiled.
"""

from __future__ import annotations

import os
import stat

from callfence.enforcer.bpf import ALL_RUN, chain, notifying_on_exit, without_listener
from callfence.enforcer.errors import EnforceError, too_long
from callfence.enforcing import cache
from callfence.enforcing.sealed import Compiled, unbundle
from callfence.policygen import reading
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from callfence.enforcer.arming.phase_plan import Plan, Stage
    from callfence.policygen.language.document import Document
    from callfence.policygen.model import Policy
    from callfence.policygen.reading import Check
    Variant = Literal["report", "audit", "silent", "warm"]

VARIANTS: tuple[Variant, ...] = ("report", "audit", "silent", "warm")


def compiled(
    path: str, variant: Variant, check: Check | None = None, *, cached: bool = True, problems: dict[str, None] | None = None
) -> Compiled:
    """Return a variant of a policy's filter, from the cache if nothing has changed since it was compiled.

    `report`: the helper is notified of calls that the policy's default denies.  `audit`: the same, and the helper lets them
    run.  `silent`: the kernel alone answers.  `warm`: for recording, calls that the policy allows run, and all others stop for
    the tracer (`policygen.learning.warm`).

    `check` is called with each file that is read, and raises an error to refuse it.  The reasons why the user's cache cannot be
    used are added to `problems` (`cache.load`).  Raises EnforceError, PolicyError for a mistake in the policy, and what
    `check` raises."""
    cached_filter = cache.load(path, variant, lambda name: reading.read(name, check=check), problems) if cached else None
    if cached_filter:
        return cached_filter
    try:
        content = reading.read(path, check=check)
    except OSError as error:
        hint = "; `learn` writes a policy, -p names another" if isinstance(error, FileNotFoundError) else ""
        if hint and path.isdecimal():
            hint = (
                "; -p (--policy) names a policy, not a process, and a running process cannot be confined: "
                "`learn --pid PID` records one"
            )
        raise EnforceError(f"the policy {path} cannot be read: {error.strerror}{hint}") from error
    from callfence.policygen.errors import PolicyError
    from callfence.tracer.abi import COMPAT, NATIVE
    from callfence.tracer.errors import CallfenceError

    try:
        document, sources = with_includes(path, content, check)
        if variant != "warm" and document.policy.entries.keys().isdisjoint((NATIVE, COMPAT)):
            raise EnforceError(
                f"there is no section for {NATIVE}, the architecture of this machine, so every call would be denied: learn the "
                f"program here, or begin the policy with `arch {NATIVE}`"
            )
        new = compiled_from(document, sources, variant)
    except PolicyError:
        raise
    except CallfenceError as error:
        from callfence.enforcer.launch import is_filtered
        from callfence.policygen.filter.libseccomp import LibseccompError

        remedy = f"; compile the policy before: `callfence compile -o FILE {path}`, then `enforce --compiled FILE`"
        is_denied = isinstance(error, LibseccompError) and is_filtered()
        raise EnforceError(f"{path}: {error}{remedy if is_denied else ''}") from error
    if cached:
        cache.store(new, problems)
    if variant == "warm":  # learn looks at the policy again; a confined program's helper would keep it in memory
        new.document = document
    return new


def compiled_from(document: Document, sources: Sequence[tuple[str, bytes]], variant: Variant) -> Compiled:
    """Compile a policy into the filter of a variant.  `sources`: path and content of each file that the policy was read from;
    they are kept in the result, so that a filter in the cache is not used once a file has changed.  Raises CompileError."""
    from callfence.enforcer import importer

    describing = importer.files() if variant != "warm" else b""  # before what compiles is imported as well
    from callfence.enforcer.hosts.rules import encode, makes_calls
    from callfence.policygen.files.ruleset import changes_files
    from callfence.policygen.filter.compile import compile_policy
    from callfence.policygen.filter.listener import expects_listener, may_install_filters, names_listener
    from callfence.policygen.filter.processes import names_processes
    from callfence.policygen.filter.verify import kills_itself
    from callfence.policygen.implied.resolve import resolved

    policy, is_settled = document.policy, False
    phases: list[Stage] = []
    if variant == "warm":
        from callfence.enforcer.arming.phase_plan import Stage
        from callfence.policygen.learning.generate import generate
        from callfence.policygen.learning.warm import recording_filter
        from callfence.tracer.kernel import RET_RECORD, RET_WATCH

        filter_ = recording_filter(policy, RET_RECORD, RET_WATCH)
        phases = [Stage(phase.name, (), b"") for phase in policy.phases]
        is_settled = generate((), document, name="").document is document and not document.lacks_start
    else:
        report, audit = variant in ("report", "audit"), variant == "audit"
        filter_ = compile_policy(policy, report=report, audit=audit)
        phases = stages(policy, report=report, audit=audit)
    files, files_from_entry = files_of(policy)
    calls = makes_calls(policy.files)
    return Compiled(
        filter_,
        str(policy.arm),
        sources,
        variant=variant,
        expects_listener=expects_listener(policy),
        is_settled=is_settled,
        changes_files=not calls or changes_files(policy),
        kills_itself=variant == "report" and kills_itself(resolved(policy)),
        lacks_start=document.lacks_start,
        makes_calls=calls,
        may_listen=names_listener(policy),
        names_processes=names_processes(resolved(policy)),
        own_filters=may_install_filters(resolved(policy)),
        phases_optional=policy.phases_optional,
        files=files,
        files_from_entry=files_from_entry,
        refusals=refusals_of(filter_, files, variant),
        hosts=encode(policy.files),
        stages=phases,
        scope=policy.scope if variant in ("report", "silent") else "",
        to_import=describing,
    )


def files_of(policy: Policy) -> tuple[bytes, bytes]:
    """Return the policy's rules for files and ports, encoded for `Compiled.files` and `Compiled.files_from_entry`; b"" if
    Landlock need not confine any."""
    from callfence.policygen.files.landlock import encode
    from callfence.policygen.files.ruleset import ruleset
    from callfence.policygen.model import Arm

    return encode(ruleset(policy)), encode(ruleset(policy, Arm.ENTRY))


def refusals_of(filter_: bytes, files: bytes, variant: str) -> bytes:
    """Return the instructions for `Compiled.refusals`, for a policy's filter and its `files_of`; b"" for variants that confine
    nothing."""
    from callfence.enforcer.files.past_landlock import refusals
    from callfence.policygen.files.landlock import decode

    return refusals(filter_, decode(files), reports=variant == "report") if variant in ("report", "silent") else b""


def stages(policy: Policy, *, report: bool, audit: bool) -> list[Stage]:
    """Compile the phases of a policy.  Raises CompileError for a phase that no process could enter, or for `notify`."""
    from callfence.enforcer.arming.phase_plan import Stage
    from callfence.policygen.evaluate import answers
    from callfence.policygen.filter.compile import CompileError, compile_policy
    from callfence.policygen.implied.resolve import resolved
    from callfence.policygen.model import ENTER, NOTIFY, ActionKind
    from callfence.policygen.sets.region import space
    from callfence.tracer.abi import table
    from callfence.tracer.abi.waits import calls_of

    actions = {policy.default, policy.unknown, *policy.actions()}
    if policy.phases and any(action.kind is ActionKind.NOTIFY for action in actions):
        raise CompileError(
            "the policy has phases and `notify`, so another supervisor and the helper would answer the same calls: "
            "remove the phases or `notify`"
        )
    stages_ = []
    for phase in policy.phases:
        filter_ = compile_policy(policy, phase.name, report=report, audit=audit)
        triggers = [
            (arch, call.number, trigger)
            for arch in policy.entries
            for trigger in phase.triggers
            for name in calls_of(trigger)
            if (call := table(arch).by_name.get(name))
        ]
        sets, meant = space(), resolved(policy, phase.name)
        allowed = any(action.may_allow for arch, number, _ in triggers for _, action in answers(sets, meant, arch, number))
        if not allowed and ENTER not in phase.triggers:
            raise CompileError(f"phase {phase.name} denies {', '.join(phase.triggers)}, the call by which a process enters it")
        pairs = [(arch.audit, number) for arch, number, trigger in triggers if trigger not in (ENTER, NOTIFY)]
        is_entered, is_notified = ENTER in phase.triggers, NOTIFY in phase.triggers
        stages_.append(Stage(phase.name, pairs, filter_, is_entered=is_entered, is_notified=is_notified))
    return stages_


def from_bundle(file: str, policy: str | None, variant: Variant, check: Check) -> Compiled:
    """Return a variant of the filter in `file`, which `callfence compile -o` wrote.  Raises EnforceError if the file was not
    written so, or if `policy` has another content than the policy that was compiled; None for `policy` skips that
    comparison."""
    try:
        filter_ = unbundle(reading.read(file, check=check))[variant]
        current = None if policy is None else reading.read(policy, check=check)
    except (OSError, ValueError, KeyError) as error:
        raise EnforceError(f"--compiled {file}: {error.strerror if isinstance(error, OSError) else error}") from error
    if current not in (None, filter_.sources[0][1]):
        raise EnforceError(f"{file} is out of date, because {policy} has changed: run callfence compile -o {file} {policy}")
    return filter_


def parsed(path: str, content: bytes, read: Callable[[str], bytes]) -> Document:
    """Parse the content of a policy file; `read` returns the content of each file that it includes.  Raises PolicyError."""
    from callfence.policygen.language.document import parse
    from callfence.policygen.language.lexer import decode

    return parse(decode(content, path), path, read=lambda name: decode(read(name), name))


def with_includes(path: str, content: bytes, check: Check | None = None) -> tuple[Document, list[tuple[str, bytes]]]:
    """Parse a policy; return the document, and the name and content of each file that it was read from, the policy's first.
    `check` is called with each included file.  Raises PolicyError, and what `check` raises."""
    sources = [(path, content)]
    include = reading.below(path, check)

    def read(name: str) -> bytes:
        sources.append((name, include(name)))
        return sources[-1][1]

    return parsed(path, content, read), sources


def document(filter_: Compiled) -> Document:
    """Parse the policy from the texts that its filter was compiled from, which `filter_` holds.  Raises PolicyError."""
    path, content = filter_.sources[0]
    return parsed(path, content, dict(filter_.sources).__getitem__)


def is_current(filter_: Compiled) -> bool:
    """Return whether the files that a filter was compiled from have the same content as then."""
    try:
        return all(reading.read(name) == text for name, text in filter_.sources)
    except OSError:
        return False


def default_policy(name: str) -> str:
    """Return the policy to use for a program if none was named: NAME.policy in the current folder.  Raises EnforceError if
    every user can create files in that folder and the policy exists."""
    path = f"{os.path.basename(name.rstrip('/')) or 'program'}.policy"
    if os.stat(".").st_mode & stat.S_IWOTH and os.path.lexists(path):
        raise EnforceError(
            f"{path} is not used by default, because every user can create files in this folder: "
            f"if the file is yours, name it with -p {path}"
        )
    return path


def trusting(strangers: dict[str, int]) -> Check:
    """Return a check for policy files.  It raises EnforceError for a file that every user can write, and adds each file of
    another user, except root, to `strangers`, with its owner; and each that is named by another user's symbolic link."""

    def check(name: str, status: os.stat_result) -> None:
        if status.st_mode & stat.S_IWOTH:
            raise EnforceError(f"every user can write {name}, so it is not used as a policy: run chmod o-w {name}")
        for owner in (os.lstat(name).st_uid, status.st_uid):
            if owner not in (0, os.geteuid()):
                strangers[name] = owner

    return check


def owner_warning(file: str, owner: int) -> str:
    """Return what is said about a policy file of another user, by its owner's id.  In a user namespace, stat(2) reports the
    overflow id for each owner whom the namespace lacks, such as root outside of it (user_namespaces(7))."""
    try:
        is_unknown = _is_not_mapped(owner)
    except OSError:  # there is no /proc
        is_unknown = False
    user = "a user whom this user namespace does not have" if is_unknown else f"user {owner}"
    return f"{file} belongs to {user}, who can change what it allows"


def _is_not_mapped(owner: int) -> bool:
    """Return whether an id is the overflow id, and none of this user namespace.  Raises OSError."""
    with open("/proc/sys/kernel/overflowuid", "rb") as overflow, open("/proc/self/uid_map", "rb") as mapped:
        ranges = [(int(first), int(length)) for first, _, length in map(bytes.split, mapped)]
        return owner == int(overflow.read()) and not any(0 <= owner - first < length for first, length in ranges)


def plan(
    compiled: Sequence[Compiled],
    silent: Sequence[Compiled],
    notifying: list[bytes],
    *,
    is_quiet: bool,
    is_audit: bool,
    notified: frozenset[tuple[int, int]],
    needs_listener: bool,
    refusals: Callable[[bytes, bool], bytes],
) -> Plan:
    """Return the plan by which the helper follows the program through the phases of one policy, under the filters of all.

    `compiled` are the filters to use, `silent` the same for a kernel that answers alone.  `notifying` are additional filters
    of the last phase, `notified` the calls of which these notify the helper, `needs_listener` whether it makes some of them.
    `refusals(filter, notifies)` returns the instructions that fail calls which a filter allows, because of lines about files,
    ports and hosts.  Raises EnforceError if more than one policy has phases, or if a filter is too large."""
    from callfence.enforcer.arming.phase_plan import Plan

    places = [place for place, policy in enumerate(compiled) if policy.stages]
    if len(places) > 1:
        raise EnforceError("several policies have phases, and only one may: remove the phases from the others")
    place = places[0]
    may_listen = all(policy.may_listen for policy in compiled)
    # The program's own listener would be asked where a filter of ours, which has none, gives the same answer.
    has_own_filters = any(policy.own_filters for policy in compiled)
    reports = not is_quiet
    stages: list[Stage] = []
    try:
        start = chain([policy.filter for policy in compiled], reports=reports)
        alone = chain([policy.filter for policy in silent]) if has_own_filters else b""
    except ValueError as error:
        raise too_long(error, len(compiled)) from error
    for stage, other in zip(compiled[place].stages, silent[place].stages, strict=True):
        is_last = stage is compiled[place].stages[-1]
        try:
            without = chain(replaced(silent, place, other.filter)) if is_last or has_own_filters else b""
            whole = chain(replaced(compiled, place, stage.filter), reports=reports)
            if is_last:
                without = chain([without, refusals(without, False) + ALL_RUN])
                last = chain([refusals(whole, reports) + ALL_RUN, *notifying])
                whole = chain([whole, last], reports=reports)
        except ValueError as error:
            raise EnforceError(f"{stage.name}: {error}") from error
        if is_last and is_audit:
            whole = notifying_on_exit(whole)
        elif not (may_listen or is_audit):
            whole, without = without_listener(whole), without and without_listener(without)
        stages.append(stage.with_filters(whole, without))
    return Plan(
        start,
        alone,
        stages,
        is_quiet=is_quiet,
        is_audit=is_audit,
        is_optional=compiled[place].phases_optional,
        has_own_filters=has_own_filters,
        notified=notified,
        needs_listener=needs_listener,
        refusals=refusals(start, False),
    )


def replaced(compiled: Sequence[Compiled], place: int, filter_: bytes) -> list[bytes]:
    """Return the filters of all policies, with that of the policy at index `place` replaced by `filter_`."""
    return [filter_ if number == place else policy.filter for number, policy in enumerate(compiled)]
