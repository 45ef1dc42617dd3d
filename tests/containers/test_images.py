"""Images learned in containers without privileges, exported, and run again under the profile."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Containers

PYTHON = os.path.basename(os.path.realpath("/usr/bin/python3"))
SHELL = os.path.realpath("/usr/bin/busybox")
GIT = """
cd /tmp && git init -q -b main repo && cd repo && echo text > file && git add file && git commit -q -m first
git log --format=%s && git status --short && git fsck 2>/dev/null && git cat-file -p HEAD:file
"""


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    packages: tuple[str, ...]
    argv: tuple[str, ...]
    prints: bytes


IMAGES = [
    Image(
        "sqlite3",
        ("sqlite3",),
        ("/usr/bin/sqlite3", ":memory:", "create table t(a); insert into t values (1), (41); select sum(a) from t;"),
        b"42\n",
    ),
    Image(
        "python",
        (f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib"),
        (f"/usr/bin/{PYTHON}", "-c", "import hashlib, json, tempfile; print(json.dumps(hashlib.md5(b'').hexdigest()[:8]))"),
        b'"d41d8cd9"\n',
    ),
    Image("git", ("git", "busybox-static"), (SHELL, "sh", "-c", GIT), b"first\ntext\n"),
]
ENVIRONMENT = (
    *(f"--env=GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME=n", "EMAIL=n@example.org")),
    "--env=HOME=/tmp",
)


def learned(
    containers: Containers, tool: tuple[Path, tuple[str, ...]], root: Path, argv: tuple[str, ...], place: Path, name: str
) -> subprocess.CompletedProcess[bytes]:
    """Run once under learn, as a user who is unprivileged outside and has no capability."""
    folder, start = tool
    mounts = (f"--volume={folder}:/callfence:ro", f"--volume={place}:/out", "--tmpfs=/tmp")
    command = (*start, "learn", "-q", "-o", f"/out/{name}.policy", "--", *argv)
    ran = containers.podman(root, command, *containers.UNPRIVILEGED, *mounts, *ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran


@pytest.mark.long
@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_runs_under_what_was_learned_in_it(
    containers: Containers,
    tool: tuple[Path, tuple[str, ...]],
    place: Path,
    image: Image,
    callfence: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    root = containers.image(image.name, packages=image.packages)
    flags = (*containers.UNPRIVILEGED, "--tmpfs=/tmp", *ENVIRONMENT)
    without = containers.podman(root, image.argv, *flags)
    assert (without.stdout, without.stderr, without.returncode) == (image.prints, b"", 0)
    assert learned(containers, tool, root, image.argv, place, "app").stdout == image.prints

    policy, profile, bare = place / "app.policy", place / "app.json", place / "bare.json"
    callfence("export", "--to", "oci", "--runtime", "crun", "-o", profile, policy)
    under = containers.podman(root, image.argv, *flags, profile=profile)
    assert (under.stdout, under.stderr, under.returncode) == (without.stdout, without.stderr, without.returncode)

    callfence("export", "--to", "oci", "-o", bare, policy)
    lacking = containers.podman(root, image.argv, *flags, profile=bare)
    assert lacking.returncode != 0 and image.prints not in lacking.stdout, "the runtime's own calls were not needed"


@pytest.mark.long
def test_shards_are_folded_into_one_profile(
    containers: Containers,
    tool: tuple[Path, tuple[str, ...]],
    place: Path,
    callfence: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    """As docs/containers.md has it for many jobs: each learns a part, and the whole runs under what all learned."""
    root = containers.image("sqlite3", packages=("sqlite3",))
    flags = (*containers.UNPRIVILEGED, f"--volume={place}:/out", "--tmpfs=/tmp", *ENVIRONMENT)
    create = ("/usr/bin/sqlite3", "/out/db", "create table t(a); insert into t values (7);")
    dump = ("/usr/bin/sqlite3", "/out/db", "select * from t; select readfile('/out/db') is not null;")
    for shard, argv in (("one", create), ("two", dump)):
        (place / shard).mkdir()
        (place / shard).chmod(0o777)
        learned(containers, tool, root, argv, place, f"{shard}/app")
    (place / "db").unlink()
    callfence("merge", "-o", place / "app.policy", place / "one" / "app.policy", place / "two" / "app.policy")
    recordings = [place / shard / ".callfence" / "app.rec" for shard in ("one", "two")]
    callfence("merge", "-o", place / "app.rec", *recordings)
    reversed_, again = place / "reversed.rec", [*reversed(recordings), recordings[0]]
    callfence("merge", "-o", reversed_, *again)
    assert reversed_.read_bytes() == (place / "app.rec").read_bytes()
    profile = place / "app.json"
    callfence("export", "--to", "oci", "--runtime", "crun", "-o", profile, place / "app.policy")
    made = containers.podman(root, create, *flags, profile=profile)
    assert (made.stderr, made.returncode) == (b"", 0)
    read = containers.podman(root, dump, *flags, profile=profile)
    assert (read.stdout, read.stderr, read.returncode) == (b"7\n1\n", b"", 0)


@pytest.mark.long
def test_a_container_is_audited_and_then_enforced(
    containers: Containers,
    tool: tuple[Path, tuple[str, ...]],
    place: Path,
    callfence: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    """As docs/production.md has it: what the container's log has becomes the policy under which it runs, log and all."""
    folder, start = tool
    root = containers.image("sqlite3", packages=("sqlite3",))
    select = ("/usr/bin/sqlite3", ":memory:", "select 1;")
    insert = ("/usr/bin/sqlite3", "/tmp/db", "create table t(a); insert into t values (7); select * from t;")
    assert learned(containers, tool, root, select, place, "app").stdout == b"1\n"
    mounts = (f"--volume={folder}:/callfence:ro", f"--volume={place}:/out", "--tmpfs=/tmp")

    def enforced(*options: str) -> subprocess.CompletedProcess[bytes]:
        command = (*start, "enforce", *options, "--log", "/out/app.log", "-p", "/out/app.policy", "--", *insert)
        default = Path("/usr/share/containers/seccomp.json")  # the runtime's own profile holds as well
        return containers.podman(root, command, *containers.UNPRIVILEGED, *mounts, *ENVIRONMENT, profile=default)

    denied = enforced()
    # SIGSYS cannot kill the first process of a container.
    assert (denied.returncode, denied.stdout) == (128 + 9, b""), denied.stderr
    (place / "app.log").unlink()
    audited = enforced("--audit")
    assert (audited.returncode, audited.stdout) == (0, b"7\n"), audited.stderr
    assert (place / "app.log").read_text().count("\n") >= 1
    callfence("allow", place / "app.policy", "--log", place / "app.log")
    (place / "app.log").unlink()
    assert (enforced().returncode, enforced().stdout) == (0, b"7\n")
    assert '"event": "denied"' not in (place / "app.log").read_text()


def test_the_tool_runs_on_its_own_libraries(tool: tuple[Path, tuple[str, ...]]) -> None:
    """Every library that it needs is in its folder, so that the image's do not matter."""
    folder, start = tool
    stdlib = folder / "lib" / Path(sysconfig.get_path("stdlib")).name
    modules = sorted((stdlib / "lib-dynload").glob("*.so"))
    assert modules
    listed = subprocess.run(
        [folder / "lib" / Path(start[0]).name, "--library-path", folder / "lib", "--list", modules[0]],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(str(folder) in line for line in listed.splitlines() if "=>" in line)
