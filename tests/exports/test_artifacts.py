"""Profiles as OCI artifacts: pushed to a registry of the test's own by oras, copied by skopeo, signed by cosign, read again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from calls import format_options, parse
from needed import needs

from callfence.policygen import formats
from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.formats import ImportFormatError
from callfence.policygen.formats.containers.artifact import PROFILE, read_artifact
from callfence.policygen.formats.containers.files import export_oci, read_oci, read_spo
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = "callfence 1\narch x86_64\ndefault errno EPERM\nread: allow\nsocket: family == AF_UNIX\n"
TWO = f"{ONE}arch aarch64\nread: allow\nsocket: family == AF_INET\n"
KINDS = ("oci-artifact", "spo-artifact")


def archive(kind: str, text: str) -> bytes:
    return formats.exported(kind, parse(text).policy, format_options(name="it")).data


@contextmanager
def registry(folder: Path, port: int) -> Iterator[str]:
    """A registry that keeps its data in the folder: host:port."""
    (folder / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "registry.log").open("w") as log, subprocess.Popen(
        ["docker-registry", "serve", folder / "registry.yml"], stdout=log, stderr=log
    ) as process:
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None and time.monotonic() < until, (folder / "registry.log").read_text()
                    time.sleep(0.02)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def run(folder: Path, *words: str | Path) -> str:
    environment = {**os.environ, "HOME": str(folder), "COSIGN_PASSWORD": ""}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs("oras", "cosign", "docker-registry")
@pytest.mark.parametrize("kind", KINDS)
def test_pushed_signed_and_pulled(kind: str, tmp_path: Path, port: int) -> None:
    (tmp_path / "it.tar").write_bytes(archive(kind, ONE))
    with registry(tmp_path, port) as host:
        name = f"{host}/it:1"
        run(tmp_path, "oras", "cp", "--from-oci-layout", "it.tar:it", "--to-plain-http", name)
        manifest = json.loads(run(tmp_path, "oras", "manifest", "fetch", "--plain-http", name))
        digest = run(tmp_path, "oras", "resolve", "--plain-http", name).strip()
        run(tmp_path, "cosign", "generate-key-pair")
        signing = ("--key", "cosign.key", "--tlog-upload=false", "--allow-http-registry", "--yes")
        run(tmp_path, "cosign", "sign", *signing, f"{host}/it@{digest}")
        verifying = ("--key", "cosign.pub", "--insecure-ignore-tlog=true", "--allow-http-registry")
        verified = json.loads(run(tmp_path, "cosign", "verify", *verifying, f"{host}/it@{digest}"))
        run(tmp_path, "oras", "cp", "--from-plain-http", name, "--to-oci-layout", "pulled:it")
        run(tmp_path, "oras", "pull", "--plain-http", "-o", "files", name)
    assert verified[0]["critical"]["image"]["docker-manifest-digest"] == digest
    title = "profile.json" if kind == "oci-artifact" else "profile-linux-amd64.yaml"
    assert [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]] == [title]
    if kind == "oci-artifact":  # what KEP-6061 asks of a runtime's artifact
        assert manifest["config"]["mediaType"] == manifest["artifactType"] == PROFILE
        assert (tmp_path / "files/profile.json").read_bytes() == export_oci(resolved(parse(ONE).policy), format_options()).data
    with tarfile.open(tmp_path / "pulled.tar", "w") as pulled:
        pulled.add(tmp_path / "pulled", "")
    again = read_artifact((tmp_path / "pulled.tar").read_bytes(), "pulled.tar", format_options(name="it"))
    assert compare(again.policy, parse(ONE).policy).verdict in (Verdict.EQUAL, Verdict.DIFFERENT, Verdict.WIDER)


@needs("skopeo")
def test_several_platforms(tmp_path: Path) -> None:
    """Each has its own conditions; a tool of images sees an index."""
    (tmp_path / "it.tar").write_bytes(archive("oci-artifact", TWO))
    index = json.loads(run(tmp_path, "skopeo", "inspect", "--raw", "oci-archive:it.tar:it"))
    platforms = [entry["platform"] for entry in index["manifests"]]
    assert platforms == [{"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux"}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", [Arch.X86_64, Arch.AARCH64])
def test_each_platform_is_read_again(kind: str, arch: Arch) -> None:
    read = read_artifact(archive(kind, TWO), "it.tar", format_options(arch=arch)).policy
    policy = parse(TWO).policy
    alone = replace(policy, entries={arch: policy.entries[arch]})
    exporter = formats.exporter("oci" if kind == "oci-artifact" else "spo")
    profile = exporter(resolved(alone), format_options(arch=arch, name="it"))
    direct = (read_oci if kind == "oci-artifact" else read_spo)(profile.data, "it", format_options(arch=arch)).policy
    assert compare(read, direct).verdict is Verdict.EQUAL
    assert arch in read.entries and len([each for each in read.entries if each.compat]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_policies_are_equal_bytes(kind: str) -> None:
    assert archive(kind, TWO) == archive(kind, TWO)


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data and len(old) == len(new)
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive", "is not a tar archive of an OCI layout"),
        (changed(archive("oci-artifact", ONE), b"SCMP_ACT_ALLOW", b"SCMP_ACT_ALLOX"), "has another content"),
        (changed(archive("oci-artifact", ONE), b"index.json", b"endix.json"), "index.json: is missing, or is not JSON"),
        (changed(archive("oci-artifact", ONE), b'"manifests":[', b'"manifestos":'), "index.json: is missing, or is not JSON"),
    ],
)
def test_bad_archives(data: bytes, message: str) -> None:
    with pytest.raises(ImportFormatError, match=message):
        read_artifact(data, "it.tar", format_options())


def with_index(index: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """An archive of one file."""
    entry = tarfile.TarInfo("index.json")
    entry.type, entry.size = kind, len(index)
    return entry.tobuf() + index + bytes(-len(index) % 512 + 1024)


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "x", "GNU.sparse.size": "1"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"},
        {"GNU.sparse.size": "x", "GNU.sparse.numblocks": "1"},
        {"size": "9" * 30},
    ],
)
def test_fields_of_an_archive_that_are_no_numbers(headers: dict[str, str]) -> None:
    entry = tarfile.TarInfo("index.json")
    entry.pax_headers = headers
    data = entry.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    with pytest.raises(ImportFormatError, match=r"it\.tar: is not a tar archive of an OCI layout: .+"):
        read_artifact(data, "it.tar", format_options())


@pytest.mark.parametrize(("members", "said"), [(998, ""), (999, "it.tar: has more than 1000 files")])
def test_an_archive_of_many_files_is_not_read(members: int, said: str) -> None:
    """Two files are those of the layout."""
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as archive:
        for name, content in [("oci-layout", b"{}"), ("index.json", b"[]")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for number in range(members):
            archive.addfile(tarfile.TarInfo(f"blobs/{number}"))
    with pytest.raises(ImportFormatError) as caught:
        read_artifact(files.getvalue(), "it.tar", format_options())
    assert str(caught.value) == (said or "it.tar: index.json: must be an object")


@pytest.mark.parametrize("index", [b'{"manifests": []}', b'{"manifests": {}}', b'{"manifests": [1]}', b"{}"])
def test_an_index_without_manifests(index: bytes) -> None:
    with pytest.raises(ImportFormatError, match=r"^it\.tar: manifests: must be a list of descriptors$"):
        read_artifact(with_index(index), "it.tar", format_options())


def test_a_sparse_file_takes_no_memory() -> None:
    """One of 64 GiB takes 1 KiB of an archive."""
    data = bytearray(with_index(b"x" * 512, tarfile.GNUTYPE_SPARSE))
    for at, number in ((386, 0), (398, 512), (483, 64 << 30)):  # a piece's place and size, and the size of all
        data[at : at + 12] = b"\x80" + number.to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % sum((*data[:148], *b" " * 8, *data[156:512]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive_:
        assert archive_.getmember("index.json").size == 64 << 30
    with pytest.raises(ImportFormatError, match=r"index\.json: is missing"):
        read_artifact(bytes(data), "it.tar", format_options())


def test_lists_within_lists_are_an_error() -> None:
    with pytest.raises(ImportFormatError, match=r"index\.json: is missing, or is not JSON"):
        read_artifact(with_index(b'{"manifests":' + b"[" * 100_000), "it.tar", format_options())


@pytest.mark.parametrize("name", ["index.json", "./index.json", "/index.json", "a/..//index.json"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE])
def test_an_index_that_another_entry_replaces(name: str, kind: bytes) -> None:
    """What unpacks the archive has another index then."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "other.json" if kind == tarfile.SYMTYPE else ""
    data = archive("oci-artifact", ONE).rstrip(b"\0")
    data += bytes(-len(data) % 512) + entry.tobuf() + bytes(1024)
    with pytest.raises(ImportFormatError, match=r"it\.tar: has index\.json twice"):
        read_artifact(data, "it.tar", format_options())


@pytest.mark.parametrize("name", ["layers", "Layers", "layer\u017f"])
def test_a_field_that_other_readers_take_elsewhere(name: str) -> None:
    """Go's JSON, which runtimes read, takes the last of `layers` and `Layers`: it would be another profile."""
    data = _with_layer(archive("oci-artifact", ONE), b'"layers":', f'"{name}":[],"layers":'.encode())
    with pytest.raises(ImportFormatError, match=r"manifest: is missing, or is not JSON: the field 'layers' is given twice"):
        read_artifact(data, "it.tar", format_options())


@pytest.mark.parametrize("title", [b'"annotations":"a", "x":"x"', b'"annotations":{"a":"b"}'])
def test_any_annotations(title: bytes) -> None:
    data = _with_layer(archive("oci-artifact", ONE), b'"annotations":{"org.opencontainers.image.title":"profile.json"}', title)
    assert read_artifact(data, "it.tar", format_options()).policy


def test_a_platform_that_it_does_not_have() -> None:
    data = archive("oci-artifact", TWO)
    assert b'"arm64"' in data
    with pytest.raises(ImportFormatError, match="none of them for aarch64"):
        read_artifact(_with_index(data, b"arm64", b"riscv"), "it.tar", format_options(arch=Arch.AARCH64))


def _with_index(data: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with another platform in its index of platforms, whose digests are right."""
    return _replaced(data, b"manifests", old, new)


def _with_layer(data: bytes, old: bytes, new: bytes) -> bytes:
    return _replaced(data, b"layers", old, new)


def _replaced(data: bytes, word: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with other text in the blob that has a word."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive_:
        for entry in archive_:
            file = archive_.extractfile(entry)
            assert file
            files[entry.name] = file.read()
    (name,) = [name for name, content in files.items() if name.startswith("blobs/") and word in content]
    assert old in files[name]
    content = files.pop(name).replace(old, new)
    digest = hashlib.sha256(content).hexdigest()
    files[f"blobs/sha256/{digest}"] = content
    files["index.json"] = files["index.json"].replace(name.rpartition("/")[2].encode(), digest.encode())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive_:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive_.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
