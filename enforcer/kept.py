"""The one file that `enforcer.sealed` reads: which modules and tables are in it, and how it is written."""

from __future__ import annotations

import os
import sys
import zlib
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import dumps

from enforcer import sealed
from enforcer.sealed import Loader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enforcer.sealed import Index, Stamps

_ROOT = os.path.dirname(os.path.dirname(__file__))
_LIBRARY = os.path.dirname(os.__file__)

_KNOWN = ((3, 11), (3, 12), (3, 13))
"""Versions of Python whose modules are in _STANDARD."""
_LATER = (
    "enforcer.reporting.report", "enforcer.reporting.instead", "enforcer.files.unreachable", "policygen.language.parser",
)
"""What the helper imports at the first violation, with all that it imports."""
_EXTENSIONS = ("_struct", *(("_typing",) if sys.version_info < (3, 13) else ()))
"""Modules of Python's library that may be compiled ones: imported at once."""
_FOLDERS = ("callfence/enforcing", "enforcer", "policygen", "tracer/abi", "tracer/unwind")
"""Folders of ours, and those in them: what a start imports, what describes a violation, and what compiles a policy."""
_WITHOUT = {"completeness", "formats", "merging", "review", "__pycache__"}
"""Folders in those of which none of that imports anything (tests/enforcer/test_sealed.py)."""
_FILES = ("tracer/errors.py", "tracer/linux.py", "tracer/named.py", "tracer/pids.py", "tracer/proc.py", "tracer/stops.py")
_STANDARD = (
    "bisect", "collections", "collections.abc", "contextlib", "copy", "copyreg", "enum", "functools", "importlib",
    "importlib.machinery", "json", "json.decoder", "json.encoder", "json.scanner", "keyword", "operator", "re", "re._casefix",
    "re._compiler", "re._constants", "re._parser", "reprlib", "shlex", "signal", "struct", "types", "typing", "warnings",
    "weakref", "_weakrefset",
)
"""Modules of Python's library that they import, in some version or other."""
_AT_ONCE = (
    "callfence.", "enforcer.", "policygen", "policygen.reading", "struct", "tracer.errors", "tracer.linux", "tracer.named",
    "tracer.proc", "tracer.stops", "types",
)  # fmt: skip
"""What each start imports: modules, and packages with all that is in them."""
_PACKAGES = tuple(name for name in _AT_ONCE if name.endswith("."))
_SELDOM = (
    "enforcer.arming.detour", "enforcer.arming.early", "enforcer.arming.entering", "enforcer.arming.phases",
    "enforcer.arming.plan", "enforcer.arming.processes", "enforcer.arming.surroundings",
    "enforcer.files.granted", "enforcer.files.guard", "enforcer.files.landlock", "enforcer.files.listening",
    "enforcer.files.lookup", "enforcer.files.unreachable", "enforcer.reporting.instead",
    "enforcer.reporting.report", "enforcer.reporting.repeated", "enforcer.reporting.verdict", "enforcer.reporting.violation",
)
"""Of those, what few starts import."""


def read() -> Loader:
    """Read everything that the helper needs later."""
    if sys.version_info[:2] not in _KNOWN:
        _import(_LATER)  # 60 ms
    _import((*_EXTENSIONS, "_blake2"))
    return sealed.kept() or Loader(*_collected())


def stamps() -> Stamps:
    """What was compared with the files when this process started, or else what they are now."""
    loader = sealed.kept()
    return loader.stamps if loader else _stamps()


def _collected() -> tuple[Stamps, Index, bytes]:
    """Everything that there is; it is written into the file, too, if this user may."""
    keeps = may_keep()
    known = _stamps()
    index, content = _contents(known, compiles=keeps)
    if keeps:
        keep(sealed.KEPT, known, index, content)
    return known, index, content


def _stamps() -> Stamps:
    """Python's own modules change with its version and its folder; a new file of ours changes its folder."""
    found = [_LIBRARY, *(f"{_ROOT}/{name}" for name in _FILES)]
    folders = [f"{_ROOT}/{name}" for name in _FOLDERS]
    for folder in folders:
        found.append(folder)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                folders += [] if entry.name in _WITHOUT else [entry.path]
            elif entry.name.endswith((".py", ".tsv")):
                found.append(entry.path)
    return {path: sealed.stamp(path) for path in found}


def _contents(known: Stamps, *, compiles: bool) -> tuple[Index, bytes]:
    """A module that Python has not compiled is compiled, or else kept as source: then it takes time when it is imported."""
    index: Index = {}
    plain, packed = bytearray(), bytearray()

    def code(path: str) -> bytes:
        return code_of(path, compiles=compiles)

    def add(name: str, path: str, get: Callable[[str], bytes], *, is_package: bool = False) -> bool:
        try:
            read = get(path)
        except OSError:
            return False
        is_needed = (name in _AT_ONCE or name.startswith(_PACKAGES)) and name not in _SELDOM
        content = plain if is_needed else packed
        part = read if is_needed else zlib.compress(read)
        index[name] = (path, is_package, b"" if is_needed else sealed.digest(part), len(content), len(content) + len(part))
        content.extend(part)
        return True

    for path in known:
        place = path.removeprefix(f"{_ROOT}/")
        if place.endswith(".tsv"):
            add(path, path, sealed.content)
        elif place.endswith(".py"):
            name = place[:-3].replace("/", ".")
            add(name.removesuffix(".__init__"), path, code, is_package=name.endswith(".__init__"))
    for name in _STANDARD:
        path = f"{_LIBRARY}/{name.replace('.', '/')}"
        add(name, f"{path}.py", code) or add(name, f"{path}/__init__.py", code, is_package=True)
    shift = len(plain)
    for name, (path, is_package, digest, begin, end) in index.items():
        if digest:
            index[name] = (path, is_package, digest, begin + shift, end + shift)
    return index, bytes(plain + packed)


def code_of(source: str, *, compiles: bool = True) -> bytes:
    """A compiled module: that of Python if it is there and up to date, else one made of the source, or the source.  Raises
    OSError."""
    found = _compiled_or_source(source)
    if compiles and not found.startswith(MAGIC_NUMBER):
        found = MAGIC_NUMBER.ljust(sealed.HEAD, b"\0") + dumps(compile(found, source, "exec", dont_inherit=True))
    return found


def _compiled_or_source(source: str) -> bytes:
    folder, _, file = source.rpartition("/")
    try:
        compiled = sealed.content(f"{folder}/__pycache__/{file[:-3]}.{sys.implementation.cache_tag}.pyc")
    except OSError:
        return sealed.content(source)
    flags, *stamp = (int.from_bytes(compiled[at : at + 4], "little") for at in (4, 8, 12))
    nanoseconds, size = sealed.stamp(source)
    # importlib/_bootstrap_external.py: validated by time and size, unless by a hash that is checked or trusted.
    fits = stamp == [nanoseconds // 10**9 & 0xFFFFFFFF, size & 0xFFFFFFFF] if flags == 0 else flags == 1
    return compiled if fits and compiled.startswith(MAGIC_NUMBER) else sealed.content(source)


def may_keep() -> bool:
    """Whether this user may write the file, and wants compiled modules to be kept."""
    return not sys.dont_write_bytecode and os.access(os.path.dirname(sealed.KEPT), os.W_OK)


def keep(file: str, known: Stamps, index: Index, content: bytes) -> None:
    """Write what `sealed.kept` reads, if that is possible."""
    head = dumps((sys.version, known, index, len(content)))
    first = 8 + len(head) + max((end for _, _, digest, _, end in index.values() if not digest), default=0)
    temporary = f"{file}.{os.getpid()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    try:
        with open(descriptor, "wb") as kept:
            kept.write(len(head).to_bytes(4, "little") + first.to_bytes(4, "little") + head + content)
        os.rename(temporary, file)
    except OSError:  # a full disk
        os.unlink(temporary)


def _import(names: Iterable[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except ImportError:
            continue
