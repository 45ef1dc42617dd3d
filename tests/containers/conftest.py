"""Containers as root runs them, with all their files in one folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from folders import remove
from needed import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 60
LOADER = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}[os.uname().machine]
SKIPPED = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info", "/etc")
FOLDERS = ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "proc", "sys", "dev", "tmp", "run", "out", "callfence")
# runtimes take no mixture of cgroup v1 and v2; the mount is gone with the namespace
CGROUPS = 'case $(stat -f -c %T /sys/fs/cgroup) in cgroup2fs) ;; *) mount -t cgroup2 none /sys/fs/cgroup ;; esac; exec "$@"'
OUTSIDE = 100000
"""User outside who is root in an unprivileged container, and owns the images, so that crun may add missing files."""
IN_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-c", CGROUPS, "sh")


def run(argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[bytes]:
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([*argv], capture_output=True, check=False, timeout=TIMEOUT, **options)


@dataclass(frozen=True, slots=True)
class Containers:
    UNPRIVILEGED: ClassVar = (f"--uidmap=0:{OUTSIDE}:65536", f"--gidmap=0:{OUTSIDE}:65536", "--cap-drop=all")
    """As in a rootless container: root inside is an unprivileged user outside, and has no capability."""

    folder: Path
    """Readable for every user; pytest's own folders are not."""

    def image(self, name: str, files: Sequence[str | Path] = (), packages: Sequence[str] = ()) -> Path:
        """A root file system of Debian packages' files, without documentation, and further files by their paths, with
        the libraries that they need.  Made once."""
        root = self.folder / "images" / name
        if root.exists():
            return root
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (root / link).symlink_to(f"usr/{link}")
        (root / "tmp").chmod(0o1777)
        wanted = [Path(file) for file in files]
        for package in packages:
            listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout
            wanted += [Path(line) for line in listed.splitlines() if line.startswith("/") and not line.startswith(SKIPPED)]
        chosen = [path for path in wanted if path.is_symlink() or path.is_file()]
        programs = [path for path in chosen if path.is_file() and path.open("rb").read(4) == b"\x7fELF"]
        libraries = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
        for path in (*chosen, *(Path(found) for found in sorted(set(re.findall(r"(?:=> )?(/\S+) \(0x", libraries))))):
            target = root / str(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() and not target.is_symlink():
                shutil.copy2(path, target, follow_symlinks=".so" in path.name)
        subprocess.run(["chown", "-R", f"{OUTSIDE}:{OUTSIDE}", root], check=True)
        return root

    def podman(
        self, image: Path, argv: Sequence[str | Path], *flags: str | Path, profile: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """`podman run`, by crun, without network."""
        state = self.folder / "podman"
        seccomp = "unconfined" if profile is None else profile
        where = (f"--root={state}/root", f"--runroot={state}/run", f"--tmpdir={state}/tmp", "--storage-driver=vfs")
        return run(
            [
                *IN_NAMESPACE, "podman", *where, "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=crun",
                "run", "--rm", "--network=none", "--cgroups=disabled", f"--security-opt=seccomp={seccomp}", *flags,
                "--rootfs", image, *argv,
            ],
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
        )  # fmt: skip

    def bundle(
        self, runtime: str, image: Path, argv: Sequence[str], profile: Path | None, *, gaining: bool, name: str = "one"
    ) -> tuple[list[str | Path], Path]:
        """The command that runs a container by the runtime itself, and its folder."""
        bundle = Path(tempfile.mkdtemp(dir=self.folder))
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(image), "readonly": False}
        config["process"] |= {"args": argv, "terminal": False, "noNewPrivileges": not gaining}
        config["linux"] |= {"seccomp": json.loads(profile.read_text())} if profile else {}
        config["linux"].pop("resources", None)
        (bundle / "config.json").write_text(json.dumps(config))
        state = self.folder / f"{runtime}-state"
        return [*IN_NAMESPACE, runtime, "--root", state, "run", "--bundle", bundle, name], state


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    require("podman", "netavark", "crun", "runc", "sqlite3", "git", "busybox-static")
    folder = Path(tempfile.mkdtemp(prefix="callfence-containers-"))
    folder.chmod(0o755)
    yield Containers(folder)
    remove(folder)


@pytest.fixture
def place(containers: Containers) -> Iterator[Path]:
    """A folder that every user may write to."""
    folder = Path(tempfile.mkdtemp(dir=containers.folder))
    folder.chmod(0o777)
    yield folder
    remove(folder)


@pytest.fixture(scope="session")
def tool(containers: Containers) -> tuple[Path, tuple[str, ...]]:
    """callfence to be mounted, and the words before its command there."""
    folder = containers.folder / "tool"
    subprocess.run([sys.executable, ROOT / "samples" / "containers" / "make_tool.py", folder], check=True, timeout=TIMEOUT)
    loader = (f"/callfence/lib/{LOADER}", "--library-path", "/callfence/lib")
    return folder, (*loader, "/callfence/bin/python3", "-I", "/callfence/callfence.py")


@pytest.fixture(scope="session")
def callfence() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`callfence COMMAND ...` on the host; fails the test unless it ends with 0."""

    def command(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
        ran = run([Path(sys.executable).parent / "callfence", *words])
        assert ran.returncode == 0, ran.stderr.decode()
        return ran

    return command
