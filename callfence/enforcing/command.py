"""`enforce`: run a program confined by its policy.

To keep every start fast, if the filter is in the cache, nothing that parses or compiles policies is imported.
"""

from __future__ import annotations

import os
import sys

from callfence.enforcer import confinement, execution, launch
from callfence.enforcer.arming.seized import HINT
from callfence.enforcer.bpf import Filter
from callfence.enforcer.errors import FAILED, EnforceError
from callfence.enforcer.reporting.destination import TEXT, Destination
from callfence.enforcer.reporting.settings import Reporting
from callfence.enforcing import filters
from callfence.enforcing.objects import Objects
from callfence.enforcing.options import CHOICES, help_text, last, parse, parser as parser
from callfence.policygen.text import printable  # here: later, the policy's files may be confined already
from callfence.tracer import TYPE_CHECKING, proc
from callfence.tracer.errors import CallfenceError
from callfence.tracer.linux import privilege_lost
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from callfence.enforcer.arming.phase_plan import Plan
    from callfence.enforcer.launch import Launch
    from callfence.enforcer.reporting.audit import Source
    from callfence.enforcer.reporting.events import Log
    from callfence.enforcing.filters import Variant
    from callfence.enforcing.sealed import Compiled

_CONFINEMENT = (
    "--policy", "--compiled", "--no-cache", "--arm", "--log", "--no-evidence", "--audit", "--quiet-kernel", "--best-effort",
    "--explain", "--no-explain", "--scope", "--ask", "--ask-timeout", "--within", "--chdir",
)
"""The options that select what is confined and reported; all others are those of `confinement.Surroundings`."""


def main(arguments: list[str] | None = None) -> int:
    """Run `enforce`: become the program.  Return only after --help or --version (0), or after a failure, whose reason has been
    printed: 125 if the program could not be confined, 126 if it cannot be executed, 127 if it was not found."""
    execution.forget_interrupt_handler()
    arguments = sys.argv[1:] if arguments is None else arguments
    if text := help_text(arguments):
        try:
            os.write(1, text.encode())
        except BrokenPipeError:  # `| head`
            return 128 + 13  # SIGPIPE
        except OSError as error:
            _say(f"enforce: standard output: {error.strerror}", 2)
            return FAILED
        return 0
    environment = execution.initial_environment()
    stderr = 2 if execution.is_open(2) else -1
    try:
        Start(*parse(arguments), environment, stderr).run()
    except CallfenceError as error:
        _say(f"enforce: {error}", stderr)
        return error.status if isinstance(error, EnforceError) else FAILED


class Start:
    """The start of a program: reads its policies, and finds out what can be enforced and reported here."""

    def __init__(self, options: dict[str, list[str]], argv: list[str], environment: list[bytes], stderr: int) -> None:
        """`options`: the values of each option that was given, in order; a flag has the value "".  `stderr`: the descriptor for
        messages, -1 if standard error is closed."""
        self.options = options
        self.argv = argv
        self.environment = environment
        self.stderr = stderr
        self.name = argv[0]
        self.is_quiet = "--quiet-kernel" in options
        self.is_audit = "--audit" in options
        self.owners: dict[str, int] = {}
        """The owner of each policy file that belongs to another user, who can change what it allows."""
        self.log: Log | None = None
        """What makes the records of --log; None without it, and before it is opened."""
        self.process = 0
        """The id of the process that becomes the program; 0: this one."""
        self.problems: dict[str, None] = {}
        """The reasons why the user's cache of filters cannot be used."""

    def run(self) -> NoReturn:
        """Become the program.  Raises CallfenceError if the program was not run; then the log has the reason."""
        try:
            launch.run(self.prepared())
        except CallfenceError as error:
            self.refuse(error)
            raise

    def refuse(self, error: CallfenceError) -> None:
        """Write to the log why the program is not run."""
        if self.log:
            status = error.status if isinstance(error, EnforceError) else FAILED
            self.log.write([self.log.refusal(str(error), status)])

    def prepared(self) -> Launch:
        """Return how the program is to be run.  Raises CallfenceError if it is not to be run."""
        # Before the policies: a program whose name is mistyped has none either.
        name = os.path.join(last(self.options, "--chdir"), self.name) if "/" in self.name else self.name
        path = execution.locate(os.fsencode(name), self.environment)
        policies = self._filters("silent" if self.is_quiet else "audit" if self.is_audit else "report")
        if "--log" in self.options:
            self._open_log(os.fsdecode(path), policies)
        is_nested = self._is_nested()
        untraced = ""
        if is_nested:
            from callfence.enforcer.arming import nested

            arm = self._arm(policies)
            traces = arm != "now" or any(policy.stages for policy in policies)
            unheard, untraced = nested.problems(arm, listens=not self.is_quiet, traces=traces)
            if unheard:
                policies = self._without_reports(unheard)
        policies = self._warn(policies)
        self._require_questions(policies)
        arm = self._arm(policies)
        objects = self._objects(policies, arm)
        if objects.files and not objects.reach and self.log and not self.is_quiet:
            self._note_about_files(self.log, objects.records)
        has_phases = any(policy.stages for policy in policies)
        reporting = None if self.is_quiet and not has_phases else self._reporting(policies, objects)
        plan = self._plan(policies, objects) if has_phases else None
        if untraced:
            programs = [*(policy.filter for policy in policies), *objects.notifying]
            arm = self._arm_untraced(arm, programs, untraced, is_followed=has_phases)
        if self.is_audit:
            _say("enforce: audit: nothing is enforced, violations are only reported", self.stderr)
        if privilege_lost(path, os.geteuid(), os.getegid()):
            self._say(f"{self.name} runs without the privilege of its set-id bits or capabilities (no_new_privs)")
        if self.log and self.is_quiet:
            self.log.write(self.log.opening())
        surroundings = {name: values for name, values in self.options.items() if name not in _CONFINEMENT}
        self._go_to_folder()
        return launch.Launch(
            [os.fsencode(argument) for argument in self.argv],
            self.environment,
            [policy.filter for policy in policies],
            arm,
            reporting,
            around=confinement.Surroundings(surroundings) if surroundings else None,
            scope=objects.scope if objects.files is None or objects.files.scope else "",
            is_nested=is_nested,
            files=objects.files,
            notifying=objects.notifying,
            refusals=objects.refusals,
            hosts=objects.hosts,
            stderr=self.stderr,
            plan=plan,
            may_listen=all(policy.may_listen for policy in policies),
        )

    def _objects(self, policies: Sequence[Compiled], arm: str) -> Objects:
        """Return what the policies confine besides calls.  Raises EnforceError if that cannot be confined here."""
        return Objects(
            policies,
            self.options,
            self.environment,
            arm,
            is_quiet=self.is_quiet,
            is_audit=self.is_audit,
            process=self.process,
            say=self._say,
        )

    def _plan(self, policies: Sequence[Compiled], objects: Objects) -> Plan:
        """Return the plan by which the helper follows the program through the phases.  Raises EnforceError."""
        hosts = None if self.is_audit else objects.hosts

        def refusals(filter_: bytes, notifies: bool) -> bytes:
            """Return the instructions that fail calls which a filter allows, because of all lines about objects."""
            of_hosts = hosts.refusals(filter_, reports=not self.is_quiet, notifies=notifies) if hosts else b""
            return of_hosts + objects.refusals

        return filters.plan(
            policies,
            policies if self.is_quiet else self._filters("silent"),
            objects.notifying,
            is_quiet=self.is_quiet,
            is_audit=self.is_audit,
            notified=frozenset((*objects.notified, *objects.with_address)),
            needs_listener=(objects.hosts is not None or objects.listens) and not self.is_audit,
            refusals=refusals,
        )

    def _is_nested(self) -> bool:
        """Return whether a filter is in force already."""
        return launch.is_filtered()

    def _go_to_folder(self) -> None:
        """Go to the folder of --chdir, which is after all that `.` of the policies is looked up for.  Raises EnforceError."""
        if folder := last(self.options, "--chdir"):
            try:
                os.chdir(folder)
            except OSError as error:
                raise EnforceError(f"--chdir {folder}: {error.strerror}") from error
            if self.log:
                self.log.start["folder"] = proc.folder_of(os.getpid()) or None

    def _filters(self, variant: Variant) -> list[Compiled]:
        """Return a variant of the filters of all policies, in the order in which they were named.  Raises CallfenceError."""
        given, check = self.options.get("--policy"), filters.trusting(self.owners)
        if file := last(self.options, "--compiled"):
            default = filters.default_policy(self.name)
            policy = given[0] if given else default if os.path.lexists(default) else None
            return [filters.from_bundle(file, policy, variant, check)]
        is_cached = "--no-cache" not in self.options
        names = given or [filters.default_policy(self.name)]
        return [filters.compiled(name, variant, check, cached=is_cached, problems=self.problems) for name in names]

    def _arm(self, policies: Sequence[Compiled]) -> str:
        """Return when the filters take effect: the value of --arm, or else the earliest `arm` of the policies."""
        return last(self.options, "--arm") or min((policy.arm for policy in policies), key=CHOICES["--arm"].index)

    def _without_reports(self, problem: str) -> list[Compiled]:
        """Warn that `problem` prevents reports, switch to --quiet-kernel, and return the filters for that.  Raises EnforceError
        with --audit, which needs reports."""
        if self.is_audit:
            raise EnforceError(f"--audit cannot report violations here: {problem}; leave out --audit")
        loss = "neither explained nor logged" if "--log" in self.options else "not explained"
        self._say(f"{problem}, so calls that {self.name} is denied are {loss}: the kernel alone answers (--quiet-kernel)")
        self.is_quiet = True
        return self._filters("silent")

    def _warn(self, policies: list[Compiled]) -> list[Compiled]:
        """Print warnings about the policies and the cache, and return the filters to use: silent ones if the policy lets the
        program have the only listener."""
        if not (self.is_quiet or self.is_audit) and any(policy.expects_listener for policy in policies):
            # A chain of filters has one listener (seccomp(2), EBUSY): it is the program's.
            policies = self._filters("silent")
            self.is_quiet = True
            self._say(
                f"the policy lets {self.name} have a seccomp listener, and the kernel permits only one, "
                "so violations are not reported (--quiet-kernel)"
            )
        elif any(policy.kills_itself for policy in policies):
            self._say(
                f"the policy lets {self.name} install seccomp filters of its own, so a call for which it is killed is not "
                "explained: the kernel's log has it (dmesg, or auditd's)"
            )
        elif not (self.is_quiet or self.is_audit) and (phase := _unreported_phase(policies)):
            self._say(
                f"the policy lets {self.name} install seccomp filters of its own, so calls that are denied from the start on "
                f"are not reported in {phase}"
            )
        for policy in policies:
            if policy.lacks_start:
                what = "was learned from a process that ran already, so it denies calls that the program's start needs"
                self._say(f"{policy.sources[0][0]} {what}; `learn {self.name}` adds them")
        for problem in self.problems:
            self._say(f"the policy is compiled at each start, because {problem}")
        for file, owner in self.owners.items():
            self._say(filters.owner_warning(file, owner))
        return policies

    def _open_log(self, path: str, policies: Sequence[Compiled]) -> None:
        """Open the log, for a program whose executable is at `path`.  Raises EnforceError."""
        from callfence.enforcer.reporting import events
        from callfence.enforcer.reporting.opening import opened
        from callfence.enforcing import files

        destination = opened(last(self.options, "--log"), files.linking(policies, self.environment))
        sources, process = (source for policy in policies for source in policy.sources), self.process or os.getpid()
        self.log = log = events.Log(destination, sources, process, self.environment)
        log.start = {
            "time": events.now(),
            "mode": "audit" if self.is_audit else "enforce",
            "best_effort": "--best-effort" in self.options,
            "pid": process,
            "parent": proc.kin_of(process)[1] if self.process else os.getppid(),
            "executable": os.path.abspath(path),
            "command": self.argv,
            "folder": proc.folder_of(process) or None,
        }

    def _require_questions(self, policies: Sequence[Compiled]) -> None:
        """Raise EnforceError if somebody is to be asked about denied calls, and that is not possible here."""
        if "--ask" in self.options and self.is_quiet:
            raise EnforceError("--ask needs the helper process, and there can be none here: leave out --ask")
        if "--ask" in self.options and any(policy.stages for policy in policies):
            raise EnforceError("--ask does not work with phases: leave out --ask, or use a policy without them")

    def _ask(self) -> int:
        """Start the process that asks, and return the descriptor of its socket.  Raises EnforceError."""
        from callfence.asking import start

        seconds = last(self.options, "--ask-timeout") or "60"
        return start.started(last(self.options, "--ask"), seconds, last(self.options, "--within"))

    @staticmethod
    def _note_about_files(log: Log, records: Source | None) -> None:
        """Have the log say how far files and ports are reported: from the kernel's audit `records`, if there are any."""
        if records:
            log.notes.append(("note", records.note))
        else:
            text = "denied files and ports are not reported: --no-explain, or Landlock does not enforce all of them"
            log.notes.append(("warning", text))

    def _reporting(self, policies: Sequence[Compiled], objects: Objects) -> Reporting:
        """Return how denied calls are reported; with --quiet-kernel, none are."""
        has_tcp = True
        if objects.listens and not confinement.may_look():
            from callfence.enforcing import files

            has_tcp = files.holds_tcp(self.process or os.getpid())
        log = None if self.is_quiet else self.log
        asks, keeps_signals = "--ask" in self.options, "signals" in objects.scope
        destination = log.destination if log else Destination(-1 if self.is_quiet else self.stderr, TEXT)
        return Reporting(
            destination,
            lambda: [(policy.sources[0][0], filters.document(policy).policy) for policy in policies],
            log=log,
            audit=self.is_audit,
            evidence=not (self.is_quiet or "--no-evidence" in self.options),
            stderr=self.stderr,
            reach=objects.reach,
            hosts=objects.hosts,
            records=objects.records,
            keeps_signals=keeps_signals,
            is_out_of_reach=keeps_signals and not asks and not all(policy.names_processes for policy in policies),
            listens=objects.listens,
            has_tcp=has_tcp,
            to_import=policies[0].to_import,
            asking=self._ask() if asks else -1,
            held=objects.files.held if objects.files else (),
        )

    def _arm_untraced(self, arm: str, programs: Sequence[bytes], problem: str, *, is_followed: bool) -> str:
        """Return when filters take effect on a program that cannot be traced: "now", before its execve.  `problem` is why it
        cannot be traced.  Raises EnforceError if the filters deny the execve, or for phases or `entry`."""
        if is_followed:
            raise EnforceError(f"{problem}, so {self.name} cannot be followed through the phases of its policy")
        execve = MACHINE.native.audit, MACHINE.native.numbers["execve"]
        if arm == "entry" or not all(Filter(program).may_allow(*execve, reports=not self.is_quiet) for program in programs):
            raise EnforceError(f"{problem}, so the filter cannot be installed when {self.name} is executed; {HINT}")
        self._say(f"{problem}, so {self.name} is confined before its execve instead (--arm now)")
        return "now"

    def _say(self, text: str) -> None:
        """Print a message about the start, and have the log say it, too."""
        _say(f"enforce: {text}", self.stderr)
        if self.log:
            self.log.notes.append(("warning", text))


def _unreported_phase(policies: Sequence[Compiled]) -> str:
    """Return the name of the last phase if the program may install filters, else "": the filters before that phase fail calls
    by themselves then (`filters.plan`), which outranks a notification."""
    names = [stage.name for policy in policies for stage in policy.stages]
    return names[-1] if names and any(policy.own_filters for policy in policies) else ""


def _say(text: str, stderr: int) -> None:
    try:
        if stderr >= 0:
            os.write(stderr, "".join(f"{printable(line)}\n" for line in text.split("\n")).encode())
    except OSError:
        return
