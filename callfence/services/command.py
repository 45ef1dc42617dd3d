"""`callfence service`: a service of systemd, from learned to audited and enforced, by a drop-in."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Final

from callfence.commands import import_, review
from callfence.enforcing import compile as compile_
from callfence.policygen.recording import atomic
from callfence.services import drop_ins, logs, units
from callfence.services.drop_ins import Mode
from callfence.services.status import described, has_violations, lines
from callfence.services.units import Unit
from callfence.shared.files import recording_path
from callfence.shared.inputs import print_error, print_lines, run_command
from callfence.shared.options import Parser
from callfence.shared.outputs import as_output
from callfence.shared.text import printable
from callfence.tracer.errors import UserError

POLICIES: Final = Path("/etc/callfence")
LOGS: Final = Path("/var/log/callfence")
"""Has a folder for each unit, of the unit's user: for its log, and for what `learn` writes."""
_ACTIONS: Final = ("learn", "audit", "review", "enforce", "status", "remove")

DESCRIPTION = """\
Take a service of systemd from its installed unit to a confined one, by a drop-in in /etc/systemd/system/UNIT.d:

  learn     run it under `learn`; use it as production does, with a reload
            and a restart
  audit     take what was learned into /etc/callfence/NAME.policy, and run it
            under `enforce --audit`: what the policy lacks is logged
  review    decide about what was logged, change by change
  enforce   run it under `enforce`; not if the log has violations that nobody
            has decided about, and not if the service does not start so
  status    say what each unit does, under which policy, and what was denied
  remove    remove the drop-in: the unit is as it was

Each of these restarts the unit if it is active, `status` never, and `review` if it changed the policy."""

EPILOG = """\
Further options of `learn`, `enforce` or `review` come after `--`: `callfence service learn nginx -- --phases`.
Exit status: 0; 1 if violations are undecided, or the service did not start and runs as before; 2 bad input, or a log that
cannot be read."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence service",
        description=DESCRIPTION,
        epilog=EPILOG,
        usage="callfence service ACTION UNIT [OPTION ...] [-- OPTION ...]\n       callfence service status [UNIT ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", metavar="ACTION", choices=_ACTIONS, help=", ".join(_ACTIONS))
    add("units", metavar="UNIT", nargs="*", help="the unit: nginx, or postgresql@17-main.service")
    add("--no-restart", action="store_true", help="change the files only: the unit's next start is the first one so")
    add("--settle", metavar="SECONDS", type=float, default=3, help="how long a service must have run to count as started (3)")
    add("--force", action="store_true", help="enforce although the log has violations that nobody has decided about")
    add("--format", choices=("text", "json"), default="text", help="of status")
    return parser


def main(arguments: list[str]) -> int:
    """Run `service`.  Return 0; 1 if violations are undecided, or the unit did not start and has its previous drop-in again; 2
    if an input cannot be read, or systemctl failed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    command = parser()
    options = command.parse_args(arguments[:end])
    options.further = arguments[end + 1 :]
    if options.action != "status" and len(options.units) != 1:
        command.error(f"{options.action} takes one UNIT")
    if options.further and options.action in ("status", "remove"):
        command.error(f"{options.action} takes no options after --")
    return run_command("service", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.action == "status":
        return _status(options)
    if os.geteuid() != 0:
        raise UserError(f"{options.action} changes {units.FOLDER}: run it as root")
    units.systemctl("daemon-reload")  # what was changed counts from the next one on, and that is ours
    unit = units.unit(options.units[0])
    if unit.missing and options.action != "remove":
        raise UserError(f"{unit.stem}: {unit.missing}; `callfence service remove {unit.stem}` removes the drop-in that is left")
    actions = {"audit": _audit, "review": _review, "enforce": _enforce, "remove": _remove, "learn": _learn}
    return actions[options.action](unit, options)


def _learn(unit: Unit, options: argparse.Namespace) -> int:
    if not _put(unit, "learn", options):
        return 1
    use = f"use {unit.stem} as production does, reload it, restart it on its data"
    print(f"next: {use}; then `callfence service audit {unit.stem}`")
    return 0


def _audit(unit: Unit, options: argparse.Namespace) -> int:
    policy = policy_of(unit)
    if _mode(unit) == "learn":
        _end_learning(unit, options)  # the service goes on while the recording is taken into the policy
        recording = _written(unit, *recording_path(Path("learned.policy")).parts)
        taken = import_.main(["--from", "recording", "-o", str(policy), "--", str(recording)])
        if taken:
            return taken
    if status := _confine(unit, "audit", options):
        return status
    review_ = f"after some days, `callfence service review {unit.stem}` for what the policy lacks"
    print(f"next: {review_}; then `callfence service enforce {unit.stem}`")
    return 0


def _review(unit: Unit, options: argparse.Namespace) -> int:
    policy = policy_of(unit)
    written = _logs(unit)
    if not has_violations(written):
        print(f"{LOGS / drop_ins.file_name(unit)}: nothing was denied")
        return 0
    with logs.sizes(written) as sizes:
        before = policy.read_bytes()
        decided = review.main([*options.further, *_log_words(written), str(policy)])
        status = decided
        if policy.read_bytes() != before:
            if compile_.main([str(policy)]):
                return 2
            status = _restarted(unit, options) or decided
        if decided == 0:
            _put_aside(unit, sizes)
        return status


def _put_aside(unit: Unit, decided: Mapping[int, int]) -> None:
    """Put aside what is decided of a unit's logs: all if the policy now allows all of it, also what came meanwhile, under the
    policy before; else as far as `decided` says (`logs.sizes`)."""
    written = _logs(unit)
    with logs.sizes(written) as sizes, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        is_allowed = review.main(["--no-terminal", *_log_words(written), str(policy_of(unit))]) == 0
        logs.put_aside(written, sizes if is_allowed else decided)


def _enforce(unit: Unit, options: argparse.Namespace) -> int:
    written = _logs(unit)
    if _mode(unit) == "learn":
        raise UserError(f"{unit.stem} is being learned: `callfence service audit {unit.stem}` comes first")
    shown = ["--no-terminal", *_log_words(written), str(policy_of(unit))]
    if not options.force and has_violations(written) and review.main(shown):
        print_error(
            f"callfence service: {unit.stem} would be denied the above: `callfence service review {unit.stem}` decides, "
            "or --force enforces it so"
        )
        return 1
    return _confine(unit, "enforce", options)


def _confine(unit: Unit, mode: Mode, options: argparse.Namespace) -> int:
    """Compile the unit's policy, and put a mode of `enforce` into force.  Return the exit status."""
    policy = policy_of(unit)
    if not policy.exists():
        raise UserError(f"there is no {policy}: begin with `callfence service learn {unit.stem}`, or write that file")
    if compile_.main([str(policy)]):
        return 2
    return 0 if _put(unit, mode, options) else 1


def _remove(unit: Unit, options: argparse.Namespace) -> int:
    mode = _mode(unit)
    if mode is None:
        raise UserError(f"{unit.stem} has no drop-in of callfence")
    if mode == "learn":
        status = _end_learning(unit, options)
    else:
        _replace(unit, None)
        status = _restarted(unit, options)
    print(f"{unit.drop_in}: removed; {policy_of(unit)} and {LOGS} are left as they are")
    return status


def _end_learning(unit: Unit, options: argparse.Namespace) -> int:
    """Restart the unit without `learn`, which then writes the recording; remove the drop-in.  Return 1 if it does not start."""
    _replace(unit, drop_ins.leaving(unit))
    status = _restarted(unit, options)
    _replace(unit, None)
    return status


def _status(options: argparse.Namespace) -> int:
    chosen = [units.unit(name) for name in options.units or units.with_drop_in()]
    found = [described(unit, _mode(unit), policy_of(unit), partial(_logs, unit)) for unit in chosen]
    if options.format == "json":
        print(as_output("status", {"units": found}))
    else:
        print_lines(lines(found) or [f"no unit has {units.DROP_IN}, the drop-in of `callfence service`"])
    return 2 if any(status["problem"] for status in found) else 0


def policy_of(unit: Unit) -> Path:
    """Return the file of a unit's policy."""
    return POLICIES / f"{drop_ins.file_name(unit)}.policy"


def _logs(unit: Unit) -> list[Path]:
    """Return the unit's log and the one that was moved last, as far as they are there.  Raises UserError if one is a link."""
    return [file for name in logs.NAMES if os.path.lexists(file := _written(unit, name))]


def _written(unit: Unit, *parts: str) -> Path:
    """Return the path of a file in the unit's folder of logs, which the unit's user may write.  Raises UserError if it, or a
    folder on the way, is a link, by which root would read what that user must not, or if it is no file."""
    path = LOGS / drop_ins.file_name(unit)  # systemd makes that, as a link with DynamicUser=
    for part in parts:
        path /= part
        if path.is_symlink():
            raise UserError(f"{path} is a link, which the user of the service has made: it is not followed")
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{path} is not a regular file")
    return path


def _log_words(written: Sequence[Path]) -> list[str]:
    return [word for log in written for word in ("--log", str(log))]


def _mode(unit: Unit) -> Mode | None:
    """Return the mode of the unit's drop-in; None if there is none of ours.  Raises OSError."""
    return drop_ins.mode_of(unit.drop_in.read_text()) if unit.drop_in.exists() else None


def _put(unit: Unit, mode: Mode, options: argparse.Namespace) -> bool:
    """Put the drop-in of a mode into force.  If the unit then does not start, restore what there was, and return False.  Raises
    UserError if the drop-in would have no effect."""
    if unit.problem:
        raise UserError(f"{unit.stem}: {unit.problem}")
    before = unit.drop_in.read_text() if unit.drop_in.exists() else None
    _replace(unit, drop_ins.of(unit, mode, policy_of(unit), options.further))
    problem = _restart(unit, options)
    if not problem:
        print(f"{unit.drop_in}: {mode}")
        return True
    said = units.journal(unit.name)
    _replace(unit, before)
    again = _restart(unit, options)
    print_error(f"callfence service: {unit.stem} did not start: {problem}")
    for line in said:
        print_error(f"  {line}")
    if mode == "enforce":
        for call in described(unit, mode, policy_of(unit), partial(_logs, unit))["calls"]:
            print_error(f"  denied: {printable(call)}")
    print_error(f"it runs as before: {units.state(unit.name).active}{f', {again}' if again else ''}")
    return False


def _replace(unit: Unit, text: str | None) -> None:
    """Write the unit's drop-in, or remove it, and let systemd read it.  Raises OSError, SystemdError."""
    if text is None:
        unit.drop_in.unlink(missing_ok=True)
    else:
        POLICIES.mkdir(0o755, exist_ok=True)
        unit.drop_in.parent.mkdir(0o755, exist_ok=True)
        atomic.write(unit.drop_in, text.encode())
        unit.drop_in.chmod(0o644)
    units.systemctl("daemon-reload")


def _restarted(unit: Unit, options: argparse.Namespace) -> int:
    """Restart the unit as `_restart` does; if it does not start, say so, and return 1."""
    if problem := _restart(unit, options):
        print_error(f"callfence service: {unit.stem} did not start: {problem}")
    return int(bool(problem))


def _restart(unit: Unit, options: argparse.Namespace) -> str:
    """Restart the unit if it is active, and return why it did not start, or "" if it runs, or was not to be started."""
    if options.no_restart or unit.missing or units.state(unit.name).active == "inactive":
        return ""
    try:
        units.systemctl("reset-failed", "--", unit.name)
        units.systemctl("restart", "--", unit.name)
    except units.SystemdError as error:
        return str(error)
    first = units.state(unit.name)
    until = time.monotonic() + options.settle
    while True:
        now = units.state(unit.name)
        if now.active != "active" or now.restarts != first.restarts:
            return f"it is {now.active} ({now.sub}), result {now.result}"
        if time.monotonic() >= until:
            return ""
        time.sleep(0.1)
