"""Kubernetes: a Localhost profile for the nodes, and what the pod says to use it.

The kubelet reads profiles below /var/lib/kubelet/seccomp of its node (kubernetes.io/docs/tutorials/security/seccomp)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from policygen.formats import Direction, Exported, Loss
from policygen.formats.containers.oci import json_bytes
from policygen.formats.containers.written import profile_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.formats import FormatOptions
    from policygen.model import Policy

FOLDER = "profiles"
"""Below the kubelet's own."""


def resource_name(name: str) -> str:
    """Return the nearest valid name of a resource or container: lower-case letters, digits, `-` (RFC 1123)."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")


def export(policy: Policy, options: FormatOptions) -> Exported:
    written = profile_of(policy, options)
    place = f"/var/lib/kubelet/seccomp/{FOLDER}/{options.name}.json"
    return Exported(
        json_bytes(written.profile),
        (*_without_runtime(options), *written.losses),
        written.additions,
        beside=(".pod.yaml", _snippet(options).encode()),
        use=f"copy {{file}} to {place} on every node, and put the rest into the pod",
    )


def _without_runtime(options: FormatOptions) -> Iterator[Loss]:
    """The runtime loads the profile before it starts the program, and then has to make calls of its own."""
    if not options.runtime:
        what = "no container will start: the calls that the runtime makes under the profile are not in it; give --runtime"
        yield Loss(Direction.NARROWER, what)


def _snippet(options: FormatOptions) -> str:
    escalation = "        allowPrivilegeEscalation: false\n" if options.no_new_privileges else ""
    return f"""\
spec:
  containers:
    - name: {json.dumps(resource_name(options.name))}
      securityContext:
{escalation}        seccompProfile:
          type: Localhost
          localhostProfile: {FOLDER}/{options.name}.json
"""
