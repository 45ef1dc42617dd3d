"""The grammar of a policy file: settings, sections, includes, entries.

    file    = { [ setting | "include" FILE | entry | files ] [ comment ] newline }
    setting = "callfence" 1 | "arch" ARCH | "table" VERSION | "arm" ("now" | "exec" | "entry")
            | "default" action | "unknown" action | "implied" VERSION | "portable" | "on_next_syscall" ":" ("1" | "0")
            | "phases" ("required" | "optional")
            | "phase" NAME "after" TRIGGER { "," TRIGGER }
    entry   = SYSCALL ":" ( "allow" | "1" | "deny" | "0" | action [ "until" NAME [ "||" expression ] ]
                          | [ action "if" ] expression [ "else" action ] )
    files   = "path" PATH ":" ( RIGHT { "," RIGHT } | "any" | "none" )
            | ( "tcp" "connect" [ HOST ] | "tcp" "bind" | "udp" "send" [ HOST ] ) ":" PORTS
            | "unix" "connect" ( SOCKET | ":" ( "any" | "none" ) )
            | "dns" "query" ( NAME | ":" ( "any" | "none" ) )
    action  = "allow" | "kill" | "errno" ERRNO | "trap" | "log" | "notify"
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from callfence.policygen.errors import PolicyError, did_you_mean
from callfence.policygen.grants import BARE, NOT_CONFINED, STATEMENTS, TO_HOSTS, USES, Files
from callfence.policygen.language import LANGUAGE_VERSION, hints, statements
from callfence.policygen.language.attach import Item, Place, attach
from callfence.policygen.language.expressions import ExpressionParser, Span
from callfence.policygen.language.layout import SETTINGS, Include, Layout
from callfence.policygen.language.lexer import Comment, Cursor, Source, Token, source, tokenise
from callfence.policygen.language.normal import normal_entry
from callfence.policygen.language.operands import operands
from callfence.policygen.language.printer import settled
from callfence.policygen.model import IMPLIED, Arm, Entry, Policy
from callfence.policygen.values import field, frozen, replace
from callfence.tracer.abi import NATIVE, Arch, name_of, table

MAX_INCLUDES = 16
"""The deepest nesting of includes."""

MAX_PATH = 4096
"""The most bytes of an included file's name, with its NUL: PATH_MAX, linux/limits.h."""

Read = Callable[[str], str]
"""Function from the name of an included file, relative to the same folder as the name of the policy's file, to the file's text.
Raises OSError."""

_VERSION = r"^[ \t]*callfence[ \t]+([1-9][0-9]{0,8})(?![A-Za-z0-9_])"
_ARMS = {"0": Arm.NOW, "1": Arm.EXEC}


@frozen
class _Context:
    """The state that all files of one policy share while they are parsed."""

    read: Read | None
    folder: str
    """The folder of the policy's file."""
    entry_places: dict[tuple[Arch, int], tuple[Source, int]] = field(factory=dict)
    """Architecture and number of each call with an entry -> the entry's place."""
    lines: dict[str, tuple[Source, int]] = field(factory=dict)
    """Line about files or ports, up to its colon -> its place."""
    included: dict[tuple[Arch, str], tuple[Source, int]] = field(factory=dict)


def parse_policy(text: str, filename: str, read: Read | None) -> tuple[Policy, Layout]:
    """Parse a policy: return it in normal form, with the layout of its text.  `read` is that of `document.parse`.  Raises
    PolicyError for a mistake in the text, or in an included file."""
    file = source(text, filename)
    parser = _FileParser(_Context(read, posixpath.dirname(filename)), file, (posixpath.normpath(filename),), None, NATIVE)
    comments = parser.parse()
    parser.require_phases()
    policy = parser.policy()
    return policy, settled(policy, attach(file.text, parser.items, comments))


class _FileParser:
    """Parses one file, and creates a parser for each file that it includes."""

    def __init__(self, context: _Context, text: Source, chain: tuple[str, ...], outer: Policy | None, arch: Arch) -> None:
        self.context = context
        self.source = text
        self.chain = chain
        """The names of the files that are being parsed, this file last."""
        self.outer = outer
        """The settings of the including policy, which this file's settings must equal."""
        self.arch = arch
        self.settings = outer or Policy({})
        self.places: dict[str, Token] = {}
        """Setting's word -> its token."""
        self.entries: dict[Arch, dict[int, Entry]] = {}
        self.later: list[dict[Arch, dict[int, Entry]]] = [{} for _ in self.settings.phases]
        """The entries in each phase."""
        self.granted: list[Files] = []
        """The grants of the lines about files and ports, included files' lines among them."""
        self.items: list[Item] = []
        self.first: Token | None = None
        """The first entry or include, which ends the settings."""
        self.cursor: Cursor

    def parse(self) -> list[Comment]:
        """Parse the whole file into `entries`, `settings` and `items`; return its comments."""
        # Before all else: what another version has may be no token of this one.
        if (match := re.search(_VERSION, self.source.text, re.MULTILINE)) and int(match[1]) != LANGUAGE_VERSION:
            raise _other_version(self.source, int(match[1]), *match.span(1))
        tokens, comments = tokenise(self.source)
        self.cursor = Cursor(self.source, tokens)
        while self.cursor.token.kind != "end":
            first = self.cursor.token
            self.items.append(self._statement())
            if not self.cursor.at_line_end():
                hint = hints.line_end(self.cursor.token.text, after_rights=first.kind == "path")
                raise self.cursor.expected("the end of the line", hint)
            if self.cursor.token.kind == "newline":
                self.cursor.take()
        if not self.entries and self.outer is None:
            self.entries[self.arch] = {}
        return comments

    def policy(self) -> Policy:
        later = [{arch: entries.get(arch, {}) for arch in self.entries} for entries in self.later]
        phases = (replace(each, entries=entries) for each, entries in zip(self.settings.phases, later, strict=True))
        return replace(self.settings, entries=self.entries, files=_together(self.granted), phases=tuple(phases))

    def require_phases(self) -> None:
        """Raise PolicyError for a phase that denies nothing new, or that denies all its triggers."""
        before = self.entries
        for each, entries in zip(self.settings.phases, self.later, strict=True):
            token = self.places[f"phase {each.name}"]
            if all(section == entries.get(arch, {}) for arch, section in before.items()):
                hint = f"mark what the phase ends: bind: allow until {each.name}"
                message = f"nothing is allowed until {each.name}, so the phase has no effect"
                raise self.cursor.error(message, token, hint, "effect")
            sections = {arch: entries.get(arch, {}) for arch in self.entries}
            statements.require_trigger(self.cursor, token, self.settings, each, sections)
            before = entries

    def _statement(self) -> Item:
        cursor = self.cursor
        token = cursor.token
        place: Place
        spans: list[Span] = []
        if token.kind == "include":
            place = self._include(cursor.take())
        elif token.kind in ("path", *BARE, *USES) or (token.text in STATEMENTS and cursor.following.text != ":"):
            place = self._files(cursor.take())
        elif cursor.following.text == ":":
            cursor.take()
            cursor.take()
            place = self._on_next_syscall(token) if token.text == "on_next_syscall" else self._entry(token, spans)
        elif token.kind == "word" and token.text == "phase":
            place = self._phase(cursor.take())
        elif token.kind == "word" and token.text in (*SETTINGS, "arch"):
            cursor.take()
            place = self._arch(token) if token.text == "arch" else self._setting(token)
        else:
            self._no_statement(token)
        return Item(token.start, cursor.previous_end, place, tuple(spans))

    def _no_statement(self, token: Token) -> NoReturn:
        if token.text == "include":
            raise self.cursor.error("include names no file", token, "include FILE")
        if token.kind not in ("word", "number"):
            raise self.cursor.error(f"`{token.text}` cannot begin a line of a policy", token)
        words = [*SETTINGS, *STATEMENTS, "phase", "arch", "include"]
        hint = did_you_mean(token.text, words) or f"a setting is one of {', '.join(words)}"
        if token.text.removeprefix("sys_") in table(self.arch).by_name:
            hint = f"an entry has a colon: {token.text}: allow"
        raise self.cursor.error(f"no setting is named {token.text}", token, hint)

    # Settings

    def _claim(self, name: str, token: Token) -> None:
        """Record the place of a setting.  Raises PolicyError if the setting occurs twice, or after an entry."""
        if first := self.places.get(name):
            raise self.cursor.error(f"{name} is set twice", token, f"first at {self.source.place(first.start)}", "twice")
        self.places[name] = token

    def _setting(self, token: Token) -> Place:
        name = token.text
        if self.first:
            hint = f"the first is at {self.source.place(self.first.start)}"
            raise self.cursor.error("settings must precede the first entry", token, hint, "place")
        self._claim(name, token)
        cursor = self.cursor
        value = cursor.token
        match name:
            case "callfence":
                if (written := statements.integer(cursor, "a version of the language")) != LANGUAGE_VERSION:
                    raise _other_version(self.source, written, value.start, value.end)
            case "table":
                self._set(token, replace(self.settings, table=statements.version(cursor)))
            case "arm":
                self._set(token, replace(self.settings, arm=Arm(statements.one_of(cursor, "arming", list(Arm)))))
            case "default":
                self._set(token, replace(self.settings, default=statements.action(cursor, "the action of a setting")))
            case "unknown":
                self._set(token, replace(self.settings, unknown=statements.action(cursor, "the action of a setting")))
            case "implied":
                written = statements.integer(cursor, "the version of an implied set")
                if written not in IMPLIED:
                    versions = ", ".join(map(str, IMPLIED))
                    hint = f"this callfence knows {versions}"
                    raise cursor.error(f"there is no implied set {written}", value, hint, "version")
                self._set(token, replace(self.settings, implied=written))
            case "portable":
                self._set(token, replace(self.settings, portable=True))
            case "scope":
                self._set(token, replace(self.settings, scope=statements.scope(cursor)))
            case "phases":
                word = statements.one_of(cursor, "way to enter phases", ["required", "optional"])
                self._set(token, replace(self.settings, phases_optional=word == "optional"))
        return ("setting", name)

    def _phase(self, token: Token) -> Place:
        if self.outer is not None:
            hint = "declare the phase in the policy; the included file may have `until`"
            raise self.cursor.error("an included file cannot declare a phase", token, hint, "place")
        if self.first:
            hint = f"the first is at {self.source.place(self.first.start)}"
            raise self.cursor.error("phases must precede the first entry", token, hint, "place")
        new_phase = statements.phase(self.cursor, self.settings.phases)
        self.places[f"phase {new_phase.name}"] = token
        self.settings = replace(self.settings, phases=(*self.settings.phases, new_phase))
        self.later.append({})
        return ("setting", f"phase {new_phase.name}")

    def _set(self, token: Token, settings: Policy) -> None:
        self.settings = settings
        if self.outer not in (None, settings):
            hint = "leave the setting out here, or make both the same"
            raise self.cursor.error("this setting differs from that of the including file", token, hint, "include")

    def _on_next_syscall(self, token: Token) -> Place:
        """Parse the setting `on_next_syscall` of the language of 2011, which may follow entries."""
        self._claim("arm", token)
        value = self.cursor.token.text
        if value not in _ARMS:
            raise self.cursor.expected("1 (arm exec) or 0 (arm now)")
        self.cursor.take()
        self._set(token, replace(self.settings, arm=_ARMS[value]))
        return ("setting", "arm")

    def _arch(self, token: Token) -> Place:
        arch = Arch(statements.one_of(self.cursor, "architecture", list(Arch), hints.architecture))
        self._claim(f"arch {arch}", token)
        self.arch = arch
        self.entries.setdefault(arch, {})
        return ("arch", arch)

    # Entries

    def _entry(self, token: Token, spans: list[Span]) -> Place:
        self.first = self.first or token
        number = statements.syscall(self.cursor, token, self.arch, self.settings.table)
        if first := self.context.entry_places.get((self.arch, number)):
            name = name_of(self.arch, number)
            hint = f"first at {first[0].place(first[1])}; join the two by ||"
            raise self.cursor.error(f"{name} is given twice", token, hint, "twice")
        self.context.entry_places[self.arch, number] = (self.source, token.start)
        names = [phase.name for phase in self.settings.phases]
        parser = ExpressionParser(self.cursor, operands(self.arch, number), spans, names)
        written = statements.body(self.cursor, token, parser)
        entry = normal_entry(self.arch, number, written)
        self.entries.setdefault(self.arch, {})[number] = entry
        for entries, phase_entry in zip(
            self.later, statements.staged(self.cursor, token, self.settings, written, parser.until), strict=True
        ):
            if phase_entry is not None:
                entries.setdefault(self.arch, {})[number] = normal_entry(self.arch, number, phase_entry)
        return ("entry", self.arch, number, entry)

    def _files(self, token: Token) -> Place:
        self.first = self.first or token
        line, granted = statements.file_line(self.cursor, token)
        if first := self.context.lines.get(line):
            hint = f"first at {first[0].place(first[1])}; join the two"
            raise self.cursor.error(f"{line} is given twice", token, hint, "twice")
        self.context.lines[line] = (self.source, token.start)
        self.granted.append(granted)
        return ("files", line)

    # Includes

    def _include(self, token: Token) -> Place:
        self.first = self.first or token
        if len(token.text) >= MAX_PATH:
            raise self.cursor.error(f"a file's name must have fewer than {MAX_PATH} characters", token, kind="limit")
        path = posixpath.join(posixpath.dirname(self.source.filename), token.text)
        canonical = posixpath.normpath(path)  # to compare with; what the kernel opens is `path`, whose folders may be links
        read = self.context.read
        if read is None:
            message = "this policy does not come from a file, so it cannot include files"
            raise self.cursor.error(message, token, kind="include")
        if posixpath.isabs(token.text):
            hint = "name it relative to the file that includes it"
            raise self.cursor.error("the name of an included file must be relative", token, hint, "include")
        if _leaves(canonical, self.context.folder):
            raise self.cursor.error("an included file must be below the folder of the policy", token, kind="include")
        if canonical in self.chain:
            hint = " -> ".join((*self.chain[self.chain.index(canonical) :], canonical))
            raise self.cursor.error(f"{token.text} includes itself", token, hint, "include")
        if len(self.chain) > MAX_INCLUDES:
            raise self.cursor.error(f"includes are nested deeper than {MAX_INCLUDES}", token, kind="limit")
        if first := self.context.included.get((self.arch, canonical)):
            hint = f"first at {first[0].place(first[1])}"
            raise self.cursor.error(f"{token.text} is included twice", token, hint, "include")
        self.context.included[self.arch, canonical] = (self.source, token.start)
        inner = self._included(token, path, read)
        self.entries.setdefault(self.arch, {})
        for own, included in ((self.entries, inner.entries), *zip(self.later, inner.later, strict=True)):
            for arch, entries in included.items():
                own.setdefault(arch, {}).update(entries)
        files = _together(inner.granted)
        self.granted.append(files)
        return ("include", self.arch, Include(token.text, inner.entries, files, later=tuple(inner.later)))

    def _included(self, token: Token, path: str, read: Read) -> _FileParser:
        chain = (self.source.place(token.start), *self.source.chain)
        try:
            text = read(path)
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror or error}"
            raise self.cursor.error(message, token, kind="include") from None
        except PolicyError as error:  # not UTF-8
            error.chain = chain
            raise
        parser = _FileParser(
            self.context, source(text, path, chain), (*self.chain, posixpath.normpath(path)), self.settings, self.arch
        )
        parser.parse()
        return parser


def _other_version(source: Source, written: int, start: int, end: int) -> PolicyError:
    newer = "it is of a newer callfence; " if written > LANGUAGE_VERSION else ""
    hint = f"{newer}this callfence reads version {LANGUAGE_VERSION}"
    return source.error(f"the policy is written in version {written} of the language", start, end, hint, "version")


def _together(several: Sequence[Files]) -> Files:
    """Return the union of several files' grants, no two of which have the same line."""
    paths = {path: rights for files in several for path, rights in (files.paths or {}).items()}
    hosts = {f"{use}_to": {host: ports for files in several for host, ports in files.hosts(use).items()} for use in TO_HOSTS}
    joined: dict[str, Any] = {}
    for kind in (*USES, *BARE):
        confined = [getattr(files, kind) for files in several if getattr(files, kind) is not None]
        joined[kind] = tuple(part for each in confined for part in each) if confined else None
    return replace(NOT_CONFINED, paths=paths or None, **joined, **hosts)


def _leaves(path: str, folder: str) -> bool:
    """Whether a normalised path leads out of a folder, by its names alone; symbolic links are checked when the file is read."""
    names, outer = path.split("/"), posixpath.normpath(folder or ".").split("/")
    outer = [] if outer == ["."] else outer
    return names[: len(outer)] != outer or names[len(outer) :][:1] == [".."]
