"""The files, ports and hosts that policies grant, for making calls and for reports; and the grants that let the program change
what confines it.  `enforce` imports this only for policies that confine hosts, and for `--log`, `--explain` and `--audit`.
"""

from __future__ import annotations

import os
import stat

from callfence.enforcer.bpf import chain
from callfence.enforcer.errors import EnforceError
from callfence.enforcing.cache import SYSTEM, folder
from callfence.enforcing.filters import replaced
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.proc import proc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from callfence.enforcer.files.granted import Reach
    from callfence.enforcer.files.landlock import Confinement
    from callfence.enforcer.hosts.granted import Hosts
    from callfence.enforcer.reporting.audit import Source
    from callfence.enforcing.sealed import Compiled
    from callfence.policygen.files.places import Linking
    from callfence.policygen.grants import Files
    from callfence.policygen.lint.files import Risk

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_REMEDY = "keep it elsewhere, or grant a folder below"
_SOURCE = "docs/files.md"


def with_place(error: EnforceError, policies: Sequence[Compiled]) -> EnforceError:
    """Return an error about a grant with the position of the policies' line; any other error as it is."""
    from callfence.enforcer.files.paths import GrantError

    return EnforceError(f"{_place(policies, error.path)}{error}") if isinstance(error, GrantError) else error


def holds_tcp(process: int) -> bool:
    """Return whether a process has a TCP socket among its descriptors; True if that cannot be found out."""
    folder = f"{proc()}/{process}/fd"
    try:
        sockets = [int(name) for name in os.listdir(folder) if _is_socket(f"{folder}/{name}")]
    except OSError:
        return True
    if not sockets:
        return False
    from callfence.enforcer.files.lookup import is_tcp

    return any(is_tcp(process, process, socket) for socket in sockets)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:  # the descriptor of the listing, which is closed
        return False


def records(policies: Sequence[Compiled], arm: str, rules: Confinement, environment: Sequence[bytes]) -> Source | None:
    """Return the source of the kernel's audit records of what `rules` deny, and have these write them for it; None if there is
    none here.  `arm` is when filters take effect, "now", "exec" or "entry"; `environment`, the program's."""
    from callfence.enforcer.reporting.audit import opened

    files = [file for file, _ in _rules(policies, arm)]
    source = opened([files[index] for index in rules.confining], environment)
    rules.name = source.name if source else None
    return source


def reach(policies: Sequence[Compiled], environment: Sequence[bytes], *, is_audit: bool, process: int = 0) -> Reach:
    """Return the files and ports that all policies grant, by which calls are judged: also those that a filter sees to, since
    with `is_audit` the calls that it denies run.  `environment` is the program's; `process`, the id of the process that becomes
    the program, if not this one."""
    from callfence.enforcer.files.granted import Reach

    filters = [policy.filter for policy in policies]
    return Reach(_rules(policies, "entry"), filters, environment, is_audit=is_audit, process=process)


def hosts(policies: Sequence[Compiled], environment: Sequence[bytes], *, is_audit: bool, is_filtered: bool) -> Hosts:
    """Return the hosts and unix sockets that all policies grant.  Raises EnforceError if this process cannot make the program's
    calls.  `is_filtered`: no call that a policy denies runs in the program."""
    import callfence.enforcer.reporting.peers  # noqa: F401  before `Importer.seal`, after which importing takes three times as long
    from callfence.enforcer.hosts.granted import Hosts, problem

    if text := problem():
        raise EnforceError(f"the policy confines hosts or unix sockets, and {text}")
    confining = [(policy.sources[0][0], policy.hosts) for policy in policies if policy.hosts]
    filters = {"": chain([policy.filter for policy in policies])}
    for place, policy in enumerate(policies):
        filters |= {stage.name: chain(replaced(policies, place, stage.filter)) for stage in policy.stages}

    def keeps() -> bool:
        if is_audit or (is_filtered and not all(policy.changes_files for policy in policies)):
            return True
        return any(_keeps(policy.files, environment) for policy in policies)

    def led() -> Linking:
        return linking(policies, environment)

    return Hosts(confining, filters, environment, is_audit=is_audit, keeps=keeps, linking=led)


def linking(policies: Sequence[Compiled], environment: Sequence[bytes]) -> Linking:
    """Return where a policy lets the program have put symbolic links.  `environment` is the program's."""
    from callfence.policygen.files import places
    from callfence.policygen.files.landlock import decode

    found = places.Linking()
    for policy in policies:
        each = []
        for path, access in decode(policy.files).paths or ():
            try:
                each.append((places.located(path, environment), access))
            except places.PlaceError:
                continue
        found |= places.Linking(each)
    return found


def _keeps(content: bytes, environment: Sequence[bytes]) -> bool:
    """Return whether encoded rules keep the program from changing the files by which names are looked up."""
    from callfence.enforcer.hosts.names.files import FILES
    from callfence.policygen.files.landlock import CHANGES, decode
    from callfence.policygen.files.places import PlaceError, deciding, located, real_path

    rules = decode(content)
    if rules.paths is None:
        return False
    named = {place for file in FILES for place in deciding(os.fsencode(file))}
    for path, access in rules.paths:
        try:
            place = real_path(located(path, environment)) if access & CHANGES else b""
        except PlaceError:
            continue
        if place and any(file == place or file.startswith(place.rstrip(b"/") + b"/") for file in named):
            return False
    return True


def _rules(policies: Sequence[Compiled], arm: str) -> list[tuple[str, bytes]]:
    """Return the file of each policy that confines files or ports, and its rules (`policygen.files.landlock.encode`)."""
    return [(policy.sources[0][0], rules) for policy in policies if (rules := policy.files_at(arm))]


def _place(policies: Sequence[Compiled], path: bytes) -> str:
    """Return the position of the policies' first line about a path, as `FILE:LINE: `; "" if there is none."""
    from callfence.policygen.paths import PathError, canonical, encoded, unquoted

    for name, content in (source for policy in policies for source in policy.sources):
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            word, _, rest = line.strip().partition(" ")
            text = rest.partition('"')[2].rpartition('"')[0] if rest.startswith('"') else rest.partition(":")[0].strip()
            try:
                if word == "path" and encoded(canonical(unquoted(f'"{text}"') if rest.startswith('"') else text)) == path:
                    return f"{name}:{number}: "
            except PathError:
                continue
    return ""


OWN_CODE = "own-code"
"""The id of the risk that the program can change the code that it runs."""


def own(files: Files, policy: Path, code: Sequence[str] = ()) -> Iterator[tuple[str, Risk]]:
    """Yield each line of a policy that lets the program change what confines it, or its own `code` (paths), with the risk."""
    from callfence.policygen.files.places import PlaceError, located, real_path
    from callfence.policygen.grants import Right, path_line
    from callfence.policygen.lint.files import Risk
    from callfence.policygen.paths import encoded
    from callfence.shared.files import recording_path

    confining = [
        ("own-policy", "warning", os.fspath(policy), "its own policy", "the next start has another one"),
        ("own-recording", "note", os.fspath(recording_path(policy)), "its own recording", "`why` and later runs believe it"),
        ("own-cache", "warning", folder(), "the cache of filters", "what is written there is not used, but can be missing"),
        ("own-cache", "danger", SYSTEM, "the filters that root has compiled", "all programs are confined by them"),
        ("own-installation", "danger", _ROOT, "callfence itself", "the next start runs what it has written, unconfined"),
        *((OWN_CODE, "warning", file, "its own code", "an attacker's code then runs at the next start") for file in code),
    ]
    environment = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    for path, rights in (files.paths or {}).items():
        if not rights & (Right.WRITE | Right.CREATE | Right.REMOVE):
            continue
        try:
            place = os.fsdecode(real_path(located(encoded(path), environment)))
        except PlaceError:
            continue
        for rule, level, file, what, why in confining:
            whole = os.path.realpath(file)
            if file and (whole == place or whole.startswith(place.rstrip("/") + "/") or place.startswith(whole + "/")):
                yield path_line(path), Risk(rule, level, (), (), f"can change {what}, {file}", why, _REMEDY, _SOURCE)
