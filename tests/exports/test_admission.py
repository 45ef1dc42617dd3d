"""The admission policy of samples/kubernetes, by an implementation of its language (CEL), on pods with and without profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml

MANIFEST = Path(__file__).parents[2] / "samples" / "kubernetes" / "require.yaml"
CONFIG, POLICY, BINDING = yaml.safe_load_all(MANIFEST.read_text())
LISTED = CONFIG["data"]["app"]


def admitted(pod: dict[str, Any]) -> bool:
    environment = celpy.Environment()
    (validation,) = POLICY["spec"]["validations"]
    program = environment.program(environment.compile(validation["expression"]))
    return bool(program.evaluate({"object": celpy.json_to_cel(pod), "params": celpy.json_to_cel(CONFIG)}))


def profile(name: str = LISTED, kind: str = "Localhost") -> dict[str, Any]:
    return {"seccompProfile": {"type": kind, **({"localhostProfile": name} if kind == "Localhost" else {})}}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    listed = [{"name": "it", "securityContext": each} if each else {"name": "it"} for each in containers]
    return {"spec": {"containers": listed, **spec}}


OWN = profile()
OTHER = [{"name": "other", "securityContext": profile("profiles/other.json")}]
PODS = {
    "of the container": (pod(OWN), True),
    "of the pod": (pod({}, securityContext=OWN), True),
    "of each container": (pod(OWN, OWN, initContainers=[{"name": "first", "securityContext": OWN}]), True),
    "none": (pod({}), False),
    "of one of two": (pod(OWN, {}), False),
    "another file": (pod(profile("profiles/app-000000000000.json")), False),
    "the runtime's": (pod(profile(kind="RuntimeDefault")), False),
    "unconfined in a confined pod": (pod(profile(kind="Unconfined"), securityContext=OWN), False),
    "an init container's is another": (pod(OWN, initContainers=OTHER), False),
    "an ephemeral container's is another": (pod(OWN, ephemeralContainers=OTHER), False),
    "privileged, so without a filter": (pod({**OWN, "privileged": True}), False),
}


@pytest.mark.parametrize("name", PODS)
def test_pods(name: str) -> None:
    found, expected = PODS[name]
    assert admitted(found) == expected


def test_the_binding_is_of_this_policy_and_fails_closed() -> None:
    assert BINDING["spec"]["policyName"] == POLICY["metadata"]["name"]
    reference = BINDING["spec"]["paramRef"]
    assert (reference["name"], reference["namespace"]) == (CONFIG["metadata"]["name"], CONFIG["metadata"]["namespace"])
    assert reference["parameterNotFoundAction"] == "Deny" and BINDING["spec"]["validationActions"] == ["Deny"]
    assert POLICY["spec"]["failurePolicy"] == "Fail"
