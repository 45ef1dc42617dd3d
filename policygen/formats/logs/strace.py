"""strace's output as a recording: `strace -f -o FILE`, symbolic or numeric (`-X raw`, `-e raw=all`).

A log is one run.  The execve with which strace starts the program is not part of it, as under learn.  What the log
does not say becomes a gap of the run, with its count and first line; nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from hashlib import sha256
from typing import BinaryIO

from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.formats.logs import lines, strace_call
from callfence.policygen.formats.logs.strace_call import StraceCall, SyntaxProblem, UnreadableError
from callfence.policygen.grants import NONE, TCP
from callfence.policygen.learning.floor import OPAQUE
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.model import Recording, Run
from callfence.tracer.abi import COUNT, Arch, Argument, constants, table

_PREFIX = re.compile(
    r"(?:\[pid +(?P<terminal>\d{1,10})(?:<[^>]*>)?\] +|(?P<pid>\d{1,10})(?:<[^>]*>)? +)?"  # on a terminal; in a file
    r"(?:\(?\+? *\d{1,2}:\d\d:\d\d(?:\.\d+)? |\(?\+? *(?P<epoch>\d{1,10})\.(?P<part>\d+)\)? )*"  # -t, -tt, -ttt, -r
    r"(?:\[ *(?:\d{1,4}|[0-9a-f]{8}|[0-9a-f]{16}|\?+)\] )*"  # -n, -i
)
_ASIDES = (" > ", " | ")
"""How lines begin that belong to the previous call: callers (-k), and data read or written (-e read, -e write)."""
_SUMMARY = b"% time "
"""The beginning of strace's table of figures (-C): nothing comes after it."""
_ENDED = re.compile(r"\+\+\+ (?:exited with (\d{1,3})|killed by (SIG\w+)(?: \(core dumped\))?|superseded by .*) \+\+\+")
_MODE = re.compile(r"\[ Process PID=(\d{1,10}) runs in (\S+)(?: bit)? mode\. \]")
_RESUMED = re.compile(r"<\.\.\. (\w+|\?\?\?) resumed>\s?")
_UNFINISHED = "<unfinished ...>"
_FORKS = ("clone", "clone3", "fork", "vfork")
_FORKING = tuple(f"{name}(" for name in _FORKS)
_PORT = re.compile(r"\{sa_family=AF_INET6?,.*sin6?_port=htons\((\d{1,5})\)")
_MAX_PORT = 65535
_NUMBER = re.compile(r"\d{1,10}(?!\d)")
_NO_SITE = "?"
_HIDDEN = "pointers are not printed: 0 stands for them in the examples of calls"


def record(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return the run in a log of strace.  Raises ImportFormatError for a line that strace does not write, and for a log without
    calls.

    The run's id is made from the log, so the same log always gives the same run.  `options.arch` is the architecture of the
    machine."""
    log = _Log(filename, options.arch)
    digest, is_over = sha256(), False
    for number, line in lines(stream, filename):
        digest.update(line)
        is_over = is_over or line.startswith(_SUMMARY)
        if is_over:
            continue
        if line.endswith(b"\n"):
            log.read(number, line.decode("utf-8", "surrogateescape").rstrip("\r\n"))
        else:
            log.gap("lines are cut off: strace was killed, or the log was not copied whole", number)
    return log.recording(digest.hexdigest()[:16])


class _Log:
    """The state after reading some lines."""

    def __init__(self, filename: str, arch: Arch) -> None:
        self._filename = filename
        self._arch = arch
        machine = next(native for native in Arch if arch in (native, native.compat))
        self._modes = {"64": machine, "32": machine.compat}
        self._arches: dict[int, Arch | None] = {}
        """Architectures of processes that are not of the machine's; None for x32."""
        self._begun: dict[int, tuple[int, str, str]] = {}
        """Unfinished calls, by process: line, text and, of one that forks, the executable."""
        self._forking: Counter[str] = Counter()
        """The executables of processes in a call that forks."""
        self._executables: dict[int, str] = {}
        self._executed: set[tuple[str, str]] = set()
        self._aggregator = Aggregator()
        self._gaps: Counter[str] = Counter()
        self._gap_lines: dict[str, int] = {}
        self._first: int | None = None
        self._command: tuple[str, ...] | None = None
        self._status: int | None = None
        self._started = 0
        self._ports: dict[str, set[tuple[int, str]] | None] = {use: set() for use in TCP}
        """The ports by their use, each with the executable; None where the log does not show all of them."""
        self._sockets: dict[int, int | None] = {}
        """Descriptor, in any process -> 0 for a TCP socket, 1 for one that is bound, -1 for an unknown one, None for others."""

    def recording(self, run_id: str) -> Recording:
        for number, text, _ in self._begun.values():
            self._call(0, number, text, 1, is_whole=False)
        if self._first is None:
            raise ImportFormatError(f"{self._filename}:1:1: it has no call: not the output of strace")
        gaps = [f"{what} ({count} in the log, first in line {self._gap_lines[what]})" for what, count in self._gaps.items()]
        complete = self._command is not None and self._status is not None
        command = self._command or (self._filename,)
        executed = tuple(sorted(self._executed))
        run = Run(run_id, self._started, command, self._status, complete, tuple(sorted(gaps)), executed=executed)
        uses = [(f"tcp {use}", *row) for use, ports in self._ports.items() if ports is not None for row in _rows(ports)]
        run = run._replace(files=tuple(sorted(uses)))
        return Recording((run,), self._aggregator.observations())

    def gap(self, what: str, line: int) -> None:
        self._gaps[what] += 1
        self._gap_lines.setdefault(what, line)

    def read(self, number: int, line: str) -> None:
        if line.startswith(_ASIDES):
            return
        prefix = _PREFIX.match(line)
        assert prefix is not None  # it also matches the empty text
        pid, text, column = int(prefix["terminal"] or prefix["pid"] or 0), line[prefix.end() :], prefix.end() + 1
        if prefix["epoch"] and not self._started and len(prefix["epoch"]) > 8:  # -ttt, not -r
            self._started = int(prefix["epoch"] + prefix["part"].ljust(9, "0")[:9])
        if not text or text.startswith("strace: ") or (text.startswith("--- ") and text.endswith(" ---")):
            return
        if ended := _ENDED.fullmatch(text):
            self._ended(pid, number, ended)
        elif mode := _MODE.fullmatch(text):
            self._arches[int(mode[1]) if prefix["pid"] or prefix["terminal"] else pid] = self._modes.get(mode[2])
        elif resumed := _RESUMED.match(text):
            begun = self._take_begun(pid)
            if begun is None:
                self.gap("calls whose beginning is not in the log", number)
            else:
                self._call(pid, begun[0], begun[1] + text[resumed.end() :], column)
        elif text.endswith(_UNFINISHED):
            self._begin(pid, number, text.removesuffix(_UNFINISHED).rstrip())
        else:
            self._call(pid, number, text, column)

    def _begin(self, pid: int, number: int, text: str) -> None:
        of_process = self._executable(pid)  # now: of its parent, which may be in the call that has made it
        executable = of_process if text.startswith(_FORKING) else ""
        self._take_begun(pid)
        self._begun[pid] = number, text, executable
        if executable:
            self._forking[executable] += 1

    def _take_begun(self, pid: int) -> tuple[int, str] | None:
        """Remove and return the line and the text of a process's unfinished call; None if there is none."""
        if (begun := self._begun.pop(pid, None)) is None:
            return None
        number, text, executable = begun
        if executable:
            self._forking[executable] -= 1
            if not self._forking[executable]:
                del self._forking[executable]
        return number, text

    def _ended(self, pid: int, number: int, ended: re.Match[str]) -> None:
        if begun := self._take_begun(pid):
            self._call(pid, *begun, 1, is_whole=False)
        if pid == self._first and (ended[1] or ended[2]):
            signal = constants.value(ended[2], self._arch) if ended[2] else None
            self._status = int(ended[1]) if ended[1] else -signal if signal else None
        self._arches.pop(pid, None)
        self._executables.pop(pid, None)

    def _call(self, pid: int, number: int, text: str, column: int, *, is_whole: bool = True) -> None:
        if text.startswith("???("):
            self.gap("calls that strace could not read", number)
            return
        try:
            call = strace_call.parse(text, is_whole=is_whole)
        except SyntaxProblem as problem:
            position = f"{self._filename}:{number}:{column + problem.place}"
            raise ImportFormatError(f"{position}: {problem}; callfence reads what `strace -f -o FILE` writes") from None
        starts = self._first is None and call.name == "execve" and call.result == 0
        if self._first is None:
            self._first = pid
        executable, arch = self._executable(pid), self._arches.get(pid, self._arch)
        if call.name in ("execve", "execveat") and call.result == 0:
            self._execute(pid, call, "" if starts else executable)
        if call.name in _FORKS and call.result is not None and call.result > 0:
            self._executables.setdefault(call.result, executable)
        if starts:
            self._command = _words(call.arguments[1]) if len(call.arguments) > 1 else None
            self._command = self._command or (self._executables[pid],)
        else:
            self._check_arch(call, arch, f"{self._filename}:{number}:{column}")
            self._note_port(call, executable)
            self._observe(number, call, executable, arch)

    def _note_port(self, call: StraceCall, executable: str) -> None:
        """Note the port of a call that connects or binds, and which descriptors are TCP sockets."""
        if call.name == "socket" and call.result is not None:
            family, kind, *_ = *call.arguments, "", ""
            is_tcp = family in ("AF_INET", "AF_INET6") and "SOCK_STREAM" in kind
            self._sockets[call.result] = (0 if is_tcp else None) if family.startswith("AF_") else -1
            return
        use = "bind" if call.name == "listen" else call.name
        ports, number = self._ports.get(use), _NUMBER.match(call.arguments[0] if call.arguments else "")
        if ports is None:
            return
        text = call.arguments[1] if len(call.arguments) > 1 else ""
        port, descriptor = _PORT.match(text), int(number[0]) if number else -1
        if port and int(port[1]) > _MAX_PORT:
            port = None
        known = self._sockets.get(descriptor, -1)
        if known is None or (text.startswith("{") and not port):
            return  # it is no TCP socket
        if known < 0 or not (port or call.name == "listen"):
            self._ports[use] = None
        elif port:
            ports.add((int(port[1]), executable))
            self._sockets[descriptor] = known or int(use == "bind")
        elif not known:
            ports.add((0, executable))

    def _check_arch(self, call: StraceCall, arch: Arch | None, position: str) -> None:
        """Raise ImportFormatError for a call of another architecture: with -o alone, strace does not say which processes are
        32-bit ones, and most calls have the same name in both."""
        if arch is None or strace_call.name_of(call.name, arch) in table(arch).by_name:
            return
        for other in Arch:
            if call.name in table(other).by_name:
                why = f"{call.name} is a call of {other}, and nothing before it says that this is one of its processes"
                raise ImportFormatError(f"{position}: {why}: run strace with --quiet=none")

    def _execute(self, pid: int, call: StraceCall, starter: str) -> None:
        path = call.arguments[call.name == "execveat"] if call.arguments else ""
        after = self._executables[pid] = (strace_call.unquoted(path) if path.startswith('"') else "") or _NO_SITE
        if _NO_SITE not in (starter, after):
            self._executed.add((starter, after))
        self._arches.pop(pid, None)

    def _observe(self, number: int, call: StraceCall, executable: str, arch: Arch | None) -> None:
        if arch is None:
            self.gap("calls of the x32 architecture", number)
            return
        if call.name in OPAQUE and not call.is_enosys:
            self.gap(
                f"{call.name} fails with ENOSYS under learn, and what the program then does instead is not in the log: run "
                f"strace with `-e inject={call.name}:error=ENOSYS`",
                number,
            )
        try:
            observed, missing = strace_call.event(call, arch)
        except UnreadableError as error:
            self.gap(str(error), number)
            return
        if any(argument.kind.is_pointer for argument in _arguments(arch, observed.number, missing)):
            self.gap(_HIDDEN, number)
        self._aggregator.counter(executable, observed, lambda: _NO_SITE, missing)[COUNT] += 1

    def _executable(self, pid: int) -> str:
        """Return a process's executable.  A new process has its parent's, if only one fork, or clone, is unfinished."""
        if pid not in self._executables:
            self._executables[pid] = next(iter(self._forking)) if len(self._forking) == 1 else _NO_SITE
        return self._executables[pid]


def _rows(ports: set[tuple[int, str]]) -> list[tuple[str, str]]:
    """Return the ports, with their executables, as a run has them: NONE without an executable for no port."""
    return [(str(port), executable) for port, executable in ports] or [(NONE, "")]


def _arguments(arch: Arch, number: int, indices: Collection[int]) -> list[Argument]:
    call = table(arch).by_number.get(number)
    return [argument for index, argument in enumerate(call.arguments) if index in indices] if call else []


def _words(text: str) -> tuple[str, ...] | None:
    """Return the strings of `["ls", "-l"]`; None for another form."""
    if not text.startswith("["):
        return None
    parts, _ = strace_call.split(text, 1)
    return tuple(strace_call.unquoted(part) if part.startswith('"') else part for _, part in parts)
