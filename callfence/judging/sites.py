"""Call sites: their names, from ELF symbol tables, and the recorded calls that led to a rule or that a change newly allows: by
which executable, from which call site, and how the rule allows more than these calls.

Only this file imports pyelftools, if it is installed (extra `symbols`).
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.judging.differences import call_name
from callfence.policygen.comparing.compare import Change
from callfence.policygen.evaluate import evaluate
from callfence.policygen.evidence.facts import examples
from callfence.policygen.language.naming import format_call
from callfence.policygen.recording.model import Observation, Recording, joined
from callfence.policygen.review.companion import is_companion
from callfence.policygen.text import pip_install
from callfence.policygen.values import frozen
from callfence.shared.text import code, plural, printable
from callfence.tracer.abi import table
from callfence.tracer.unwinding.site import build_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import BinaryIO

    from elftools.elf.elffile import ELFFile

    from callfence.policygen.learning.generalise import Widening
    from callfence.policygen.model import Policy
    from callfence.policygen.review.risk import Ranked
    from callfence.policygen.review.why import Provenance

DEBUG = Path("/usr/lib/debug/.build-id")
"""Where distributions install stripped symbols, by build id: `xx/yyyy.debug` (gdb's manual, "Separate Debug Files")."""
_SITE = re.compile(r"(?s)(?P<file>.*)\+0x(?P<offset>[0-9a-f]{1,16})(?: \((?P<build>[0-9a-f]+)\))?")
_CODE = ("STT_FUNC", "STT_LOOS")  # the latter is STT_GNU_IFUNC, for which pyelftools has no name
_PREFERRED = {"STB_GLOBAL": 0, "STB_WEAK": 1}
_NEAR = 64
"""How many symbols before an address are examined: an address may have several names, and functions may nest."""
_MAX_BYTES, _LARGEST, _LEAST = 1 << 29, 1 << 20, 64
"""The most bytes of a file that are read, and at once; and how many a read counts as, at least.  A symbol counts as some
500, so a file has a million at most: as many as the largest programs that are not stripped."""
MAX_FACTS = 8
"""The most facts of one call site that are listed besides those in its example."""
MAX_SITES = 8
"""The most call sites of one rule that are listed."""
_COMMENT_CALLS, _COMMENT_SITES, _COMMENT_FACTS = 12, 3, 4
"""The most calls in a pull request's comment, call sites of a call, and facts of a call site."""


@frozen
class Site:
    """A call site: a file and the offset of an instruction in it."""

    file: str
    """The path, or only its last part in older recordings; `[name]` for memory that is not mapped from a file."""
    offset: int
    """Bytes from the file's start."""
    build: str
    """The file's build id in hexadecimal; '' if it has none or it was not recorded."""

    @classmethod
    def parse(cls, text: str) -> Site | None:
        """Return the call site in the text of an observation (`Observation.site`); None for another text, such as `?`."""
        match = _SITE.fullmatch(text)
        return cls(match["file"], int(match["offset"], 16), match["build"] or "") if match else None

    def is_in(self, name: str) -> bool:
        """Return whether the site's file has this name, whatever its folder."""
        return os.path.basename(self.file) == name

    def __str__(self) -> str:
        """`libc.so.6+0x8f3a7`."""
        return f"{os.path.basename(self.file)}+{self.offset:#x}"


class Symbols:
    """Finds the names of call sites in symbol tables.  Mutable: it keeps the tables that it read, and why names are missing."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], _Table | None] = {}
        self._problems: dict[str, set[str]] = {}

    def describe(self, site: str, since: int | None = None) -> str:
        """Return the text of a call site with its name: `libc.so.6+0x8f3a7 (openat64+0x37)`.  Without a known name, the
        parentheses are missing; text that is no call site, such as `?`, is returned unchanged."""
        place = Site.parse(site)
        if place is None:
            return site
        name = self.name(place, since)
        return f"{place} ({name})" if name else str(place)

    def name(self, place: Site, since: int | None = None) -> str:
        """Return the name of a call site, such as `openat64+0x37`; '' if it is not known.

        `since`: the time of the recording, in nanoseconds since the epoch.  A file without a build id that has changed since
        then gives no names; a file with a build id gives none if it now has another one."""
        if not place.file.startswith("/"):
            return ""
        key = (place.file, place.build)
        if key not in self._tables:
            self._tables[key] = self._read(place, since)
        table = self._tables[key]
        name = "" if table is None else table.name(place.offset)
        if table is not None and not name and not table.whole:
            self._problem("it is stripped", place)
        return name

    def problems(self) -> Iterator[str]:
        """Yield a line for each reason why names are missing, with the files for which it holds."""
        for reason, files in self._problems.items():
            yield f"no symbols{' of ' if files else ''}{', '.join(sorted(files))}: {reason}"

    def _read(self, place: Site, since: int | None) -> _Table | None:
        try:
            from elftools.common.exceptions import ELFError
            from elftools.construct import ConstructError
            from elftools.elf.elffile import ELFFile
        except ImportError:
            self._problems[f"pyelftools is not installed ({pip_install('symbols')})"] = set()
            return None
        try:
            if not stat.S_ISREG(os.stat(place.file).st_mode):  # opening a pipe waits, and opening some devices acts
                self._problem("it is not a regular file", place)
                return None
            with open(place.file, "rb") as file:
                build = build_id(place.file)
                later = since is not None and os.fstat(file.fileno()).st_ctime_ns > since
                if build != place.build or (not build and later):
                    self._problem("the file has changed since the recording", place)
                    return None
                elf = ELFFile(_bounded(file))
                table = _Table(elf)
                table.add(elf)
            debug = DEBUG / build[:2] / f"{build[2:]}.debug"
            if build and debug.exists():
                with debug.open("rb") as file:
                    table.add(ELFFile(_bounded(file)))
        except OSError as error:
            self._problem(error.strerror or "it cannot be read", place)
        except (ELFError, ConstructError, ValueError, LookupError):
            self._problem("its symbol table cannot be read", place)
        else:
            return table
        return None

    def _problem(self, reason: str, place: Site) -> None:
        self._problems.setdefault(reason, set()).add(place.file)


class _Table:
    """The symbol table of one file: its functions by address."""

    def __init__(self, elf: ELFFile) -> None:
        self.whole = False
        """Whether the file is not stripped, so that it has all functions."""
        self._segments = [
            (segment["p_offset"], segment["p_filesz"], segment["p_vaddr"]) for segment in elf.iter_segments("PT_LOAD")
        ]
        self._functions: list[tuple[int, int, tuple[int, int, str]]] = []
        """(address, size, preference): size is 0 if assembly does not define it; of several names at an address, the one with
        the least preference is used."""

    def add(self, elf: ELFFile) -> None:
        """Add the functions in the symbol tables of the file itself or of its separate debug file."""
        from elftools.elf.sections import SymbolTableSection

        for section in elf.iter_sections():
            if isinstance(section, SymbolTableSection):
                self.whole = self.whole or section["sh_type"] == "SHT_SYMTAB"
                for symbol in section.iter_symbols():
                    if symbol["st_info"]["type"] in _CODE and symbol["st_shndx"] != "SHN_UNDEF":
                        preference = (_PREFERRED.get(symbol["st_info"]["bind"], 2), len(symbol.name), symbol.name)
                        self._functions.append((symbol["st_value"], symbol["st_size"], preference))
        self._functions.sort(key=lambda function: function[0])

    def name(self, offset: int) -> str:
        """Return the function with the code at an offset in the file, such as `openat64+0x37`; '' if none is known.  A call
        site is the address after the call's instruction, which may be the function's last."""
        for start, size, address in self._segments:
            if start < offset <= start + size:
                return self._at(offset - start + address)
        return ""

    def _at(self, address: int) -> str:
        last = bisect_right(self._functions, address - 1, key=lambda function: function[0])
        near = self._functions[max(last - _NEAR, 0) : last]
        holding = [(start, name) for start, size, name in near if not size or address <= start + size]
        if not holding:
            return ""
        start = max(holding)[0]
        name = min(name for first, name in holding if first == start)[2]
        return f"{name}+{address - start:#x}"


def _bounded(file: BinaryIO) -> BinaryIO:
    return _Bounded(file)  # type: ignore[return-value]  # no other methods are called


class _Bounded:
    """A file of which only so much is read: a program may make itself a sparse executable with symbols without end."""

    def __init__(self, file: BinaryIO) -> None:
        self._left = _MAX_BYTES
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """Raises ValueError for too much."""
        self._left -= max(size, _LEAST)
        if not 0 <= size <= _LARGEST or self._left < 0:
            raise ValueError
        return self._file.read(size)


def columns_of(observations: Sequence[Observation]) -> list[int]:
    """Return the indexes of the runs that made at least one of the observations, ascending."""
    return sorted({column for observation in observations for column, count in enumerate(observation.counts) if count})


def site_lines(observations: Sequence[Observation], recording: Recording, symbols: Symbols) -> Iterator[str]:
    """Yield lines for each executable and call site of the observations: the number of calls, an example, and facts.  There are
    no numbers if the recording is a companion."""
    sites, bare, names = by_site(observations), is_companion(recording), started_as(recording)
    for (executable, site), group in sites[:MAX_SITES]:
        if bare:
            yield f"  {printable(executable)}, at {printable(site)}, such as"
        else:
            count = plural(sum(observation.calls for observation in group), "call")
            place = symbols.describe(site, recording.runs[columns_of(group)[0]].started)
            yield f"  {printable(with_names(executable, names))}, first at {printable(place)}: {count}, such as"
        call, facts = such_as(group, bare=bare)
        yield f"    {call}"
        yield from (f"      and {fact}" for fact in facts)
    if len(sites) > MAX_SITES:
        yield f"  ... and {plural(len(sites) - MAX_SITES, 'call site')} more"


def started_as(recording: Recording) -> dict[str, tuple[str, ...]]:
    """Return executable -> other names under which runs started it: of links to it, or scripts it interprets, ascending."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for run in recording.runs:
        name = os.path.basename(run.command[0]) if run.command else ""
        for starter, executable in run.executed:
            if not starter and name and not os.path.basename(executable).startswith(name):  # python3 may be python3.13
                names[executable].add(name)
    return {executable: tuple(sorted(group)) for executable, group in names.items()}


def with_names(executable: str, names: Mapping[str, Sequence[str]]) -> str:
    """Return an executable after the names that it was started by (`started_as`): `redis-server (/usr/bin/redis-check-rdb)`."""
    return f"{', '.join(names[executable])} ({executable})" if executable in names else executable


def such_as(observations: Sequence[Observation], *, bare: bool = False) -> tuple[str, list[str]]:
    """Return an example call, from the first observation, with the data that its pointers point to; and the other facts about
    all observations.  `bare`: the observations are from a companion, which does not have all arguments."""
    event = observations[0].event
    unknown = [index for index, value in enumerate(observations[0].arguments) if value is None] if bare else []
    first, others = examples(event, joined({fact for observation in observations for fact in observation.evidence}))
    if len(others) > MAX_FACTS:
        others[MAX_FACTS:] = [f"{len(others) - MAX_FACTS} more"]
    return format_call(event, first, {*unknown} - first.keys()), others


def by_site(observations: Sequence[Observation]) -> list[tuple[tuple[str, str], list[Observation]]]:
    """Return the observations grouped by (executable, call site of the first event), the groups with the most calls first."""
    groups: defaultdict[tuple[str, str], list[Observation]] = defaultdict(list)
    for observation in observations:
        groups[observation.executable, observation.site].append(observation)
    return sorted(groups.items(), key=lambda item: (-sum(observation.calls for observation in item[1]), item[0]))


def widened(rule: Provenance) -> str:
    """Return a text about how a rule allows more than was observed: `dfd, mode: any value; flags: any combination of the
    observed bits`.  '' if it allows no more."""
    arguments = table(rule.arch).by_number[rule.number].arguments
    names: defaultdict[Widening, list[str]] = defaultdict(list)
    for index, way in rule.widenings:
        names[way].append(arguments[index].name)
    return "; ".join(f"{', '.join(of_way)}: {way}" for way, of_way in names.items())


def behind_lines(old: Policy, new: Policy, differences: Sequence[Ranked], recording: Recording) -> Iterator[str]:
    """Yield a Markdown list of the recorded calls that the new policy allows and the old one does not, if there are any."""
    bare, items = is_companion(recording), []
    for difference in (ranked.difference for ranked in differences if ranked.difference.change is Change.MORE):
        observations = [
            observation
            for observation in recording.observations
            if (observation.arch, observation.number) == (difference.arch.audit, difference.number)
            and not evaluate(old, observation.event).allows
            and evaluate(new, observation.event).allows
        ]
        if observations:
            items.append(f"- {code(call_name(difference))}: {'; '.join(_sites(observations, bare=bare))}")
    if len(items) > _COMMENT_CALLS:
        more = plural(len(items) - _COMMENT_CALLS, "call")
        items[_COMMENT_CALLS:] = [f"- ... and {more} more: `callfence why` prints all of it"]
    yield from ("", "Recorded calls that need it:", "", *items) if items else ()


def _sites(observations: Sequence[Observation], *, bare: bool) -> Iterator[str]:
    sites = by_site(observations)
    for (executable, site), group in sites[:_COMMENT_SITES]:
        call, others = such_as(group, bare=bare)
        more = others[:_COMMENT_FACTS] + ["..."] * (len(others) > _COMMENT_FACTS)
        facts = f", and {', '.join(map(code, more))}" if more else ""
        yield f"{code(executable)} at {code(site if bare else str(Site.parse(site) or site))}: {code(call)}{facts}"
    if len(sites) > _COMMENT_SITES:
        yield f"and {plural(len(sites) - _COMMENT_SITES, 'more place')}"
