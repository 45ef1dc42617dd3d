"""The options of `enforce`, and its command line, which is parsed without argparse, since each start does it."""

from __future__ import annotations

from callfence.enforcer.errors import EnforceError
from callfence.start import __version__
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Mapping, Sequence

DESCRIPTION = """\
Run PROGRAM confined by its policy: PROGRAM keeps its pid, terminal and exit status, and can make only the system calls
that the policy allows.  Everything that it starts is confined as well.  A denied call is explained on standard error,
with the command that would allow it; then the call fails or the process is killed, as the policy says."""

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
        "when the filter takes effect, instead of the policy's `arm`: `now`, before the execve, which the policy must then "
        "allow (needs no ptrace); `exec`, with PROGRAM's first instruction; `entry`, at its entry point, after its loader",
    ),
    (("--compiled",), "FILE", "use the filter in FILE, which `callfence compile -o FILE` wrote, instead of the cache"),
    (("--no-cache",), "", "compile the policy, without reading or writing the cache: takes about 0.3 s more"),
    (
        ("--log",),
        "FILE",
        "instead of explaining violations on standard error, write records of the start, of violations, also those of files "
        "and ports, and of the end to FILE, one JSON object a line.  FILE: a file, to which they are appended, a FIFO or a "
        "socket; `unix:PATH` or `unix:@NAME`, a socket; `fd:N`, an open descriptor; `-`, standard output; `journal`, systemd's",
    ),
    (
        ("--ask",),
        "[unix:PATH]",
        "ask on the terminal, while it waits, whether a call or a host that a policy denies may be allowed: once, until "
        "PROGRAM ends, or always; with =unix:PATH, ask the program that listens on that socket, with =fd:N, the program at "
        "the other end of an open one (docs/asking.md)",
    ),
    (("--ask-timeout",), "SECONDS", "how long a question may wait; then the answer is no (default: 60)"),
    (
        ("--within",),
        "BASE",
        "with --ask: `always` writes only what the policy BASE grants as well; a program can answer `always` only with it",
    ),
    (("--no-evidence",), "", "do not report what pointers point to: file names, addresses of sockets, commands"),
    (("--audit",), "", "only report violations, including those of files and ports: allow everything, enforce nothing"),
    (
        ("--explain",),
        "",
        "also report denied files and ports on standard error, with the line that would grant each; every call that opens, "
        "creates or executes a file, connects or binds then takes some 50 microseconds more, and a start 0.1 s.  With --log: "
        "find the call and its process, even where the kernel's audit has these denials",
    ),
    (("--no-explain",), "", "with --log or --audit: report no files and ports, so that these calls take no longer"),
    (("--best-effort",), "", "run PROGRAM even if this kernel cannot enforce all of the policy's lines about files and ports"),
    (
        ("--quiet-kernel",),
        "",
        "report nothing and start no helper process: the kernel alone answers; implied if the policy lets PROGRAM have a "
        "seccomp listener of its own (seccomp_unotify(2)), since the kernel permits only one",
    ),
    (("--chdir",), "FOLDER", "start PROGRAM in FOLDER; `.` of the policy is the current folder all the same"),
    (("--die-with-parent",), "", "kill PROGRAM when the process that started enforce ends"),
    (("--close-fds",), "", "close all descriptors but 0, 1 and 2"),
    (("--keep-fd",), "N", "with --close-fds: do not close descriptor N; repeatable"),
    (("--drop-caps",), "", "drop all capabilities, for good"),
    (
        ("--scope",),
        "signals|sockets|both|none",
        "instead of the policy's `scope`: `signals`: PROGRAM can signal only processes that it started, and cannot inspect "
        "others through /proc/PID/exe and the like (Linux 6.12); `sockets`: it can connect only to abstract unix sockets of "
        "processes that it started; `both`; `none`: no such limit",
    ),
)
"""Names, value and help of each option.  A value with `|` lists the words of which the option takes one."""

COMMON = (
    "--policy", "--log", "--ask", "--audit", "--explain", "--best-effort", "--quiet-kernel", "--scope", "--close-fds",
    "--drop-caps",
)  # fmt: skip
"""The options that --help shows."""

_VALUED = {name: names[-1] for names, value, _ in OPTIONS if value and value[0] != "[" for name in names}
_OPTIONAL = tuple(names[-1] for names, value, _ in OPTIONS if value[:1] == "[")
"""The options whose value may be left out."""
_FLAGS = (*(names[-1] for names, value, _ in OPTIONS if not value), *_OPTIONAL)
_NEEDING = {"--ask-timeout": "--ask", "--within": "--ask"}
_EXCLUDING = (
    ("--ask", "--audit", "--audit denies nothing that --ask could ask about"),
    ("--scope", "--audit", "--audit enforces nothing, and --scope would be enforced"),
    ("--explain", "--no-explain", "--explain reports the files and ports that --no-explain leaves out"),
    ("--no-cache", "--compiled", "--compiled compiles nothing and uses no cache"),
    *(
        (other, "--quiet-kernel", f"{other} needs the helper process, and --quiet-kernel starts none")
        for other in ("--audit", "--log", "--explain", "--ask")
    ),
)
"""Two options that contradict each other, and why."""
CHOICES = {names[-1]: value.split("|") for names, value, _ in OPTIONS if "|" in value}


def parser() -> ArgumentParser:
    """Return the parser for --help, completions and manual pages; starting a program does not use it."""
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
        elif value[:1] == "[":
            parser.add_argument(*names, nargs="?", metavar=value.strip("[]"), help=text)
        elif value:
            parser.add_argument(*names, metavar=value, help=text)
        else:
            parser.add_argument(*names, action="store_true", help=text)
    parser.add_argument("-V", "--version", action="version", version=f"enforce {__version__}")
    parser.add_argument("command", metavar="PROGRAM", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def help_text(arguments: Sequence[str]) -> str:
    """Return the text of --help, --help-all or --version if that is the first argument; else ""."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        from callfence.shared.options import short_help

        return short_help(parser(), (*COMMON, "--help-all"))
    if first == "--help-all":
        return parser().format_help()
    return f"enforce {__version__}\n" if first in ("-V", "--version") else ""


def parse(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of each option, and the program with its arguments.  Raises EnforceError with a remedy."""
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
                raise EnforceError(f"{name} needs a value; `enforce --help-all` describes it")
            value = value if separator else rest.pop(0)
            if not value:  # as if the option were not there
                raise EnforceError(f"{name} has an empty value; `enforce --help-all` describes it")
            options.setdefault(_VALUED[name], []).append(value)
        elif separator and name in _OPTIONAL:
            options.setdefault(name, []).append(value)
        elif option in _FLAGS:
            options.setdefault(option, []).append("")
        else:
            from callfence.policygen.errors import did_you_mean

            hint = did_you_mean(name, [*_VALUED, *_FLAGS])
            hint = hint or ("write options of the program after its name" if rest else "`enforce --help-all` lists the options")
            raise EnforceError(f"unknown option {option}: {hint}")
    if options.get("--ask") == [""] and rest and rest[0].startswith("unix:"):
        raise EnforceError(f"--ask {rest[0]}: write --ask={rest[0]}; without `=` it would be the program")
    if not rest:
        if any(name.isdecimal() for name in options.get("--policy", ())):
            raise EnforceError(
                "no program given: -p names a policy, not a process, and a running process cannot be confined; "
                "`learn --pid PID` records one"
            )
        raise EnforceError("no program given: write enforce [OPTION ...] PROGRAM [ARGUMENT ...]; `enforce --help` says more")
    for option, words in CHOICES.items():
        for word in options.get(option, ()):
            if word not in words:
                raise EnforceError(f"{option} {word}: the value must be {', '.join(words[:-1])} or {words[-1]}")
    for other, needed in _NEEDING.items():
        if other in options and needed not in options:
            raise EnforceError(f"{other} requires {needed}")
    for one, other, why in _EXCLUDING:
        if one in options and other in options:
            raise EnforceError(f"{why}: give one of the two")
    if "--compiled" in options and len(options.get("--policy", ())) > 1:
        raise EnforceError("--compiled is the filter of one policy: give one -p, or none")
    return options, rest


def last(options: Mapping[str, Sequence[str]], name: str) -> str:
    """Return the value of an option, the last one if it was given several times; "" if it was not given."""
    return options.get(name, ("",))[-1]
