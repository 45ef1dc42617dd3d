"""The files that container runtimes and Kubernetes read: `oci`, `k8s` and `spo`.

OCI runtime specification and Docker JSON are what docker, podman, containerd and CRI-O read.  The kubelet reads the same below
/var/lib/kubelet/seccomp of its node (kubernetes.io/docs/tutorials/security/seccomp), if the pod says so.

The Security Profiles Operator has the resource SeccompProfile, security-profiles-operator.x-k8s.io/v1beta1, whose fields are
those of an OCI profile, less `defaultErrnoRet` and comments, and with values of 63 bits (its
deploy/base-crds/crds/seccompprofile.yaml).  It is written as YAML, and read as JSON, or as YAML with PyYAML (the extra `yaml`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from callfence.policygen.formats import Direction, Exported, FormatOptions, Imported, ImportFormatError, Loss
from callfence.policygen.formats.containers import profile as profiles
from callfence.policygen.formats.containers.meaning import policy_of
from callfence.policygen.formats.containers.profile import Op, Profile, ProfileRule
from callfence.policygen.formats.containers.written import profile_of
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.language.naming import format_action
from callfence.policygen.text import pip_install
from callfence.policygen.values import replace

FOLDER = "profiles"
"""The folder for Localhost profiles, in the kubelet's folder of seccomp profiles."""
KIND = "SeccompProfile"
API = "security-profiles-operator.x-k8s.io/v1beta1"
LIMIT = 1 << 63
"""Values are of the format int64."""
_SPEC = ("defaultAction", "architectures", "flags", "syscalls", "listenerPath", "listenerMetadata")
_OTHERS = frozenset(("baseProfileName", "state", "disabled"))
_DEEPEST = 64
"""The most lists and objects within each other in a file of YAML; a SeccompProfile needs six."""


# OCI, and Kubernetes with it


def export_oci(policy: Resolved, options: FormatOptions) -> Exported:
    written = profile_of(policy, options)
    more = " --security-opt no-new-privileges" if options.no_new_privileges else ""
    use = f"podman run --security-opt seccomp={{file}}{more} ..."
    return Exported(json_bytes(written.profile), written.losses, written.additions, use=use)


def read_oci(data: bytes, filename: str, options: FormatOptions) -> Imported:
    return policy_of(profiles.read(profiles.load(data, filename), filename), options, filename)


def json_bytes(profile: Profile) -> bytes:
    """Return the JSON of a profile, with each comparison on its own line."""
    return (json.dumps(profiles.as_object(profile), indent=1) + "\n").encode()


def export_k8s(policy: Resolved, options: FormatOptions) -> Exported:
    """Return a Localhost profile for the nodes and, as a second file, the part of the pod's specification that selects it.
    Raises ExportError if the policy cannot be written as a profile."""
    written = profile_of(policy, options)
    losses = written.losses
    if not options.runtime:
        what = "no container will start: the calls that the runtime makes under the profile are not in it; give --runtime"
        losses = (Loss(Direction.NARROWER, what), *losses)
    escalation = "        allowPrivilegeEscalation: false\n" if options.no_new_privileges else ""
    pod = f"""\
spec:
  containers:
    - name: {json.dumps(_resource_name(options.name))}
      securityContext:
{escalation}        seccompProfile:
          type: Localhost
          localhostProfile: {FOLDER}/{options.name}.json
"""
    place = f"/var/lib/kubelet/seccomp/{FOLDER}/{options.name}.json"
    use = f"copy {{file}} to {place} on every node, and put the rest into the pod"
    return Exported(json_bytes(written.profile), losses, written.additions, (".pod.yaml", pod.encode()), use=use)


def _resource_name(name: str) -> str:
    """Return the nearest valid name of a resource or container: lower-case letters, digits, `-` (RFC 1123)."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")


# The Security Profiles Operator


def export_spo(policy: Resolved, options: FormatOptions) -> Exported:
    written = profile_of(policy, options)
    losses, rules = [*written.losses], []
    cut: dict[bool, list[str]] = {True: [], False: []}
    for rule in written.profile.rules:
        fitted = _fitted(rule)
        rules += [fitted] if fitted else []
        if fitted != rule:
            cut[fitted is None] += rule.names
    fewer, more = Direction.NARROWER, Direction.WIDER
    if policy.default.may_allow:  # rules deny
        fewer, more = more, fewer
    if cut[False]:
        what = "the highest of an argument's 64 bits is not compared: a SeccompProfile has only numbers of 63 bits"
        losses.append(Loss(more, what, tuple(cut[False])))
    if cut[True]:
        what = "alternatives with a 1 in the highest of 64 bits are left out: a SeccompProfile has only numbers of 63 bits"
        losses.append(Loss(fewer, what, tuple(cut[True])))
    if written.profile.errno not in (None, profiles.EPERM):
        meant = format_action(policy.default).removeprefix("errno ")
        what = f"calls that get the default action fail with EPERM instead of {meant}"
        losses.append(Loss(Direction.OTHER, f"{what}: a SeccompProfile cannot set the default's errno"))
    text = "\n".join(_yaml(replace(written.profile, rules=tuple(rules)), options.name)) + "\n"
    return Exported(text.encode(), tuple(losses), written.additions, use="kubectl apply -f {file}")


def _fitted(rule: ProfileRule) -> ProfileRule | None:
    """Return the rule in 63-bit numbers, which holds for more arguments; None if it requires the highest bit to be set."""
    comparisons = []
    for comparison in rule.comparisons:
        if comparison.op is Op.MASKED_EQ and comparison.value_two < LIMIT:
            comparison = replace(comparison, value=comparison.value % LIMIT)
        elif max(comparison.value, comparison.value_two) >= LIMIT:
            return None
        comparisons.append(comparison)
    return replace(rule, comparisons=tuple(comparisons))


def _yaml(profile: Profile, name: str) -> Iterator[str]:
    yield f"apiVersion: {API}"
    yield f"kind: {KIND}"
    yield "metadata:"
    yield f"  name: {json.dumps(_resource_name(name))}"
    yield "spec:"
    yield f"  defaultAction: {profile.default}"
    yield from ("  architectures:", *(f"    - {name}" for name in profile.architectures))
    yield "  syscalls:" if profile.rules else "  syscalls: []"
    for rule in profile.rules:
        if rule.comment:
            yield f"    # {rule.comment}"
        yield f"    - action: {rule.act}"
        if rule.errno is not None:
            yield f"      errnoRet: {rule.errno}"
        yield from ("      names:", *(f"        - {name}" for name in rule.names))
        if rule.comparisons:
            yield "      args:"
        for comparison in rule.comparisons:
            values = f"value: {comparison.value}, valueTwo: {comparison.value_two}"
            yield f"        - {{index: {comparison.index}, op: {comparison.op}, {values}}}"


def read_spo(data: bytes, filename: str, options: FormatOptions) -> Imported:
    resources = [item for item in _documents(data, filename) if isinstance(item, dict) and item.get("kind") == KIND]
    if len(resources) != 1:
        raise ImportFormatError(f"{filename}: has {len(resources)} resources of kind {KIND}; give a file with one")
    spec = resources[0].get("spec")
    if not isinstance(spec, dict):
        raise ImportFormatError(f"{filename}: spec: must be an object")
    for name in spec:
        if name not in _SPEC and name not in _OTHERS:
            names = ", ".join((*_SPEC, *sorted(_OTHERS)))
            raise ImportFormatError(f"{filename}: spec.{name}: is unknown; known are {names}")
    profile = profiles.read({name: spec[name] for name in _SPEC if name in spec}, filename)
    imported = policy_of(profile, options, filename)
    if base := spec.get("baseProfileName"):
        if not isinstance(base, str) or not base.isprintable():
            raise ImportFormatError(f"{filename}: spec.baseProfileName: must be a name, not {base!a}")
        lost = Loss(Direction.NARROWER, f"what the base profile {base} allows, since it is another resource")
        imported = replace(imported, losses=(*imported.losses, lost))
    return imported


def _documents(data: bytes, filename: str) -> list[Any]:
    if data.lstrip()[:1] == b"{":
        return [profiles.load(data, filename)]
    try:
        import yaml
    except ImportError as error:
        hint = f"{pip_install('yaml')}, or give it as JSON (kubectl get -o json)"
        raise ImportFormatError(f"{filename}: reading YAML takes PyYAML: {hint}") from error
    try:
        depth = 0
        for event in yaml.parse(data, yaml.SafeLoader):
            # A few lines of aliases, each for a thousand elements, would fill the memory when they are expanded.
            if isinstance(event, yaml.AliasEvent):
                raise ImportFormatError(f"{filename}: has aliases (*NAME): write out what they stand for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # which PyYAML takes milliseconds for, each
                raise ImportFormatError(f"{filename}: nested too deeply for a profile")
        for node in yaml.compose_all(data, yaml.SafeLoader):
            _require_single(node)
        return list(yaml.safe_load_all(data))
    except ImportFormatError:
        raise
    except Exception as error:  # not only its own: a scalar that does not fit its tag raises others through PyYAML
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImportFormatError(f"{filename}: not YAML: {text}") from error


def _require_single(node: Any) -> None:
    """Raise ValueError if a node of YAML has a field twice, or merges another one into it (`<<`)."""
    parts = node.value if isinstance(node.value, list) else []
    if parts and isinstance(parts[0], tuple):
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in parts):
            raise ValueError("has a merge (<<): write out what it stands for")
        profiles.without_doubles([(str(key.value), None) for key, _ in parts])
        parts = [value for _, value in parts]
    for part in parts:
        _require_single(part)
