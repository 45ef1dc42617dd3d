"""The kernel's audit records of seccomp (type SECCOMP, 1326) as a recording: from auditd, journald or the kernel's log.

A record has only the call's name, so a policy made of it allows the call with any arguments.  The kernel writes a record
where a filter answers log or kill, or another action that the filter's flags or kernel.seccomp.actions_logged ask for
(seccomp(2)); auditd may drop records, so it is not known what is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING

from policygen.formats import ImportFormatError
from policygen.recording.model import Observation, Recording, Run
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from policygen.formats import FormatOptions

_RECORD = re.compile(r"\btype=(?:SECCOMP|1326)\b")
_TIME = re.compile(r"\baudit\((\d{1,10})\.(\d{3}):\d+\)")
_FIELD = re.compile(r'(?<!\S)([a-z]+)=("[^"]*"|\S+)')
_HEX = re.compile(r"(?:[0-9A-F]{2})+")
_MANY = 12
"""Most programs that a gap names."""
_NO_ARGUMENTS = "arguments are not in audit records: what is made of them allows calls whatever their arguments"


def record(data: bytes, filename: str, options: FormatOptions) -> Recording:
    """Return the records of `options.program` (a path, or the last part of one; '' for all programs) as one run.

    Other lines are ignored.  Raises ImportFormatError for a record without architecture or call, and for a log without
    records.  The run's id is made from the log, so the same log is always the same run.
    """
    found: Counter[tuple[int, int, str]] = Counter()
    sites: dict[tuple[int, int, str], str] = {}
    started = 0
    for number, raw in enumerate(BytesIO(data), 1):
        line = raw.decode("utf-8", "surrogateescape")
        start = _RECORD.search(line)
        if start is None:
            continue
        fields = dict(_FIELD.findall(line, start.start()))
        position = f"{filename}:{number}:{start.start() + 1}"
        executable = _text(fields.get("exe", "?"))
        if options.program not in ("", executable, executable.rpartition("/")[2]):
            continue
        call = (*_call(fields, position), executable)
        found[call] += 1
        sites.setdefault(call, f"[ip]+{fields['ip']}" if "ip" in fields else "?")
        if not started and (time := _TIME.search(line)):
            started = int(time[1] + time[2]) * 1_000_000
    if not found:
        of = f" of {options.program}" if options.program else ""
        raise ImportFormatError(f"{filename}: it has no record of type SECCOMP (1326){of}")
    gaps = [_NO_ARGUMENTS]
    programs = sorted({executable for _, _, executable in found})
    if len(programs) > 1:
        named = ", ".join(programs[:_MANY]) + (" ..." if len(programs) > _MANY else "")
        gaps.append(f"the records of {len(programs)} programs are combined: {named}; --program selects one program")
    run_id = sha256(data + options.program.encode()).hexdigest()[:16]
    run = Run(run_id, started, (programs[0],), None, False, tuple(sorted(gaps)))
    seen = [_observation(*call, count, sites[call]) for call, count in found.items()]
    return Recording((run,), tuple(sorted(seen, key=lambda one: one.order)))


def _call(fields: dict[str, str], position: str) -> tuple[int, int]:
    """Return AUDIT_ARCH_* and the number; `ausearch -i` writes both as names."""
    for name in ("arch", "syscall"):
        if name not in fields:
            raise ImportFormatError(f"{position}: a SECCOMP record without {name}=")
    arch, syscall = fields["arch"], fields["syscall"]
    known = Arch(arch) if arch in [*Arch] else None
    if known is None and not re.fullmatch(r"[0-9a-f]{1,8}", arch):
        raise ImportFormatError(f"{position}: arch={arch} is no architecture: expected AUDIT_ARCH_*, as c000003e")
    audit = known.audit if known else int(arch, 16)
    if re.fullmatch(r"-?\d{1,10}", syscall):
        return audit, int(syscall) & 0xFFFFFFFF
    calls = table(known or Arch.from_audit(audit) or Arch.X86_64).by_name
    if syscall not in calls:
        raise ImportFormatError(f"{position}: syscall={syscall} is no call")
    return audit, calls[syscall].number


def _text(field: str) -> str:
    """Return a field that the program can influence: quoted, or hexadecimal if it has odd bytes (audit_log_untrustedstring)."""
    if field.startswith('"'):
        return field[1:-1]
    return bytes.fromhex(field).decode("utf-8", "surrogateescape") if _HEX.fullmatch(field) else field


def _observation(audit: int, number: int, executable: str, count: int, site: str) -> Observation:
    arch = Arch.from_audit(audit)
    call = table(arch).by_number.get(number) if arch else None
    arguments = (None,) * len(call.arguments) if call else ()
    return Observation(audit, number, arguments, executable, (count,), site, (0, 0, 0, 0, 0, 0))
