"""What `learn` does before the program runs: it checks that its behaviour can be written, and reads the policy."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.learning.progress import say
from callfence.policygen.files.calls import UDP_CONNECT
from callfence.policygen.files.landlock import confines_paths, decode
from callfence.policygen.grants import BARE, NONE, NOT_CONFINED, Files
from callfence.policygen.recording import atomic, recording_file
from callfence.policygen.values import replace
from callfence.shared.files import policy_path, recording_path, working_folder
from callfence.tracer import machine
from callfence.tracer.abi import NATIVE, Arch
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from callfence.enforcing.sealed import Compiled
    from callfence.learning.options import LearnOptions
    from callfence.policygen.language.document import Document
    from callfence.policygen.model import Action, Policy
    from callfence.policygen.recording.model import Run


class Prepared(NamedTuple):
    """The options and files of a run, and the policy as it was when the run began."""

    options: LearnOptions
    policy: Path
    recording: Path
    existing: Compiled | None
    """The policy as it was, compiled to a filter that stops what it does not allow; None if there is none, or with --fresh."""
    is_warm: bool
    """Whether the run is an incremental learn: the filter of `existing` is used, and only what is new to it is recorded."""
    base: Policy | None
    """The upper bound of `--within`; None without it."""
    default: Action | None
    """The action of `--default`; None without it."""
    with_files: bool
    """Whether to record the use of files: with `--files`, or if the policy confines them.  That of ports always is."""
    begins: Files
    """What the policy confines from this run on, without a grant."""
    with_hosts: bool = False
    """Whether to record hosts and unix sockets: with `--hosts`, or if the policy has lines about them."""

    @property
    def filter(self) -> bytes:
        """The seccomp filter of `existing` in an incremental learn; else b""."""
        return self.existing.filter if self.existing and self.is_warm else b""

    @property
    def document(self) -> Document | None:
        """The existing policy, which is parsed once; None if there is none, or with --fresh."""
        return _document(self.existing) if self.existing else None

    @property
    def is_silent(self) -> bool:
        """Whether a run with nothing new prints nothing and changes only the recording, so that few modules need be loaded."""
        given = self.options
        changes = given.evidence or given.arm or given.default or given.portable or given.within or given.phases
        is_settled = self.is_warm and self.existing is not None and self.existing.is_settled
        return is_settled and given.quiet and not changes

    def allows_targets(self, run: Run) -> bool:
        """Return whether it is certain, without reading the policy, that it grants the files and ports that a run used, and
        lets its signals reach whom they did."""
        if self.existing is None or run.signals == "others":
            return False
        ports, uses = decode(self.existing.files), list(run.files)
        if self.with_hosts and self.document is not None:
            from callfence.policygen.files.generalise import beside_hosts
            from callfence.policygen.files.generalise_hosts import connects_by_host, lacks

            files = self.document.policy.files
            if lacks(files, run.files):
                return False
            uses = [use for use in (beside_hosts(uses) if connects_by_host(files) else uses) if not use[0].startswith(_HOSTS)]
        for line, value, _ in uses:
            granted = {"tcp connect": ports.connect, UDP_CONNECT: ports.connect, "tcp bind": ports.bind}.get(line, ())
            if value != NONE and granted is not None and not any(first <= int(value) <= last for first, last in granted):
                return False
        return True

    def is_unchanged(self) -> bool:
        """Return whether the policy's file and the files that it includes are the same as when the run began."""
        if self.existing is None:
            return not self.policy.exists()
        from callfence.enforcing import filters

        return filters.is_current(self.existing)


def prepare(options: LearnOptions, name: str) -> Prepared:
    """Return the options and files of a run.  Raises UserError, OSError and others for whatever would keep the policy from
    being written, so that the error comes before the program runs.  `name` is the program's."""
    if not machine.IS_KNOWN:
        raise UserError(f"learn {machine.UNKNOWN}")
    policy = options.output or policy_path(name)
    recording = recording_path(policy)
    if options.start is not None:
        _require_writable(policy, recording)
        begin(options.start, policy)
    if options.fresh:
        _require_policy(policy)
    if options.recording is not None:
        try:
            atomic.check_writable(options.recording)
        except OSError as error:
            raise UserError(f"--write-recording {options.recording}: {error.filename}: {error.strerror}") from error
    existing = None if options.fresh else _existing(policy)
    if options.check:
        if existing is None:
            raise UserError(f"{policy}: --check has no policy to compare with; run learn without --check first")
    elif not options.fresh and recording.exists():
        _require_recording(recording)
        if existing is None:
            text = f"learn: {policy} does not exist, but {recording} does: learn writes a new policy, and adds to the recording"
            say(f"{text} (--fresh replaces both)")
    if existing is not None and (options.exact or options.tight):
        _require_exact(existing, "--exact" if options.exact else "--tight")
    default = None if options.default is None else _default(options.default)
    base, is_within = _baseline(policy, existing, options.within)
    begins = _begins(options, existing)
    with_files = begins.paths is not None or (existing is not None and confines_paths(existing.files))
    # calls of which the policy says nothing, and which run, are not seen if it is used as a filter
    stops_nothing = default and existing is not None and _document(existing).policy.default.allows
    asks_all = options.every_call or options.tight or options.rehearse or options.phases
    records_all = asks_all or begins != NOT_CONFINED or stops_nothing
    is_warm = existing is not None and is_within and not records_all
    if not options.check:
        if existing is None or not is_within:  # a filter that is at hand was made with libseccomp
            from callfence.policygen.filter import libseccomp

            libseccomp.require()
        _require_writable(policy, recording)
    if options.hosts and not options.quiet:
        from callfence.enforcer.hosts.granted import problem

        if text := problem():
            say(f"learn: `enforce` refuses lines about hosts here: {text}")
    with_hosts = options.hosts or (existing is not None and _names_hosts(existing))
    return Prepared(options, policy, recording, existing, is_warm, base, default, with_files, begins, with_hosts)


def _begins(options: LearnOptions, existing: Compiled | None) -> Files:
    """Return what a policy confines from now on, without a grant: a new one ports, and with --files also files, and an existing
    one what it does not confine yet.  Without --files, what an existing policy leaves free stays free.

    io_uring connects and binds where no filter sees it, so a policy that allows it confines ports with --files only."""
    had = _document(existing).policy.files if existing and (options.files or options.hosts) else NOT_CONFINED
    begins = NOT_CONFINED
    if options.files:
        begins = Files({}, (), ()) if had == NOT_CONFINED else Files({} if had.paths is None else None)
    elif existing is None and "io_uring_setup" not in options.allow_opaque:
        begins = Files(None, (), ())
    if not options.hosts:
        return begins
    return replace(begins, **{kind: () for kind in ("connect", "send", *BARE) if getattr(had, kind) is None})


_HOSTS = ("tcp connect ", "udp send", *BARE.values(), "name ")
"""How rows about hosts, unix sockets and names begin, in the files of a run."""
_HOST_LINE = re.compile(rb"^\s*(udp|unix|dns|tcp\s+connect\s+\S)", re.MULTILINE)


def _names_hosts(existing: Compiled) -> bool:
    """Return whether a policy has lines about hosts, UDP, unix sockets or names; most have none, as their text shows fast."""
    if not any(_HOST_LINE.search(content) for _, content in existing.sources):
        return False
    from callfence.policygen.files.generalise_hosts import by_host

    return by_host(_document(existing).policy.files)


def _existing(policy: Path) -> Compiled | None:
    if not policy.exists():
        return None
    if not policy.is_file():  # reading a pipe could wait forever
        raise UserError(f"{policy}: the policy is not a regular file")
    from callfence.enforcing import filters  # a first learn needs none of it

    return filters.compiled(str(policy), "warm")


def _require_policy(policy: Path) -> None:
    """Raise UserError if --fresh would replace a file that is no policy, such as the program's source.  A file whose name ends
    in .policy may have any content, since --fresh is the way out of a broken policy."""
    if policy.suffix == ".policy" or not policy.is_file():
        return
    from callfence.policygen.language.document import PolicyError, parse_file

    try:
        parse_file(policy)
    except PolicyError as error:
        what = f"{policy} is not a policy, so --fresh does not replace it: -o names the policy, such as {policy}.policy"
        raise UserError(f"{what}\n{error}") from error


def _document(existing: Compiled) -> Document:
    if existing.document is None:
        from callfence.enforcing import filters

        existing.document = filters.document(existing)
    return existing.document


def _require_exact(existing: Compiled, option: str) -> None:
    """Raise UserError if the policy has an implied set, since then it allows more than was observed."""
    implied = _document(existing).policy.implied
    if implied:
        name = existing.sources[0][0]
        what = f"{option} writes a policy without it: remove the line, or start over with --fresh"
        raise UserError(f"{name} has `implied {implied}`, and {what}")


def _default(text: str) -> Action:
    """Return the action of `--default`.  Raises UserError if it allows calls: then nothing would be learned."""
    from callfence.policygen.language.document import PolicyError, parse

    try:
        action = parse(f"default {' '.join(text.split())}\n").policy.default
    except PolicyError as error:
        raise UserError(f"--default {text!r}: {error.message}{': ' if error.hint else ''}{error.hint}") from None
    if action.allows:
        what = "allows every call, so there would be nothing to learn; give kill, trap, notify or 'errno EPERM'"
        raise UserError(f"--default {text!r}: {what}")
    return action


def _require_recording(recording: Path) -> None:
    if not recording.is_file():
        raise UserError(f"{recording}: the recording is not a regular file")
    try:
        recording_file.load(recording)
    except recording_file.RecordingError as error:
        raise UserError(f"{error}\n  remove the file, or start over with --fresh, which replaces the policy too") from error


def _baseline(policy: Path, existing: Compiled | None, name: str | None) -> tuple[Policy | None, bool]:
    """Return the upper bound of --within, None without it, and whether the existing policy is within it.  If not, its filter
    cannot be used: calls that the upper bound denies must be recorded."""
    if name is None:
        return None, True
    from callfence.policygen.language.normal import normal
    from callfence.policygen.learning.within import within
    from callfence.shared import inputs

    try:
        base = inputs.document(name).policy
    except OSError as error:
        raise UserError(f"--within {name}: {error.strerror}") from error
    if existing is None:
        return base, True
    before = _document(existing).policy
    try:
        return base, within(before, base) == normal(before)
    except ValueError as error:
        raise UserError(f"{policy}: {error}") from error


def _require_writable(policy: Path, recording: Path) -> None:
    """Create the recording's folder.  Raises UserError if the policy or the recording cannot be written."""
    if not (policy.is_absolute() or working_folder()):
        raise UserError(f"{policy}: the current folder has been deleted; -o names a policy elsewhere, by its whole path")
    if not policy.parent.is_dir():
        raise UserError(f"{policy}: the folder {policy.parent} does not exist")
    try:
        atomic.make_folder(recording.parent)
        for path in (policy, recording):
            atomic.check_writable(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.ENAMETOOLONG):
            raise
        raise UserError(f"{error.filename}: {error.strerror}; the recording goes beside the policy, which -o names") from error


# The start policies, with which `learn --from NAME` begins (docs/start-policies.md); they are installed with callfence

FOLDER = Path(__file__).parent.parent / "start_policies"
"""NAME.policy for each name; samples/start is a link to it."""


def names() -> list[str]:
    """Return the names of the start policies, ascending."""
    return sorted(path.stem for path in FOLDER.glob("*.policy"))


def begin(name: str, policy: Path) -> None:
    """Write the start policy `name` to `policy`: carried to this machine, if it is none of x86_64, for which they are.  Raises
    UserError if there is none, or if `policy` exists."""
    if name not in names():
        raise UserError(f"--from {name}: there is no such start policy; there are {', '.join(names())}")
    if policy.exists():
        raise UserError(f"{policy}: --from begins a policy, and this one exists; without --from, learn adds to it")
    start = FOLDER / f"{name}.policy"
    atomic.write(policy, start.read_bytes() if NATIVE is Arch.X86_64 else carried(start, NATIVE).encode())


def carried(start: Path, target: Arch) -> str:
    """Return the text of a start policy with the section of another architecture in place of its own."""
    from callfence.policygen.equivalents.carry import carry
    from callfence.policygen.language.document import Document, parse_file
    from callfence.shared.carried import with_comments

    before = parse_file(start)
    after = with_comments(before, carry(before.policy, Arch.X86_64, target))
    policy = replace(after.policy, entries={target: after.policy.entries[target]})
    return Document(policy, replace(after.layout, sections={target: after.layout.sections[target]})).with_policy(policy).text()
