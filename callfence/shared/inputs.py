"""Read the files given to commands, or earlier versions of them from git, and report what is wrong with them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable

from callfence.policygen import reading
from callfence.policygen.errors import did_you_mean
from callfence.policygen.filter import bpf
from callfence.policygen.grants import NOT_CONFINED
from callfence.policygen.language.document import Document, PolicyError, included, newest_table, parse
from callfence.policygen.language.lexer import decode
from callfence.policygen.model import Policy
from callfence.policygen.recording.recording_file import RecordingError
from callfence.shared.text import printable
from callfence.tracer.abi import Arch
from callfence.tracer.errors import CallfenceError, UserError


def content(name: str, limit: int = reading.MAX_SIZE, *, is_text: bool = False) -> bytes:
    """Return the content of the regular file `name`, or of standard input if that is `-`; with `is_text` as `reading.beginning`
    does.  Raises OSError, with the name as its `filename`, if it cannot be read or is a file of more than `limit` bytes;
    UserError if standard input has more."""
    if name != "-":
        return reading.read(name, limit, is_text=is_text)
    try:
        data = reading.beginning(sys.stdin.buffer, limit + 1, is_text=is_text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    if len(data) > limit:
        raise UserError(f"-: standard input has more than {limit >> 20} MiB")
    return data


def document(name: str, data: bytes | None = None) -> Document:
    """Return the policy in a file.  A container profile (JSON) is converted, and a line about that is printed on standard
    error.

    `data` is the content if it has been read already.  Raises UserError if the content is neither a policy nor a profile,
    OSError if it cannot be read."""
    if data is None:
        data = content(name)
    shown = "<stdin>" if name == "-" else name
    if data.lstrip()[:1] == b"{":  # no policy begins so
        from callfence.shared.profiles import profile

        return profile(printable(shown), data)
    return parse(decode(data, shown), shown, read=included(shown))


def program(name: str, data: bytes | None = None) -> bytes:
    """Return the filter in a file: an array of struct sock_filter, as the kernel takes it.  `data` is the content if it has
    been read already.  Raises UserError if the kernel would not load the filter, OSError if the file cannot be read."""
    if data is None:
        data = content(name)
    try:
        bpf.decode(data)
    except bpf.InvalidProgramError as error:
        raise UserError(f"{name}: the kernel would not load this filter: {error}") from error
    return data


def is_program(data: bytes) -> bool:
    """Return whether a file's content is a filter: every filter contains NUL bytes, and no policy does."""
    return b"\0" in data


def run_command(command: str, work: Callable[[], int]) -> int:
    """Call `work`, and return its status; if it raises CallfenceError or OSError, print that for `command`, and return 2."""
    try:
        return work()
    except (CallfenceError, OSError) as error:
        print_error(message(command, error))
    return 2


def message(command: str, error: CallfenceError | OSError) -> str:
    """Return the message that `command` prints for an error: its name first, unless the error begins with a position."""
    if isinstance(error, OSError):
        name = error.filename
        if name is None and error.errno in (errno.EBADF, errno.ENOSPC):
            name = "standard output"  # files are named (`policygen.recording.atomic`)
        shown = "" if name is None else f"{printable(str(name)) or repr(name)}: "
        return f"callfence {command}: {shown}{error.strerror}{_similar(name) if error.errno == errno.ENOENT else ''}"
    text = str(error)
    return text if "\n" in text or isinstance(error, (PolicyError, RecordingError)) else f"callfence {command}: {text}"


def _similar(name: object) -> str:
    """Return a question after policies with similar names in the same folder, for a policy that is not there; else ""."""
    folder, file = os.path.split(os.fsdecode(name)) if isinstance(name, (str, bytes)) else ("", "")
    try:
        entries = os.listdir(folder or ".") if file.endswith(".policy") else []
    except OSError:
        return ""
    question = did_you_mean(file, [entry for entry in entries if entry.endswith(".policy")])
    return f"; {printable(question)}" if question else ""


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output, coloured if that is a terminal and NO_COLOR is not set.  Control characters and line ends
    in them, which names of files can have, are escaped."""
    lines = map(printable, lines)
    if sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        from callfence.shared import terminal

        terminal.print_lines(lines, sys.stdout)
    else:
        for line in lines:
            print(line)


def print_error(message: str) -> None:
    """Print a message on standard error, with control characters escaped."""
    print("\n".join(map(printable, message.split("\n"))), file=sys.stderr)


def parse_entries(text: str, arch: Arch) -> Policy:
    """Parse entries of the policy language into a policy.  They are for `arch` unless the text begins with an `arch` line.
    Raises PolicyError for a mistake in the text, and if it has no entry."""
    head = newest_table() + ("" if text.lstrip().startswith("arch ") else f"arch {arch}\n")
    try:
        policy = parse(head + text, "LINE").policy
    except PolicyError as error:
        error.line -= head.count("\n")
        raise
    if not any(policy.entries.values()) and policy.files == NOT_CONFINED:
        raise PolicyError("LINE", 1, 1, "no entry is given", text, "NAME: allow, or NAME: CONDITION")
    return policy


def document_at(revision: str, name: str) -> Document:
    """Return the policy in a file, and in the files that it includes, as they are in a git revision.  If the revision does not
    have the file, return an empty policy.

    A relative `name` is relative to the current folder.  Raises UserError if git does not know the revision or the folder, or
    the policy has a mistake."""
    if revision.startswith("-"):
        raise UserError(f"{revision} is not a git revision")
    if not git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"):
        raise UserError(
            f"{revision} is not a revision of a git repository in the current folder; "
            "fetch it, or commit the policy first, or compare with a file (diff OLD NEW; review and lint: --against OLD)"
        )
    listed = git("ls-tree", "--name-only", revision, "--", f"./{os.path.relpath(name)}")
    if listed is None:
        raise UserError(f"{name} is not in the git repository of the current folder")

    def read(path: str) -> str:
        content = git("show", f"{revision}:./{os.path.relpath(path)}")
        if content is None:
            raise FileNotFoundError(2, f"the file is not in revision {revision}", path)
        return decode(content, path)

    try:
        return parse(read(name) if listed else "", name, read=read)
    except PolicyError as error:
        error.filename = f"{revision}:{error.filename}"
        raise


_NONE_WITHIN = ("-c", "safe.bareRepository=explicit", "-c", "core.fsmonitor=false")
"""A change can have a bare repository among its files, whose configuration names programs (git-config(1))."""


def git(*arguments: str) -> bytes | None:
    """Return what git prints; None if it fails.  Raises UserError if git is not installed."""
    import subprocess  # most commands ask git nothing

    try:
        done = subprocess.run(["git", *_NONE_WITHIN, *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("--git needs git, which is not installed") from None
    return done.stdout if done.returncode == 0 else None
