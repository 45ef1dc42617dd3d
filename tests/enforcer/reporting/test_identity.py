"""Where a process runs: cgroup files as each runtime has them made, mounts in a cgroup namespace, and variables."""

from __future__ import annotations

import pytest

from callfence.enforcer.reporting import identity as module
from callfence.enforcer.reporting.identity import identity

ID = "3f4c8a1de0b2956477c1d09e8fab23415e6d70c8b9a1f2e3d4c5b6a798081726"
UID = "9d0fa1c3-5b6e-4c1f-b7a4-2e8d9c0b1a2f"
ESCAPED = UID.replace("-", "_")
MIRROR = "5a1c3e7b9d0f2a4c6e8b0d1f3a5c7e9b"
"""The uid of a static pod, which is a digest of its manifest."""

CGROUPS = {
    "docker, systemd, v2": (f"0::/system.slice/docker-{ID}.scope", ID, None),
    "docker, cgroupfs, v2": (f"0::/docker/{ID}", ID, None),
    "docker, v1": (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service", ID, None),
    "docker in docker": (f"0::/docker/{'ab' * 32}/docker/{ID}", ID, None),
    "nerdctl": (f"0::/system.slice/nerdctl-{ID}.scope", ID, None),
    "podman": (f"0::/machine.slice/libpod-{ID}.scope/container", ID, None),
    "podman of a user": (
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container", ID, None,
    ),
    "podman, cgroupfs": (f"0::/libpod_parent/libpod-{ID}", ID, None),
    "containerd, systemd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{ESCAPED}.slice/cri-containerd-{ID}.scope", ID, UID,
    ),
    "containerd, cgroupfs": (f"0::/kubepods/besteffort/pod{UID}/{ID}", ID, UID),
    "containerd, systemd below its service": (
        f"0::/system.slice/containerd.service/kubepods-burstable-pod{ESCAPED}.slice:cri-containerd:{ID}", ID, UID,
    ),
    "cri-o, systemd": (
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{ESCAPED}.slice/crio-{ID}.scope", ID, UID,
    ),
    "cri-o, a cgroup within": (f"0::/kubepods.slice/kubepods-pod{ESCAPED}.slice/crio-{ID}.scope/container", ID, UID),
    "cri-o, cgroupfs": (f"0::/kubepods/pod{UID}/crio-{ID}", ID, UID),
    "docker under Kubernetes, v1": (f"4:memory:/kubepods/burstable/pod{UID}/{ID}\n0::/", ID, UID),
    "a static pod": (f"0::/kubepods.slice/kubepods-pod{MIRROR}.slice/crio-{ID}.scope", ID, MIRROR),
    "kind": (
        f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{ESCAPED}.slice/cri-containerd-{ID}.scope", ID, UID,
    ),
    "a service": ("0::/system.slice/tripod-server.service", None, None),
    "a login": ("0::/user.slice/user-0.slice/session-3.scope", None, None),
    "nothing": ("", None, None),
}  # fmt: skip
MOUNTS = {
    "docker": (f"7 6 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda1 rw", ID, None),
    "podman": (
        f"801 780 0:24 /storage/overlay-containers/{ID}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw", ID, None,
    ),
    "a pod": (f"622 600 254:1 /var/lib/kubelet/pods/{UID}/etc-hosts /etc/hosts rw - ext4 /dev/vda1 rw", None, UID),
    "no container": ("22 1 254:1 / / rw - ext4 /dev/vda1 rw\nodd\n", None, None),
}


def found(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], environment: list[bytes]) -> dict[str, object]:
    monkeypatch.setattr(module, "_content", lambda _process, name: files.get(name, ""))
    return identity("self", environment)


def fields(container: str | None, uid: str | None) -> dict[str, object]:
    return ({"container": container} if container else {}) | ({"pod": {"uid": uid}} if uid else {})


@pytest.mark.parametrize(("text", "container", "uid"), CGROUPS.values(), ids=CGROUPS)
def test_cgroups(monkeypatch: pytest.MonkeyPatch, text: str, container: str | None, uid: str | None) -> None:
    where = found(monkeypatch, {"cgroup": f"{text}\n"}, [])
    where.pop("unit")
    assert where == fields(container, uid)


@pytest.mark.parametrize(("text", "container", "uid"), MOUNTS.values(), ids=MOUNTS)
def test_mounts_say_it_where_the_cgroup_namespace_hides_it(
    monkeypatch: pytest.MonkeyPatch, text: str, container: str | None, uid: str | None
) -> None:
    assert found(monkeypatch, {"cgroup": "0::/\n", "mountinfo": text}, []) == {"unit": None, **fields(container, uid)}


def test_mounts_are_not_read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cgroup": "0::/system.slice/app.service\n", "mountinfo": MOUNTS["docker"][0]}
    assert found(monkeypatch, files, []) == {"unit": "app.service"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ([b"POD_NAME=a", b"POD_NAMESPACE=n", b"POD_UID=u"], {"pod": {"name": "a", "namespace": "n", "uid": "u"}}),
        ([b"POD_NAME=a", b"CALLFENCE_POD=b"], {"pod": {"name": "b"}}),
        (
            [b"OTEL_RESOURCE_ATTRIBUTES=a=x, k8s.pod.name=c%20d,k8s.namespace.name=n,container.id=i,odd", b"POD_NAME=a"],
            {"container": "i", "pod": {"name": "c d", "namespace": "n"}},
        ),
        ([b"OTEL_RESOURCE_ATTRIBUTES=k8s.pod.name=%41%zz%4%"], {"pod": {"name": "A%zz%4%"}}),
        ([b"OTEL_RESOURCE_ATTRIBUTES=k8s.pod.name=" + b"x" * 1000], {"pod": {"name": "x" * 512}}),
        ([b"CALLFENCE_IMAGE=sha256:1", b"CALLFENCE_CONTAINER=i"], {"container": "i", "image": "sha256:1"}),
        ([b"POD_NAME=" + b"\xff" * 1000], {"pod": {"name": "\ufffd" * 512}}),
        ([b"POD_NAME=", b"odd", b"=x"], {}),
    ],
)  # fmt: skip
def test_variables(monkeypatch: pytest.MonkeyPatch, environment: list[bytes], expected: dict[str, object]) -> None:
    assert found(monkeypatch, {}, environment) == {"unit": None, **expected}


def test_a_variable_counts_more_than_the_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cgroup": f"0::/kubepods/pod{UID}/{ID}\n"}
    where = found(monkeypatch, files, [b"POD_UID=u", b"CALLFENCE_CONTAINER=i"])
    assert where == {"unit": None, "container": "i", "pod": {"uid": "u"}}


def test_nothing_is_known_of_a_process_that_has_ended() -> None:
    assert identity(1 << 30, []) == {"unit": None}
