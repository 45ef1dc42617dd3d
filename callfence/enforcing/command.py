"""`enforce`: run a program confined by its policy.

On every start of the program: arguments are parsed by hand, and nothing that parses or compiles policies is imported
when the filter is in the cache.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from callfence.enforcing import filters
from callfence.start import __version__
from enforcer import confinement, launch
from enforcer.arming.seized import HINT
from enforcer.bpf import Filter, asking
from enforcer.errors import FAILED, EnforceError
from enforcer.reporting.reporter import APPENDING, Reporter
from tracer import linux
from tracer.errors import CallfenceError
from tracer.linux import privilege_lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import NoReturn

    from callfence.enforcing.filters import Variant
    from callfence.enforcing.sealed import Compiled
    from enforcer.arming.plan import Plan
    from enforcer.confinement import Surroundings
    from enforcer.files.granted import Reach
    from enforcer.files.landlock import Confinement
    from policygen.model import Policy

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
_EXECVE = 59  # asm/unistd_64.h
_ARMS = ("now", "exec", "entry")  # the earlier, the stricter
_LISTEN = ((linux.AUDIT_ARCH_X86_64, 50), (linux.AUDIT_ARCH_I386, 363))  # listen(2): asm/unistd_64.h, asm/unistd_32.h
_SCOPES = ("signals", "sockets", "both", "none")


def parser() -> ArgumentParser:
    """For --help, completions and manual pages: argparse is not loaded when a program is started."""
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


class EnforceOptions:
    """A command line that makes sense."""

    __slots__ = ("argv", "given")

    def __init__(self, given: dict[str, list[str]], argv: list[str]) -> None:
        self.given = given
        """The values of each option, in order; that of a flag is ""."""
        self.argv = argv

    def one(self, name: str) -> str:
        """The value of an option; the last one counts, "" if there is none."""
        return self.given[name][-1] if name in self.given else ""

    @property
    def surroundings(self) -> dict[str, list[str]]:
        return {name: values for name, values in self.given.items() if name not in _CONFINEMENT}


def main(arguments: list[str] | None = None) -> int:
    """Becomes the program; returns only if it could not, with the exit status, having said why."""
    launch.forget_interrupt_handler()
    arguments = sys.argv[1:] if arguments is None else arguments
    if wanted := _wants_text(arguments):
        try:
            os.write(1, wanted.encode())
        except OSError as error:
            _say(f"enforce: standard output: {error.strerror}", 2)
            return FAILED
        return 0
    environment = launch.initial_environment()
    stderr = 2 if _is_open(2) else -1
    try:
        options = _parse(arguments)
        _enforce(options, environment, stderr)
    except CallfenceError as error:
        _say(f"enforce: {error}", stderr)
        return error.status if isinstance(error, EnforceError) else FAILED


def _enforce(options: EnforceOptions, environment: list[bytes], stderr: int) -> NoReturn:
    name = options.argv[0]
    path = launch.locate(os.fsencode(name), environment)  # what is mistyped has no policy either
    is_quiet, is_audit = "--quiet-kernel" in options.given, "--audit" in options.given
    strangers: dict[str, int] = {}
    problems: dict[str, None] = {}
    variant: filters.Variant = "silent" if is_quiet else "audit" if is_audit else "report"
    compiled = _compiled(options, variant, strangers, problems)
    arm = options.one("--arm") or min((one.arm for one in compiled), key=_ARMS.index)
    deaf = untraced = ""
    is_nested = launch.is_filtered()
    if is_nested:
        from enforcer.arming import nested

        traces = arm != "now" or any(made.stages for made in compiled)
        deaf, untraced = nested.problems(arm, listens=not is_quiet, traces=traces)
    if deaf:
        if is_audit:
            raise EnforceError(f"--audit reports what it allows, which is not possible here: {deaf}")
        loss = "neither explained nor logged" if "--log" in options.given else "not explained"
        _say(f"enforce: {deaf}, so what is denied to {name} is {loss}: the kernel alone answers (--quiet-kernel)", stderr)
        compiled = _compiled(options, "silent", strangers, problems)
        is_quiet = True
    if not (is_quiet or is_audit) and any(one.expects_listener for one in compiled):
        # A chain of filters has one listener (seccomp(2), EBUSY): it is the program's.
        compiled = _compiled(options, "silent", strangers, problems)
        is_quiet = True
        _say(f"enforce: {name} may listen to a filter of its own, so violations are not reported (--quiet-kernel)", stderr)
    elif any(one.kills_itself for one in compiled):
        _say(f"enforce: {name} may install filters, so calls that kill it are not explained; the kernel logs them", stderr)
    for one in compiled:
        if one.lacks_start:
            what = "was learned from a process that ran already, and denies what a start needs"
            _say(f"enforce: {one.sources[0][0]} {what}; `learn {name}` adds it", stderr)
    for problem in problems:
        _say(f"enforce: the policy is compiled at each start, because {problem}", stderr)
    for file, owner in strangers.items():
        _say(f"enforce: {file} belongs to user {owner}, who can change what it allows", stderr)
    arm = options.one("--arm") or min((one.arm for one in compiled), key=_ARMS.index)
    kept = _scope(options, compiled, stderr)
    files, reach = _files(options, compiled, arm, kept, environment, stderr, is_quiet=is_quiet)
    listens = files is not None and not is_quiet and files.confines_listen
    reporter = None
    if not is_quiet:
        path_of_log = options.one("--log")
        log, folder = _open_log(path_of_log) if path_of_log else (stderr, -1)
        reporter = Reporter(
            log,
            lambda: _policies(compiled),
            json=bool(path_of_log),
            audit=is_audit,
            evidence="--no-evidence" not in options.given,
            stderr=stderr,
            folder=folder,
            name=os.path.basename(path_of_log),
            reach=reach,
            keeps_signals="signals" in kept,
            listens=listens,
            later=compiled[0].later,
        )
    more: list[bytes] = []
    asked = [*(reach.calls() if reach else ()), *(_LISTEN if listens else ())]
    if asked:
        more.append(asking(sorted({*asked})))
    plan: Plan | None = None
    if any(made.stages for made in compiled):
        silent = compiled if is_quiet else _compiled(options, "silent", strangers, problems)
        plan = filters.plan(compiled, silent, more, is_quiet=is_quiet, is_audit=is_audit, asked=frozenset(asked))
        later = compiled[0].later
        reporter = reporter or Reporter(
            -1, lambda: _policies(compiled), json=False, audit=False, evidence=False, later=later
        )
    filters_ = [*(made.filter for made in compiled), *more]
    if untraced:
        arm = _armed_before(name, arm, filters_, untraced, stderr, listens=not is_quiet, is_followed=plan is not None)
    if is_audit:
        _say("enforce: audit: nothing is enforced, violations are only reported", stderr)
    if privilege_lost(path, os.geteuid(), os.getegid()):
        _say(f"enforce: {name} runs without the privilege of its set-id bits or capabilities (no_new_privs)", stderr)
    launch.run(
        [os.fsencode(argument) for argument in options.argv],
        environment,
        filters_,
        arm,
        reporter,
        around=_around(options),
        scope=kept if files is None or files.scope else "",
        is_nested=is_nested,
        files=files,
        stderr=stderr,
        plan=plan,
        may_listen=all(made.may_listen for made in compiled),
    )


def _armed_before(
    name: str, arm: str, filters_: Sequence[bytes], problem: str, stderr: int, *, listens: bool, is_followed: bool
) -> str:
    """The moment at which a program is armed that cannot be traced: before its execve, if the filters allow that.

    Raises EnforceError if it cannot be confined so."""
    if is_followed:
        raise EnforceError(f"{problem}: {name} cannot be followed through the phases of its policy")
    if arm == "entry" or not all(Filter(part).may_run(linux.AUDIT_ARCH_X86_64, _EXECVE, reports=listens) for part in filters_):
        raise EnforceError(f"{problem}: {name} cannot be armed at its execve; {HINT}")
    _say(f"enforce: {problem}: {name} is confined before its execve instead (--arm now)", stderr)
    return "now"


def _compiled(
    options: EnforceOptions, variant: Variant, strangers: dict[str, int], problems: dict[str, None]
) -> list[Compiled]:
    files, check = options.given.get("--policy"), filters.trusting(strangers)
    if file := options.one("--compiled"):
        found = filters.found(options.argv[0])
        policy = files[0] if files else found if os.path.lexists(found) else None
        return [filters.from_bundle(file, policy, variant, check)]
    is_cached = "--no-cache" not in options.given
    names = files or [filters.found(options.argv[0])]
    return [filters.compiled(one, variant, check, cached=is_cached, problems=problems) for one in names]


def _files(
    options: EnforceOptions,
    compiled: Sequence[Compiled],
    arm: str,
    kept: str,
    environment: Sequence[bytes],
    stderr: int,
    *,
    is_quiet: bool,
) -> tuple[Confinement | None, Reach | None]:
    """What the policies let the program reach of files and ports, None if they confine none; and the same to judge calls by,
    None if they are not to be explained."""
    confining = [(one.sources[0][0], one.files) for one in compiled if one.files]
    if arm == "entry" and confining:
        from policygen.files.landlock import unfiltered

        confining = [(name, unfiltered(rules)) for name, rules in confining]
    is_audit, made = "--audit" in options.given, None
    if confining and not is_audit:
        from enforcer.files.landlock import Confinement, GrantError

        try:
            rules, best_effort = [files for _, files in confining], "--best-effort" in options.given
            made = Confinement(rules, environment, best_effort=best_effort, scope=confinement.bits(kept))
        except GrantError as error:
            raise EnforceError(f"{_place(compiled, error.path)}{error}") from error
        for remark in made.remarks:
            _say(f"enforce: {remark}", stderr)
    if is_audit or "--explain" in options.given:
        why = "the policy has no lines about them" if not confining else "--quiet-kernel" if is_quiet else ""
        if not why and (is_audit or (made and made.is_whole)):
            from enforcer.files.granted import Reach

            return made, Reach(confining, environment, is_audit=is_audit)
        if "--explain" in options.given:
            _say(f"enforce: --explain cannot report files or ports: {why or 'Landlock is not enforcing them'}", stderr)
    return made, None


def _place(compiled: Sequence[Compiled], path: bytes) -> str:
    """Where a policy has a line about a path, as `FILE:LINE: `; "" if it is not found again."""
    from policygen.paths import PathError, canonical, encoded, unquoted

    for name, content in (source for one in compiled for source in one.sources):
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            word, _, rest = line.strip().partition(" ")
            text = rest.partition('"')[2].rpartition('"')[0] if rest.startswith('"') else rest.partition(":")[0].strip()
            try:
                if word == "path" and encoded(canonical(unquoted(f'"{text}"') if rest.startswith('"') else text)) == path:
                    return f"{name}:{number}: "
            except PathError:
                continue
    return ""


def _around(options: EnforceOptions) -> Surroundings | None:
    given = options.surroundings
    if not given:
        return None
    return confinement.Surroundings(given)


def _scope(options: EnforceOptions, compiled: Sequence[Compiled], stderr: int) -> str:
    """What reaches only processes of the program, by --scope or else by the policies; "" where the kernel cannot see to it."""
    if option := options.one("--scope"):
        words = {"none": "", "sockets": "abstract sockets", "both": "signals, abstract sockets"}.get(option, option)
    else:
        words = ", ".join(sorted({word for made in compiled for word in made.scope.split(", ") if word}, reverse=True))
    if not words or confinement.abi() >= confinement.SINCE:
        return words
    if option:
        needed = f"--scope needs Landlock's ABI {confinement.SINCE} (Linux 6.12)"
        raise EnforceError(f"{needed}, and this kernel has {confinement.abi()}")
    if words != "signals":
        _say(f"enforce: {words} also reach other processes (scope {words}): keeping them takes Linux 6.12", stderr)
    return ""


def _wants_text(arguments: Sequence[str]) -> str:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        from callfence.shared.options import short_help

        return short_help(parser(), (*COMMON, "--help-all"))
    if first == "--help-all":
        return parser().format_help()
    return f"enforce {__version__}\n" if first in ("-V", "--version") else ""


def _parse(arguments: Sequence[str]) -> EnforceOptions:
    """EnforceError, with the way out, for a mistake."""
    given: dict[str, list[str]] = {}
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
            given.setdefault(_VALUED[name], []).append(value if separator else rest.pop(0))
        elif option in _FLAGS:
            given.setdefault(option, []).append("")
        else:
            from policygen.errors import did_you_mean

            hint = did_you_mean(name, [*_VALUED, *_FLAGS])
            hint = hint or ("options of the program come after its name" if rest else "`enforce --help` lists them")
            raise EnforceError(f"unknown option {option}: {hint}")
    if not rest:
        if any(name.isdecimal() for name in given.get("--policy", ())):
            raise EnforceError("no program given: -p names a policy here; `learn --pid PID` attaches to a process that runs")
        raise EnforceError("no program given: enforce [OPTION ...] PROGRAM [ARGUMENT ...]; `enforce --help` says more")
    for arm in given.get("--arm", ()):
        if arm not in _ARMS:
            raise EnforceError(f"--arm {arm}: must be now, exec or entry")
    for text in given.get("--scope", ()):
        if text not in _SCOPES:
            raise EnforceError(f"--scope {text}: must be signals, sockets, both or none")
    for other in ("--audit", "--log", "--explain"):
        if other in given and "--quiet-kernel" in given:
            raise EnforceError(f"{other} needs the helper process that --quiet-kernel goes without: give one of the two")
    if "--compiled" in given and len(given.get("--policy", ())) > 1:
        raise EnforceError("--compiled is the filter of one policy: give one -p, or none")
    return EnforceOptions(given, rest)


def _policies(compiled: Sequence[Compiled]) -> list[tuple[str, Policy]]:
    """The policies of the filters, by their files."""
    return [(one.sources[0][0], filters.document(one).policy) for one in compiled]


def _open_log(path: str) -> tuple[int, int]:
    """The log, and its folder if it is a file there by its own name, which may be moved; else -1."""
    try:
        log = os.open(path, APPENDING | os.O_CREAT, 0o666)
        status = os.fstat(log)
        named = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (named.st_dev, named.st_ino):
            return log, -1
        return log, os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = "nobody reads it" if error.errno == errno.ENXIO else error.strerror
        raise EnforceError(f"the log {path} cannot be opened: {reason}") from error


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
