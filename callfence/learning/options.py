"""The command line of `learn`, parsed without argparse, which takes time to load, if each option is spelled in full."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from callfence.enforcer.errors import FAILED
from callfence.shared.ending import fail
from callfence.start import __version__
from callfence.tracer.linux import OPAQUE
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterator, Sequence

DESCRIPTION = """\
Run PROGRAM as it would run without learn, record its system calls and those of all that it starts, and write the policy
that allows them.  If the policy exists, what is new is merged into it and shown."""
EPILOG = """\
files: NAME.policy in the current folder (-o chooses another) and .callfence/NAME.rec beside it, NAME being the basename
of PROGRAM.  Exit status: the program's own; a signal that ended it ends learn too; with --check 1 if the program succeeded
and did something new (the last line says which of the two it is); 125 learn failed, 126 PROGRAM cannot be executed, 127
PROGRAM was not found.  ^C reaches the program as it would without learn; what it did until then is learned.
If learn itself is killed, so is the program; a process that --pid attached to goes on."""
COMMON = (
    "--output", "--pid", "--check", "--fresh", "--files", "--hosts", "--exact", "--within", "--phases", "--rehearse",
    "--narrow", "--quiet",
)  # fmt: skip
"""The options that --help shows."""
RUNS, SECONDS = 200, 300
"""The budget of a rehearsal."""
LAST = 10
"""The number of runs that --narrow looks at."""


def _plain(arguments: Sequence[str]) -> SimpleNamespace | None:
    """Return the namespace that argparse would return for a command line; None if an option is not spelled in full, has
    `=VALUE`, or has a wrong value."""
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
    """Store an option's value in `values`, if it needs one from the next of `words`; return False if that value is wrong."""
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
    """The options of a command line of `learn`, which do not contradict each other."""

    command: tuple[str, ...]
    """The program and its arguments; empty with `pids`, with `narrow`, and if only a start policy is written."""
    pids: tuple[int, ...]
    """The processes to attach to."""
    tree: bool
    """Whether to attach to the descendants of these processes, too."""
    output: Path | None
    """The policy that -o names; None without -o."""
    start: str | None
    """The start policy with which to begin a policy that does not exist yet; None without --from."""
    check: bool
    recording: Path | None
    """The file to which a check writes the recording of its run; None for no file."""
    fresh: bool
    names: bool
    exact: bool
    """Whether to write a policy without an implied set, and without folders for several files."""
    tight: bool
    portable: bool
    phases: bool
    """Whether to find out when the program begins to serve."""
    within: str | None
    """The file of the upper bound; None without --within."""
    default: str | None
    """What happens to calls that the policy does not allow, in the policy language; None leaves it as the policy has it."""
    arm: str | None
    """`now`, `exec` or `entry`; None leaves it as the policy has it."""
    allow_opaque: frozenset[str]
    files: bool
    """Whether to learn files and ports, also into a policy that does not confine them yet."""
    hosts: bool
    """Whether to learn hosts and unix sockets, also into a policy that does not confine them yet."""
    evidence: bool
    """Whether to write a companion if the policy has none; later runs keep it up to date."""
    no_evidence: bool
    """Whether not to record what pointers point to."""
    every_call: bool
    """Whether recorded calls stop each time, so that all are counted."""
    late_after: int | None
    """See `tracer.running.session.trace`."""
    rehearse: bool
    rehearse_only: str
    """Names and groups of rehearsals, separated by commas (`rehearsal.plan.NAMES`); '' for all."""
    rehearse_runs: int
    rehearse_seconds: float
    scratch: bool
    narrow: Path | None
    """The policy of which to say what runs did not use, instead of running a program; None without --narrow."""
    last: int
    """How many runs --narrow looks at."""
    write: bool
    """Whether --narrow removes what these runs did not use."""
    quiet: bool
    accept: tuple[str, ...]
    """The command line without --check and --from, which learns the same run into the policy."""

    @property
    def rehearsing(self) -> tuple[str, ...]:
        """The command line that rehearses the same run; () if this one does, or if it attaches to processes."""
        return () if self.rehearse or self.pids else ("learn", "--rehearse", *self.accept[1:])


def parser() -> ArgumentParser:
    """Return argparse's parser.  It is made only if needed: loading argparse and adding the options take 2 ms each."""
    import argparse

    from callfence.shared.options import add_helps, suggestion

    class Parser(argparse.ArgumentParser):
        def format_help(self) -> str:
            """Return the help, as wide as the terminal.  Reading the width takes 3 ms, so `add_argument` must not do it."""
            self.formatter_class = argparse.RawDescriptionHelpFormatter
            return super().format_help()

        def error(self, message: str) -> NoReturn:
            """Print the message and end with 125; argparse's own status, 2, could be that of the program."""
            hint = "; --pid attaches to a process, -o names a policy;" if message.endswith("arguments: -p") else ";"
            fail(f"learn: {message}{suggestion(self, message) or hint} see learn --help", FAILED)

    parser = Parser(
        prog="learn",
        usage="learn [OPTION ...] [--] PROGRAM [ARGUMENT ...]\n       learn [OPTION ...] --pid PID [--tree]\n"
        "       learn --from NAME [-o POLICY]\n"
        "       learn --narrow POLICY [--last N] [--write]",
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
    """Call `add` for each option, with the arguments of `add_argument`.  `hidden` is the object argparse.SUPPRESS."""
    add("-o", "--output", metavar="POLICY", type=Path, help="the policy to write, or to merge into")
    begins = "begin a new policy with start policy NAME, or only write it; a wrong NAME lists all (docs/start-policies.md)"
    add("--from", dest="start", metavar="NAME", help=begins)
    attaching = "attach to a running process, until it ends or ^C detaches from it; repeatable"
    add("--pid", dest="pids", metavar="PID", type=_pid, action="append", default=[], help=attaching)
    add("--tree", action="store_true", help="with --pid: follow what the process has started, too, such as workers of a server")
    add("--check", action="store_true", help="write nothing: show what is new to the policy, and exit with 1 if anything is")
    recorded = "with --check: write the recording of this run, of what is new, to FILE"
    add("--write-recording", dest="recording", metavar="FILE", type=Path, help=recorded)
    add("--fresh", action="store_true", help="start over: replace the policy and its recording")
    add("--names", action="store_true", help="allow calls whatever their arguments; ports are learned as ever")
    exact = "allow only what was seen: no implied set (docs/implied.md), no folder for several files or ranges of ports"
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
    files = "also learn files, to which `enforce` confines the program by Landlock (docs/learning-files.md)"
    add("--files", action="store_true", help=files)
    hosts = "also learn to which hosts, by name, and unix sockets the program connects and sends (docs/learning-hosts.md)"
    add("--hosts", action="store_true", help=hosts)
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
    add("--rehearse-runs", metavar="N", type=_positive, help=f"how many runs at most (default: {RUNS})")
    seconds = f"how long at most, in all (default: {SECONDS})"
    add("--rehearse-seconds", metavar="N", type=_positive, help=seconds)
    add("--scratch", action="store_true", help="give each rehearsed run a copy of the current folder, and drop what it changes")
    phases = "find out when the program begins to serve, and mark what it is allowed only until then (docs/phases.md)"
    add("--phases", action="store_true", help=phases)
    narrow = "say what the last runs of POLICY did not use of it; no program is run (docs/learning-files.md)"
    add("--narrow", metavar="POLICY", type=Path, help=narrow)
    add("--last", metavar="N", type=_positive, help=f"with --narrow: how many runs to look at (default: {LAST})")
    add("--write", action="store_true", help="with --narrow: remove what they did not use from POLICY")
    add("-q", "--quiet", action="store_true", help="no progress and no summary")


def _pid(text: str) -> int:
    """Return a pid; raise ArgumentTypeError, with what to do, for anything else."""
    if not text.isdecimal() or int(text) == 0:
        import argparse

        hint = f"--pid takes the id of a running process, and -o {text} names a policy"
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id; {hint}")
    return int(text)


def _positive(text: str) -> int:
    """Return a number above 0.  Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def parse(arguments: list[str]) -> LearnOptions:
    """Return the options; if they contradict each other, print why and end the process with 125."""
    given = _plain(arguments) or SimpleNamespace(**vars(parser().parse_args(arguments)))
    accept = ["learn", *arguments]
    if given.check:
        accept.remove("--check")  # the first one: what comes after the program's name is its own
    for option, value in (("--write-recording", given.recording), ("--from", given.start)):
        if value is not None:  # the next run finds the policy that this one begins
            at = next(index for index, word in enumerate(accept) if word.partition("=")[0] == option)
            del accept[at : at + (1 if "=" in accept[at] else 2)]
    if given.command[:1] == ["--"]:
        del given.command[0]
    if mistake := _mistake(given):
        parser().error(mistake)
    given.command, given.accept, given.pids = tuple(given.command), tuple(accept), tuple(dict.fromkeys(given.pids))
    given.allow_opaque, given.last = frozenset(given.allow_opaque), given.last or LAST
    given.rehearse_runs, given.rehearse_seconds = given.rehearse_runs or RUNS, given.rehearse_seconds or SECONDS
    return LearnOptions(**vars(given))


def _mistake(given: SimpleNamespace) -> str:
    """Return a message if the options contradict each other, else ''."""
    if given.narrow is not None:
        return _narrowing_mistake(given)
    if given.write or given.last is not None:
        return f"{'--write' if given.write else '--last'} requires --narrow"
    if not given.pids and not given.command and given.start is None:
        return "no program given"
    if given.start is not None and (given.check or given.fresh or given.exact or given.tight):
        return "--from cannot be given with --check or --fresh, since it begins a new policy, or with --exact or --tight"
    if given.start is not None and given.rehearse and not given.command:
        return "--rehearse needs a program"
    if given.evidence and (given.no_evidence or given.check):
        return "--write-evidence cannot be given with --no-evidence, which records none, or --check, which writes nothing"
    if given.recording is not None and not given.check:
        return "--write-recording requires --check; without --check the recording goes to .callfence/NAME.rec"
    if given.output == Path("-"):
        return "-o -: learn cannot write a policy to standard output, since later runs are merged into it; name a file"
    if given.check and (given.fresh or given.tight or given.portable or given.default is not None):
        return "--check cannot be given with --fresh, --tight, --portable or --default: it compares with the existing policy"
    if given.tight and given.portable:
        return "--tight and --portable cannot be given together: descriptors and sizes differ from one C library to another"
    if given.names and given.tight:
        return "--names and --tight cannot be given together: the one constrains no argument, the other more than usual"
    if given.pids and given.command:
        return "a program and --pid PID cannot be given together; -o names the policy"
    if given.files and given.pids:
        return "--files cannot be given with --pid: files are recorded from the program's start"
    if given.tree and not given.pids:
        return "--tree requires --pid; without --pid, all processes that the program starts are followed"
    if given.phases and (given.pids or given.check):
        return "--phases cannot be given with --pid or --check: it needs a run from the program's start, and changes the policy"
    return _rehearsal_mistake(given)


def _narrowing_mistake(given: SimpleNamespace) -> str:
    others = {**vars(given), "narrow": None, "last": None, "write": False}
    defaults = _plain(["true"])
    assert defaults is not None
    if others != {**vars(defaults), "command": []}:
        return "--narrow POLICY takes --last and --write alone: it runs no program"
    return ""


def _rehearsal_mistake(given: SimpleNamespace) -> str:
    if given.rehearse and given.check:
        return "--check and --rehearse cannot be given together: --check writes nothing, and --rehearse adds to the policy"
    if given.rehearse and given.pids:
        return "--rehearse cannot be given with --pid: it starts the program many times; give the program instead"
    if not given.rehearse:
        options = {name: getattr(given, name) for name in ("rehearse_only", "rehearse_runs", "rehearse_seconds", "scratch")}
        if name := next((name for name, value in options.items() if value), ""):
            return f"--{name.replace('_', '-')} requires --rehearse"
    return ""
