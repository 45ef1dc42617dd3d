"""What `enforce --log` wrote, as a recording: a JSON object a line, of a call that a policy did not allow, or a message.

A line has the count so far of its violation in one start of the program, which has an id.  Without one, as older versions
write, a count that is not greater than the one before begins with another start.  What the program can influence (its path,
its registers) is checked and kept as it is: nothing is looked up.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

from policygen.errors import PolicyError
from policygen.evidence.facts import Union
from policygen.evidence.facts import parse as parse_fact
from policygen.formats import ImportFormatError
from policygen.grants import TCP, format_rights, single
from policygen.language.document import parse
from policygen.recording.model import Observation, Recording, Run, recorded_values
from tracer.abi import Arch, Event, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from policygen.files.generalise import Use
    from policygen.formats import FormatOptions
    from policygen.recording.model import Key, Registers

MAX_LINE = 1 << 18
"""Bytes of a line: twice the longest that enforce writes.  A longer one is skipped and becomes a gap."""
MAX_DISTINCT = 50_000
"""Different violations, and uses of files and ports, that are kept, so that no log fills memory; more are counted in a gap."""
MAX_RUNS = 8
"""Starts that may write their counts of one violation in turns; of more, some are counted twice."""
_REGISTER = re.compile(r"0x[0-9a-f]{1,16}")
_WORD = (1 << 32) - 1
_FACTS = 1024
"""Most facts of a line, and grants that it asks for, that are taken: enforce writes fewer."""
_MANY = 8
"""Most names that a message lists."""


class _Violation(NamedTuple):
    event: Event
    executable: str
    site: str
    times: int
    run: tuple[str, ...]
    """In which it is counted: the start's id and the phase."""
    started: int
    """Nanoseconds since the epoch; 0 if the line has no time."""
    evidence: tuple[str, ...]
    """What the call's pointers pointed to (`evidence.facts`), as far as it is told."""
    policies: tuple[str, ...]
    """The files of the policies that did not allow it, without folders."""
    files: tuple[Use, ...]
    """What it wanted of files and ports, if that was not granted."""


class _Kept:
    """The calls of one observation."""

    __slots__ = ("evidence", "example", "latest", "site", "total")

    def __init__(self, violation: _Violation) -> None:
        self.site = violation.site
        self.example: Registers = violation.event.arguments
        self.evidence = Union()
        self.total = 0
        self.latest: dict[tuple[str, ...], int] = {}
        """The last count that was told, in each of the last few runs."""

    def add(self, violation: _Violation) -> None:
        count = violation.times
        for fact in map(parse_fact, violation.evidence):
            if fact is not None:
                self.evidence.add(fact)
        latest = self.latest.pop(violation.run, 0)
        self.total += count - latest if count > latest else count
        self.latest[violation.run] = count
        if len(self.latest) > MAX_RUNS:
            del self.latest[next(iter(self.latest))]


class _Log:
    """What has been read of a log."""

    def __init__(self) -> None:
        self.kept: dict[Key, _Kept] = {}
        self.first = b""
        """The first violation's line: a log that has grown is the same run."""
        self.started = 0
        self.skipped: dict[str, list[int]] = {}
        """Why lines were skipped -> the first line's number, and how many."""
        self.files: set[Use] = set()
        self.others: set[str] = set()
        """Policies of violations that are not of the one that is asked for."""

    def skip(self, why: str, number: int) -> None:
        self.skipped.setdefault(why, [number, 0])[1] += 1

    def gaps(self) -> tuple[str, ...]:
        return tuple(sorted(f"{why}: {count}, first at line {first}" for why, (first, count) in self.skipped.items()))


def record(data: bytes, filename: str, options: FormatOptions) -> Recording:
    """Like `record_stream`."""
    return record_stream(BytesIO(data), filename, options)


def record_stream(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return the violations of `options.program` and `options.policy` ('' for all) as one run.

    Lines that cannot be read are gaps of the run: those of a log that was cut, or is longer than what is kept.  Raises
    ImportFormatError for a line that no known version of enforce writes, and for a log without violations.
    """
    log = _Log()
    for number, line in _lines(stream, log):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            if not line.endswith(b"\n") or number == 1:
                log.skip("lines that are cut", number)
            else:
                log.skip("lines that are no JSON", number)
            continue
        if isinstance(found, dict) and isinstance(found.get("message"), str) and "number" not in found:
            continue  # what enforce says of itself
        _take(log, line, _violation(found, f"{filename}:{number}"), number, options)
    if not log.kept:
        raise ImportFormatError(_nothing(log, filename, options))
    run_id = sha256(log.first + options.program.encode() + options.policy.encode()).hexdigest()[:16]
    seen = [
        Observation(*key, (one.total,), one.site, one.example, one.evidence.texts()) for key, one in log.kept.items()
    ]
    seen.sort(key=lambda one: one.order)
    programs = sorted({one.executable for one in seen})
    run = Run(run_id, log.started, (programs[0],), None, False, log.gaps(), True, files=tuple(sorted(log.files)))
    return Recording((run,), tuple(seen))


def _lines(stream: BinaryIO, log: _Log) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not too long, with their numbers; no more than one is in memory."""
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            log.skip(f"lines of more than {MAX_LINE >> 10} KiB", number)
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)
        elif line.strip():
            yield number, line


def _take(log: _Log, line: bytes, one: _Violation, number: int, options: FormatOptions) -> None:
    if options.program not in ("", one.executable, one.executable.rpartition("/")[2]):
        return
    if options.policy and one.policies and options.policy not in one.policies:
        if len(log.others) < _MANY:
            log.others.update(one.policies)
        return
    arch = Arch.from_audit(one.event.arch)
    calls = table(arch) if arch else None
    known = calls is not None and one.event.number in calls.by_number
    arguments = recorded_values(calls, one.event) if calls is not None and known else ()
    key = (one.event.arch, one.event.number, arguments, one.executable)
    found = log.kept.get(key)
    if found is None:
        if len(log.kept) >= MAX_DISTINCT:
            log.skip(f"violations after the first {MAX_DISTINCT} different ones", number)
            return
        found = log.kept[key] = _Kept(one)
    found.add(one)
    if len(log.files) < MAX_DISTINCT:
        log.files.update(one.files)
    elif not log.files.issuperset(one.files):
        log.skip(f"files and ports after the first {MAX_DISTINCT} different uses", number)
    log.first = log.first or line
    if one.started and (one.started < log.started or not log.started):
        log.started = one.started


def _nothing(log: _Log, filename: str, options: FormatOptions) -> str:
    if log.others:
        named = ", ".join(sorted(log.others)[:_MANY])
        hint = f"`callfence import --from violations -o {options.policy} {filename}` takes them all the same"
        return f"{filename}: it has no violation of {options.policy}, but of {named}; {hint}"
    of = f" of {options.program}" if options.program else ""
    said = "".join(f"; {gap}" for gap in log.gaps())
    return f"{filename}: it has no violation{of} as `enforce --log` writes them{said}"


def _violation(found: Any, position: str) -> _Violation:
    """Raises ImportFormatError."""
    if not isinstance(found, dict):
        raise ImportFormatError(f"{position}: a line of `enforce --log` is a JSON object")
    names = ("arch", "number", "arguments", "executable", "site", "count")
    values: tuple[Any, ...] = tuple(map(found.get, names))
    arch, number, arguments, executable, site, count = values
    for name, is_right in (
        ("arch", isinstance(arch, str) and (arch in [*Arch] or _REGISTER.fullmatch(arch))),
        ("number", _is_int(number) and 0 <= number <= _WORD),
        ("arguments", isinstance(arguments, list) and len(arguments) == 6 and all(map(_is_register, arguments))),
        ("executable", _is_text(executable)),
        ("site", _is_text(site)),
        ("count", _is_int(count) and 1 <= count < 1 << 63),
    ):
        if not is_right:
            raise ImportFormatError(
                f"{position}: its `{name}` is not as `enforce --log` writes it: is it a log of another program or version?"
            )
    audit = Arch(arch).audit if arch in [*Arch] else int(arch, 16) & _WORD
    a, b, c, d, e, f = (int(register, 16) for register in arguments)
    event = Event(audit, number, (a, b, c, d, e, f))
    evidence = _evidence(found.get("evidence"))
    files = _files(found.get("ungranted", []), executable, position)
    started, policies = _time(found.get("time")), _policies(found.get("allow"))
    run = tuple(one[:64] for one in (found.get("run"), found.get("phase")) if isinstance(one, str))
    return _Violation(event, executable, site, count, run, started, evidence, policies, files)


def _files(lines: Any, executable: str, position: str) -> tuple[Use, ...]:
    """What lines about files and ports grant.  Raises ImportFormatError."""
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ImportFormatError(f"{position}: its `ungranted` is no list of lines about files and ports")
    found: list[Use] = []
    for line in lines[:_FACTS]:  # one by one: several policies may lack different rights to one path
        try:
            files = parse(f"{line}\n").policy.files
        except PolicyError as error:
            raise ImportFormatError(f"{position}: its `ungranted` has no lines about files and ports: {error}") from error
        found += ((path, format_rights(rights), executable) for path, rights in (files.paths or {}).items())
        found += ((f"tcp {use}", str(port), executable) for use in TCP for port in single(getattr(files, use) or ()))
    return tuple(found)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_register(value: Any) -> bool:
    return isinstance(value, str) and _REGISTER.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    """Whether it is what a path can be: some bytes without NUL, those that are not UTF-8 surrogate-escaped."""
    if not isinstance(value, str) or not value or "\0" in value or len(value) > 2 * 4096:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _time(value: Any) -> int:
    try:
        return max(0, int(datetime.fromisoformat(value).timestamp() * 1000) * 1_000_000)
    except (TypeError, ValueError, OverflowError):
        return 0


def _evidence(value: Any) -> tuple[str, ...]:
    """Few texts; whether they are facts is seen when they are joined."""
    return tuple(one for one in value[:_FACTS] if isinstance(one, str)) if isinstance(value, list) else ()


def _policies(value: Any) -> tuple[str, ...]:
    files = (one.get("file") for one in value if isinstance(one, dict)) if isinstance(value, list) else ()
    return tuple(file.rpartition("/")[2] for file in files if isinstance(file, str) and file)
