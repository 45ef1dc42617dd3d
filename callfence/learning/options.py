"""The command line of `learn`, which is read without argparse where each option is written as it is declared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from callfence.shared.ending import fail
from callfence.start import __version__
from enforcer.errors import FAILED
from tracer.linux import OPAQUE
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

DESCRIPTION = """\
Run PROGRAM as it would run without learn, record its system calls and those of all that it starts, and write the policy
that allows them.  If the policy exists, what is new is merged into it and shown."""
EPILOG = """\
files: NAME.policy in the current folder (-o chooses another) and .callfence/NAME.rec beside it, NAME being the basename
of PROGRAM.  Exit status: the program's own; a signal that ended it ends learn too; with --check 1 if the program succeeded
and did something new (the last line says which of the two it is); 125 learn failed, 126 PROGRAM cannot be executed, 127
PROGRAM was not found.  ^C reaches the program as it would without learn; what was seen is kept.
If learn itself is killed, so is the program; one attached to with --pid goes on."""
COMMON = (
    "--output", "--pid", "--check", "--fresh", "--files", "--exact", "--within", "--phases", "--rehearse", "--quiet",
)  # fmt: skip
"""The options that --help shows."""
RUNS, SECONDS = 200, 300
"""The budget of a rehearsal."""


def _plain(arguments: Sequence[str]) -> SimpleNamespace | None:
    """Return what argparse makes of a command line; None where one of its options is not written as it is declared."""
    options: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}

    def add(*names: str, dest: str = "", default: Any = None, **declared: Any) -> None:
        dest = dest or names[-1].removeprefix("--").replace("-", "_")
        values[dest] = False if declared.get("action") == "store_true" else default
        options.update({name: {"dest": dest, **declared} for name in names})

    _declare(add)
    words = iter(arguments)
    command: list[str] = []
    for word in words:
        if not word.startswith("-") or word == "--":
            command = [*([] if word == "--" else [word]), *words]
            break
        if word not in options or not _take(options[word], words, values):
            return None
    return None if "--" in command else SimpleNamespace(**values, command=command)


def _take(option: dict[str, Any], words: Iterator[str], values: dict[str, Any]) -> bool:
    """Take an option, whose value is the next word, if it has one; return whether it may have that value."""
    dest, action = option["dest"], option.get("action")
    if action == "store_true":
        values[dest] = True
        return True
    text = next(words, "-")
    try:
        value = option.get("type", str)(text)
    except Exception:  # argparse says which values there are
        return False
    if text.startswith("-") or value not in option.get("choices", (value,)):
        return False
    values[dest] = [*values[dest], value] if action == "append" else value
    return True


class LearnOptions(NamedTuple):
    """A command line of `learn` that makes sense."""

    command: tuple[str, ...]
    """The program and its arguments; empty with `pid`."""
    pids: tuple[int, ...]
    """The processes to attach to."""
    tree: bool
    """Whether to follow what they have started, too."""
    output: Path | None
    """The policy that was named."""
    check: bool
    recording: Path | None
    """Where a check is to write the recording of its run."""
    fresh: bool
    names: bool
    exact: bool
    """Without an implied set."""
    tight: bool
    portable: bool
    phases: bool
    """Whether to find out when the program begins to serve."""
    within: str | None
    """The baseline's file."""
    default: str | None
    """What happens to calls that the policy does not allow, in the policy language; None leaves it as the policy has it."""
    arm: str | None
    """`now`, `exec` or `entry`; None leaves it as the policy has it."""
    allow_opaque: frozenset[str]
    files: bool
    """Whether to learn files and ports, also into a policy that does not confine them yet."""
    evidence: bool
    """Whether the policy gets a companion, if it has none: from then on it is kept up to date."""
    no_evidence: bool
    """Whether what pointers point to is not recorded."""
    every_call: bool
    """Whether known calls stop too, so that all are counted."""
    late_after: int | None
    """See `tracer.running.session.trace`."""
    rehearse: bool
    rehearse_only: str
    """What to rehearse, separated by commas (`rehearsal.plan.Choice`); '' for all."""
    rehearse_runs: int
    rehearse_seconds: float
    scratch: bool
    quiet: bool
    accept: tuple[str, ...]
    """The command that learns the same run into the policy, where this one only checks."""

    @property
    def rehearsing(self) -> tuple[str, ...]:
        """The command that rehearses the same run; empty if this one does, or if nothing can be rehearsed."""
        return () if self.rehearse or self.pids else ("learn", "--rehearse", *self.accept[1:])


def parser() -> ArgumentParser:
    """Return the parser.  Few command lines need it: loading argparse takes 2 ms, and adding the options as long again."""
    import argparse

    from callfence.shared.options import add_helps, suggestion

    class Parser(argparse.ArgumentParser):
        def format_help(self) -> str:
            """Format it as wide as the terminal.  Asking for its width takes 3 ms, and every `add_argument` would ask."""
            self.formatter_class = argparse.RawDescriptionHelpFormatter
            return super().format_help()

        def error(self, message: str) -> NoReturn:
            """End with 125: argparse's own status, 2, could be the program's."""
            hint = "; --pid attaches to a process, -o names a policy;" if message.endswith("arguments: -p") else ";"
            fail(f"learn: {message}{suggestion(self, message) or hint} see learn --help", FAILED)

    parser = Parser(
        prog="learn",
        usage="learn [OPTION ...] [--] PROGRAM [ARGUMENT ...]\n       learn [OPTION ...] --pid PID [--tree]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
        add_help=False,
    )
    add_helps(parser, COMMON)
    _declare(parser.add_argument, argparse.SUPPRESS)
    parser.add_argument("-V", "--version", action="version", version=f"callfence {__version__}")
    parser.add_argument("command", metavar="PROGRAM", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _declare(add: Callable[..., Any], hidden: str = "") -> None:
    """Declare each option as argparse has it.  `hidden`: argparse.SUPPRESS, which is known by identity."""
    add("-o", "--output", metavar="POLICY", type=Path, help="the policy to write, or to merge into")
    attaching = "attach to a running process, until it ends or ^C detaches from it; repeatable"
    add("--pid", dest="pids", metavar="PID", type=_pid, action="append", default=[], help=attaching)
    add("--tree", action="store_true", help="with --pid: follow what the process has started, too, such as workers of a server")
    add("--check", action="store_true", help="write nothing: show what is new to the policy, and exit with 1 if anything is")
    recorded = "with --check: write the recording of this run, of what is new, to FILE"
    add("--write-recording", dest="recording", metavar="FILE", type=Path, help=recorded)
    add("--fresh", action="store_true", help="start over: replace the policy and its recording")
    add("--names", action="store_true", help="learn names only, no arguments")
    exact = "allow only what was seen: no implied set (docs/implied.md), no folder for several files"
    add("--exact", action="store_true", help=exact)
    add("--tight", action="store_true", help="also constrain descriptors and sizes, where several runs agree on few values")
    portable = "also allow what other C libraries call instead (open for openat), now and in later merges"
    add("--portable", action="store_true", help=portable)
    add("--within", metavar="BASE", help="never allow what this policy or container profile (JSON) denies, and report it")
    add(
        "--default",
        metavar="ACTION",
        help="what happens to calls that the policy does not allow: kill, 'errno EPERM' ... (default: kill)",
    )
    add("--arm", choices=["now", "exec", "entry"], help="when the filter takes effect, and recording begins (default: exec)")
    add(
        "--allow-opaque",
        metavar="NAME",
        action="append",
        default=[],
        choices=OPAQUE,
        help=f"allow a call whose arguments no filter can see ({', '.join(OPAQUE)}); without it, the call fails with ENOSYS",
    )
    files = "also learn files and TCP ports, to which `enforce` confines the program by Landlock (docs/files.md)"
    add("--files", action="store_true", help=files)
    companion = "also write NAME.evidence, to be committed: what was seen behind each rule; later runs keep it up to date"
    add("--write-evidence", dest="evidence", action="store_true", help=companion)
    add("--no-evidence", action="store_true", help="do not record what pointers point to: file names, addresses of sockets")
    every = "count every call; without it, counts are lower bounds, PROGRAM is faster, and the policy is the same"
    add("--every-call", action="store_true", help=every)
    add("--late-after", type=int, help=hidden)
    rehearse = "then run PROGRAM many times more: with calls that fail, signals, full disks (docs/rehearsal.md)"
    add("--rehearse", action="store_true", help=rehearse)
    groups = "faults, signals, streams, environment, limits, user, or what one of them has"
    add("--rehearse-only", metavar="NAMES", default="", help=f"what to rehearse, separated by commas: {groups}")
    add("--rehearse-runs", metavar="N", type=_positive, default=RUNS, help=f"how many runs at most (default: {RUNS})")
    seconds = f"how long at most, in all (default: {SECONDS})"
    add("--rehearse-seconds", metavar="N", type=_positive, default=SECONDS, help=seconds)
    add("--scratch", action="store_true", help="give each rehearsed run a copy of the current folder, and drop what it changes")
    phases = "find out when the program begins to serve, and mark what it is allowed only until then (docs/phases.md)"
    add("--phases", action="store_true", help=phases)
    add("-q", "--quiet", action="store_true", help="no progress and no summary")


def _pid(text: str) -> int:
    """Return a pid; raise ArgumentTypeError, with what to do, for anything else."""
    if not text.isdecimal() or int(text) == 0:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is no process: --pid PID attaches to one that runs; a policy is -o {text}")
    return int(text)


def _positive(text: str) -> int:
    """Return a number above 0.  Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def parse(arguments: list[str]) -> LearnOptions:
    """Return the options; end the process with 125, and say why, if they contradict each other."""
    given = _plain(arguments) or SimpleNamespace(**vars(parser().parse_args(arguments)))
    accept = ["learn", *arguments]
    if given.check:
        accept.remove("--check")  # the first one: what comes after the program's name is its own
    if given.recording is not None:
        at = next(index for index, word in enumerate(accept) if word.partition("=")[0] == "--write-recording")
        del accept[at : at + (1 if "=" in accept[at] else 2)]
    if given.command[:1] == ["--"]:
        del given.command[0]
    if mistake := _mistake(given):
        parser().error(mistake)
    given.command, given.accept, given.pids = tuple(given.command), tuple(accept), tuple(dict.fromkeys(given.pids))
    given.allow_opaque = frozenset(given.allow_opaque)
    return LearnOptions(**vars(given))


def _mistake(given: SimpleNamespace) -> str:
    """Return what is wrong with the options together, or ''."""
    if not given.pids and not given.command:
        return "no program given"
    if given.evidence and (given.no_evidence or given.check):
        return "--write-evidence writes a file: not with --no-evidence, which records nothing for it, or --check"
    if given.recording is not None and not given.check:
        return "--write-recording is for --check; without --check the recording goes to .callfence/NAME.rec"
    if given.output == Path("-"):
        return "-o -: a policy is a file, since the next run is merged into it"
    if given.check and (given.fresh or given.tight or given.portable or given.default is not None):
        return "--check compares with the policy that there is: not with --fresh, --tight, --portable or --default"
    if given.tight and given.portable:
        return "give either --tight or --portable: descriptors and sizes differ from one C library to another"
    if given.pids and given.command:
        return "give either a program or --pid PID, not both; -o names the policy"
    if given.files and given.pids:
        return "--files watches a program from its start, which --pid cannot"
    if given.tree and not given.pids:
        return "--tree requires --pid: what a program starts is followed anyway"
    if given.phases and (given.pids or given.check):
        return "--phases finds out what a program does before it waits for work, and after: with a program, without --check"
    return _rehearsal_mistake(given)


def _rehearsal_mistake(given: SimpleNamespace) -> str:
    if given.rehearse and given.check:
        return "--check compares one run with the policy: not with --rehearse, which adds what other runs bring"
    if given.rehearse and given.pids:
        return "--rehearse runs a program again and again, which a process that runs already cannot be"
    if not given.rehearse:
        word = "--rehearse-only" if given.rehearse_only else "--scratch" if given.scratch else ""
        if word:
            return f"{word} says how to rehearse: give --rehearse, too"
    return ""
