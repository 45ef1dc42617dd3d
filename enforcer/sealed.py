"""Code that is kept in one file, read at once, and imported from memory.

Importing what describes a violation takes 60 ms, too long for every start, and later the program might have written the files
that would be imported.  So the helper knows digests of these modules before, and once it is sealed it imports nothing else.

Reading a hundred files takes 3 ms, and importing what each start needs takes 2 ms more from files than from memory.  So all
of it is kept in one file (`enforcer.kept`), in the folder where Python keeps our compiled modules.  That file is used if size
and time of change of every source are the same, as Python does with compiled modules.  Its beginning, what every start needs,
is read at once; it stays open, and the rest is read where it is needed.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, ExtensionFileLoader
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    Index = dict[str, tuple[str, bool, bytes, int, int]]
    """By the name of a module, or the path of a table: path, whether it is a package, the digest of its content, which is
    compressed then, or b"", and where that begins and ends."""
    Stamps = dict[str, tuple[int, int]]
    """Of every file of ours that a start, or compiling a policy, may import or read, and of their folders (`stamp`)."""

EXTENSION = ".so"
"""The end of the name of a shared library, which is loaded from its file, but not searched for."""
HEAD = 16
"""Bytes before the code of a compiled module (importlib/_bootstrap_external.py, _code_to_timestamp_pyc)."""
KEPT = f"{os.path.dirname(__file__)}/__pycache__/sealed.{sys.implementation.cache_tag}.code"
"""Twice four bytes, the length of the head, and of that with what every start needs; the head, as marshal writes it: Python's
version, stamps, index, and the length of the content, which may be cut where a machine went down; the content."""
LOADED = KEPT.replace("sealed.", "loaded.")
"""The same for `learn`: what its runs have loaded (`callfence.shared.loaded`)."""


class Loader:
    """Finds and loads modules whose code is in memory."""

    def __init__(
        self, stamps: Stamps, index: Index, content: bytes, start: int = 0, file: str = KEPT, descriptor: int = -1
    ) -> None:
        """`start`: where in `content` the index counts from; `descriptor`: of the file, whose beginning `content` is, or -1."""
        self.file = file
        self.stamps = stamps
        self.index = index
        self.descriptor = descriptor
        self._content = content
        self._start = start
        self._is_sealed = False

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.index:
            return None
        source, is_package, *_ = self.index[name]
        loader = ExtensionFileLoader(name, source) if source.endswith(EXTENSION) else self
        spec = ModuleSpec(name, loader, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location, spec.cached = True, source  # finding out where it would be cached takes 5 us
        if is_package:  # not all of it need be here
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """The default one."""

    def exec_module(self, module: ModuleType) -> None:
        content = self._of(module.__name__)
        source = self.index[module.__name__][0]
        is_compiled = content.startswith(MAGIC_NUMBER)
        code = loads(content[HEAD:]) if is_compiled else compile(content, source, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def get_data(self, path: str) -> bytes:
        """The content of a table.  Raises OSError."""
        if path in self.index:
            return self._of(path)
        if self._is_sealed:
            raise FileNotFoundError(path)
        return content(path)

    def seal(self) -> None:
        """From now on, this process imports only what the index has."""
        self._is_sealed = True
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, self]
        sys.path_hooks.clear()

    def _of(self, name: str) -> bytes:
        """Raises ImportError if the file has been changed meanwhile."""
        _, _, digest_, begin, end = self.index[name]
        begin, end = begin + self._start, end + self._start
        content = self._content[begin:end]
        if not digest_:
            return content
        from zlib import decompress  # loaded by `enforcer.kept`, long before, like what makes digests

        if self.descriptor >= 0:
            content = os.pread(self.descriptor, end - begin, begin)
            if digest(content) != digest_:
                raise ImportError(f"{self.file} has been changed", name=name)
        return decompress(content)


preferred: list[str] = []
"""The files that `prefer` was given."""


def prefer(file: str = KEPT) -> None:
    """Have this process import from memory what there is, and everything else from files."""
    preferred.append(file)
    if loader := kept(file):
        sys.meta_path.insert(0, loader)


def kept(file: str = KEPT) -> Loader | None:
    """What `prefer` has read, or what is in the file if it is up to date."""
    for finder in sys.meta_path:
        if isinstance(finder, Loader) and finder.file == file:
            return finder
    descriptor = -1
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        lengths = os.pread(descriptor, 8, 0)
        end, first = 8 + int.from_bytes(lengths[:4], "little"), int.from_bytes(lengths[4:], "little")
        found = os.pread(descriptor, first, 0)
        version, stamps, index, size = loads(found[8:end])
        if (
            version == sys.version
            and os.fstat(descriptor).st_size == end + size
            and all(stamp(path) == known for path, known in stamps.items())
        ):
            loader = Loader(stamps, index, found, end, file, descriptor)
            descriptor = -1
            return loader
    except (OSError, ValueError, EOFError, TypeError):
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def stamp(path: str) -> tuple[int, int]:
    """What changes if the file does.  Raises OSError."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def content(path: str) -> bytes:
    """Of a file.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def digest(content: bytes) -> bytes:
    """16 bytes that no other content has."""
    from _blake2 import blake2b

    return blake2b(content, digest_size=16).digest()
