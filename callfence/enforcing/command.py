"""`enforce`: run a program confined by its policy.

On every start of the program: arguments are parsed by hand, and nothing that parses or compiles policies is imported
when the filter is in the cache.
"""

from __future__ import annotations

import os
import sys

from callfence.enforcing import filters
from callfence.start import __version__
from enforcer import confinement, kernel, launch
from enforcer.arming.seized import HINT
from enforcer.bpf import Filter, notifying_filter
from enforcer.errors import FAILED, EnforceError
from enforcer.reporting.reporter import Reporter, open_log
from tracer import TYPE_CHECKING, linux
from tracer.errors import CallfenceError
from tracer.linux import privilege_lost

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import NoReturn

    from callfence.enforcing.filters import Variant
    from callfence.enforcing.sealed import Compiled
    from enforcer.files.granted import Reach
    from enforcer.files.landlock import Confinement

DESCRIPTION = """\
Run PROGRAM confined by its policy: it keeps its pid, terminal and exit status, and can make only the system calls
that the policy allows.  Everything it starts is confined as well.  A call that is not allowed is explained on
standard error, with the command that allows it, and then fails or kills, as the policy says."""

EPILOG = """\
Exit status: the program's own; 125 if it could not be confined, or if --audit lost a report before the program exited;
126 if it cannot be executed, 127 if it was not found.
`learn PROGRAM` writes a policy."""

OPTIONS = (
    (
        ("-p", "--policy"),
        "FILE",
        "the policy; default: NAME.policy in the current folder, NAME being the program's name.  "
        "If given more than once, every policy has to allow a call",
    ),
    (
        ("--arm",),
        "now|exec|entry",
        "when to begin, instead of when the policy says: `now`, before the execve, which the policy must then allow (needs no "
        "ptrace); `exec`, with the program's first instruction; `entry`, at its entry point, after the dynamic loader",
    ),
    (("--compiled",), "FILE", "the compiled filter of `callfence compile -o`, instead of one from the cache"),
    (("--no-cache",), "", "compile the policy, whatever the cache has, and keep nothing: about 0.3 s more"),
    (("--log",), "FILE", "append violations to FILE, one JSON object a line, instead of standard error"),
    (("--no-evidence",), "", "do not report what pointers point to: file names, addresses of sockets, commands"),
    (("--audit",), "", "report violations, of files and ports too, but allow them: enforce nothing"),
    (
        ("--explain",),
        "",
        "report files and ports, too, that the policy does not grant, with the line that would: each call that opens, makes or "
        "executes a file, connects or binds then takes some hundred microseconds more",
    ),
    (("--best-effort",), "", "run PROGRAM although this kernel cannot enforce all that the policy says of files and ports"),
    (
        ("--quiet-kernel",),
        "",
        "no reports and no helper process: the kernel alone answers; implied where the policy lets the program make a listener "
        "and receive from it (seccomp_unotify(2)), since the kernel permits one",
    ),
    (("--die-with-parent",), "", "kill PROGRAM when the process that started enforce ends"),
    (("--close-fds",), "", "close all descriptors but 0, 1 and 2"),
    (("--keep-fd",), "N", "with --close-fds: do not close descriptor N; repeatable"),
    (("--drop-caps",), "", "drop all capabilities, for good"),
    (
        ("--scope",),
        "signals|sockets|both|none",
        "instead of what the policy says: `signals`: PROGRAM can signal only what it starts (Linux 6.12), and not look into "
        "others by /proc/PID/exe and the like; `sockets`: it can connect to abstract unix sockets only of what it starts; "
        "`none`: neither is kept",
    ),
)
"""Names, value and help of each option; what is no value but words joined by `|` has to be one of them."""

COMMON = (
    "--policy", "--log", "--audit", "--explain", "--best-effort", "--quiet-kernel", "--scope", "--close-fds", "--drop-caps",
)  # fmt: skip
"""The options that --help shows."""

_VALUED = {name: names[-1] for names, value, _ in OPTIONS if value for name in names}
_FLAGS = tuple(names[-1] for names, value, _ in OPTIONS if not value)
_CONFINEMENT = (
    "--policy", "--compiled", "--no-cache", "--arm", "--log", "--no-evidence", "--audit", "--quiet-kernel", "--best-effort",
    "--explain", "--scope",
)
"""The options about calls; the others are about the program's surroundings."""
_CHOICES = {names[-1]: value.split("|") for names, value, _ in OPTIONS if "|" in value}
_LISTEN = linux.calls("listen")


def parser() -> ArgumentParser:
    """Return the parser for --help, completions and manual pages: argparse is not loaded when a program is started."""
    import argparse

    from callfence.shared.options import add_helps

    parser = argparse.ArgumentParser(
        prog="enforce",
        usage="enforce [OPTION ...] [--] PROGRAM [ARGUMENT ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    add_helps(parser, COMMON)
    for names, value, text in OPTIONS:
        if "|" in value:
            parser.add_argument(*names, choices=value.split("|"), help=text)
        elif value:
            parser.add_argument(*names, metavar=value, help=text)
        else:
            parser.add_argument(*names, action="store_true", help=text)
    parser.add_argument("-V", "--version", action="version", version=f"enforce {__version__}")
    parser.add_argument("command", metavar="PROGRAM", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Become the program; return only if that is impossible, with the exit status, once the reason is printed."""
    launch.forget_interrupt_handler()
    arguments = sys.argv[1:] if arguments is None else arguments
    if text := _help(arguments):
        try:
            os.write(1, text.encode())
        except OSError as error:
            _say(f"enforce: standard output: {error.strerror}", 2)
            return FAILED
        return 0
    environment = launch.initial_environment()
    stderr = 2 if _is_open(2) else -1
    try:
        _Start(*_parse(arguments), environment, stderr).run()
    except CallfenceError as error:
        _say(f"enforce: {error}", stderr)
        return error.status if isinstance(error, EnforceError) else FAILED


class _Start:
    """The start of a program: its policies, and what of them can be enforced and reported here."""

    def __init__(self, options: dict[str, list[str]], argv: list[str], environment: list[bytes], stderr: int) -> None:
        """`options`: the values of each option, in order; that of a flag is ""."""
        self.options = options
        self.argv = argv
        self.environment = environment
        self.stderr = stderr
        self.name = argv[0]
        self.is_quiet = "--quiet-kernel" in options
        self.is_audit = "--audit" in options
        self.owners: dict[str, int] = {}
        """Files of other users that can change what a policy allows, each with its owner."""
        self.problems: dict[str, None] = {}
        """Why the user's cache of filters cannot be used."""

    def run(self) -> NoReturn:
        """Become the program.  Raises CallfenceError, and has run nothing."""
        # Before the policies: a program whose name is mistyped has none either.
        path = launch.locate(os.fsencode(self.name), self.environment)
        policies = self._filters("silent" if self.is_quiet else "audit" if self.is_audit else "report")
        is_nested = launch.is_filtered()
        untraced = ""
        if is_nested:
            from enforcer.arming import nested

            arm = self._arm(policies)
            traces = arm != "now" or any(policy.stages for policy in policies)
            unheard, untraced = nested.problems(arm, listens=not self.is_quiet, traces=traces)
            if unheard:
                policies = self._without_reports(unheard)
        policies = self._warn(policies)
        arm = self._arm(policies)
        scope = self._scope(policies)
        files, reach = self._files(policies, arm, scope)
        listens = files is not None and not self.is_quiet and files.confines_listen
        reporter = None if self.is_quiet else self._reporter(policies, scope, reach, listens=listens)
        notified = sorted({*(reach.calls() if reach else ()), *(_LISTEN if listens else ())})
        notifying = [notifying_filter(notified)] if notified else []
        plan = None
        if any(policy.stages for policy in policies):
            silent = policies if self.is_quiet else self._filters("silent")
            calls = frozenset(notified)
            plan = filters.plan(policies, silent, notifying, is_quiet=self.is_quiet, is_audit=self.is_audit, notified=calls)
            reporter = reporter or self._reporter(policies, "", None, listens=False)
        programs = [*(policy.filter for policy in policies), *notifying]
        if untraced:
            arm = self._arm_untraced(arm, programs, untraced, is_followed=plan is not None)
        if self.is_audit:
            self._say("audit: nothing is enforced, violations are only reported")
        if privilege_lost(path, os.geteuid(), os.getegid()):
            self._say(f"{self.name} runs without the privilege of its set-id bits or capabilities (no_new_privs)")
        surroundings = {name: values for name, values in self.options.items() if name not in _CONFINEMENT}
        if files is not None:
            from policygen import text  # noqa: F401  for a message once no more files can be read
        launch.run(
            [os.fsencode(argument) for argument in self.argv],
            self.environment,
            programs,
            arm,
            reporter,
            around=confinement.Surroundings(surroundings) if surroundings else None,
            scope=scope if files is None or files.scope else "",
            is_nested=is_nested,
            files=files,
            stderr=self.stderr,
            plan=plan,
            may_listen=all(policy.may_listen for policy in policies),
        )

    def _value(self, name: str) -> str:
        """The value of an option; the last one counts, "" if there is none."""
        return self.options.get(name, [""])[-1]

    def _filters(self, variant: Variant) -> list[Compiled]:
        """A variant of the filters of all policies, in the order in which they were named."""
        given, check = self.options.get("--policy"), filters.trusting(self.owners)
        if file := self._value("--compiled"):
            default = filters.default_policy(self.name)
            policy = given[0] if given else default if os.path.lexists(default) else None
            return [filters.from_bundle(file, policy, variant, check)]
        is_cached = "--no-cache" not in self.options
        names = given or [filters.default_policy(self.name)]
        return [filters.compiled(name, variant, check, cached=is_cached, problems=self.problems) for name in names]

    def _arm(self, policies: Sequence[Compiled]) -> str:
        """The moment at which the filters take effect: that of --arm, or the earliest of the policies', which is the
        strictest."""
        return self._value("--arm") or min((policy.arm for policy in policies), key=_CHOICES["--arm"].index)

    def _without_reports(self, problem: str) -> list[Compiled]:
        """The filters for a kernel that answers alone, since a problem keeps the helper from answering."""
        if self.is_audit:
            raise EnforceError(f"--audit reports what it allows, which is not possible here: {problem}")
        loss = "neither explained nor logged" if "--log" in self.options else "not explained"
        self._say(f"{problem}, so what is denied to {self.name} is {loss}: the kernel alone answers (--quiet-kernel)")
        self.is_quiet = True
        return self._filters("silent")

    def _warn(self, policies: list[Compiled]) -> list[Compiled]:
        """Print what the user must know of the policies; return their filters, others if the program may have the listener."""
        if not (self.is_quiet or self.is_audit) and any(policy.expects_listener for policy in policies):
            # A chain of filters has one listener (seccomp(2), EBUSY): it is the program's.
            policies = self._filters("silent")
            self.is_quiet = True
            self._say(f"{self.name} may listen to a filter of its own, so violations are not reported (--quiet-kernel)")
        elif any(policy.kills_itself for policy in policies):
            self._say(f"{self.name} may install filters, so calls that kill it are not explained; the kernel logs them")
        for policy in policies:
            if policy.lacks_start:
                what = "was learned from a process that ran already, and denies what a start needs"
                self._say(f"{policy.sources[0][0]} {what}; `learn {self.name}` adds it")
        for problem in self.problems:
            self._say(f"the policy is compiled at each start, because {problem}")
        for file, owner in self.owners.items():
            self._say(f"{file} belongs to user {owner}, who can change what it allows")
        return policies

    def _scope(self, policies: Sequence[Compiled]) -> str:
        """What reaches only processes of the program, by --scope or by the policies; "" where the kernel cannot restrict it."""
        if option := self._value("--scope"):
            words = {"none": "", "sockets": "abstract sockets", "both": "signals, abstract sockets"}.get(option, option)
        else:
            each = {word for policy in policies for word in policy.scope.split(", ") if word}
            words = ", ".join(sorted(each, reverse=True))
        if not words or kernel.landlock_abi() >= confinement.SINCE:
            return words
        if option:
            needed = f"--scope needs Landlock's ABI {confinement.SINCE} (Linux 6.12)"
            raise EnforceError(f"{needed}, and this kernel has {kernel.landlock_abi()}")
        if words != "signals":
            self._say(f"{words} also reach other processes (scope {words}): keeping them takes Linux 6.12")
        return ""

    def _files(self, policies: Sequence[Compiled], arm: str, scope: str) -> tuple[Confinement | None, Reach | None]:
        """What the program can reach of files and ports, None if they are not confined; and the same to judge calls by, None
        if these calls are not to be explained."""
        confines, explains = any(policy.files for policy in policies), "--explain" in self.options
        if not (confines or explains):
            return None, None
        from callfence.enforcing import files

        rules = None
        if confines and not self.is_audit:
            best_effort, bits = "--best-effort" in self.options, confinement.bits(scope)
            rules = files.confinement(policies, arm, bits, self.environment, best_effort=best_effort)
            for remark in rules.remarks if rules else ():
                self._say(remark)
        if self.is_audit or explains:
            why = "the policy has no lines about them" if not confines else "--quiet-kernel" if self.is_quiet else ""
            if not why and (self.is_audit or (rules and rules.is_whole)):
                return rules, files.reach(policies, arm, self.environment, is_audit=self.is_audit)
            if explains:
                self._say(f"--explain cannot report files or ports: {why or 'Landlock is not enforcing them'}")
        return rules, None

    def _reporter(self, policies: Sequence[Compiled], scope: str, reach: Reach | None, *, listens: bool) -> Reporter:
        """What reports denied calls; with --quiet-kernel it reports none."""
        path = "" if self.is_quiet else self._value("--log")
        log, folder = open_log(path) if path else (-1 if self.is_quiet else self.stderr, -1)
        return Reporter(
            log,
            lambda: [(policy.sources[0][0], filters.document(policy).policy) for policy in policies],
            json=bool(path),
            audit=self.is_audit,
            evidence=not (self.is_quiet or "--no-evidence" in self.options),
            stderr=self.stderr,
            folder=folder,
            name=os.path.basename(path),
            reach=reach,
            keeps_signals="signals" in scope,
            listens=listens,
            later=policies[0].later,
        )

    def _arm_untraced(self, arm: str, programs: Sequence[bytes], problem: str, *, is_followed: bool) -> str:
        """The moment at which filters take effect on a program that cannot be traced: before its execve, if they allow that.

        Raises EnforceError if it cannot be confined in that way."""
        if is_followed:
            raise EnforceError(f"{problem}: {self.name} cannot be followed through the phases of its policy")
        execve = linux.AUDIT_ARCH_X86_64, linux.NUMBERS["execve"][0]
        if arm == "entry" or not all(Filter(program).may_allow(*execve, reports=not self.is_quiet) for program in programs):
            raise EnforceError(f"{problem}: {self.name} cannot be armed at its execve; {HINT}")
        self._say(f"{problem}: {self.name} is confined before its execve instead (--arm now)")
        return "now"

    def _say(self, text: str) -> None:
        _say(f"enforce: {text}", self.stderr)


def _help(arguments: Sequence[str]) -> str:
    """The text that the command line asks for instead of a program; "" if it asks for none."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        from callfence.shared.options import short_help

        return short_help(parser(), (*COMMON, "--help-all"))
    if first == "--help-all":
        return parser().format_help()
    return f"enforce {__version__}\n" if first in ("-V", "--version") else ""


def _parse(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of each option, and the program with its arguments.  Raises EnforceError, with the way out."""
    options: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option == "--":
            break
        name, separator, value = option.partition("=")
        if option.startswith("-p") and len(option) > 2:
            name, separator, value = "-p", "=", option[2:]
        if name in _VALUED:
            if not separator and not rest:
                raise EnforceError(f"{name} needs a value; `enforce --help` says which")
            options.setdefault(_VALUED[name], []).append(value if separator else rest.pop(0))
        elif option in _FLAGS:
            options.setdefault(option, []).append("")
        else:
            from policygen.errors import did_you_mean

            hint = did_you_mean(name, [*_VALUED, *_FLAGS])
            hint = hint or ("options of the program come after its name" if rest else "`enforce --help` lists them")
            raise EnforceError(f"unknown option {option}: {hint}")
    if not rest:
        if any(name.isdecimal() for name in options.get("--policy", ())):
            raise EnforceError("no program given: -p names a policy here; `learn --pid PID` attaches to a process that runs")
        raise EnforceError("no program given: enforce [OPTION ...] PROGRAM [ARGUMENT ...]; `enforce --help` says more")
    for option, words in _CHOICES.items():
        for word in options.get(option, ()):
            if word not in words:
                raise EnforceError(f"{option} {word}: must be {', '.join(words[:-1])} or {words[-1]}")
    for other in ("--audit", "--log", "--explain"):
        if other in options and "--quiet-kernel" in options:
            raise EnforceError(f"{other} needs the helper process that --quiet-kernel goes without: give one of the two")
    if "--compiled" in options and len(options.get("--policy", ())) > 1:
        raise EnforceError("--compiled is the filter of one policy: give one -p, or none")
    return options, rest


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _say(text: str, stderr: int) -> None:
    from policygen.text import printable

    try:
        if stderr >= 0:
            os.write(stderr, "".join(f"{printable(line)}\n" for line in text.split("\n")).encode())
    except OSError:
        return
