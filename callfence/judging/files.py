"""Explains what a policy grants of files, ports, hosts and unix sockets, for `callfence why` and the report: which line grants
it, which names recorded runs used, by which executables, and what else the line grants on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from operator import or_

from callfence.judging.hosts import of_hosts
from callfence.judging.sites import Site
from callfence.policygen import grants
from callfence.policygen.errors import did_you_mean
from callfence.policygen.files.algebra import PATHS, Kind, line_kind
from callfence.policygen.files.generalise import is_path, learned
from callfence.policygen.files.places import MADE_BELOW, PlaceError, located, named, real_path
from callfence.policygen.hosts import PLACES, canonical
from callfence.policygen.language.document import Document
from callfence.policygen.lint.files import risks
from callfence.policygen.paths import VARIABLES, encoded, folders, shown
from callfence.policygen.recording.model import Recording
from callfence.shared.files import working_folder
from callfence.shared.text import plural, printable
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

_UNCONFINED = "the policy has no `path` line, so it grants all files to the calls that it allows"
_KINDS = {
    "ssh-keys": "key",
    "credentials": "credential file",
    "start-up-file": "start-up file",
    "accounts": "account file",
    "scheduled": "scheduled job",
}
"""By the id of a risk: a word for the files that have this risk."""
_KEY = re.compile(rb"id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|key|p12|pfx|kdbx)")
_SITES = 2
_MAX_LISTED = 6
"""The most names that are listed for a line."""
_LOOKED_AT = 20_000
"""The most files below a folder that are counted."""


def is_file_name(text: str) -> bool:
    """Return whether a word names a file: it begins with /, ./, ../, ~ or a named folder such as $HOME, or is `.` or `..`."""
    return text in (".", "..") or text.startswith(("/", "./", "../", "~")) or text.partition("/")[0] in VARIABLES


def print_grants(files: grants.Files, policy: str, about: str, word: str) -> int:
    """Print whether a policy grants the right `word` to the file `about`, and by which lines; without a `word`, print all
    rights to the file.  If `about` is a line about ports up to its colon, with or without a host, `word` is a port; if it is
    one about a unix socket, '' .  `policy` is the name of the policy's file.

    Return 0 if the right (or any right) is granted, else 1.  Raises UserError if `about` is no file or use of ports, or `word`
    is no right or port."""
    kind = line_kind(about)
    if kind is not None and kind is not PATHS:
        lines, wanted = _at_place(files, kind, about, word)
    elif not is_file_name(about):
        begins = "which begins with /, ./, ~ or $HOME"
        raise UserError(f"{about}: unknown; give a path, {begins}, or a line such as `tcp connect HOST`")
    elif word:
        lines, wanted = _path(files, about, word)
    else:
        lines, granted = _rights(files, about)
        print(f"{about}: {granted}: granted" if granted else f"{about}: no right is granted")
        print(*(f"  {line}" for line in lines), sep="\n")
        if not granted:
            print(f"  what would grant one: callfence why {shlex.quote(policy)} {shlex.quote(about)} read")
        return int(not granted)
    print(f"{grants.written(about, word)}: {'not granted' if wanted else 'granted'}")
    for line in lines:
        print(f"  {line}")
    if wanted:
        print(f"  to grant it: callfence allow {shlex.quote(policy)} {shlex.quote(wanted)}")
    return int(bool(wanted))


def _rights(files: grants.Files, path: str) -> tuple[list[str], str]:
    """Return the lines that grant rights to a file, and these rights; '' for none."""
    if files.paths is None:
        return [_UNCONFINED], "every right"
    held, rights = _holding(files, path)
    return _lines(files, held), grants.format_rights(rights) if rights else ""


def _at_place(files: grants.Files, kind: Kind, about: str, word: str) -> tuple[list[str], str]:
    """Return the lines to print about a port, or a unix socket if `word` is '', and the line that would grant it, '' if it is
    granted.  Raises UserError if `word` is not a port, or `about` names no host or socket."""
    if kind.name in grants.BARE and word:
        raise UserError(f"{word} is too much: {'a unix socket' if kind.name == 'unix' else 'a look-up'} has no ports")
    if kind.name not in grants.BARE and (not re.fullmatch("[0-9]{1,5}", word) or int(word) > grants.MAX_PORT):
        raise UserError(f"{word} is not a port; give a number from 0 to {grants.MAX_PORT}")
    place = kind.place(about)
    if place != kind.root:
        if kind.name not in (*grants.TO_HOSTS, *grants.BARE):
            raise UserError(f"{about}: a `{kind.line(kind.root)}` line names no host")
        place = (PLACES[kind.name].canonical if kind.name in grants.BARE else canonical)(place)
    if getattr(files, kind.name) is None:
        what = {"unix": "unix sockets", "query": "look-ups"}.get(kind.name, "ports")
        return [f"the policy has no `{kind.line(kind.root)}` line, so it grants all {what} to the calls that it allows"], ""
    held, needed = kind.grants(files), kind.bits(word)
    above = [granted for granted in kind.containing(place) if granted in held]
    if kind.name == "unix" and is_file_name(place):
        named_ = _nearest((granted for granted in held if is_file_name(granted)), place)
        above = [*(granted for _, granted in named_), *({kind.root} & held.keys())]
    is_granted = bool(kind.united(held, above) & needed)
    if is_granted:
        above = [granted for granted in above if held[granted] & needed]
    above = [granted for granted in above if held[granted]] or above
    lines = [grants.written(kind.line(granted), kind.words(held[granted]) or grants.NONE) for granted in above]
    if kind.name == "query":
        named = [(use, host) for use in grants.TO_HOSTS for host in kind.containing(place) if host in files.hosts(use)]
        lines += [f"{grants.host_line(use, host)}: {grants.format_ports(files.hosts(use)[host])}" for use, host in named]
        is_granted |= bool(named)
    return lines or [f"no line grants {kind.line(place)}"], "" if is_granted else grants.written(kind.line(place), word)


def _path(files: grants.Files, path: str, word: str) -> tuple[list[str], str]:
    """Return the lines to print about a right to a file, and the line that would grant it, '' if it is granted.  Raises
    UserError if `word` is not a right."""
    if word not in grants.WORDS:
        hint = did_you_mean(word, grants.WORDS) or f"the rights are {', '.join(grants.WORDS)}"
        raise UserError(f"no right is named {word}: {hint}")
    if files.paths is None:
        return [_UNCONFINED], ""
    right = grants.WORDS[word]
    held, rights = _holding(files, path)
    if right in rights:
        return _lines(files, [granted for granted in held if right in held[granted]]), ""
    whole = _whole(path)
    place = whole if right in grants.OF_A_FILE or os.path.isdir(whole) else os.path.dirname(whole)
    name = named(place, _environment(), os.fsencode(working_folder())).decode("utf-8", "surrogateescape")
    return _lines(files, held), grants.written(grants.path_line(name), word)


def _lines(files: grants.Files, paths: Iterable[str]) -> list[str]:
    lines = [f"{grants.path_line(path)}: {grants.format_rights(files.grants[path])}" for path in paths]
    return lines or ["no line grants rights to this file or to a folder that contains it"]


def _holding(files: grants.Files, path: str) -> tuple[dict[str, grants.Right], grants.Right]:
    """Return the grants for a path and for the folders above it, the nearest first, and the rights that they give together.

    The path's own line gives what only a folder can have if it is one, or one that `enforce` makes."""
    whole, held = _whole(path), {}
    for up, granted in _nearest(files.grants, path):
        is_made = not os.path.exists(whole) and encoded(granted).startswith(MADE_BELOW)
        held[granted] = files.grants[granted] & (grants.ALL if up or is_made or os.path.isdir(whole) else grants.OF_A_FILE)
    return held, reduce(or_, held.values(), grants.NOTHING)


def _nearest(places: Iterable[str], path: str) -> list[tuple[int, str]]:
    """Return those of a policy's paths that a file is at or below on this machine, the nearest first, each after how far."""
    whole = _whole(path)
    above = [whole]
    while above[-1] != b"/":
        above.append(os.path.dirname(above[-1]))
    found = []
    for granted in places:
        try:
            place = _real(os.fsdecode(located(encoded(granted), _environment())))
        except PlaceError:
            continue  # enforce refuses the policy here
        if place in above:
            found.append((above.index(place), granted))
    return sorted(found)


def _whole(path: str) -> bytes:
    """Return the absolute path of a file that `is_file_name` accepts.  Raises UserError if its named folder is not set."""
    return _real(os.fsdecode(located(encoded(path), _environment())) if path.startswith("$") else os.path.expanduser(path))


def _real(path: str) -> bytes:
    """Return the absolute path of a file, with symbolic links resolved as far as the path exists."""
    return real_path(os.fsencode(path))


def _environment() -> list[bytes]:
    return [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]


class Used(NamedTuple):
    """A path that recorded runs used, with its rights and users."""

    path: str
    rights: grants.Right
    runs: tuple[int, ...]
    """The numbers of these runs, from 1."""
    executables: tuple[str, ...]
    sites: tuple[str, ...] = ()
    """Some call sites whose evidence has the path."""

    def __str__(self) -> str:
        runs = ", ".join(map(str, self.runs))
        where = f"run{'s' * (len(self.runs) > 1)} {runs} by {', '.join(self.executables)}"
        where += f" at {', '.join(self.sites)}" if self.sites else ""
        return printable(f"{shown(self.path)}: {grants.format_rights(self.rights)} in {where}")


def origin_lines(document: Document, recording: Recording, wanted: str = "") -> Iterator[str]:
    """Yield the policy's lines for files and ports, each followed by the recorded uses that led to it.  `wanted` selects one
    line by its text up to the colon; '' selects all."""
    files = document.policy.files
    paths = {grants.path_line(path): path for path in files.paths or {}}
    reasons = reasons_of(recording)
    names = used(paths.values(), recording)
    for line, value in files.lines().items():
        if wanted.removesuffix(":") in ("", line):
            yield grants.written(line, value)
            if line in paths:
                yield from _of_path(paths[line], names[paths[line]], reasons)
                yield from (f"  {text}" for text in beyond(paths[line], reasons))
            elif texts := [*of_hosts(line, files, recording, reasons)]:
                yield from (f"  {text}" for text in texts)
            else:
                yield from _of_place(files, line, recording, reasons.get(line, ""))
            yield ""


def used(lines: Iterable[str], recording: Recording) -> dict[str, list[Used]]:
    """Return, for the path of each of these lines, the paths used in recorded runs that it covers, in the order of their first
    use."""
    names: dict[str, Used] = {}
    below: dict[str, dict[str, None]] = {line: {} for line in lines}
    for column, run in enumerate(recording.runs, 1):
        for name, words, executable in run.files:
            covering = [line for line in folders(name) if line in below] if is_path(name) else []
            if covering:
                so_far = names.get(name, Used(name, grants.NOTHING, (), ()))
                runs, executables = dict.fromkeys((*so_far.runs, column)), dict.fromkeys((*so_far.executables, executable))
                names[name] = Used(name, so_far.rights | grants.rights_of(words), tuple(runs), tuple(executables))
            for line in covering:
                below[line][name] = None
    placed = {name: found._replace(sites=_sites(found, recording)) for name, found in names.items()}
    return {line: [placed[name] for name in of_line] for line, of_line in below.items()}


def _sites(used: Used, recording: Recording) -> tuple[str, ...]:
    """Return the call sites, at most _SITES, whose evidence has a path or a path below it."""
    name = used.path.replace("$HOME", "~", 1)  # evidence.facts.Places
    sites: dict[str, None] = {}
    for observation in recording.observations:
        if observation.executable in used.executables:
            names = (fact.partition('="')[2].rstrip('"') for fact in observation.evidence)
            if any(text == name or text.startswith(f"{name}/") for text in names):
                sites[str(Site.parse(observation.site) or observation.site)] = None
    return tuple(sites)[:_SITES]


def reasons_of(recording: Recording) -> Mapping[str, str]:
    """Return the reasons why learning grants a folder instead of the files in it, to remove files in it, or a file that no run
    found: path -> what is granted, and why."""
    needed = learned([run.files for run in recording.runs if run.files])
    reasons = {
        line: f"the whole folder is granted, because {why}" if is_path(line) else why for line, why in needed.why.items()
    }
    why = "`remove` is granted, because files with numbers or dates in their names are made there, and old ones removed later"
    for path in needed.removes:
        reasons[path] = f"{reasons[path]}; {why}" if path in reasons else why
    absent = "it was looked for when it was not there; it may be there for another user, or later"
    return {**dict.fromkeys(needed.absent, absent), **reasons}


def beyond(path: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about what a granted folder covers: why the folder is granted (`reasons`), and how many files, and of which
    kinds, are below it on this machine now.  Nothing if `path` is not a folder here."""
    if reason := reasons.get(path):
        yield reason
    environment = _environment()
    try:
        top = located(encoded(path), environment)
    except PlaceError:
        return
    if not os.path.isdir(top):
        return
    count = executables = 0
    special = Counter[str]()
    places = _special(environment)
    for folder, _, names in os.walk(top):
        for name in names:
            count += 1
            file = os.path.join(folder, name)
            special.update(_kinds(file, places))
            with suppress(OSError):
                executables += bool(os.lstat(file).st_mode & stat.S_IXUSR)
        if count > _LOOKED_AT:
            break
    kinds = ", ".join(plural(number, kind) for kind, number in sorted(special.items()))
    if count > _LOOKED_AT:
        found = f"; among those looked at: {kinds}" if kinds else " (not all were looked at)"
        yield f"the line covers everything below the folder: more than {_LOOKED_AT:,} files now{found}"
    else:
        files = f"{plural(count, 'file')} now, {executables} of them executable{', ' if kinds else ''}{kinds}"
        yield f"the line covers everything below the folder: {files}"


def _of_path(path: str, names: Sequence[Used], reasons: Mapping[str, str]) -> Iterator[str]:
    if not names and path not in reasons:
        yield "  no recorded run used it: the line was written by hand, or learned from runs that are not in the recording"
    for name in names[:_MAX_LISTED]:
        yield f"  {name}"
    if len(names) > _MAX_LISTED:
        yield f"  and {plural(len(names) - _MAX_LISTED, 'name')} more"


def uses_of(files: grants.Files, line: str, recording: Recording) -> Iterator[tuple[int, str, str]]:
    """Yield the recorded uses that a line about ports, hosts or unix sockets is about: the number of the run, from 1, the port
    or socket, with its host where the line is about several, and the executable.  The text is NONE for a run without such
    uses."""
    kind = line_kind(line)
    if kind is None:
        return
    place = kind.place(line)
    own = kind.grants(files).get(place, kind.nothing)
    for column, run in enumerate(recording.runs, 1):
        for name, words, executable in run.files:
            if is_path(name) or line_kind(name) is not kind:
                continue
            at = kind.place(name)
            if at == place or (place in kind.containing(at) and kind.bits(words) & own):
                named = " at ".join(text for text in (words, at if at != place or not words else "") if text)
                yield column, named, executable


_DONE = {
    "connect": "connected",
    "bind": "bound a port",
    "send": "sent by UDP",
    "unix": "connected to a unix socket",
    "query": "looked up another name",
}
"""What no run did, by the kind of a line."""


def _of_place(files: grants.Files, line: str, recording: Recording, reason: str) -> Iterator[str]:
    """Yield lines about the runs that used ports or sockets, by the line about them, and why it grants more than these."""
    uses = [*uses_of(files, line, recording)]
    for column, what, executable in uses:
        if what != grants.NONE:
            yield printable(f"  {what} in run {column} by {executable}")
    kind = line_kind(line)
    if kind is not None and uses and all(what == grants.NONE for _, what, _ in uses):
        yield f"  no recorded run {_DONE[kind.name]}"
    if reason:
        yield f"  a range is granted, because {reason}"


def _special(environment: list[bytes]) -> list[tuple[bytes, str]]:
    """Return the sensitive files of risks.tsv, as (path, kind); the path of a folder ends with a slash."""
    places = []
    for risk in risks():
        for what in risk.what if risk.id in _KINDS else ():
            with suppress(PlaceError):
                place = located(encoded(what.removesuffix("/...")), environment)
                places.append((place + b"/" if what.endswith("/...") else place, _KINDS[risk.id]))
    return places


def _kinds(path: bytes, places: list[tuple[bytes, str]]) -> set[str]:
    kinds = {kind for place, kind in places if path == place or (place.endswith(b"/") and path.startswith(place))}
    return kinds | ({"key"} if _KEY.fullmatch(os.path.basename(path)) else set())
