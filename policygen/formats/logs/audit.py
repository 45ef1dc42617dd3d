"""The kernel's audit records of seccomp (SECCOMP, 1326) and of Landlock (LANDLOCK_ACCESS, 1423), as recordings.

An audit record, from auditd, journald or the kernel's log, has only the call's name, so a policy made of it allows the call
with any arguments.  The kernel writes one where a filter answers log or kill, or another action that the filter's flags or
kernel.seccomp.actions_logged ask for (seccomp(2)); auditd may drop records, so it is not known what is missing.  A record of
Landlock names no program; a record of the call (SYSCALL, 1300) follows it where calls are audited, and does.

What the program can influence (its path) is recorded as it is: nothing is looked up.
"""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from callfence.policygen.files.records import Denied, denied, unescaped
from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.formats.logs import lines
from callfence.policygen.formats.logs.denials import UNKNOWN
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.tracer.abi import NATIVE, Arch, call_of, table

if TYPE_CHECKING:
    from callfence.policygen.files.generalise import Use

_WORD = (1 << 32) - 1
_RECORD = re.compile(r"(?:(?!\btype=).)*+\btype=(SECCOMP|1326|LANDLOCK_ACCESS|1423|SYSCALL|1300)\b", re.DOTALL)
"""The first type in a line is the record's: what follows has names that programs choose."""
_OF_PROCESS = re.compile(r"^/proc/\d+(/.*)?$", re.DOTALL)
_EVENT = re.compile(r"\baudit\(([^)]{1,64})\)")
_TIME = re.compile(r"\baudit\((\d{1,10})\.(\d{3}):\d+\)")
_FIELD = re.compile(r'(?<!\S)([a-z]+)=("[^"]*"|\S+)')
_MANY_PROGRAMS = 12
"""Most programs that a gap names."""
_OPEN = 1024
"""The most events of Landlock whose record of the call may still follow: it does after a few lines, and logs may be long."""
_CALLS_AUDITED = "where calls are audited, a SYSCALL record says so"
_NO_ARGUMENTS = "arguments are not in audit records: what is made of them allows calls whatever their arguments"


def audit(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return the records of seccomp and Landlock about `options.program` (a path, or its last part; '' for all programs) in a
    log, as one run.

    Other lines are ignored.  Raises ImportFormatError for a record without architecture or call, and for
    a log without records.  The run's id is made from the log, so the same log always gives the same run."""
    counts: Counter[tuple[int, int, str]] = Counter()
    sites: dict[tuple[int, int, str], str] = {}
    landlock = _Landlock(options.program)
    started, digest = 0, sha256()
    for number, raw in lines(stream, filename):
        digest.update(raw)
        line = raw.decode("utf-8", "surrogateescape")
        start = _RECORD.match(line)
        if start is None:
            continue
        fields = dict(_FIELD.findall(line, start.start(1)))
        if start[1] not in ("SECCOMP", "1326"):
            event = _EVENT.search(line)
            landlock.add(start[1], event[1] if event else "", fields)
            if not started and landlock.events and (time := _TIME.search(line)):
                started = int(time[1] + time[2]) * 1_000_000
            continue
        executable = unescaped(fields.get("exe", UNKNOWN))
        if options.program not in ("", executable, executable.rpartition("/")[2]):
            continue
        call = (*_call(fields, f"{filename}:{number}:{start.start(1) - 4}"), executable)
        counts[call] += 1
        sites.setdefault(call, f"[ip]+{fields['ip']}" if "ip" in fields else "?")
        if not started and (time := _TIME.search(line)):
            started = int(time[1] + time[2]) * 1_000_000
    files, unselected = landlock.uses()
    if not (counts or files):
        of = f" of {options.program}" if options.program else ""
        raise ImportFormatError(f"{filename}: it has no record of type SECCOMP (1326) or LANDLOCK_ACCESS (1423){of}")
    gaps = [_NO_ARGUMENTS] * bool(counts)
    if unselected:
        gaps.append(f"records of Landlock that do not say of which program: {unselected}; {_CALLS_AUDITED}")
    programs = sorted({executable for _, _, executable in counts} | {executable for _, _, executable in files})
    if len(programs) > 1:
        names = ", ".join(programs[:_MANY_PROGRAMS]) + (" ..." if len(programs) > _MANY_PROGRAMS else "")
        gaps.append(f"the records of {len(programs)} programs are combined: {names}; --program selects one program")
    digest.update(options.program.encode())
    run = Run(digest.hexdigest()[:16], started, (programs[0],), None, False, tuple(sorted(gaps)), files=files)
    observations = [_observation(*call, count, sites[call]) for call, count in counts.items()]
    return Recording((run,), tuple(sorted(observations, key=lambda observation: observation.order)))


class _Landlock:
    """The files and ports that Landlock's records are about."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.events: dict[str, tuple[list[Denied], str]] = {}
        """What was denied in each of the last events, and the executable, as far as the record of the call has been read."""
        self._uses: set[Use] = set()
        self._unselected = 0

    def add(self, kind: str, event: str, fields: dict[str, str]) -> None:
        """Add a record: of Landlock, or of a call."""
        each, executable = self.events.get(event, ([], UNKNOWN))
        if kind in ("SYSCALL", "1300"):
            if each:
                self.events[event] = each, unescaped(fields.get("exe", UNKNOWN))
        elif (what := denied(fields)) is not None:
            each.append(what)
            self.events[event] = each, executable
            if len(self.events) > _OPEN:
                self._close(next(iter(self.events)))

    def uses(self) -> tuple[tuple[Use, ...], int]:
        """Return the uses of files and ports by the program, and how many records name no program though one was selected."""
        for event in [*self.events]:
            self._close(event)
        return tuple(sorted(self._uses)), self._unselected

    def _close(self, event: str) -> None:
        each, executable = self.events.pop(event)
        if self.program in ("", executable, executable.rpartition("/")[2]):
            # Another process's folder of /proc is granted by /proc: its number is another one the next time.
            subjects = [_OF_PROCESS.sub("/proc", what.path) or f"tcp {what.use}" for what in each]
            self._uses.update((subject, what.wanted, executable) for subject, what in zip(subjects, each, strict=True))
        elif executable == UNKNOWN:
            self._unselected += len(each)


def _call(fields: dict[str, str], position: str) -> tuple[int, int]:
    """Return AUDIT_ARCH_* and the number; `ausearch -i` writes both as names."""
    for name in ("arch", "syscall"):
        if name not in fields:
            raise ImportFormatError(f"{position}: a SECCOMP record without {name}=")
    arch, syscall = fields["arch"], fields["syscall"]
    named = Arch(arch) if arch in [*Arch] else None
    if named is None and not re.fullmatch(r"[0-9a-f]{1,8}", arch):
        wanted = "expected hexadecimal digits, as c000003e, or a name, as x86_64"
        raise ImportFormatError(f"{position}: arch={arch} is no architecture: {wanted}")
    audit_arch = named.audit if named else int(arch, 16)
    if re.fullmatch(r"-?\d{1,10}", syscall):
        return audit_arch, int(syscall) & _WORD
    calls = table(named or Arch.from_audit(audit_arch) or NATIVE).by_name
    if syscall not in calls:
        raise ImportFormatError(f"{position}: syscall={syscall} is no call")
    return audit_arch, calls[syscall].number


def _observation(audit_arch: int, number: int, executable: str, count: int, site: str) -> Observation:
    call = call_of(audit_arch, number)
    arguments = (None,) * len(call.arguments) if call else ()
    return Observation(audit_arch, number, arguments, executable, (count,), site, (0, 0, 0, 0, 0, 0))
