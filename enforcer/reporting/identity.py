"""Where a process runs, as each record of a log says it: its systemd unit, container, pod and image.

Each start of `enforce --log` uses this module, so it imports neither json nor re.
"""

from __future__ import annotations

from itertools import pairwise

from callfence.tracer import TYPE_CHECKING, proc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_HEX = frozenset("0123456789abcdef")
_CONTAINER = 64
"""Hexadecimal digits of a container's id, of docker, containerd, cri-o and podman."""
_UID = 32
"""Hexadecimal digits of a pod's uid: a UUID, or, of a static pod, the digest of its manifest."""
_MAX_VALUE = 512
"""The most characters that are taken of a variable."""
_POD = {
    "name": ("CALLFENCE_POD", "k8s.pod.name", "POD_NAME"),
    "namespace": ("CALLFENCE_POD_NAMESPACE", "k8s.namespace.name", "POD_NAMESPACE"),
    "uid": ("CALLFENCE_POD_UID", "k8s.pod.uid", "POD_UID"),
}
"""The variables of each field of `pod`, of which the first that is set counts; a name with a dot is that of an attribute in
OTEL_RESOURCE_ATTRIBUTES."""
_ID = ("CALLFENCE_CONTAINER", "container.id")
_IMAGE = ("CALLFENCE_IMAGE",)


def identity(process: int | str, environment: Iterable[bytes]) -> dict[str, Any]:
    """Return the fields of a record about where a process runs: `unit`, None if it is in none, and `container`, `pod` and
    `image` as far as they are known.  `environment`: the variables that it is started with."""
    text = _content(process, "cgroup")
    groups = text.split()
    last = groups[-1] if groups else ""
    parts = [part for group in groups for part in group.split("/")]
    unit = next((part for part in reversed(last.split("/")) if part.endswith((".service", ".scope"))), None)
    if last.endswith(":/") and not any(map(_container, parts)):  # a cgroup namespace may hide what is above
        parts = [part for line in _content(process, "mountinfo").split("\n") for part in _of_mount(line)]
    variables = _variables(environment)
    container = _first(_ID, variables) or next(filter(None, map(_container, reversed(parts))), "")
    pod = {field: value for field, names in _POD.items() if (value := _first(names, variables))}
    if "uid" not in pod and (uid := next(filter(None, map(_pod_uid, reversed(parts))), "")):
        pod["uid"] = uid
    where: dict[str, Any] = {"container": container, "pod": pod, "image": _first(_IMAGE, variables)}
    return {"unit": unit, **{name: value for name, value in where.items() if value}}


def _content(process: int | str, name: str) -> str:
    try:
        return proc.content(f"{proc.proc()}/{process}/{name}").decode(errors="replace")
    except OSError:
        return ""


def _container(part: str) -> str:
    """Return the id in a part of a cgroup's path: `ID`, `docker-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`, or
    `SLICE:cri-containerd:ID`; "" if it has none."""
    word = part.removesuffix(".scope").rpartition(":")[2].rpartition("-")[2]
    return word if len(word) == _CONTAINER and _HEX.issuperset(word) else ""


def _pod_uid(part: str) -> str:
    """Return the uid in a part of a cgroup's path: `podUID`, or `kubepods-burstable-podUID.slice`, in which `_` stands for `-`;
    "" if it has none."""
    before, is_pod, after = part.partition(":")[0].removesuffix(".slice").rpartition("pod")
    uid = after.replace("_", "-")
    digits = uid.replace("-", "")
    is_uid = is_pod and (not before or before.endswith("-")) and len(digits) == _UID and _HEX.issuperset(digits)
    return uid if is_uid else ""


def _of_mount(line: str) -> Iterator[str]:
    """Return the parts of a path from which a container's file was mounted that are followed as in a cgroup's path: the id of
    docker (`/var/lib/docker/containers/ID/hostname`) and podman (`.../overlay-containers/ID/userdata/hostname`), and the uid of
    a pod (`/var/lib/kubelet/pods/UID/etc-hosts`)."""
    fields = line.split(" ", 4)  # proc(5)
    parts = fields[3].split("/") if len(fields) > 4 else []
    for folder, part in pairwise(parts):
        if folder in ("containers", "overlay-containers"):
            yield part
        elif folder == "pods":
            yield f"pod{part}"


def _variables(environment: Iterable[bytes]) -> dict[str, str]:
    """Return the variables that matter, and the attributes of OTEL_RESOURCE_ATTRIBUTES (the OpenTelemetry specification:
    `NAME=VALUE,...`, percent-encoded)."""
    known = {name for names in (*_POD.values(), _ID, _IMAGE) for name in names}
    variables = {}
    for variable in environment:
        name, _, value = variable.partition(b"=")
        text = name.decode(errors="replace")
        if text in known:
            variables[text] = value.decode(errors="replace")[:_MAX_VALUE]
        elif text == "OTEL_RESOURCE_ATTRIBUTES":
            for attribute in value.decode(errors="replace").split(","):
                key, _, content = attribute.partition("=")
                variables[key.strip()] = _decoded(content.strip())[:_MAX_VALUE]
    return variables


def _decoded(text: str) -> str:
    """Return a text without percent-encoding; what is no encoding stays."""
    first, *others = text.encode("utf-8", "surrogateescape").split(b"%")
    decoded = [first]
    for part in others:
        try:
            (byte,) = bytes.fromhex(part[:2].decode())
            decoded.append(bytes((byte,)) + part[2:])
        except ValueError:
            decoded.append(b"%" + part)
    return b"".join(decoded).decode("utf-8", "replace")


def _first(names: tuple[str, ...], variables: dict[str, str]) -> str:
    return next((value for name in names if (value := variables.get(name))), "")
