"""`callfence merge`: merge recordings or policies of several runs, machines or branches, or narrow a policy by another, or
intersect two."""

from __future__ import annotations

import argparse
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.shared.files import put
from callfence.shared.inputs import document, print_error, run_command
from callfence.shared.options import Parser
from policygen.comparing.compare import Verdict, compare
from policygen.comparing.reducing import intersect, reduce
from policygen.language.document import Document, PolicyError, included, parse, read_text
from policygen.language.lexer import decode
from policygen.merging import merge_documents, unite, with_markers
from policygen.phases import names_of
from policygen.recording import atomic, many, recording_file
from policygen.recording.many import merge
from policygen.sets.join import JoinError
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policygen.model import Policy

DESCRIPTION = """\
Merge recordings into one recording, or policies into one policy.  A merged recording has every run of its inputs once; their
order does not matter.  A merged policy allows what any input allows, in each phase what one without that phase allows at all,
and has the comments of all.  For a FOLDER, its *.policy files are merged or, if OUT is a recording, its *.rec and
.callfence/*.rec files.

With --narrow-by BY, print FILE narrowed by BY: of a system call that BY names, only what both policies allow; of any other,
what FILE allows.  With --intersect BASE, print what both FILE and BASE allow, and nothing else."""

DRIVER = """run as git's merge driver (set up by `callfence git-setup`): merge the changes of both branches since BASE into
OURS; NAME is the file's path in the repository"""


USAGE = (
    "callfence merge -o OUT FILE|FOLDER ...",
    "callfence merge --narrow-by BY [-o OUT] FILE",
    "callfence merge --intersect BASE [-o OUT] FILE",
    "callfence merge --driver BASE OURS THEIRS [NAME]",
)


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence merge",
        usage="\n       ".join(USAGE),
        description=DESCRIPTION,
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help="NAME.rec or NAME.policy; may be one of the inputs")
    narrow = "print FILE, a policy, without what the policy BY denies of the calls that BY names"
    parser.add_argument("--narrow-by", metavar="BY", help=narrow)
    parser.add_argument("--intersect", metavar="BASE", help="print what both the policies FILE and BASE allow")
    parser.add_argument("--driver", action="store_true", help=DRIVER)
    parser.add_argument("inputs", metavar="FILE", type=Path, nargs="+", help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str]) -> int:
    """Run `merge`.  Return 0; or 1 if --driver left conflicts in the merged file; or 2 if an input cannot be read or merged."""
    command = parser()
    options = command.parse_args(arguments)
    for option, other, work in (("--narrow-by", options.narrow_by, reduce), ("--intersect", options.intersect, intersect)):
        if other is not None:
            if options.driver or len(options.inputs) > 1 or None not in (options.narrow_by, options.intersect):
                command.error(f"{option} takes one FILE, and excludes --driver, --narrow-by and --intersect")
            return run_command("merge", partial(_narrow, str(options.inputs[0]), other, work, options.output))
    if options.driver == (options.output is not None):
        command.error("give one of -o OUT, --narrow-by BY, --intersect BASE and --driver")
    if options.driver and len(options.inputs) not in (3, 4):
        command.error("--driver takes BASE OURS THEIRS, and optionally NAME")
    return run_command("merge", lambda: _drive(options.inputs) if options.driver else _fold(options.output, options.inputs))


def _narrow(name: str, by: str, work: Callable[[Policy, Policy], Policy], output: Path | None) -> int:
    """Write the policy that `work` makes of the policies `name` and `by`, which allows no more, and return 0.  Raises UserError
    or OSError, and has written nothing then."""
    before = document(name)
    try:
        policy = work(before.policy, document(by).policy)
    except ValueError as error:
        raise UserError(str(error)) from error
    if compare(before.policy, policy).verdict in (Verdict.WIDER, Verdict.INCOMPARABLE):
        raise AssertionError("the narrowed policy allows more than it did")
    put(output, before.with_policy(policy).inlined().text())
    return 0


def _fold(output: Path, inputs: list[Path]) -> int:
    """Merge recordings or policies into `output`, and return 0.  Raises UserError, JoinError, PolicyError, RecordingError or
    OSError, and has written nothing then."""
    recordings = output.suffix == ".rec"
    files = [file for path in inputs for file in _files(path, ".rec" if recordings else ".policy")]
    if not files:
        raise JoinError(f"there is no {'recording' if recordings else 'policy'} in {', '.join(map(str, inputs))}")
    output.parent.mkdir(parents=True, exist_ok=True)
    if recordings:
        many.merge_files(output, files)
        return 0
    policies = [_policy(file) for file in files]
    whole = policies[0]
    for file, policy in zip(files[1:], policies[1:], strict=True):
        try:
            whole = unite(whole, policy)
        except JoinError as error:
            raise JoinError(f"{file} cannot be merged with the files before it: {error}") from None
    atomic.write(output, whole.text().encode())
    _print_phases(files, policies, names_of(whole.policy))
    return 0


def _print_phases(files: list[Path], policies: list[Document], remaining: Sequence[str]) -> None:
    """Print which policies lack a phase of another one, and which phases the merged policy has lost by that."""
    for name in names_of(*(each.policy for each in policies)):
        lacking = [str(file) for file, each in zip(files, policies, strict=True) if name not in names_of(each.policy)]
        if lacking:
            what = f"{', '.join(lacking)} without phase {name}: what is allowed there stays allowed in it"
            gone = "" if name in remaining else "; nothing ends with it any more, so it is gone"
            print_error(f"callfence merge: {what}{gone} (merge the recordings and import them to keep it)")


def _policy(file: Path) -> Document:
    text = read_text(str(file))
    if recording_file.is_recording(text.encode()):
        raise UserError(f"{file} is a recording, and cannot be merged into a policy: use -o NAME.rec")
    return parse(text, str(file), read=included(str(file))).inlined()


def _files(path: Path, suffix: str) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder in (path, path / ".callfence"):
        if folder.is_dir():
            yield from sorted(file for file in folder.iterdir() if file.suffix == suffix and file.is_file())


def _drive(inputs: list[Path]) -> int:
    """Merge into OURS, with conflict markers for what cannot be merged; return 1 if there are any, else 0."""
    base, ours, theirs = inputs[:3]
    name = inputs[3] if len(inputs) > 3 else ours
    contents = [path.read_bytes() for path in (base, ours, theirs)]
    if recording_file.is_recording(contents[1]):
        recording_file.save(ours, merge(*(recording_file.parse(content, str(name)) for content in contents[1:])))
        return 0
    try:
        documents = [_parsed(content, name, path) for content, path in zip(contents, (base, ours, theirs), strict=True)]
    except PolicyError as error:
        print_error(str(error))
        return _merge_lines(name, base, ours, theirs)
    merged, conflicts = merge_documents(*documents)
    text = with_markers(merged, conflicts)
    atomic.write(ours, text.encode())
    for conflict in conflicts:
        print_error(f"{name}: conflict in {conflict.name}: {conflict.why}")
    return int(bool(conflicts))


def _parsed(content: bytes, name: Path, path: Path) -> Document:
    """Parse the version in `path` as if it were the file `name`, so that its includes are found; errors name the version."""
    text = decode(content, str(path))
    try:
        return parse(text, str(name), read=included(str(name)))
    except PolicyError as error:
        if error.filename == str(name):
            error.filename = f"{name} ({path.name})"
        raise


def _merge_lines(name: Path, base: Path, ours: Path, theirs: Path) -> int:
    """Merge versions of which one cannot be parsed by lines, into `ours`.  Return 1, so that git reports a conflict."""
    print_error(f"callfence merge: {name}: a version cannot be parsed, so lines are merged, not meanings: check the result")
    subprocess.run(["git", "merge-file", "--", str(ours), str(base), str(theirs)], check=False)
    return 1
