"""OCI runtime specification and Docker JSON: what docker, podman, containerd and CRI-O read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from policygen.formats import Exported
from policygen.formats.containers import profile as profiles
from policygen.formats.containers.meaning import policy_of
from policygen.formats.containers.written import profile_of

if TYPE_CHECKING:
    from policygen.formats import FormatOptions, Imported
    from policygen.model import Policy


def export(policy: Policy, options: FormatOptions) -> Exported:
    written = profile_of(policy, options)
    more = " --security-opt no-new-privileges" if options.no_new_privileges else ""
    return Exported(
        json_bytes(written.profile),
        written.losses,
        written.additions,
        use=f"podman run --security-opt seccomp={{file}}{more} ...",
    )


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    return policy_of(profiles.read(profiles.load(data, filename), filename), options, filename)


def json_bytes(profile: profiles.Profile) -> bytes:
    """The file of a profile: one comparison a line."""
    text = json.dumps(profiles.as_object(profile), indent=1)
    return (text + "\n").encode()
