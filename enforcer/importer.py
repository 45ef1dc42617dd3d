"""Import the modules that describe a denied call, in the helper, after the program has started.

Importing them takes 60 ms, too long for every start, and later the program might have changed the files.  So compiling a
policy also notes the needed files with their digests (`files`), and the helper imports only files with these digests.  It reads
the files when the program has started and no call waits, since callfence may be upgraded while the program runs.

A filter that came from another machine has no digests (`without_digests`): then the files are read before the program runs,
which takes 3 ms.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads

from callfence.enforcer.errors import SHORT
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_ROOTS = (f"{os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}/", f"{os.path.dirname(os.__file__)}/")
"""The folders of our modules and of Python's library.  A file is noted as the index of its folder and the path in it."""
_OURS = f"{_ROOTS[0]}callfence/"
"""The folder of our package; where pip has installed it, other packages are beside it."""
_DESCRIBING = (
    "callfence.enforcer.duty", "callfence.enforcer.files.granted", "callfence.enforcer.files.listening",
    "callfence.enforcer.files.ungranted", "callfence.enforcer.guard", "callfence.enforcer.hosts.mediator",
    "callfence.enforcer.reporting.asker", "callfence.enforcer.reporting.instead.call", "callfence.enforcer.reporting.output",
    "callfence.enforcer.reporting.peers", "callfence.enforcer.reporting.report", "callfence.enforcer.reporting.verdict",
    "callfence.enforcing.filters", "callfence.policygen.files.records", "callfence.policygen.files.ruleset",
    "callfence.policygen.implied.tables", "callfence.policygen.language.parser", "callfence.policygen.lint.findings",
    "callfence.tracer.abi.waits", "ipaddress", "shlex",
)
"""The modules to import, including those that functions import (tests/enforcer/test_importer.py)."""
_TABLE = ".tsv"
_HEAD = 16
"""Bytes before the code of a compiled module (importlib/_bootstrap_external.py, _code_to_timestamp_pyc)."""


def files() -> bytes:
    """Import the modules that describe a call, or make it for the program; return a note of the files that they come from.

    The note has Python's version on its first line and shared libraries on its second; each other line has a path, the digest
    of the compiled module, and the digest of the file."""
    for name in _DESCRIBING:
        __import__(name)
    paths, libraries = set(), []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if not (path.startswith(_OURS) or (path.startswith(_ROOTS[1]) and "-packages/" not in path)):
            continue
        if path.endswith(".py"):
            paths.add(path)
            folder = os.path.dirname(path)
            if path.startswith(_OURS):
                paths.update(f"{folder}/{entry}" for entry in os.listdir(folder) if entry.endswith(_TABLE))
        else:  # a shared library, which is loaded from its file: at once
            libraries.append(name)
    lines = [f"{_noted(path)} {_digest(_compiled(path))} {_digest(read_file(path))}" for path in sorted(paths)]
    return "\n".join([_version(), " ".join(libraries), *lines]).encode()


def without_digests(noted: bytes) -> bytes:
    """Return the note without digests, for another machine, whose files may have another content."""
    version, libraries, *lines = noted.decode().split("\n")
    return "\n".join([version, libraries, *(line.partition(" ")[0] for line in lines)]).encode()


class Importer:
    """An importer that finds and loads modules and tables only from noted files."""

    def __init__(self, noted: bytes) -> None:
        """`noted`: the result of `files`.  If another version of Python made it, the modules are imported and noted now.
        Raises OSError, ImportError."""
        version, _, rest = noted.decode().partition("\n")
        if version != _version():
            rest = files().decode().partition("\n")[2]
        libraries, _, self._lines = rest.partition("\n")
        for name in libraries.split():  # after `seal` no shared library is found
            __import__(name)
        self._paths: dict[str, str] = {}
        """The path of each module, by its name."""
        self._notes: dict[str, Sequence[str] | bytes] = {}
        """By path: the digests of the compiled module and of the file, or the content once it has been read."""
        self._unread: list[str] = []
        self.is_read = False
        if " " not in self._lines:
            self._parse()

    def seal(self) -> None:
        """Make this process import only noted files from now on."""
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, self]
        sys.path_hooks.clear()

    def _parse(self) -> None:
        for line in self._lines.split("\n"):
            file, *digests = line.split(" ")
            path = _ROOTS[int(file[0])] + file[1:]
            if not path.endswith(_TABLE):
                self._paths[file[1:-3].replace("/", ".").removesuffix(".__init__")] = path
            self._notes[path] = digests or _compiled(path) or read_file(path)
            self._unread += [path] if digests else []

    def read_one(self) -> None:
        """Read the next noted file; `is_read` is true when none is left."""
        try:
            if not self._paths:
                self._parse()
            if self._unread:
                path = self._unread.pop()
                self._notes[path] = self.get_data(path)
        except (OSError, MemoryError):
            pass  # it has been changed: importing it will say so
        self.is_read = not self._unread

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module that was noted (importlib.abc.MetaPathFinder)."""
        if not self._paths:  # taking the note to pieces costs 0.2 ms: not at each start
            self._parse()
        if name not in self._paths:
            return None
        source = self._paths[name]
        is_package = source.endswith("/__init__.py")
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None, for the default module object (importlib.abc.Loader)."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute a module that was noted (importlib.abc.Loader)."""
        source = self._paths[module.__name__]
        content = self.get_data(source)
        is_compiled = content.startswith(MAGIC_NUMBER)
        exec(loads(content[_HEAD:]) if is_compiled else compile(content, source, "exec", dont_inherit=True), module.__dict__)

    def get_data(self, path: str) -> bytes:
        """Return the content of a noted table or module, of the latter's compiled file if there is one.  Raises OSError, also
        if the file has changed since it was noted."""
        note = self._notes.get(path, ())
        if isinstance(note, bytes):
            return note
        for place, digest in zip((_place(path), path), note, strict=False):
            try:
                content = read_file(place)
            except OSError as error:
                if error.errno in SHORT:
                    raise
                continue
            if _digest(content) == digest:
                return content
        text = "has been changed since the policy was compiled: start with --no-cache, or compile it again"
        raise FileNotFoundError(f"{path} {text}")


class Loaded(Importer):
    """The same for a process that has imported all modules and holds the tables: it finds no others, and reads nothing."""

    def __init__(self) -> None:
        """Import the modules, and read the tables beside them.  Raises OSError, ImportError."""
        for name in _DESCRIBING:
            __import__(name)
        self._notes = {}
        self.is_read = True
        for module in list(sys.modules.values()):
            path, spec = getattr(module, "__file__", None) or "", getattr(module, "__spec__", None)
            if path.startswith(_OURS) and spec:
                folder = os.path.dirname(path)
                tables = (f"{folder}/{entry}" for entry in os.listdir(folder) if entry.endswith(_TABLE))
                self._notes.update((table, read_file(table)) for table in tables if table not in self._notes)
                spec.loader = self  # whose tables are in memory

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return None: what has not been imported cannot be."""
        return None


def _version() -> str:
    return sys.version.replace("\n", " ")


def _noted(path: str) -> str:
    root = next(root for root in _ROOTS if path.startswith(root))
    return f"{_ROOTS.index(root)}{path.removeprefix(root)}"


def _place(source: str) -> str:
    """Return the path at which Python stores the compiled module."""
    folder, _, file = source.rpartition("/")
    return f"{folder}/__pycache__/{file[:-3]}.{sys.implementation.cache_tag}.pyc"


def _compiled(source: str) -> bytes:
    """Return the content of the compiled module if it is up to date; else b""."""
    try:
        content, status = read_file(_place(source)), os.stat(source)
    except OSError:
        return b""
    flags, *stamp = (int.from_bytes(content[at : at + 4], "little") for at in (4, 8, 12))
    # importlib/_bootstrap_external.py: validated by time and size, unless by a hash that is checked or trusted.
    fits = stamp == [int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF] if flags == 0 else flags == 1
    return content if fits and content.startswith(MAGIC_NUMBER) else b""


def _digest(content: bytes) -> str:
    from _blake2 import blake2b

    return blake2b(content, digest_size=16).hexdigest()


def read_file(path: str) -> bytes:
    """Return the content of a file.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
