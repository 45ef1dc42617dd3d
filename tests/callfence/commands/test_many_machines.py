"""Recordings of many machines: the Kubernetes manifests are valid, and what their containers run does what they are for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from callfence.policygen import reading
from callfence.policygen.recording import many, recording_file
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "samples" / "kubernetes"
SCHEMAS = json.loads((ROOT / "tests" / "data" / "kubernetes-1.34.json").read_text())
DEFINITIONS = {
    ("apps/v1", "DaemonSet"): "io.k8s.api.apps.v1.DaemonSet",
    ("batch/v1", "Job"): "io.k8s.api.batch.v1.Job",
    ("v1", "PersistentVolumeClaim"): "io.k8s.api.core.v1.PersistentVolumeClaim",
    ("v1", "ConfigMap"): "io.k8s.api.core.v1.ConfigMap",
    **{
        ("admissionregistration.k8s.io/v1", kind): f"io.k8s.api.admissionregistration.v1.{kind}"
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    },
}


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


def problems(document: Any) -> list[str]:
    definition = DEFINITIONS[document["apiVersion"], document["kind"]]
    schema = {**SCHEMAS, "$ref": f"#/$defs/{definition}"}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_accepts(path: Path) -> None:
    for document in documents(path.name):
        assert problems(document) == []
        document.get("spec", document)["nosuchfield"] = 1
        assert problems(document), "the schema is a strict one"


def container(name: str, which: str) -> dict[str, Any]:
    spec = documents(name)[0]["spec"]["template"]["spec"]
    (found,) = [one for one in (*spec.get("initContainers", ()), *spec["containers"]) if one["name"] == which]
    return found  # type: ignore[no-any-return]


def words(one: Mapping[str, Any]) -> list[str]:
    return [*one["command"], *one["args"]]


def environment(one: Mapping[str, Any], home: Path, **values: Path | str) -> dict[str, str]:
    """What the manifest sets, with the folders and the pod's facts given here."""
    named = {row["name"]: row.get("value") for row in one.get("env", ())}
    assert named.keys() >= values.keys()
    path = os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin"))
    found = {**named, **values, "PATH": path, "HOME": home}
    assert None not in found.values(), "a value that Kubernetes fills in is given by the test"
    return {name: str(value) for name, value in found.items()}


@pytest.mark.long
def test_a_pod_records_ships_and_the_job_folds(tmp_path: Path) -> None:
    shared, work = tmp_path / "shared", tmp_path / "work"
    shared.mkdir()
    work.mkdir()
    app, ship, job = container("record.yaml", "app"), container("record.yaml", "ship"), container("fold.yaml", "fold")
    for pod, program in (("a", ["cat", "/etc/passwd"]), ("b", ["ls", "/"])):
        folder = tmp_path / pod
        folder.mkdir()
        learn = [word.replace("/scratch", str(folder)) for word in app["command"]]
        subprocess.run([*learn, *program], check=True, capture_output=True, env=environment(app, tmp_path))
        shipping = environment(ship, tmp_path, FROM=folder, TO=shared / "recordings", POD=pod)
        with subprocess.Popen(words(ship), env=shipping) as sidecar:
            deadline = time.monotonic() + 20
            while not (shared / "recordings" / f"{pod}.rec").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            sidecar.send_signal(signal.SIGTERM)
            assert sidecar.wait(20) == 0
    assert sorted(path.name for path in (shared / "recordings").iterdir()) == ["a.rec", "b.rec"]
    folding = environment(job, tmp_path, SHARED=shared, WORK=work, EACH="1")
    for _ in range(2):
        subprocess.run(words(job), check=True, timeout=60, env=folding)
    whole = recording_file.load(shared / ".callfence" / "app.rec")
    assert {run.command for run in whole.runs} == {("cat", "/etc/passwd"), ("ls", "/")}
    assert whole == recording_file.load(work / "all.rec")
    policy = (shared / "app.policy").read_text()
    assert "\nopenat: flags == O_RDONLY\n" in policy


def shard(number: int) -> Recording:
    seen = [
        Observation(0xC000003E, call, (None,), f"/bin/{number % 7}", (number + 1,), f"site {number}", (number, 0, 0, 0, 0, 0))
        for call in sorted({0, number % 11, number % 13})
    ]
    return Recording((Run(f"{number:08}", number, ("app",), 0, True),), tuple(seen))


def merged(paths: list[Path]) -> Recording:
    output = paths[0].parent / "merged"
    many.merge_files(output, paths)
    return recording_file.load(output)


def test_files_fold_as_recordings_do_and_in_any_order(tmp_path: Path) -> None:
    shards = [shard(number) for number in range(40)]
    paths = []
    for number, one in enumerate(shards):
        paths.append(tmp_path / f"{number}.rec")
        recording_file.save(paths[-1], one)
    whole = merge(*shards)
    assert merged(paths) == merged(paths[::-1]) == whole
    for path, half in zip(paths, (shards[:20], shards[15:]), strict=False):
        recording_file.save(path, merge(*half))
    assert merged(paths[:2]) == merged(paths) == whole


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.rec"
    recording_file.save(path, shard(1))
    real = reading.read

    def changed(name: str, limit: int, **options: bool) -> bytes:
        recording_file.save(path, shard(2))
        return real(name, limit, **options)

    monkeypatch.setattr(reading, "read", changed)
    with pytest.raises(recording_file.RecordingError, match="changed while it was read"):
        many.merge_files(tmp_path / "out.rec", [path])
    assert not (tmp_path / "out.rec").exists()


def test_what_a_line_says_twice_leaves_no_observation_behind(tmp_path: Path) -> None:
    """JSON takes the last of two equal names, so the beginning of a line may name another call than the whole line."""
    paths = [tmp_path / "a.rec", tmp_path / "b.rec"]
    for number, path in enumerate(paths):
        recording_file.save(path, shard(number))
    lines = paths[1].read_text().splitlines()
    paths[1].write_text("\n".join([*lines[:-1], f'{lines[-1][:-1]}, "number": 77}}', ""]))
    assert merged(paths) == merge(*map(recording_file.load, paths))


def test_pipes_are_read_once(tmp_path: Path) -> None:
    recording_file.save(tmp_path / "a.rec", shard(1))
    command = f'"{sys.executable}" -m callfence merge -o out.rec <(cat a.rec) a.rec'
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert recording_file.load(tmp_path / "out.rec") == shard(1)


@pytest.mark.parametrize("place", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_standard_input_is_read(tmp_path: Path, place: str) -> None:
    recording_file.save(tmp_path / "a.rec", shard(1))
    command = [sys.executable, "-m", "callfence", "merge", "-o", "out.rec", place]
    subprocess.run(command, input=(tmp_path / "a.rec").read_bytes(), cwd=tmp_path, check=True, timeout=60)
    assert recording_file.load(tmp_path / "out.rec") == shard(1)


def test_other_pipes_are_refused(tmp_path: Path) -> None:
    """Nobody may ever write to them."""
    recording_file.save(tmp_path / "a.rec", shard(1))
    os.mkfifo(tmp_path / "b.rec")
    (tmp_path / "link.rec").symlink_to("b.rec")
    for name in ("b.rec", "link.rec"):
        command = [sys.executable, "-m", "callfence", "merge", "-o", "out.rec", "a.rec", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (2, f"callfence merge: {name}: is not a regular file\n")


def test_hundreds_of_recordings_take_seconds(tmp_path: Path) -> None:
    """Folding was quadratic once; the limit is ten times what it takes on a busy machine."""
    for number in range(400):
        recording_file.save(tmp_path / f"{number}.rec", shard(number))
    start = time.process_time()
    whole = merged([tmp_path / f"{number}.rec" for number in range(400)])
    assert len(whole.runs) == 400
    assert time.process_time() - start < 10
