"""The file formats of other programs that filter system calls: export, import, and reading of logs.

The registry, `FORMATS`, names a function for each: `export(policy, options) -> Exported`; `read(data, filename, options) ->
Imported`; or, for a log of calls instead of a policy, `record(stream, filename, options) -> Recording`.
All are pure.  Those that read raise ImportFormatError, those that write ExportError.

A *loss* is a difference in meaning between a policy and the file that is written from it, or between a file and the policy
that is read from it.  Every loss is reported.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from callfence.policygen.evaluate import answers
from callfence.policygen.files.algebra import differences, freed
from callfence.policygen.files.calls import MOUNTING
from callfence.policygen.files.ruleset import kept_by_the_filter
from callfence.policygen.grants import ALL, BARE, NOT_CONFINED, Files
from callfence.policygen.implied.resolve import Resolved, resolved
from callfence.policygen.model import SIGNALS, Policy, scopes
from callfence.policygen.phases import START
from callfence.policygen.sets import region
from callfence.policygen.values import field, frozen, replace
from callfence.tracer.abi import NATIVE, Arch, table
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from callfence.policygen.recording.model import Recording


_SIGNALLING = "kill", "pidfd_send_signal", "rt_sigqueueinfo"
"""Calls that signal processes; not tkill(2) and tgkill(2), since threads use them to signal each other."""


class ExportError(UserError):
    """The policy cannot be written in the format, not even with losses.  `str()` is the message for the user."""


class ImportFormatError(UserError):
    """The file is not of the format.  `str()` is the message for the user, with the position."""


class Direction(StrEnum):
    """How the result of an export or import differs from its source."""

    WIDER = "wider"
    """The result allows calls that the source denies."""
    NARROWER = "narrower"
    """The result denies calls that the source allows."""
    OTHER = "other"
    """The same calls are allowed, but denied calls get another action, or the filter takes effect at another moment."""


@frozen
class Loss:
    """A difference in meaning between the result of an export or import and its source."""

    direction: Direction
    what: str
    """One sentence without a capital or a full stop: what differs, and why."""
    calls: tuple[str, ...] = ()
    """Names of the calls, or lines of `Files`, that differ, ascending; empty if the loss is not about particular ones."""

    def __post_init__(self) -> None:
        if not self.what or "\n" in self.what:
            raise ValueError(f"a loss is one line: {self.what!r}")
        object.__setattr__(self, "calls", tuple(sorted(set(self.calls))))


@frozen
class Addition:
    """A call that the export allows in addition to the policy, because the target's own code makes it under the filter."""

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
    """The rights to files and ports that the target enforces."""
    use: str = ""
    """Instructions for the user to load the file in its target; `{file}` is replaced by the file's name."""


@frozen
class Imported:
    policy: Policy
    losses: tuple[Loss, ...] = ()
    """Ways in which the policy is wider or narrower than the file."""
    instructions: tuple[str, ...] = ()
    """The disassembled filter, one instruction a line, if the losses do not describe the whole filter; else ()."""


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
    """Whether to report the calls that the policy does not allow instead of denying them."""
    name: str = ""
    """The unit's name without `.service`, with characters that others lack; "" for `FormatOptions.name`."""


@frozen
class FormatOptions:
    """Options of all formats; each format uses those that it needs."""

    name: str = "app"
    """Name of the program, for resources and units.  Letters, digits, `-`, `_`, `.`."""
    runtime: str = ""
    """The container runtime, or ''.  Writing: its own calls are added (runtimes.tsv).  Reading: the file is read as this
    runtime does."""
    no_new_privileges: bool = False
    """Writing: the container runs with no_new_privs, where runtimes make fewer calls of their own."""
    service: Service | None = None
    """Writing: the unit for which the file is written; None for formats other than systemd-enforce."""
    arch: Arch = NATIVE
    """Reading: the architecture of the file, if the file does not name one.  Writing: that of the machine, if the
    policy has entries for it."""
    kernel: tuple[int, int] | None = None
    """Reading: the kernel version for rules that depend on it; None for the newest that callfence knows."""
    capabilities: frozenset[str] = field(factory=frozenset)
    """Reading: CAP_* names that the container has, for rules that depend on capabilities."""
    program: str = ""
    """Reading a log of several programs: the path of the program to read, or its last part; '' for all programs."""
    policy: str = ""
    """Reading violations: the name, without folders, of the policy file whose violations are read; '' for all."""


class Format(NamedTuple):
    """One format: a row of FORMATS."""

    title: str
    module: str
    """The module, relative to this package, that has the functions below."""
    export: str = ""
    """The name of the function that writes a policy; '' if none does."""
    read: str = ""
    """The name of the function that reads a policy."""
    record: str = ""
    """The name of the function that makes a recording."""


_CONTAINERS = "containers.files"
_ARTIFACT = "containers.artifact"
FORMATS: Final[Mapping[str, Format]] = {
    "oci": Format("OCI runtime and Docker JSON: docker, podman, containerd, CRI-O", _CONTAINERS, "export_oci", "read_oci"),
    "k8s": Format("Kubernetes Localhost profile, and the pod's securityContext", _CONTAINERS, "export_k8s"),
    "spo": Format("Kubernetes Security Profiles Operator, SeccompProfile v1beta1", _CONTAINERS, "export_spo", "read_spo"),
    "oci-artifact": Format("OCI artifact of a profile (KEP-6061)", _ARTIFACT, "export_artifact", "read_artifact"),
    "spo-artifact": Format("OCI artifact of the Security Profiles Operator", _ARTIFACT, "export_operator", "read_artifact"),
    "systemd": Format("systemd: a drop-in of a unit", "systemd", "export"),
    "systemd-enforce": Format("systemd: a drop-in that runs a unit's program under enforce", "systemd_enforce", "export"),
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
    "audit": Format("audit records of seccomp (SECCOMP, 1326), as a recording of names", "logs.audit", record="audit"),
}
"""Every format, by its name on command lines."""


def exporter(name: str) -> Callable[[Resolved, FormatOptions], Exported]:
    """Return the function that writes the format `name`.  Raises KeyError if FORMATS has no such format."""
    function: Callable[[Resolved, FormatOptions], Exported] = _function(name, FORMATS[name].export)
    return function


def reader(name: str) -> Callable[[bytes, str, FormatOptions], Imported]:
    """Return the function that reads policies of the format `name`.  Raises KeyError if FORMATS has no such format."""
    function: Callable[[bytes, str, FormatOptions], Imported] = _function(name, FORMATS[name].read)
    return function


def recorder(name: str) -> Callable[[BinaryIO, str, FormatOptions], Recording]:
    """Return the function that reads recordings of the format `name`.  Raises KeyError if FORMATS has no such format."""
    function: Callable[[BinaryIO, str, FormatOptions], Recording] = _function(name, FORMATS[name].record)
    return function


def _function(name: str, function: str) -> Any:
    return getattr(import_module(f"{__name__}.{FORMATS[name].module}"), function)


def exported(name: str, policy: Policy, options: FormatOptions, phase: str = START) -> Exported:
    """Return the policy, as it is in `phase`, exported to the format `name` (a key of FORMATS).  The result's `losses` also say
    what the format loses of files, ports and scopes.  Raises ExportError if the format cannot express the policy, not even with
    losses, or an option that it needs is missing; ValueError if the policy has no such phase."""
    meant = resolved(policy, phase)
    result = exporter(name)(meant, options)
    what = " and ".join(word for word in scopes(meant.scope) if word != SIGNALS or _allowed(meant, _SIGNALLING))
    scope = [Loss(Direction.WIDER, f"{name} does not restrict {what} to the program's own processes")] * bool(what)
    same = kept_by_the_filter(policy)
    files = _file_losses(freed(meant.files, same), freed(result.files, same), name)
    mounts: list[Loss] = []
    is_confined = (meant.files.paths or {"/": ALL}).get("/") != ALL
    if is_confined and result.files.paths is not None and result.files is not meant.files:
        mounting = ", ".join(_allowed(meant, MOUNTING))
        what = f"{name} lets {mounting} change what is mounted, which `path` lines deny"
        mounts = [Loss(Direction.WIDER, what)] * bool(mounting)
    return replace(result, losses=(*result.losses, *files, *mounts, *scope))


def _allowed(policy: Resolved, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of some calls that a policy allows with any arguments."""
    calls = [(arch, table(arch).by_name[name]) for name in names for arch in policy.entries if name in table(arch).by_name]
    space = region.space()
    return tuple(
        call.name for arch, call in calls if any(action.may_allow for _, action in answers(space, policy, arch, call.number))
    )


def _file_losses(files: Files, effect: Files, target: str) -> tuple[Loss, ...]:
    """Return the losses by which `effect`, the rights that a target enforces, differs from the rights in a policy."""
    changed = differences(files, effect)
    wider = tuple(difference.line for difference in changed if difference.more)
    narrower = tuple(difference.line for difference in changed if difference.less)
    things = "files and ports"
    if files.connect_to or any(getattr(files, kind) is not None for kind in ("send", *BARE)):
        things = f"files, ports, hosts{', names' * (files.query is not None)} and unix sockets"
    losses = []
    if wider and effect == NOT_CONFINED:
        losses.append(Loss(Direction.WIDER, f"{target} does not confine {things}"))
    elif wider:
        losses.append(Loss(Direction.WIDER, f"{target} grants more rights to {things}", wider))
    if narrower:
        what = f"{target} grants less rights to {things}; it supports only absolute paths, not `.`"
        losses.append(Loss(Direction.NARROWER, what, narrower))
    return tuple(losses)


def wider(losses: Iterable[Loss]) -> list[Loss]:
    """Return those of the losses by which the result allows more than its source."""
    return [loss for loss in losses if loss.direction is Direction.WIDER]
