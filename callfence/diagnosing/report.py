"""The report of `callfence doctor --report`: Markdown to paste into an issue, without secrets and names of this machine."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from callfence.diagnosing import masking
from callfence.policygen.errors import PolicyError
from callfence.policygen.language import LANGUAGE_VERSION
from callfence.policygen.language.document import parse
from callfence.policygen.model import IMPLIED
from callfence.shared.inputs import content
from callfence.shared.text import cell, plural, printable
from callfence.start import __version__
from callfence.tracer.abi import NATIVE, table
from callfence.tracer.errors import UserError

PACKAGES: Final = (
    "rich", "python-ptrace", "pyseccomp", "PyYAML", "pyelftools", "mcp", "opentelemetry-sdk", "duckdb", "pyarrow",
)  # fmt: skip
VARIABLES: Final = (
    "CALLFENCE_SH", "CALLFENCE_POLICIES", "CALLFENCE_LOG", "CALLFENCE_IMAGE", "CALLFENCE_POD_NAME", "XDG_CACHE_HOME", "TMPDIR",
    "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "LC_ALL", "LANG",
)  # fmt: skip
"""Variables that change what callfence does.  Whether they are set is reported, never their values."""
MAX_ATTACHED: Final = 50_000
"""The most characters of attached files: issues of GitHub take 65,536 in all."""


def versions() -> str:
    """Return the versions of callfence, of the policy language, of the table of calls and of the implied set."""
    major, minor = table(NATIVE).versions()[-1]
    tables = f"calls up to Linux {major}.{minor}, implied set {IMPLIED[-1]}"
    return f"callfence {__version__} (policy language {LANGUAGE_VERSION}, {tables})"


def report(checks: Iterable[str], attached: Sequence[str], *, masks: bool) -> str:
    """Return the report.  `checks`: the lines of `callfence doctor`; `attached`: names of policies and logs, which are added to
    it without secrets and, with `masks`, without names.  Raises UserError for other files, OSError."""
    own = masking.own_names()
    rows = "".join(f"| {name} | {cell(value)} |\n" for name, value in _facts())
    lines = [masking.without_places(masking.without_secrets(line), own) for line in checks]
    parts = [f"### callfence doctor --report\n\n| | |\n|---|---|\n{rows}", f"### Checks\n\n{_block(lines)}"]
    room = MAX_ATTACHED
    for name in attached:
        kind, text = _attached(name)
        text = masking.without_secrets(text)
        lines = (masking.without_names(text, own) if masks else text).splitlines()
        shown = _fitting(lines, room)
        room -= sum(map(len, shown))
        rest = f", {plural(len(lines) - len(shown), 'line')} left out" if len(shown) < len(lines) else ""
        parts.append(f"### {kind} ({plural(len(lines), 'line')}{rest})\n\n{_block(shown)}")
    return "\n".join(parts)


def _facts() -> list[tuple[str, str]]:
    system, libc = os.uname(), " ".join(platform.libc_ver())
    packages = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return [
        ("versions", versions()),
        ("installed", _installation()),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("packages", ", ".join(packages)),
        ("kernel", f"{system.sysname} {system.release}"),
        ("architecture", system.machine),
        ("distribution", _distribution()),
        ("C library", libc or "not glibc"),
        ("libseccomp", _libseccomp()),
        ("security modules", _read("/sys/kernel/security/lsm")),
        ("user", "root" if os.geteuid() == 0 else "not root"),
        ("variables that are set", ", ".join(name for name in VARIABLES if name in os.environ) or "none of those that matter"),
    ]


def _installation() -> str:
    try:
        distribution = metadata.distribution("callfence")
        installer = (distribution.read_text("INSTALLER") or "unknown").strip()
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError, OSError):
        return "not installed: run from its source"
    owner = Path(__file__).stat().st_uid
    return ", ".join([
        f"by {installer if installer.isalnum() else 'unknown'}",
        *["editable"] * bool(source.get("dir_info", {}).get("editable")),
        "in a virtual environment" if sys.prefix != sys.base_prefix else "outside of a virtual environment",
        "its files belong to " + ("root" if owner == 0 else "this user" if owner == os.geteuid() else "another user"),
    ])  # fmt: skip


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _libseccomp() -> str:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)  # struct scmp_version (seccomp.h)
        return ".".join(map(str, library.seccomp_version().contents))
    except (OSError, AttributeError):
        return "none"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _attached(name: str) -> tuple[str, str]:
    """Return what a file is, "Policy" or "Log", and its text.  Raises UserError if it is neither, OSError."""
    text = content(name).decode(errors="backslashreplace")
    if text.startswith("{"):
        try:
            is_log = all("event" in json.loads(line) for line in text.splitlines() if line.strip())
        except (ValueError, TypeError, RecursionError):
            is_log = False
        if is_log:
            return "Log", text
    try:
        parse(text, name)
    except PolicyError as error:
        raise UserError(f"{name} is neither a policy nor a log of enforce, so it is not attached: {error}") from error
    return "Policy", text


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    fitting = []
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        fitting.append(line)
    return fitting


def _block(lines: Iterable[str]) -> str:
    """Return lines as a fenced block of code, which nothing in them ends (CommonMark 4.5)."""
    text = "\n".join(map(printable, lines))
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}text\n{text}\n{fence}\n"
