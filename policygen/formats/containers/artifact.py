"""Profiles as OCI artifacts: what registries keep, and nodes pull (KEP-6061; OCI image specification 1.1).

An artifact is a tar archive of an OCI layout, which `oras cp --from-oci-layout` and `skopeo copy oci-archive:` read.  That of a
runtime has one layer, an OCI runtime profile, and its media type on the manifest and on its config.  That of the Security
Profiles Operator has one SeccompProfile for each platform.  Equal policies are equal bytes: no time is in them.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from callfence.policygen.formats import Exported, FormatOptions, Imported, ImportFormatError, Loss
from callfence.policygen.formats.containers.files import export_oci, export_spo, read_oci, read_spo
from callfence.policygen.formats.containers.profile import without_doubles
from callfence.policygen.formats.effect import machines
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.text import printable
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch

PROFILE: Final = "application/vnd.cncf.seccomp-profile.config.v1+json"
"""The media type by which runtimes know a profile: of the manifest's config, and its artifact type."""
_OPERATOR = "application/vnd.unknown.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_TITLE = "org.opencontainers.image.title"
_REFERENCE = "org.opencontainers.image.ref.name"
_CREATED = {"org.opencontainers.image.created": "1970-01-01T00:00:00Z"}
"""What `spoc push` writes, too, unless it is told another time."""
_PLATFORMS = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64"}
_MAX_MEMBERS = 1000


def export_artifact(policy: Resolved, options: FormatOptions) -> Exported:
    """Return an artifact for container runtimes: one manifest or, if the policy has entries for several machines, an index with
    a manifest for each.  Raises ExportError if a profile cannot be written."""
    blobs: dict[str, bytes] = {}
    entries: list[tuple[Arch, dict[str, Any]]] = []
    exports: dict[Arch, Exported] = {}
    for arch, exported in _each(policy, options, export_oci):
        exports[arch] = exported
        layer = _descriptor(blobs, "application/json", exported.data, annotations={_TITLE: "profile.json"})
        config = _descriptor(blobs, PROFILE, b"{}")
        entries.append((arch, _manifest(blobs, PROFILE, config, [layer])))
    if len(entries) == 1:
        return _exported(blobs, entries[0][1], exports, options.name)
    listed = [{**entry, "platform": _platform(arch)} for arch, entry in entries]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "artifactType": PROFILE, "manifests": listed}
    return _exported(blobs, _descriptor(blobs, _INDEX, _json(index)), exports, options.name)


def export_operator(policy: Resolved, options: FormatOptions) -> Exported:
    """Return an artifact for the Security Profiles Operator, as `spoc push` makes it: a SeccompProfile for each machine.
    Raises ExportError if a profile cannot be written."""
    blobs: dict[str, bytes] = {}
    layers: list[dict[str, Any]] = []
    exports: dict[Arch, Exported] = {}
    for arch, exported in _each(policy, options, export_spo):
        exports[arch] = exported
        title = {_TITLE: f"profile-linux-{_PLATFORMS[arch]}.yaml"}
        layers.append(_descriptor(blobs, _LAYER, exported.data, annotations=title, platform=_platform(arch)))
    top = _manifest(blobs, _OPERATOR, _descriptor(blobs, _EMPTY, b"{}"), layers)
    return _exported(blobs, top, exports, options.name)


def read_artifact(data: bytes, filename: str, options: FormatOptions) -> Imported:
    """Return the policy of an artifact of either kind; of several platforms, that of `options.arch`.  Every blob that is read
    is compared with its digest.  Raises ImportFormatError."""
    members = _members(data, filename)
    index = _parsed(members.get("index.json", b""), f"{filename}: index.json")
    top = _chosen(_list(index, "manifests", filename), filename, options.arch)
    manifest = _parsed(_blob(members, top, filename), f"{filename}: manifest")
    if manifest.get("mediaType") == _INDEX or "manifests" in manifest:
        top = _chosen(_list(manifest, "manifests", filename), filename, options.arch)
        manifest = _parsed(_blob(members, top, filename), f"{filename}: manifest")
    layer = _chosen(_list(manifest, "layers", filename), filename, options.arch)
    content = _blob(members, layer, filename)
    config = manifest.get("config")
    kind = manifest.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    read = read_oci if kind == PROFILE else read_spo
    annotations = layer.get("annotations")
    title = annotations.get(_TITLE, "layer") if isinstance(annotations, dict) else "layer"
    return read(content, f"{filename}: {printable(str(title))}", options)


def _each(
    policy: Resolved, options: FormatOptions, export: Callable[[Resolved, FormatOptions], Exported]
) -> Iterator[tuple[Arch, Exported]]:
    """Yield what is exported for each machine of the policy, with its 32-bit programs."""
    for arch in sorted(machines(policy, options.arch), key=list(Arch).index):
        entries = {each: section for each, section in policy.entries.items() if each in (arch, arch.compat)}
        yield arch, export(replace(policy, entries=entries), replace(options, arch=arch))


def _exported(blobs: Mapping[str, bytes], top: Mapping[str, Any], exports: Mapping[Arch, Exported], name: str) -> Exported:
    """Return the archive, with what the profiles of all machines lose and add."""
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [{**top, "annotations": {_REFERENCE: name}}]}
    files = {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    files |= {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    losses: list[Loss] = []
    for arch, exported in exports.items():
        prefix = f"{arch}: " if len(exports) > 1 else ""
        losses += [replace(loss, what=f"{prefix}{loss.what}") for loss in exported.losses]
    first, *_ = exports.values()
    additions = {addition: None for exported in exports.values() for addition in exported.additions}
    use = f"oras cp --from-oci-layout {{file}}:{name} REGISTRY/{name}:TAG; its digest is {top['digest']}"
    return Exported(_archive(files), tuple(losses), tuple(additions), files=first.files, use=use)


def _manifest(blobs: dict[str, bytes], kind: str, config: object, layers: Sequence[object]) -> dict[str, Any]:
    manifest = {
        "schemaVersion": 2, "mediaType": _MANIFEST, "artifactType": kind, "config": config, "layers": layers,
        "annotations": _CREATED,
    }  # fmt: skip
    return _descriptor(blobs, _MANIFEST, _json(manifest), artifactType=kind)


def _descriptor(blobs: dict[str, bytes], kind: str, data: bytes, **more: object) -> dict[str, Any]:
    """Add a blob, and return its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data), **more}


def _platform(arch: Arch) -> dict[str, str]:
    return {"architecture": _PLATFORMS.get(arch, ""), "os": "linux"}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _members(data: bytes, filename: str) -> dict[str, bytes]:
    """Return the regular files of an archive, by name.  Raises ImportFormatError."""
    members, names = {}, set()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                name = posixpath.normpath(f"/{entry.name}").lstrip("/")
                if name in names and not entry.isdir():  # what unpacks it has the last one, which may be a link
                    raise ImportFormatError(f"{filename}: has {printable(name)} twice")
                names.add(name)
                # A sparse one may have any size without being in the archive.
                if entry.isfile() and not entry.issparse() and (file := archive.extractfile(entry)):
                    members[name] = file.read()
                if len(members) > _MAX_MEMBERS:
                    raise ImportFormatError(f"{filename}: has more than {_MAX_MEMBERS} files")
    except (ImportFormatError, MemoryError):
        raise
    except Exception as error:  # not only its own: a field that is no number raises others through tarfile
        text = str(error) or type(error).__name__
        raise ImportFormatError(f"{filename}: is not a tar archive of an OCI layout: {text}") from error
    return members


def _parsed(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data, object_pairs_hook=without_doubles)
    except (ValueError, RecursionError) as error:
        raise ImportFormatError(f"{what}: is missing, or is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ImportFormatError(f"{what}: must be an object")
    return value


def _list(value: Mapping[str, Any], name: str, filename: str) -> list[dict[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise ImportFormatError(f"{filename}: {name}: must be a list of descriptors")
    return found


def _chosen(descriptors: Sequence[dict[str, Any]], filename: str, arch: Arch) -> dict[str, Any]:
    """Return the only descriptor, or the one of the architecture's platform."""
    if len(descriptors) == 1:
        return descriptors[0]
    for entry in descriptors:
        platform = entry.get("platform")
        if isinstance(platform, dict) and platform.items() >= _platform(arch).items():
            return entry
    raise ImportFormatError(f"{filename}: has {len(descriptors)} profiles, none of them for {arch} (--arch names another)")


def _blob(members: Mapping[str, bytes], descriptor: Mapping[str, Any], filename: str) -> bytes:
    """Return the content that a descriptor names.  Raises ImportFormatError if it is missing or another one."""
    digest = str(descriptor.get("digest"))
    data = members.get(f"blobs/{digest.replace(':', '/', 1)}")
    if data is None or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ImportFormatError(f"{filename}: blob {digest}: {'is missing' if data is None else 'has another content'}")
    return data
