"""`callfence-sh`: a shell for tools that let one choose theirs (npm's `script-shell`, make's `SHELL`, hooks, CI steps).  Each
command runs under `learn` or `enforce`, with the policy of its package or step.

Each command of a build starts it, so it parses nothing that it does not need, and becomes the shell.
"""

from __future__ import annotations

import os
import sys

from callfence.enforcer.errors import FAILED, EnforceError
from callfence.policygen.text import printable
from callfence.shell import naming
from callfence.start import user_folder
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.errors import CallfenceError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator, Mapping, Sequence

    from callfence.shell.naming import Place

USAGE = "callfence-sh -c COMMAND [NAME [ARGUMENT ...]]\n       callfence-sh SCRIPT [ARGUMENT ...]"
DESCRIPTION = """\
A shell that confines what it runs, for tools that let one choose theirs: npm's script-shell, make's SHELL, git hooks, steps of
CI.  It takes the arguments of sh, and runs sh with them under the policy of the package or step whose command it is.  Policies
are in .callfence/policies of the project's folder.  docs/shell.md describes it for each tool."""
EPILOG = """\
environment:
  CALLFENCE_SH        enforce (the default), learn, or off
  CALLFENCE_POLICIES  the folder of the policies, an absolute path; default: the nearest .callfence/policies
  CALLFENCE_NAME      the name of the policy, without .policy, instead of one by package and step
  CALLFENCE_LOG       as enforce --log: where denied calls, files and hosts are written
  CALLFENCE_SHELL     the shell to run; default: /bin/sh

What a confined command runs, callfence-sh among it, stays under that command's policy.  Exit status: the command's own; 125
if it could not be confined, or has no policy."""

INSIDE = "CALLFENCE_INSIDE"
"""The variable that names the policy under which a command runs already."""
_START = f'cd -P -- "$1" && unset OLDPWD && export {INSIDE}="$2"'
"""What the first shell runs: back to the command's folder, from the one that `.` of the policy means."""
_START_NPM = f'{_START} npm_config_script_shell="$3"'
"""The same for npm: a script that runs `npm run` does without us, who would start only to become the shell."""
_REST = ' && shift 3 && exec "$@"'
_CODE = (
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))),
    os.path.abspath(sys.executable),
    os.path.realpath(sys.executable),
    f"{sys.prefix}/pyvenv.cfg",
    os.path.abspath(sys.argv[0]),
    *map(os.path.realpath, filter(None, sys.path)),
    *filter(None, [user_folder() if sys.prefix == sys.base_prefix else ""]),
)
"""Callfence itself: the folder in which Python finds the package, the interpreter, how it is set up, the script, and the other
folders from which Python imports: its own library, and the user's, which a command could make for the next start (a virtual
environment has none)."""
_INTERRUPTED = 128 + 2
"""The exit status that a shell reports for a program that SIGINT ended."""
_MODES = ("enforce", "learn", "off")


def parser() -> ArgumentParser:
    """Return the parser for the manual page and completions; the shell's arguments are not parsed."""
    import argparse

    return argparse.ArgumentParser(
        prog="callfence-sh",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(arguments: list[str] | None = None) -> int:
    """Become the shell, confined or traced.  Return only after --help (0), or 125 if the command was not run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["-h"], ["--help"]):
        print(parser().format_help(), end="")
        return 0
    environment = os.environ
    try:
        mode = environment.get("CALLFENCE_SH") or _MODES[0]
        if mode not in _MODES:
            raise EnforceError(f"CALLFENCE_SH is {mode}: it must be {', '.join(_MODES[:-1])} or {_MODES[-1]}")
        shell = environment.get("CALLFENCE_SHELL") or "/bin/sh"
        if mode == "off" or is_inside(environment):
            _become(shell, arguments)
        try:
            folder = os.getcwd()
        except FileNotFoundError as error:
            raise EnforceError("the working folder has been removed, so no policy is found") from error
        place = naming.place_of(environment, folder)
        name = naming.name_of(arguments, environment, folder)
        policy = os.path.join(place.policies, f"{name}.policy")
        start = (_START_NPM if name.startswith("npm") else _START) + _REST
        command = ["/bin/sh", "-c", start, "callfence-sh", folder, name, shell, shell, *arguments]
        os.chdir(place.folder)  # which is `.` of the policy
        if mode == "learn":
            return _learn(policy, command)
        return _enforce(policy, place, command, environment)
    except (CallfenceError, OSError) as error:
        _say(str(error))
        return error.status if isinstance(error, EnforceError) else FAILED
    except KeyboardInterrupt:  # before the command runs; then ^C is the command's
        return _INTERRUPTED


def is_inside(environment: Mapping[str, str], status: str = "/proc/self/status") -> bool:
    """Return whether this process, whose `status` is in that file, runs under a policy of `callfence-sh` already.  The variable
    alone does not count: the process must have a filter or a tracer."""
    if not environment.get(INSIDE):
        return False
    with open(status, encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return fields.get("Seccomp", "0").strip() == "2" or fields.get("TracerPid", "0").strip() != "0"


def _become(shell: str, arguments: Sequence[str]) -> None:
    """Execute the shell, with the environment of this process.  Raises EnforceError."""
    from callfence.enforcer import execution

    execution.forget_interrupt_handler()
    pairs = (variable.partition(b"=") for variable in execution.initial_environment())
    try:
        os.execvpe(shell, [shell, *arguments], {name: value for name, _, value in pairs})
    except OSError as error:
        raise EnforceError(f"{shell}: {error.strerror}", 127 if error.errno == 2 else 126) from error


def _enforce(policy: str, place: Place, command: list[str], environment: Mapping[str, str]) -> int:
    """Become the command, confined.  Return a status only if it was not run.  Raises EnforceError if there is no policy, or the
    command could change it."""
    if not os.path.lexists(policy):
        what = f"{policy} does not exist, so the command is not run"
        raise EnforceError(f"{what}; to learn it, run the same again with CALLFENCE_SH=learn, and review what that writes")
    from callfence.enforcing import command as enforce, filters

    compiled = filters.compiled(policy, "report", filters.trusting({}))
    from callfence.policygen.files.landlock import CHANGES, decode

    paths = decode(compiled.files).paths if compiled.files else None
    changed = None if paths is None else [path for path, access in paths if access & CHANGES]
    if line := next(_own(policy, changed), None):
        raise EnforceError(f"{policy}: {line}.  The command is not run")
    log = environment.get("CALLFENCE_LOG")
    return enforce.main(["-p", policy, *(["--log", log] if log else []), "--", *command])


def _learn(policy: str, command: list[str]) -> int:
    """Run the command, write what it does into the policy, and end as it ended."""
    from callfence.learning import command as learning
    from callfence.learning.options import parse
    from callfence.shared.ending import end_like

    status = learning.run(parse(["-q", *_kinds(policy), "-o", policy, "--", *command]))
    from callfence.policygen.grants import Right
    from callfence.policygen.language.document import parse_file
    from callfence.policygen.paths import encoded

    try:
        paths = parse_file(policy).policy.files.paths
        harmless = Right.READ | Right.LIST | Right.EXECUTE
        changed = None if paths is None else [encoded(path) for path, rights in paths.items() if rights & ~harmless]
        if line := next(_own(policy, changed), None):
            _say(f"{policy}: {line}.  It is not enforced like this")
    except (CallfenceError, OSError) as error:
        _say(str(error))
    end_like(status)


def _kinds(policy: str) -> list[str]:
    """Return the options of `learn` for the lines that are learned: about files, and about hosts where this user can enforce
    these.  Ports, and which sockets there may be, are confined in any case."""
    from callfence.enforcer.hosts.granted import problem

    if text := problem():
        if not os.path.lexists(policy):
            _say(f"{policy} gets no lines about hosts: {text}")
        return ["--files"]
    return ["--files", "--hosts"]


def _own(policy: str, changed: list[bytes] | None) -> Iterator[str]:
    """Yield a text for each path of `changed`, those that a policy grants to be changed, by which the command could change the
    policies or callfence itself.  None means that the policy does not confine files."""
    files = {os.path.dirname(path(policy)): "its own policy" for path in (os.path.abspath, os.path.realpath)}
    files |= dict.fromkeys(_CODE, "callfence itself")
    files = {file: what for file, what in files.items() if _is_writable(file)}
    if not files:
        return
    remedy = "have it write in a folder below that is there before it starts, and learn anew, or keep the policies elsewhere"
    remedy += ", in a folder that CALLFENCE_POLICIES names"
    if changed is None:
        yield f"it has no lines about files, so the command could change its own policy (learn --files -o {policy} adds them)"
        return
    from callfence.policygen.files.places import PlaceError, located, real_path

    environment = [name + b"=" + value for name, value in os.environb.items()]
    for path in changed:
        try:
            place = os.fsdecode(real_path(located(path, environment)))
        except PlaceError:
            continue
        for file, what in files.items():
            if naming.is_below(file, place) or naming.is_below(place, file):
                yield f"by `path {os.fsdecode(path)}` the command could change {what}: {remedy}"


def _is_writable(file: str) -> bool:
    """Return whether this user can change a file, or one of the three folders above it; of one that is not there, whether the
    user can make it."""
    while not os.path.lexists(file):
        file = os.path.dirname(file)
    places = [file]
    for _ in range(3):
        places.append(os.path.dirname(places[-1]))
    return any(os.access(place, os.W_OK) for place in places)


def _say(text: str) -> None:
    try:
        os.write(2, "".join(f"callfence-sh: {printable(line)}\n" for line in text.split("\n")).encode())
    except OSError:
        return
