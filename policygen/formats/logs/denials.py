"""What `enforce --log` wrote, as recordings.

`enforce --log` writes a JSON object a line (docs/events.schema.json); those whose event is "denied" are of calls that a policy
did not allow.  Such a line has the count so far of its violation in one start of the program, which has an id.

What the program can influence (its path, its registers) is checked and recorded as it is: nothing is looked up.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

from callfence.policygen.errors import PolicyError
from callfence.policygen.evidence.facts import Union, parse as parse_fact
from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.grants import ANY, BARE, USES, format_rights, host_line, single
from callfence.policygen.language.document import parse
from callfence.policygen.recording.log_records import DENIED, KINDS, MAX_LINE, lines
from callfence.policygen.recording.model import Key, Observation, Recording, Registers, Run, recorded_values
from callfence.policygen.versions import EVENTS, unknown
from callfence.tracer.abi import NATIVE, Arch, Event, table_of
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from callfence.policygen.files.generalise import Use

MAX_DISTINCT = 50_000
"""Different violations, and uses of files and ports, that are recorded: no log fills memory.  More are counted in a gap."""
MAX_TEXT = 32 << 20
"""Characters of their executables, sites, evidence and files that are recorded: a line can have 256 KiB of them."""
MAX_RUNS = 8
"""The most starts that can write their counts of one violation in turns; of more starts, some calls are counted twice."""
_REGISTER = re.compile(r"0x[0-9a-f]{1,16}")
_WORD = (1 << 32) - 1
_FACTS = 1024
"""Most facts of a line, and grants that it asks for, that are taken: enforce writes fewer."""
_OF_CALLS = ("arch", "number", "arguments", "executable", "site")
"""The fields of a violation that the kernel's audit does not know; they are null then."""
_UNGRANTABLE = "denials of what no line would grant"
UNKNOWN = "?"
"""The executable where no record names it."""
_MAX_LISTED = 8
"""Most names that a message lists."""


class _Violation(NamedTuple):
    event: Event | None
    """The call; None where Landlock's denial was taken from the kernel's audit, which does not name it."""
    executable: str
    site: str
    times: int
    run: tuple[str, ...]
    """The run that counts the violation: the start's id and the phase."""
    started: int
    """Nanoseconds since the epoch; 0 if the line has no time."""
    evidence: tuple[str, ...]
    """The facts (`evidence.facts`) about the call's pointers, as far as the line has them."""
    policies: tuple[str, ...]
    """The files of the policies that did not allow it, without folders."""
    files: tuple[Use, ...]
    """The uses of files and ports that the call needed and the policy did not grant."""
    is_grantable: bool
    """Whether lines would grant all that it needed; else nothing is recorded of it but its `files`."""


class _Calls:
    """The calls of one observation."""

    __slots__ = ("evidence", "example", "latest", "site", "total")

    def __init__(self, event: Event, site: str) -> None:
        self.site = site
        self.example: Registers = event.arguments
        self.evidence = Union()
        self.total = 0
        self.latest: dict[tuple[str, ...], int] = {}
        """The last count in each of the last few runs."""

    def add(self, violation: _Violation, room: int) -> int:
        """Add a violation, with evidence of at most about `room` characters; return how many these are."""
        text = 0
        for written in violation.evidence:
            fact = parse_fact(written)
            if fact is not None and text < room and self.evidence.add(fact):
                text += len(written)
        count, latest = violation.times, self.latest.pop(violation.run, 0)
        self.total += count - latest if count > latest else count
        self.latest[violation.run] = count
        if len(self.latest) > MAX_RUNS:
            del self.latest[next(iter(self.latest))]
        return text


class _Log:
    """The content of a log up to some line."""

    def __init__(self, options: FormatOptions) -> None:
        self.options = options
        self.calls: dict[Key, _Calls] = {}
        self.first = b""
        """The first violation's line: a log that has grown is the same run."""
        self.started = 0
        self.skipped: dict[str, list[int]] = {}
        """Why lines were skipped -> the first line's number, and how many."""
        self.files: set[Use] = set()
        self.room = MAX_TEXT
        """How many more characters are recorded."""
        self.others: set[str] = set()
        """The policies whose violations were skipped, because another policy is asked for."""

    def skip(self, why: str, number: int) -> None:
        self.skipped.setdefault(why, [number, 0])[1] += 1

    def gaps(self) -> tuple[str, ...]:
        return tuple(sorted(f"{why}: {count}, first at line {first}" for why, (first, count) in self.skipped.items()))

    def add(self, line: bytes, violation: _Violation, number: int) -> None:
        executable, policy = violation.executable, self.options.policy
        if self.options.program not in ("", executable, executable.rpartition("/")[2]):
            if executable == UNKNOWN:
                self.skip("files and ports of programs that are not known", number)
            return
        if policy and violation.policies and policy not in violation.policies:
            if len(self.others) < _MAX_LISTED:
                self.others.update(violation.policies)
            return
        if not violation.is_grantable:
            self.skip(_UNGRANTABLE, number)
        elif violation.event is not None and not self._add_call(violation.event, violation, number):
            return
        new = {*violation.files} - self.files
        if new and not self._is_full(len(self.files)):
            self.files |= new
            self.room -= sum(map(len, chain.from_iterable(new)))
        elif new:
            self.skip(f"files and ports after the first {min(len(self.files), MAX_DISTINCT)} different uses", number)
        self.first = self.first or line
        if violation.started and (violation.started < self.started or not self.started):
            self.started = violation.started

    def _add_call(self, event: Event, violation: _Violation, number: int) -> bool:
        calls = table_of(event.arch, event.number)
        arguments = recorded_values(calls, event) if calls else ()
        key = (event.arch, event.number, arguments, violation.executable)
        if key not in self.calls:
            if self._is_full(len(self.calls)):
                self.skip(f"violations after the first {len(self.calls)} different ones", number)
                return False
            self.calls[key] = _Calls(event, violation.site)
            self.room -= len(violation.executable) + len(violation.site)
        self.room -= self.calls[key].add(violation, self.room)
        return True

    def _is_full(self, recorded: int) -> bool:
        return recorded >= MAX_DISTINCT or self.room <= 0


def violations(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return the violations of `options.program` and `options.policy` ('' for all) in a log, as one run.

    A log may have been cut, or be longer than what is recorded: lines that cannot be used become gaps of the run.  Raises
    ImportFormatError for a line that no known version of enforce writes, and for a log without violations."""
    log = _Log(options)
    for number, line in lines(stream):
        if not line:
            log.skip(f"lines of more than {MAX_LINE >> 10} KiB", number)
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            is_cut = not line.endswith(b"\n") or number == 1
            log.skip("lines that are cut" if is_cut else "lines that are no JSON", number)
            continue
        if isinstance(fields, dict) and fields.get("event") in KINDS and fields["event"] != DENIED:
            continue
        log.add(line, _violation(fields, f"{filename}:{number}"), number)
    if not (log.calls or log.files or (_UNGRANTABLE in log.skipped and not log.others)):
        raise ImportFormatError(_nothing(log, filename))
    run_id = sha256(log.first + options.program.encode() + options.policy.encode()).hexdigest()[:16]
    observations = [
        Observation(*key, (calls.total,), calls.site, calls.example, calls.evidence.texts()) for key, calls in log.calls.items()
    ]
    first = min([observation.executable for observation in observations] or [UNKNOWN])
    run = Run(run_id, log.started, (first,), None, False, log.gaps(), True, files=tuple(sorted(log.files)))
    return Recording((run,), tuple(sorted(observations, key=lambda observation: observation.order)))


def _nothing(log: _Log, filename: str) -> str:
    if log.others:
        names = ", ".join(sorted(log.others)[:_MAX_LISTED])
        hint = f"`callfence import --from violations -o {log.options.policy} {filename}` takes them all the same"
        return f"{filename}: it has no violation of {log.options.policy}, but of {names}; {hint}"
    of = f" of {log.options.program}" if log.options.program else ""
    return f"{filename}: it has no violation{of} as `enforce --log` writes them{''.join(f'; {gap}' for gap in log.gaps())}"


def _violation(fields: Any, position: str) -> _Violation:
    """Return the violation in a line.  Raises ImportFormatError if `enforce` does not write such lines."""
    if not isinstance(fields, dict):
        raise ImportFormatError(f"{position}: a line of `enforce --log` is a JSON object")
    if fields.get("event") != DENIED or fields.get("version") != EVENTS:
        version = fields.get("version")
        what = unknown(version, EVENTS) if version != EVENTS else f"event {fields.get('event')!r}"
        raise ImportFormatError(f"{position}: {what}: is it a log of another program?")
    if fields.get("ungranted") and all(fields.get(name, "") is None for name in _OF_CALLS):
        fields = fields | {"arch": NATIVE, "number": 0, "arguments": ["0x0"] * 6, "executable": UNKNOWN, "site": UNKNOWN}
        return _violation(fields, position)._replace(event=None)
    values: list[Any] = [fields.get(name) for name in (*_OF_CALLS, "count")]
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
    files, rest = _files(fields.get("ungranted", []), executable, position)
    audit = Arch(arch).audit if arch in [*Arch] else int(arch, 16) & _WORD
    a, b, c, d, e, f = (int(register, 16) for register in arguments)
    return _Violation(
        Event(audit, number, (a, b, c, d, e, f)),
        executable,
        site,
        count,
        tuple(text[:64] for text in (fields.get("run"), fields.get("phase")) if isinstance(text, str)),
        _time(fields.get("time")),
        tuple(_texts(fields.get("evidence"))[:_FACTS]),  # whether they are facts is seen when they are joined
        _policies(fields.get("allow")),
        files,
        not (rest or fields.get("ungrantable")),
    )


def _files(lines: Any, executable: str, position: str) -> tuple[tuple[Use, ...], list[str]]:
    """Return the uses of files and ports that lines about these grant, and the texts that are no such lines: what they name is
    the program's choice.  Raises ImportFormatError if they are no list of texts."""
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ImportFormatError(f"{position}: its `ungranted` is no list of lines about files and ports")
    uses: list[Use] = []
    rest: list[str] = []
    for line in lines[:_FACTS]:  # one by one: several policies may lack different rights to one path
        try:
            files = parse(f"{line}\n").policy.files
        except PolicyError:
            rest.append(line)
            continue
        uses += ((path, format_rights(rights), executable) for path, rights in (files.paths or {}).items())
        uses += (
            (host_line(use, host), str(port), executable)
            for use in USES
            for host, ports in {ANY: getattr(files, use) or (), **files.hosts(use)}.items()
            for port in single(ports)
        )
        places = ((kind, place) for kind in BARE for place in getattr(files, kind) or () if place != ANY)
        uses += ((f"{BARE[kind]} {place}", "", executable) for kind, place in places)
    return tuple(uses), rest


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


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _policies(entries: Any) -> tuple[str, ...]:
    files = [entry.get("file") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return tuple(file.rpartition("/")[2] for file in _texts(files) if file)
