"""What other programs that filter system calls read and write.

The registry, `FORMATS`, names a function for each: `export(policy, options) -> Exported`; `read(data, filename, options) ->
Imported`; or, if what is read is what programs did and not what they may do, `record(stream, filename, options) -> Recording`.
All are pure.  Those that read raise ImportFormatError, those that write ExportError.

A *loss* is a way in which what is written, or read, does not mean what the other side says.  None is ever silent.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from policygen.files.algebra import differences
from policygen.grants import NOT_CONFINED, Files
from policygen.implied.resolve import resolved
from policygen.model import SIGNALS, scopes
from policygen.phases import START
from policygen.values import field, frozen, replace
from tracer.abi import Arch, table
from tracer.errors import UserError
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from policygen.implied.resolve import Resolved
    from policygen.model import Policy
    from policygen.recording.model import Recording


class ExportError(UserError):
    """The policy cannot be written in the format, not even with losses.  `str()` is the message for the user."""


class ImportFormatError(UserError):
    """A file that is not of the format.  `str()` is the message for the user, with the position."""


class Direction(StrEnum):
    """How the result relates to the policy, or the file, that it comes from."""

    WIDER = "wider"
    """It lets calls run that the policy denies."""
    NARROWER = "narrower"
    """It denies calls that the policy lets run."""
    OTHER = "other"
    """The same calls run, but denied calls are answered differently, or the filter takes effect at another moment."""


@frozen
class Loss:
    """One thing that the target cannot say."""

    direction: Direction
    what: str
    """One sentence without a capital or a full stop: what differs, and why."""
    calls: tuple[str, ...] = ()
    """Names of the calls that it is about, or lines about files and ports, ascending; empty for every call, or none in
    particular."""

    def __post_init__(self) -> None:
        if not self.what or "\n" in self.what:
            raise ValueError(f"a loss is one line: {self.what!r}")
        object.__setattr__(self, "calls", tuple(sorted(set(self.calls))))


@frozen
class Addition:
    """One call that was added on export because the target's own code makes it after loading the filter."""

    call: str
    why: str


@frozen
class Exported:
    data: bytes
    """The file's whole content."""
    losses: tuple[Loss, ...] = ()
    additions: tuple[Addition, ...] = ()
    beside: tuple[str, bytes] | None = None
    """A second file: the suffix that replaces the first file's, and its content."""
    files: Files = NOT_CONFINED
    """What the target confines of files and ports."""
    use: str = ""
    """Instructions for people, how to give the file to its target; `{file}` stands for the file's name."""


@frozen
class Imported:
    policy: Policy
    losses: tuple[Loss, ...] = ()
    """Ways in which the policy is wider or narrower than the file."""
    instructions: tuple[str, ...] = ()
    """The instructions of a filter that does more than the losses say."""


@frozen
class Service:
    """A unit of systemd that is to run its program under `enforce`."""

    unit: str
    """The text of the unit's file."""
    enforce: str
    """The path of `enforce`."""
    policy: str
    """The path of the policy's file."""
    audit: bool = False
    """Whether to report what the policy does not allow, instead of denying it."""


@frozen
class FormatOptions:
    """Options of all formats; each format uses those that it needs."""

    name: str = "app"
    """Name of the program, for resources and units.  Letters, digits, `-`, `_`, `.`."""
    runtime: str = ""
    """Container runtime, or '': writing adds its own calls (runtimes.tsv), reading assumes that it reads the file."""
    no_new_privileges: bool = False
    """Writing: the container runs with no_new_privs, where runtimes make fewer calls of their own."""
    service: Service | None = None
    """Writing: the unit for which the file is."""
    arch: Arch = Arch.X86_64
    """Reading: the machine that the file is for, if the file does not say."""
    kernel: tuple[int, int] | None = None
    """Reading: the kernel version for conditions on the version; None is the newest known."""
    capabilities: frozenset[str] = field(factory=frozenset)
    """Reading: CAP_* names that the container has, for rules that depend on capabilities."""
    program: str = ""
    """Reading the log of several programs: the one to take, by path or its last part; '' for all."""
    policy: str = ""
    """Reading violations: those of the policy in a file of this name, without folders; '' for all."""


class Format(NamedTuple):
    """A row of the registry."""

    title: str
    module: str
    """Within this package."""
    export: str = ""
    """The name of the function that writes a policy; '' if none does."""
    read: str = ""
    """The name of the function that reads a policy."""
    record: str = ""
    """The name of the function that makes a recording."""


_CONTAINERS = "containers.files"
FORMATS: Final[Mapping[str, Format]] = {
    "oci": Format("OCI runtime and Docker JSON: docker, podman, containerd, CRI-O", _CONTAINERS, "export_oci", "read_oci"),
    "k8s": Format("Kubernetes Localhost profile, and the pod's securityContext", _CONTAINERS, "export_k8s"),
    "spo": Format("Kubernetes Security Profiles Operator, SeccompProfile v1beta1", _CONTAINERS, "export_spo", "read_spo"),
    "systemd": Format("systemd: a drop-in of a unit", "systemd", "export"),
    "systemd-enforce": Format("systemd: a drop-in that runs a unit's program under enforce", "systemd", "export_enforce"),
    "bwrap": Format("bubblewrap: a filter for --seccomp FD", "bpf", "export_bwrap"),
    "bpf": Format("raw filter: an array of struct sock_filter", "bpf", "export", "read"),
    "c": Format("C source of the filter and of a loader", "bpf", "export_c"),
    "minijail": Format("minijail: a policy for minijail0 -S", "minijail", "export"),
    "kafel": Format("nsjail and kafel: a policy for nsjail --seccomp_policy", "kafel", "export"),
    "firejail": Format("firejail: lines of a profile", "firejail", "export"),
    "apparmor": Format("AppArmor: a profile of files", "apparmor", "export"),
    "strace": Format("a log of `strace -f -o FILE`, as a recording", "logs.strace", record="record"),
    "recording": Format("a recording of callfence's own, of any number of runs", "logs", record="recording"),
    "violations": Format("what `enforce --log` wrote, as a recording of what was denied", "logs.denials", record="violations"),
    "audit": Format("audit records of seccomp (SECCOMP, 1326), as a recording of names", "logs.denials", record="audit"),
}
"""Every format, by its name on command lines."""


def exporter(name: str) -> Callable[[Resolved, FormatOptions], Exported]:
    """Return the function that writes a format.  KeyError for an unknown format."""
    function: Callable[[Resolved, FormatOptions], Exported] = _function(name, FORMATS[name].export)
    return function


def reader(name: str) -> Callable[[bytes, str, FormatOptions], Imported]:
    """Return the function that reads policies of a format.  KeyError for an unknown format."""
    function: Callable[[bytes, str, FormatOptions], Imported] = _function(name, FORMATS[name].read)
    return function


def recorder(name: str) -> Callable[[BinaryIO, str, FormatOptions], Recording]:
    """Return the function that reads recordings of a format.  KeyError for an unknown format."""
    function: Callable[[BinaryIO, str, FormatOptions], Recording] = _function(name, FORMATS[name].record)
    return function


def _function(name: str, function: str) -> Any:
    return getattr(import_module(f"{__name__}.{FORMATS[name].module}"), function)


def exported(name: str, written: Policy, options: FormatOptions, phase: str = START) -> Exported:
    """Return what a policy means in a phase in a format, with what the target loses of files and ports.  Raises ExportError."""
    policy = resolved(written, phase)
    result = exporter(name)(policy, options)
    what = " and ".join(word for word in scopes(policy.scope) if word != SIGNALS or _signals(policy))
    scope = [Loss(Direction.WIDER, f"{name} does not keep {what} among the program's processes")] * bool(what)
    return replace(result, losses=(*result.losses, *_file_losses(policy.files, result.files, name), *scope))


def _signals(policy: Resolved) -> bool:
    """Whether a policy lets the program signal processes by number; by tkill(2) and its kin, threads signal one another."""
    return any(
        (entry := section.get(table(arch).by_name[name].number)) and entry.action.may_allow
        for arch, section in policy.entries.items()
        for name in ("kill", "pidfd_send_signal", "rt_sigqueueinfo")
    )


def _file_losses(files: Files, effect: Files, target: str) -> tuple[Loss, ...]:
    """Return how what a target confines of files and ports, `effect`, differs from what a policy says: the exact difference."""
    changed = differences(files, effect)
    wider = tuple(difference.line for difference in changed if difference.more)
    narrower = tuple(difference.line for difference in changed if difference.less)
    losses = []
    if wider and effect == NOT_CONFINED:
        losses.append(Loss(Direction.WIDER, f"{target} confines no files and ports"))
    elif wider:
        losses.append(Loss(Direction.WIDER, f"{target} grants more of files and ports", wider))
    if narrower:
        what = f"{target} grants less of files and ports; it knows whole paths only, and no `.`"
        losses.append(Loss(Direction.NARROWER, what, narrower))
    return tuple(losses)


def wider(losses: Iterable[Loss]) -> list[Loss]:
    """Return the losses by which more calls run."""
    return [loss for loss in losses if loss.direction is Direction.WIDER]
