"""The summary that `learn` prints; and in words, how complete a policy is likely to be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from callfence.enforcing.files import OWN_CODE, own
from callfence.learning.rehearsal.plan import plan
from callfence.policygen.completeness import Estimate, estimate, run_next
from callfence.policygen.evaluate import refusal
from callfence.policygen.files.generalise import is_path
from callfence.policygen.files.generalise_hosts import by_host, recorded
from callfence.policygen.files.made import left, made, movable
from callfence.policygen.files.ruleset import unconfined
from callfence.policygen.filter.listener import may_install_filters
from callfence.policygen.grants import ANY, ANY_PORT, TCP, Right, format_ports, format_rights, written
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.naming import format_action, format_entry
from callfence.policygen.language.normal import normal_expression
from callfence.policygen.learning.scope import OTHERS
from callfence.policygen.learning.sorting import unimplied
from callfence.policygen.lint.files import risks_of
from callfence.policygen.model import ABSTRACT, SIGNALS, Always, Entry, Or, Policy, alternatives, scopes
from callfence.policygen.recording.model import Recording, Run
from callfence.shared.text import command_line, plural, printable
from callfence.tracer.abi import call_of
from callfence.tracer.abi.waits import ACCEPTS, bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callfence.learning.store import Learned
    from callfence.policygen.learning.generate import New

MAX_NAMES = 8
"""The most hosts, or unix sockets, that are named."""
MAX_LINES = 40
"""Lines of new behaviour that are shown; the policy's own diff shows the rest."""
_MAX_CALLS = 4
"""Calls that a line names."""


def print_summary(learned: Learned, rehearse: Sequence[str], file: TextIO) -> None:
    """Print the table, then what is new, then `rehearse`, the command that rehearses the run, if there is one."""
    rows = _rows(learned)
    lines = news(learned)
    if rehearse:
        count = len(plan(learned.recording, (), (), is_root=os.geteuid() == 0))
        what = plural(count, "failing call or other circumstance", "failing calls and other circumstances")
        lines.append(f"not rehearsed: {what}; to try them: {command_line(rehearse)}")
    if file.isatty():
        from callfence.shared import terminal

        terminal.print_summary(f"learned {learned.policy}", rows, lines, file)
        return
    width = max(len(label) for label, _ in rows)
    print(f"learned {learned.policy}", file=file)
    for label, text in rows:
        print(f"  {label:{width}}  {text}", file=file)
    for line in lines:
        print(f"  {line}", file=file)
    file.flush()


def print_check(learned: Learned, accept: Sequence[str], failed: bool, file: TextIO) -> None:
    """Print what `learn --check` shows: the new lines, `accept`, the command that accepts them, and what the status is of: the
    program, if it has `failed`, or what is new."""
    signals = [f"signals {text}" for _, text in _signals(learned)]
    new = bool(learned.generated.new or learned.generated.files or signals)
    print(f"{learned.policy}: {f'new behaviour, {_new(learned)}' if new else 'nothing new'}", file=file)
    lines = [*signals, *news(learned), *(f"not observed: {gap}" for gap in _gaps(learned))]
    lines += [*(f"refused: {line}" for line in _refused(learned)), *(f"any value: {line}" for line in _given_up(learned))]
    for line in lines:
        print(f"  {line}", file=file)
    if new:
        print(f"to accept it, run this, and commit {learned.policy}:\n  {command_line(accept)}", file=file)
    if failed:
        print(f"the program failed, {_ending(learned.run)}: the exit status is its own", file=file)
    elif new:
        print("the program succeeded: exit status 1 says that there is new behaviour", file=file)
    file.flush()


def _rows(learned: Learned) -> list[tuple[str, str]]:
    policy = learned.generated.document.policy
    plain = learned.recording.plain()
    column = [run.id for run in learned.recording.runs].index(learned.run.id)
    calls = sum(observation.counts[column] for observation in learned.recording.observations)
    rows = [("leaves open", printable(f"it {'; it '.join(clauses)}"))] if (clauses := left_open(learned)) else []
    rows += [
        ("this run", f"{plural(calls, 'call')} looked at, {_ending(learned.run)}"),
        ("policy", size_of(policy)),
        ("new", _new(learned)),
    ]
    lines = policy.files.lines()
    hosts = _hosts(learned)
    of_ports = [line for line in lines if line.startswith("tcp bind" if hosts else "tcp ")]
    if ports := [f"{line.removeprefix('tcp ')} {lines[line]}" for line in of_ports]:
        rows.append(("TCP ports", "; ".join(ports)))
    rows += hosts
    if lines := {line: granted for line, granted in lines.items() if line.startswith("path ")}:
        used = {name for name, *_ in learned.run.files if is_path(name)}
        names = plural(len(used), "file or folder", "files or folders")
        rows.append(("files", f"{plural(len(lines), 'line')}; this run used {names}"))
    if policy.files.lines():
        new = {difference.line for difference in learned.generated.files}
        every = [*risks_of(policy.files), *own(policy.files, learned.policy)]
        risks = [(line, risk) for line, risk in every if line in new and risk.level != "note"]
        rows += [("risk", printable(f"{line}: it {risk.grants} [{risk.id}]")) for line, risk in risks]
    rows += [("to narrow", printable(text)) for text in _to_narrow(policy, plain)]
    if learned.existing is not None and learned.existing.policy.default != policy.default:
        rows.append(("default", f"{format_action(policy.default)}, was {format_action(learned.existing.policy.default)}"))
    rows += _signals(learned)
    if policy.implied and learned.generated.implied:
        kinds = plural(learned.generated.implied, "kind of call that grants", "kinds of call that grant")
        rows.append(("implied", f"{kinds} nothing beyond the policy's lines (callfence show --implied)"))
    rows += [("any value", text) for text in _given_up(learned)]
    rows += _phases(learned)
    if learned.exact_within:
        rows.append(("implied", f"nothing: {printable(learned.exact_within)} allows too little of it; the policy is exact"))
    if learned.generated.widenings:
        places = plural(len(learned.generated.widenings), "place")
        rows.append(("widened", f"rules allow more than was seen in {places} (callfence why POLICY)"))
    rows += [
        ("how sure", sureness(estimated(plain, policy))),
        ("run it next", "; ".join((*run_next(plain), *_elsewhere(plain))) or "in other ways: the recording suggests none"),
    ]
    rows += [("not learned", text) for text in _when_gone(policy, plain)]
    rows += [("not observed", gap) for gap in _gaps(learned)]
    rows += [("refused", line) for line in _refused(learned)]
    return rows


def _elsewhere(plain: Recording) -> Iterator[str]:
    """Yield advice for runs on another machine, as `run_next` gives it: on several processors many programs start threads."""
    if len(os.sched_getaffinity(0)) == 1 and any(call.name == "sched_getaffinity" for call in plain.observations):
        yield "with more processors"


def _hosts(learned: Learned) -> list[tuple[str, str]]:
    """Return whom the policy lets the program talk to, if it says so."""
    files = learned.generated.document.policy.files
    if not by_host(files):
        return []
    whom = {"connect": "", "send": "by UDP "}
    hosts = [f"{how}any host {format_ports(files.ports(use))}" for use, how in whom.items() if files.ports(use)]
    hosts += [f"{how}{host} {format_ports(ports)}" for use, how in whom.items() for host, ports in files.hosts(use).items()]
    rows = [("hosts", printable(_listed(hosts)))]
    if files.unix is not None:
        rows.append(("unix sockets", printable(_listed(files.unix))))
    if files.query:
        rows.append(("other look-ups", printable(_listed(files.query))))
    if files.connect:
        without = [number for number, run in enumerate(learned.recording.runs, 1) if run.files and not recorded(run.files)]
        if without:
            runs = f"run {without[0]}" if len(without) == 1 else f"runs {_some([*map(str, without)])}"
            what = f"`tcp connect: {format_ports(files.connect)}` stays, since hosts were not recorded in {runs}"
            rows.append(("hosts", f"{what}: to confine it to hosts, learn it anew with --fresh --hosts"))
    return rows


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(names[:MAX_NAMES])}{more}" or "none"


def _to_narrow(policy: Policy, plain: Recording) -> list[str]:
    """Return what to move, so that the policy need not let the program change a folder that holds more than its output."""
    rows = []
    for folder, names in movable(policy.files, made([run.files for run in plain.runs])).items():
        rights = format_rights(policy.files.grants[folder] & (Right.WRITE | Right.CREATE | Right.REMOVE))
        may = f"it may {rights} everything in {folder}"
        folders = [name for name in names if name.endswith("/")]
        if files := [name for name in names if name not in folders]:
            own = f"{folder.rstrip('/')}/{files[0].partition('.')[0] if folder == '/run' else 'run'}"
            rows.append(f"let it make {_some(files)} in a folder of its own, such as {own}: {may}")
        if folders:
            are = "are" if len(folders) > 1 else "is"
            rows.append(f"learn it again with --fresh, now that {_some(folders)} {are} there: {may}")
    return rows


def _when_gone(policy: Policy, plain: Recording) -> list[str]:
    """Return how to learn what the program does when files are gone that earlier runs have left."""
    names = left(policy.files, [run.files for run in plain.runs])
    what = "was there before: the policy does not let the program make it, as it must after"
    when = {True: "a rotation of logs", False: "the machine's next start"}
    return [f"{printable(name)} {what} {when[name.startswith('/var/log/')]}: remove it, learn a start" for name in names]


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_MAX_CALLS])}{' ...' if len(names) > _MAX_CALLS else ''}"


def left_open(learned: Learned) -> list[str]:
    """Return what the policy leaves open of files and ports, each as a clause without its subject."""
    policy = learned.generated.document.policy
    files, free = policy.files, unconfined(policy)
    clauses = []
    if "paths" in free:
        clauses.append("may open any file that its user may (learn --files confines them)")
    elif files.paths is not None and "/" in files.paths:
        clauses.append(f"may {format_rights(files.paths['/'])} any file")
    verbs = {"connect": "connect to", "bind": "serve on"}
    clauses += [f"may {verbs[use]} any TCP port" for use in TCP if use in free or getattr(files, use) == ANY_PORT]
    if by_host(files):
        clauses += ["may send to any UDP port"] * ("send" in free or files.send == ANY_PORT)
        clauses += ["may look up any name"] * ("query" in free or ANY in (files.query or ()))
    executed = {path for pair in learned.run.executed for path in pair if path}
    named = filter(os.path.isfile, learned.run.command)
    changed: dict[str, str] = {}
    for what, names in (("its own code", executed), ("a file that its command names", named)):
        code = sorted(map(os.path.realpath, names))
        for line in (line for line, risk in own(files, learned.policy, code) if risk.id == OWN_CODE):
            changed.setdefault(line.removeprefix("path "), what)
    return clauses + [f"may change files below {place}, among them {what}" for place, what in changed.items()]


def estimated(recording: Recording, policy: Policy) -> Estimate:
    """Return what the runs say about the next one, of rules that the implied set does not allow anyway."""
    counted = Recording(recording.runs, unimplied(recording.observations, policy))
    return estimate(counted, names_only=has_names_only(policy))


def _phases(learned: Learned) -> list[tuple[str, str]]:
    """Return what was decided about phases, and what is not known about them."""
    rows = [("phases", printable(learned.generated.phases))] if learned.generated.phases else []
    phases = learned.generated.document.policy.phases
    if not phases:
        return rows
    followed = [run for run in learned.recording.plain().runs if run.waits]
    if followed and not any(run.status is not None and run.status >= 0 for run in followed):
        rows.append(("phases", "no run ended by itself: what its end needs may be denied by then"))
    if may_install_filters(resolved(learned.generated.document.policy)):
        why = "it may install filters, and is killed if one denies the calls by which `enforce` puts it into a phase"
        rows.append(("phases", f"{why}: then learn it again with --fresh, without --phases"))
    for phase in phases if learned.run.waits else ():
        outside = [waits for waits in learned.run.waits if not waits & bits(phase.triggers)]
        if len(outside) == len(learned.run.waits):
            rows.append(("phases", f"no process of this run has entered {phase.name}"))
        elif any(waits & bits(ACCEPTS) for waits in outside):
            what = f"a process that accepts connections never entered {phase.name}"
            rows.append(("phases", f"{what}, and keeps its start-up permissions: choose another trigger"))
    return rows


def _signals(learned: Learned) -> list[tuple[str, str]]:
    """Return what was decided about signals, in this run."""
    policy = learned.generated.document.policy
    before = learned.existing.policy if learned.existing else None
    had = scopes(before.scope) if before else (SIGNALS,)
    rows = []
    if ABSTRACT in scopes(policy.scope) and ABSTRACT not in had:
        rows.append(("sockets", f"only to its own processes, and enforce keeps them there (`scope {policy.scope}`)"))
    if SIGNALS in had and SIGNALS not in scopes(policy.scope):
        is_known = learned.run.signals == OTHERS
        what = "it signals other processes, or looks into them" if is_known else "whom its signals reach is not known"
        rows.append(("signals", f"{what}: `scope {policy.scope or 'none'}`"))
    return rows


def _given_up(learned: Learned) -> list[str]:
    """Return the arguments whose values are not listed, by call."""
    return [
        f"{call_name(arch.audit, number)}: any {' and '.join(names)}, for too many values were seen to list them; review it"
        for (arch, number), names in learned.generated.given_up.items()
    ]


def _gaps(learned: Learned) -> list[str]:
    """Return what was not observed, or no policy can allow."""
    gaps = [printable(gap) for gap in (*learned.run.gaps, *learned.generated.gaps)]
    if len(gaps) > MAX_LINES:
        gaps[MAX_LINES:] = [f"... and {len(gaps) - MAX_LINES} more"]
    return gaps


def _refused(learned: Learned) -> list[str]:
    policy = learned.generated.document.policy
    calls = dict.fromkeys((observation.arch, observation.number) for observation in learned.generated.refused)
    return [f"{call_name(*call)}: {refusal(policy, *call)}; unchanged" for call in calls]


def _ending(run: Run) -> str:
    if run.status is None:
        return "let go of while running"
    return f"exit status {run.status}" if run.status >= 0 else f"ended by signal {-run.status}"


def size_of(policy: Policy) -> str:
    """`52 syscalls, 63 rules, 17 syscalls with conditions on arguments`."""
    entries = [entry for section in policy.entries.values() for entry in section.values()]
    rules = sum(len(alternatives(entry.expression)) or 1 for entry in entries)
    constrained = sum(not isinstance(entry.expression, Always) for entry in entries)
    conditions = f"{plural(constrained, 'syscall')} with conditions on arguments"
    return f"{plural(len(entries), 'syscall')}, {plural(rules, 'rule')}, {conditions}"


def _new(learned: Learned) -> str:
    new = learned.generated.new
    if learned.existing is None:
        return "everything: there was no policy before"
    files = [f"{plural(len(learned.generated.files), 'line')} about files and ports"] * bool(learned.generated.files)
    if not new:
        return ", ".join(files) or "nothing"
    first = sum(call.first for call in new)
    more = len(new) - first
    parts = [plural(first, "syscall")] * bool(first)
    parts += [f"more of {more} that {'was' if more == 1 else 'were'} allowed in part"] * bool(more)
    return ", and ".join([*parts, *files])


def news(learned: Learned) -> list[str]:
    """Return the rules that an existing policy did not have, as lines of the policy language."""
    if learned.existing is None:
        return []
    lines = [
        f"+ {line}{f'  (in {new.phase} as well)' if new.phase else ''}"
        for new in learned.generated.new
        for line in format_entry(new.arch, new.number, _added(new)).splitlines()
    ]
    lines += [f"+ {written(line, more)}" for line, more, _ in learned.generated.files]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"... and {plural(len(lines) - MAX_LINES, 'line')} more"]
    return lines


def _added(new: New) -> Entry:
    return Entry(normal_expression(new.arch, new.number, Or(new.alternatives)), new.entry.action)


# How complete a policy is likely to be

_FEW = 0.5
"""The greatest bound on the share of runs with something new that is printed: a greater one only says that the runs are few."""


def sureness(estimate: Estimate) -> str:
    """Return what the runs say about the next run, on one line."""
    if estimate.chance is None:
        return "one run says nothing about the next one: record more runs"
    if estimate.at_most is not None:
        text = "each needed only rules that others needed, too; "
        if estimate.at_most > _FEW:
            text += "but so few runs say little about the next one: record more runs"
        else:
            text += f"at least {100 - estimate.at_most * 100:.0f} of 100 further runs need nothing new (95% confidence)"
    else:
        text = f"about {estimate.chance:.0%} that one more run needs something new"
    names = [call_name(*call) for call in estimate.single]
    return f"{estimate.runs} runs; {text}{f'; seen in one run only: {_some(names)}' if names else ''}"


def has_names_only(policy: Policy) -> bool:
    """Return whether the policy has no conditions at all, as `learn --names` writes it."""
    return all(isinstance(entry.expression, Always) for section in policy.entries.values() for entry in section.values())


def call_name(audit: int, number: int) -> str:
    """Return the name of a call; `audit` is AUDIT_ARCH_*, as in an observation."""
    call = call_of(audit, number)
    return call.name if call else f"call {number}"
