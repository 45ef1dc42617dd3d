"""`callfence merge`: merge recordings or policies of several runs, machines or branches, or narrow a policy by another, or
intersect two."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from callfence.judging.differences import call_name, file_lines, is_whole
from callfence.policygen.comparing.compare import Change, Comparison, compare
from callfence.policygen.comparing.reducing import exceeds, intersect, reduce
from callfence.policygen.errors import did_you_mean
from callfence.policygen.evaluate import unnamed
from callfence.policygen.files.algebra import differences, united
from callfence.policygen.grants import written
from callfence.policygen.implied.resolve import Resolved, resolved_at
from callfence.policygen.language.document import Document, PolicyError, included, parse, read_text
from callfence.policygen.language.lexer import decode
from callfence.policygen.merging import merge_documents, unite, with_markers
from callfence.policygen.model import Always, Entry, Policy
from callfence.policygen.phases import START, names_of
from callfence.policygen.recording import atomic, many, recording_file
from callfence.policygen.recording.many import merge
from callfence.policygen.sets.join import JoinError
from callfence.shared.files import put
from callfence.shared.inputs import document, print_error, print_lines, run_command
from callfence.shared.options import Parser
from callfence.shared.text import on_one_line
from callfence.tracer.abi import Arch, table
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Merge recordings into one recording, or policies into one policy.  A merged recording has every run of its inputs once; their
order does not matter.  A merged policy allows what any input allows, in each phase what one without that phase allows at all,
and has the comments of all.  For a FOLDER, its *.policy files are merged or, if OUT is a recording, its *.rec and
.callfence/*.rec files.

With --narrow-by BY, print FILE narrowed by BY: of a system call that BY names, only what both policies allow; of any other,
what FILE allows.  With --intersect BASE, print what both FILE and BASE allow, and nothing else; standard error lists what BASE
takes from FILE.  With --why CALL, print instead what each of them says of a call, and both.  FILE, BASE and BY may be container
profiles (JSON)."""

DRIVER = """run as git's merge driver (set up by `callfence git-setup`): merge the changes of both branches since BASE into
OURS; NAME is the file's path in the repository"""


USAGE = (
    "callfence merge -o OUT FILE|FOLDER ...",
    "callfence merge --narrow-by BY [-o OUT] FILE",
    "callfence merge --intersect BASE [-o OUT | --why CALL] FILE",
    "callfence merge --driver BASE OURS THEIRS [NAME]",
)


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence merge", usage="\n       ".join(USAGE), description=DESCRIPTION)
    output = "NAME.rec or NAME.policy, which may be one of the inputs; or -: a policy on standard output"
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help=output)
    narrow = "print FILE, a policy, without what the policy BY denies of the calls that BY names"
    parser.add_argument("--narrow-by", metavar="BY", help=narrow)
    parser.add_argument("--intersect", metavar="BASE", help="print what both the policies FILE and BASE allow")
    parser.add_argument("--why", metavar="CALL", help="with --intersect: print what FILE, BASE and both say of a system call")
    parser.add_argument("--driver", action="store_true", help=DRIVER)
    parser.add_argument("inputs", metavar="FILE", type=Path, nargs="+", help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str]) -> int:
    """Run `merge`.  Return 0; or 1 if --driver left conflicts in the merged file; or 2 if an input cannot be read or merged."""
    command = parser()
    options = command.parse_args(arguments)
    if options.why is not None and (options.intersect is None or options.output):
        command.error("--why requires --intersect, and excludes -o")
    for option, other, work in (("--narrow-by", options.narrow_by, reduce), ("--intersect", options.intersect, intersect)):
        if other is not None:
            if options.driver or len(options.inputs) > 1 or None not in (options.narrow_by, options.intersect):
                command.error(f"{option} takes one FILE, and excludes --driver, --narrow-by and --intersect")
            return run_command("merge", partial(_narrow, str(options.inputs[0]), other, work, options))
    if options.driver == (options.output is not None):
        command.error("give one of -o OUT, --narrow-by BY, --intersect BASE and --driver")
    if options.driver and len(options.inputs) not in (3, 4):
        command.error("--driver takes BASE OURS THEIRS, and optionally NAME")
    return run_command("merge", lambda: _drive(options.inputs) if options.driver else _fold(options.output, options.inputs))


def _narrow(name: str, by: str, work: Callable[[Policy, Policy], Policy], options: argparse.Namespace) -> int:
    """Write the policy that `work` makes of the policies `name` and `by`, which allows no more, and return 0.  Raises UserError
    or OSError, and has written nothing then."""
    before, other = document(name), document(by)
    try:
        policy = work(before.policy, other.policy)
    except ValueError as error:
        raise UserError(str(error)) from error
    limits = (before.policy, other.policy) if work is intersect else (before.policy,)
    if any(exceeds(policy, limit) for limit in limits):
        raise AssertionError("the narrowed policy allows more than it did")
    if options.why is not None:
        print_lines(_of_call(options.why, {name: before.policy, by: other.policy, "both": policy}))
        return 0
    if work is intersect:
        for line in _taken(compare(before.policy, policy), name, by):
            print_error(f"callfence merge: {line}")
    text = before.with_policy(policy).inlined().text()
    try:
        parse(text)
    except PolicyError as error:  # a phase that denies the calls at which it begins
        raise UserError(f"no policy says what is left of the phases: {error}") from error
    put(options.output, text)
    return 0


def _taken(comparison: Comparison, name: str, base: str) -> Iterator[str]:
    """Yield what the first policy allows and its intersection with BASE does not: calls, then files, ports and hosts."""
    less = [difference for difference in comparison.differences if difference.change is Change.LESS]
    whole, in_part = ([call_name(each) for each in less if is_whole(each) is kind] for kind in (True, False))
    for what, names in (("denies", whole), ("denies for some arguments", in_part)):
        if names:
            yield f"{base} {what}, which {name} allows: {', '.join(dict.fromkeys(names))}"
    for line in file_lines(comparison.files):
        yield f"{base} and {name} together: {line.strip()}"


def _of_call(name: str, policies: Mapping[str, Policy]) -> Iterator[str]:
    """Yield what policies, by name, say of a call, on each architecture and in each phase.  Raises UserError if none has it."""
    archs = [arch for arch in Arch if any(arch in policy.entries for policy in policies.values())]
    known = {call for arch in archs for call in table(arch).by_name}
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"--why {name}: {' and '.join(archs)} has no such call{f'; {hint}' if hint else ''}")
    width = max(map(len, policies)) + 2
    for arch, call in ((arch, table(arch).by_name[name]) for arch in archs if name in table(arch).by_name):
        for phase in (START, *names_of(*policies.values())):
            yield f"{arch}{f', {phase}' if phase != START else ''}"
            for shown, policy in policies.items():
                yield f"  {shown + ':':{width}}{_answer(resolved_at(policy, phase), arch, call.number)}"


def _answer(policy: Resolved, arch: Arch, number: int) -> str:
    if arch not in policy.entries:
        return "it has no section for this architecture, so the call is denied"
    entry = policy.entries[arch].get(number, Entry(Always(True), unnamed(policy, arch, number)))
    return on_one_line(arch, number, entry).partition(": ")[2]


def _fold(output: Path, inputs: list[Path]) -> int:
    """Merge recordings or policies into `output`, and return 0.  Raises CallfenceError or OSError before it writes."""
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
    put(output, whole.text())
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
    atomic.write(ours, with_markers(merged, conflicts).encode())
    for conflict in conflicts:
        print_error(f"{name}: conflict in {conflict.name}: {conflict.why}")
    either = united(*(document.policy.files for document in documents[1:]))
    for line, more, _ in differences(either, merged.policy.files):
        if more and line.startswith("path "):
            print_error(f"{name}: {written(line, more)}: more than either side grants, since files are moved between folders")
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
