"""Learn phases: which alternatives end when a program has begun to wait for work.

An alternative is marked `until` if it was used before the trigger and not after it; an alternative that was never observed, or
observed at an unknown time, stays allowed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations

from callfence.policygen.evaluate import answers, evaluate
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import Document
from callfence.policygen.language.layout import Layout
from callfence.policygen.language.normal import normal_entry
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generate import Generated, New, generate
from callfence.policygen.learning.rule import expression
from callfence.policygen.lint.catalogue import Level, able
from callfence.policygen.lint.findings import grants
from callfence.policygen.model import (
    ENTER,
    Always,
    Arm,
    Condition,
    Entry,
    Expression,
    Operator,
    Or,
    Phase,
    Policy,
    alternatives,
)
from callfence.policygen.phases import START, in_phase, names_of, phase_policies, reached, with_phases
from callfence.policygen.recording.model import Observation, Recording
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.region import Budget, space, to_bdd
from callfence.policygen.values import frozen, replace
from callfence.tracer import linux
from callfence.tracer.abi import Arch, Argument, table
from callfence.tracer.abi.waits import ACCEPTS, CANDIDATES, FORK, INPUT, SIGNALS, bits, forked

_ACCEPTED = FORK
"""The bit, beside the waits in `after` of `by_role`, of what a process did that had begun to accept connections by itself."""
SERVING = "serving"
"""The name of a learned phase."""

_WEIGHT = {Level.NOTE: 2, Level.WARNING: 4, Level.DANGER: 9}
_ABILITY = 2
"""The score of an ability that is dangerous together with others."""
_STRANGERS = 4
"""The score factor of a process that accepts connections."""
_GAIN = 0.25
"""The least share of the danger score that a phase has to remove for those that enter it."""
_TRIGGERS = 3
"""The most triggers without which not every process that serves would enter a phase: more take too long to try."""

UNCHANGED = "kept: the policy's phases differ from those that learning would choose from its recording"
"""The reason that is reported if no phase is chosen."""


@frozen
class Choice:
    phases: tuple[Phase, ...]
    """The phases, without entries; () if no phase removes enough."""
    why: str


def start_of(document: Document) -> Document:
    """Return the document without its phases, with the entries of the start."""
    if not document.policy.phases:
        return document
    sections = {
        arch: replace(section, includes=tuple(replace(include, later=()) for include in section.includes))
        for arch, section in document.layout.sections.items()
    }
    return Document(in_phase(document.policy, START), replace(document.layout, sections=sections))


def is_learned(existing: Document, recording: Recording, options: Options) -> bool:
    """Return whether the policy's phases are those that learning makes of the recording, so that a later choice may replace
    them.  An incremental run records only waits that are triggers, so no phase can be chosen from it."""
    if any(run.warm and run.waits for run in recording.runs):
        return False
    start = start_of(existing)
    chosen = choose(start.policy, recording, options).phases
    observations = by_role(recording.observations, recording)
    return start.with_policy(_in_stages(start.policy, {}, observations, chosen, options)).policy == existing.policy


def in_phases(
    from_start: Callable[[Document | None], Generated],
    existing: Document | None,
    observed: Sequence[Observation],
    old: Recording,
    whole: Recording,
    options: Options,
    *,
    chooses: bool,
) -> Generated:
    """Return the policy that is generated from `observed`, with the phases of the existing policy or, if `chooses`, with those
    that learning finds in the recording `whole`, unless a person has changed those of the existing policy.

    `from_start` returns the generated policy without phases, from the existing one without its phases; `old` is the recording
    of the existing policy."""
    has_phases = existing is not None and bool(existing.policy.phases)
    generated = from_start(start_of(existing) if existing else None)
    if existing is not None and has_phases and not (chooses and is_learned(existing, old, options)):
        generated = staged(generated, existing, observed, existing.policy.phases, options, whole)
        remaining = names_of(generated.document.policy)
        gone = [name for name in names_of(existing.policy) if name not in remaining]
        lost = f"no phase {', '.join(gone)} any more: nothing ends there" if gone else ""
        return generated._replace(phases=lost or (UNCHANGED if chooses else ""))
    choice = choose(generated.document.policy, whole, options) if chooses else Choice((), "")
    if choice.phases or has_phases:
        generated = staged(generated, existing, whole.observations, choice.phases, options, whole, anew=True)
    return generated._replace(phases=choice.why)


def staged(
    generated: Generated,
    existing: Document | None,
    observations: Sequence[Observation],
    phases: Sequence[Phase],
    options: Options,
    whole: Recording,
    *,
    anew: bool = False,
) -> Generated:
    """Return the generated policy with these phases, each of which allows what was observed after its triggers.

    `existing` is the previous document; what it allows in one of the phases stays allowed there, unless `anew`.  `whole` is
    the recording that shows with which waits processes begin (`by_role`)."""
    observations = by_role(observations, whole)
    old = dict(phase_policies(existing.policy)) if existing and not anew else {}
    policy = _in_stages(generated.document.policy, old, observations, phases, options)
    start = replace(generated.document, layout=_with_includes(generated.document.layout, existing))
    document = start.with_policy(policy)
    if existing is not None and document == existing:
        document = existing
    return generated._replace(document=document, new=(*generated.new, *_moved(existing, document.policy)))


def _in_stages(
    start: Policy, old: Mapping[str, Policy], observations: Sequence[Observation], phases: Sequence[Phase], options: Options
) -> Policy:
    policies = [start]
    for number, phase in enumerate(phases):
        after, before = waits_of(phases[number:]), policies[-1]
        used = _used(old.get(START) or _without_entries(before), observations, options)
        policies.append(_learned(before, old, phase.name, observations, after, options, used))
    return with_phases(policies, phases)


def _with_includes(layout: Layout, existing: Document | None) -> Layout:
    """Return the layout with the included files' entries in each phase, which `start_of` removes."""
    sections = dict(layout.sections)
    for arch, section in (existing.layout.sections if existing else {}).items():
        whole = {include.path: include for include in section.includes}
        if arch in sections:
            includes = tuple(whole.get(include.path, include) for include in sections[arch].includes)
            sections[arch] = replace(sections[arch], includes=includes)
    return replace(layout, sections=sections)


def _moved(existing: Document | None, policy: Policy) -> Iterator[New]:
    """Yield the alternatives that were denied in a phase and are now allowed there."""
    old = dict(phase_policies(existing.policy)) if existing else {}
    for name, now in phase_policies(policy)[1:]:
        for arch, number, entry in now.each() if name in old else ():
            known_rules = _parts(old[name], arch, number)
            added = [rule for rule in alternatives(entry.expression) if rule not in known_rules]
            first = _parts(old[START], arch, number)
            moved = tuple(rule for rule in added if rule in first)
            if moved and entry.action.may_allow:
                yield New(arch, number, entry, moved, first=False, phase=name)


def choose(start: Policy, recording: Recording, options: Options) -> Choice:
    """Return the phase with the lowest remaining danger, among those whose triggers are waits that every run reached, and one
    of them each process that serves (`_serving`).  A run that waited for nothing, since it was interrupted for instance, has
    only begun to start: it stays in the start phase, whatever the triggers are."""
    followed = [run for run in recording.runs if run.waits and not run.rehearsed]
    runs = [run for run in followed if any(wait % FORK for wait in run.waits)] or followed
    observations = by_role(recording.observations, recording)
    if not runs:
        return Choice((), "no phase: no run was followed to its waits")
    everywhere = [name for name in CANDIDATES if all(any(wait & bits((name,)) for wait in run.waits) for run in runs)]
    if not everywhere:
        return Choice((), "no phase: there is no call in which each run waits for work")
    # What processes wait in, over their lives: a master and its workers differ in that.
    lives = {wait % FORK for run in runs for wait in run.waits} - {0}
    possible = _entered_by_all_that_serve(everywhere, lives)
    if not possible:
        what = f"none of {', '.join(everywhere)}"
        return Choice((), f"no phase: a process that accepts connections or waits for input makes {what}")
    triggers, best = _best(start, observations, options, everywhere, possible, lives)
    if _danger(best) > (1 - _GAIN) * _danger(start) or not _danger(start):
        return Choice((), f"no phase: after {', '.join(triggers)} the program needs nearly all dangerous calls as before")
    return Choice((Phase(SERVING, triggers, {}),), _said(start, best, triggers, recording))


def _best(
    start: Policy,
    observations: Sequence[Observation],
    options: Options,
    everywhere: Sequence[str],
    possible: Sequence[tuple[str, ...]],
    lives: Collection[int],
) -> tuple[tuple[str, ...], Policy]:
    """Return the triggers of the phase with the lowest remaining danger, sorted, and its policy: one of the sets in `possible`,
    and those of the waits `everywhere` that let more of the `lives` enter it and lower the danger further."""
    weights = {life: _STRANGERS if life & bits(ACCEPTS) else 1 for life in sorted(lives)}
    before = _danger(start)

    def score(triggers: Sequence[str], policy: Policy) -> tuple[int, int]:
        """Return the danger that processes keep, all of it where one never enters the phase, and how many entries are left."""
        danger, entered = _danger(policy), bits(tuple(triggers))
        return sum(weight * (danger if life & entered else before) for life, weight in weights.items()), _size(policy)

    used = _used(_without_entries(start), observations, options)
    policies = {names: _learned(start, {}, SERVING, observations, bits(names), options, used) for names in possible}
    chosen = min(possible, key=lambda names: (ENTER not in names, *score(names, policies[names]), possible.index(names)))
    triggers, best = [*chosen], policies[chosen]
    for name in everywhere if ENTER not in chosen else ():
        entered = bits(tuple(triggers))
        if any(life & bits((name,)) and not life & entered for life in weights):
            policy = _learned(start, {}, SERVING, observations, entered | bits((name,)), options, used)
            if score([*triggers, name], policy) < score(triggers, best):
                triggers, best = [*triggers, name], policy
    return tuple(sorted(triggers)), best


def _said(start: Policy, best: Policy, triggers: Sequence[str], recording: Recording) -> str:
    """Return what a person is told of the phase that was chosen."""
    ended = sorted({name for name, _ in _grants(start)} - {name for name, _ in _grants(best)})
    text = f"{SERVING} after {', '.join(triggers)}: {_size(best)} of {_size(start)} entries are left"
    text += f", without {', '.join(ended)}" if ended else ""
    if others := sum(not run.waits and not run.rehearsed for run in recording.runs):
        text += f"; runs without --phases: {others}, and what only they did stays allowed"
    return text


def _entered_by_all_that_serve(names: Sequence[str], lives: Collection[int]) -> list[tuple[str, ...]]:
    """Return the smallest sets of the triggers `names` of which each process that serves has one; of the same size, all of
    them.  `lives` are the waits that processes had begun by their end."""

    def is_entered(triggers: tuple[str, ...]) -> bool:
        return all(life & bits(triggers) for life in lives if life & bits(_serving(triggers)))

    sets = ([*filter(is_entered, combinations(names, size))] for size in range(1, _TRIGGERS + 1))
    return next(filter(None, sets), [])


def _serving(triggers: Sequence[str]) -> tuple[str, ...]:
    """Return the waits that show that a process serves, so that it has to enter a phase with these triggers.  Not all that wait
    for input serve others.  But where the triggers only wait for signals, those who enter serve nobody."""
    return ACCEPTS if {*triggers} - {*SIGNALS} else INPUT


def _used(old: Policy, observations: Sequence[Observation], options: Options) -> Policy:
    """Return the policy of the old one's start and all observations whose time is known."""
    return _generated([observation for observation in observations if observation.after], old, options)


def _learned(
    before: Policy,
    old: Mapping[str, Policy],
    name: str,
    observations: Sequence[Observation],
    after: int,
    options: Options,
    used: Policy,
) -> Policy:
    """Return the policy of the phase `name`, which begins with the waits `after`; `before` is the policy of the phase before
    it, and `used` is `_used` of that.  The alternatives that the old policy allowed in the phase stay allowed."""
    own = old.get(name)
    late = [
        observation
        for observation in observations
        if is_late(observation, after) and evaluate(before, observation.event).allows
    ]
    needed = _generated(late, own or _without_entries(before), options)

    def reduced(arch: Arch, number: int, entry: Entry) -> Entry | None:
        earlier = _parts(old[START], arch, number) if own else ()
        wanted, seen_at_all = _parts(needed, arch, number), _parts(used, arch, number)
        parts = alternatives(entry.expression)
        remaining = [rule for rule in parts if rule in wanted or (rule not in earlier and rule not in seen_at_all)]
        return reached(entry, remaining) if _may_end(entry, before) else entry

    policy = _allowing(before.changed(reduced), before, needed, late)
    return _keeping(policy, before, own) if own else policy


def _keeping(policy: Policy, before: Policy, own: Policy) -> Policy:
    """Return the policy of a phase with what its old policy `own` allowed, and the phase before allows only in another form:
    learning has joined rules since."""
    for arch, section in own.entries.items():
        for number, entry in section.items() if arch in before.entries else ():
            lost = [part for part in alternatives(entry.expression) if part not in _parts(policy, arch, number)]
            if entry.action.may_allow and lost:
                lost = [part for part in lost if _is_within(arch, number, part, before)]
                lost = [part for part in lost if not _is_within(arch, number, part, policy)]
                policy = _with_parts(policy, before, arch, number, lost)
    return policy


def _allowing(policy: Policy, before: Policy, needed: Policy, late: Sequence[Observation]) -> Policy:
    """Return the policy of a phase with entries for what it needs and the phase before allows only in another form: by an
    implied set whose capability the phase lacks, or as a person wrote it.  Where a learned rule is wider than the
    implied set, the phase has just what was recorded."""
    for observation in late:
        arch = Arch.from_audit(observation.arch)
        if arch is None or evaluate(policy, observation.event).allows:
            continue
        number, arguments = observation.number, table(arch).by_number[observation.number].arguments
        for part in (*_parts(needed, arch, number), *_parts(before, arch, number), _exactly(observation, arguments)):
            changed = _with_parts(policy, before, arch, number, [part])
            if evaluate(changed, observation.event).allows and _is_within(arch, number, part, before):
                policy = changed
                break
    return policy


def _exactly(observation: Observation, arguments: Sequence[Argument]) -> Expression:
    """Return the rule for just the values that were recorded."""
    values = enumerate(observation.arguments)
    return expression(tuple(None if value is None else Condition(i, Operator.EQ, value) for i, value in values), arguments)


def _with_parts(policy: Policy, before: Policy, arch: Arch, number: int, parts: Sequence[Expression]) -> Policy:
    """Return the policy of a phase with further alternatives of a call."""
    if not parts:
        return policy
    first, now = before.entries[arch].get(number), policy.entries[arch].get(number)
    both = (*(alternatives(now.expression) if now and first and now.action == first.action else ()), *parts)
    entry = normal_entry(arch, number, replace(first or Entry(both[0]), expression=Or(both)))
    return replace(policy, entries={**policy.entries, arch: {**policy.entries[arch], number: entry}})


def _is_within(arch: Arch, number: int, part: Expression, policy: Policy) -> bool:
    """Return whether a policy allows all calls for which an expression holds."""
    sets = space()
    allowed = sets.union(where for where, action in answers(sets, resolved(policy), arch, number) if action.allows)
    return sets.ite(allowed, FALSE, to_bdd(sets, part, table(arch).by_number[number].arguments)) == FALSE


def _generated(observations: Sequence[Observation], start: Policy, options: Options) -> Policy:
    return generate(observations, Document(replace(start, arm=Arm.EXEC)), name="", options=options).document.policy


def _without_entries(policy: Policy) -> Policy:
    return replace(policy, entries={arch: {} for arch in policy.entries})


def _parts(policy: Policy, arch: Arch, number: int) -> tuple[Expression, ...]:
    entry = policy.entries.get(arch, {}).get(number)
    return alternatives(entry.expression) if entry else ()


def _may_end(entry: Entry, policy: Policy) -> bool:
    other = entry.otherwise or policy.default
    return entry.action.may_allow and not other.may_allow and entry.expression != Always(False)


def _size(policy: Policy) -> int:
    return sum(map(len, policy.entries.values()))


def _danger(policy: Policy) -> int:
    return sum(_WEIGHT[level] for level in _grants(policy).values()) + _ABILITY * len(able(policy))


def _grants(policy: Policy) -> dict[tuple[str, str], Level]:
    """Return (call, rule) -> level for the linter's findings in the entries of a policy."""
    return {(finding.name, finding.rule): finding.level for finding in grants(Document(policy), Budget())}


# When calls were made: a process that is started again has the role of the first, and threads are started at any time
#
# Processes have the same role if they run the same executable and were forked as often since it was executed: a master, its
# workers.  A worker that replaces another one begins with the waits that the master has begun meanwhile, and so in a phase that
# the first workers had yet to enter.


def waits_of(phases: Sequence[Phase]) -> int:
    """Return the waits with which these phases begin, as bits of callfence.tracer.abi.waits."""
    return sum(bits(phase.triggers) for phase in phases)


def is_late(observation: Observation, after: int) -> bool:
    """Return whether an observation may be made after one of the waits `after`: it was, its time is unknown, or who made it
    accepts connections, and makes it for the next one as well."""
    return not observation.after or any(wait & (after | _ACCEPTED) for wait in observation.after)


def by_role(observations: Sequence[Observation], recording: Recording) -> list[Observation]:
    """Return the observations as if each process had begun with all the waits with which processes of its role in the recording
    began; `after` has no forks, but `_ACCEPTED`.  Starting a thread gets no time, so that it ends with no phase: which thread
    waits before which is started is chance, a server starts more later, and a thread may do no more than its starter."""
    inherited: dict[tuple[str, int], int] = defaultdict(int)
    for executable, forks, waits in _begun(recording):
        inherited[executable, forks] |= waits

    def after(observation: Observation) -> Iterator[int]:
        for waits in observation.after:
            begun = inherited.get((observation.executable, waits // FORK), 0)
            accepts = bool(waits & ~begun & bits(ACCEPTS))
            yield waits % FORK | begun | _ACCEPTED * accepts

    return [
        observation._replace(after=() if _starts_thread(observation) else tuple(sorted({*after(observation)})))
        for observation in observations
    ]


def _starts_thread(observation: Observation) -> bool:
    return observation.name == "clone" and bool(observation.example[0] & linux.CLONE_THREAD)


def _begun(recording: Recording) -> Iterator[tuple[str, int, int]]:
    """Yield (executable, forks, waits) of new processes: their roles, and the waits with which they began."""
    executed = {pair for run in recording.runs for pair in run.executed}
    for observation in recording.observations:
        name, starter = observation.name, observation.executable
        if name in ("fork", "vfork", "clone3", "clone") and not _starts_thread(observation):
            for waits in observation.after:
                yield starter, forked(waits) // FORK, waits % FORK
        elif name in ("execve", "execveat"):
            yield from ((path, 0, waits % FORK) for by, path in executed if by == starter for waits in observation.after)
