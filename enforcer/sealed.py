"""Code that the helper needs later, read before the program runs and loaded from memory.

Importing what describes a violation takes 60 ms, too long for every start, and later the program might have written the files
that would be imported.  So the helper reads the code of these modules before, and once it is sealed it imports nothing else.

Reading eighty files takes 3 ms.  So they are kept together in one file, in the folder where Python keeps our compiled modules,
and read from there in 1 ms, if size and time of change of every source are the same: as Python does with compiled modules.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

_KNOWN = ((3, 11), (3, 12), (3, 13))
"""Versions of Python that STANDARD was made for."""
_ROOT = os.path.dirname(os.path.dirname(__file__))
_LIBRARY = os.path.dirname(os.__file__)

OURS = ("enforcer.reporting.report", "enforcer.reporting.answer", "policygen.language.document")
"""What is imported later, with all that it imports."""
_FOLDERS = ("enforcer", "policygen", "tracer")
_WITHOUT = {"completeness", "formats", "merging", "review", "arming", "__pycache__"}
"""Folders in those that describing a violation imports nothing of; tests/enforcer/test_sealed.py says if it does."""
STANDARD = (
    "ast", "bisect", "collections", "collections.abc", "contextlib", "copy", "copyreg", "dataclasses", "dis", "enum",
    "functools", "importlib", "importlib.machinery", "inspect", "json", "json.decoder", "json.encoder", "json.scanner",
    "keyword", "linecache", "opcode", "_opcode_metadata", "operator", "re", "re._casefix", "re._compiler", "re._constants",
    "re._parser", "reprlib", "shlex", "signal", "token", "tokenize", "types", "typing", "warnings", "weakref", "_weakrefset",
)
"""Modules of Python's library that they import, in some version or other."""
EXTENSIONS = ("_typing",) if sys.version_info < (3, 13) else ("_opcode",)
"""Modules of it that may be compiled ones: imported at once."""
_KEPT = f"{os.path.dirname(__file__)}/__pycache__/sealed.{sys.implementation.cache_tag}.code"
"""Four bytes, the length of the head; the head, as marshal writes it: Python's version, stamps and index; the content."""

if TYPE_CHECKING:
    Index = dict[str, tuple[str, bool, int, int]]
    """By the name of a module, or the path of a table: path, whether it is a package, where its content begins and ends."""
    Stamps = dict[str, tuple[int, int]]
    """Of every file and folder on whose content it depends (`_stamp`)."""


class Loader:
    """Finds and loads modules whose code is in memory."""

    def __init__(self, index: Index, content: bytes, start: int = 0) -> None:
        """`start`: where in `content` the index counts from."""
        self._index = index
        self._content = content
        self._start = start

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._index:
            return None
        source, is_package, *_ = self._index[name]
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """The default one."""

    def exec_module(self, module: ModuleType) -> None:
        content = self._of(module.__name__)
        source = self._index[module.__name__][0]
        code = loads(content[16:]) if content.startswith(MAGIC_NUMBER) else compile(content, source, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def get_data(self, path: str) -> bytes:
        """The content of a table.  Raises OSError."""
        if path not in self._index:
            raise FileNotFoundError(path)
        return self._of(path)

    def seal(self) -> None:
        """From now on, this process imports only what is in memory."""
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, self]
        sys.path_hooks.clear()

    def _of(self, name: str) -> bytes:
        *_, begin, end = self._index[name]
        return self._content[self._start + begin : self._start + end]


def read() -> Loader:
    """Read everything that is needed."""
    if sys.version_info[:2] not in _KNOWN:
        _import(OURS)  # 60 ms
    _import(EXTENSIONS)
    if loader := _kept():
        return loader
    stamps, index, content = _collected()
    if not sys.dont_write_bytecode:
        _keep(dumps((sys.version, stamps, index)), content)
    return Loader(index, content)


def _kept() -> Loader | None:
    try:
        content = _read(_KEPT)
        end = 4 + int.from_bytes(content[:4], "little")
        version, stamps, index = loads(content[4:end])
        if version == sys.version and all(_stamp(path) == stamp for path, stamp in stamps.items()):
            return Loader(index, content, end)
    except (OSError, ValueError, EOFError, TypeError):
        pass
    return None


def _keep(head: bytes, content: bytes) -> None:
    """Write the one file, if this user may."""
    temporary = f"{_KEPT}.{os.getpid()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "wb") as file:
            file.write(len(head).to_bytes(4, "little") + head + content)
        os.rename(temporary, _KEPT)
    except OSError:
        return


def _collected() -> tuple[Stamps, Index, bytes]:
    """The files of all modules and tables that there are.  Python's own change with its version and its folder."""
    stamps: Stamps = {_LIBRARY: _stamp(_LIBRARY), __file__: _stamp(__file__)}
    index: Index = {}
    content = bytearray()

    def add(name: str, path: str, get: Callable[[str], bytes], *, is_package: bool = False) -> bool:
        try:
            stamp, read = _stamp(path), get(path)
        except OSError:
            return False
        if path.startswith(_ROOT):
            stamps[path] = stamp
        index[name] = (path, is_package, len(content), len(content) + len(read))
        content.extend(read)
        return True

    folders = [f"{_ROOT}/{name}" for name in _FOLDERS]
    for folder in folders:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                folders += [] if entry.name in _WITHOUT else [entry.path]
            elif entry.name.endswith(".py"):
                name = entry.path[len(_ROOT) + 1 : -3].replace("/", ".")
                add(name.removesuffix(".__init__"), entry.path, _code, is_package=name.endswith(".__init__"))
            elif entry.name.endswith(".tsv"):
                add(entry.path, entry.path, _read)
    for name in STANDARD:
        path = f"{_LIBRARY}/{name.replace('.', '/')}"
        add(name, f"{path}.py", _code) or add(name, f"{path}/__init__.py", _code, is_package=True)
    return stamps, index, bytes(content)


def _import(names: Iterable[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except ImportError:
            continue


def _stamp(path: str) -> tuple[int, int]:
    """What changes if the file does.  Raises OSError."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _code(source: str) -> bytes:
    """A compiled module if it is there and up to date, else its source.  Raises OSError."""
    folder, _, file = source.rpartition("/")
    try:
        compiled = _read(f"{folder}/__pycache__/{file[:-3]}.{sys.implementation.cache_tag}.pyc")
    except OSError:
        return _read(source)
    flags, *stamp = (int.from_bytes(compiled[at : at + 4], "little") for at in (4, 8, 12))
    nanoseconds, size = _stamp(source)
    # importlib/_bootstrap_external.py: validated by time and size, unless by a hash that is checked or trusted.
    fits = stamp == [nanoseconds // 10**9 & 0xFFFFFFFF, size & 0xFFFFFFFF] if flags == 0 else flags == 1
    return compiled if fits and compiled.startswith(MAGIC_NUMBER) else _read(source)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
