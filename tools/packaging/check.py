"""Install each package of a release into a bare system, learn and enforce a sample there, and uninstall it without a trace.

    check.py PACKAGES [--suite SUITE[=MIRROR] ...]      as root; PACKAGES is a folder that build.sh has filled

A suite is a release of Debian (default: trixie and bookworm, from the mirror that apt uses here) or, with a mirror, of
Ubuntu.  NAME=FILE is another system, such as Alpine: the archive of its files, in which Python and libseccomp are installed;
the wheel and the zipapp are tried there.  Prints a table in Markdown.  mmdebstrap unpacks each system once; each package gets a
copy.  The image is built by podman on the bare system, and runs as its own user, who is not root.  autopkgtest runs the tests
in debian/tests with the Debian package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UBUNTU = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
"""Of Debian's package ubuntu-keyring."""
NEEDED = ("python-ptrace", "pyseccomp", "rich")
IGNORED = (
    "packages/", "tmp/", "var/cache/apt/", "var/cache/debconf/", "var/cache/ldconfig/", "var/lib/apt/", "var/lib/dpkg/",
    "var/log/",
)  # fmt: skip
"""What package managers keep of every package."""
SAMPLE = """\
set -e
cd /tmp && rm -rf sample && mkdir sample && cd sample
{learn} -q -o cat.policy -- cat /etc/hostname
{enforce} -p cat.policy cat /etc/hostname
{enforce} -p cat.policy mkdir denied 2>err && exit 1
grep -q 'enforce: denied' err
test ! -e denied
cd / && rm -rf /tmp/sample
"""


@dataclass(frozen=True, slots=True)
class Package:
    """How a package is installed and uninstalled, in one command each."""

    name: str
    before: str
    """What a system needs before: it is not ours, and stays."""
    install: str
    learn: str
    enforce: str
    uninstall: str


IMAGE = "container image"
AUTOPKGTEST = "autopkgtest"
PACKAGES = (
    Package("Debian package", "apt-get install -y -qq python3", "apt-get install -y -qq /packages/callfence_*.deb",
            "learn", "enforce", "apt-get autoremove --purge -y -qq callfence && rm -r ~/.cache/callfence"),
    Package("wheel", "apt-get install -y -qq python3-venv libseccomp2",
            "python3 -m venv /opt/callfence && /opt/callfence/bin/pip install -q --no-index --find-links /packages callfence",
            "/opt/callfence/bin/learn", "/opt/callfence/bin/enforce", "rm -r /opt/callfence ~/.cache/callfence"),
    Package("zipapp", "apt-get install -y -qq python3 libseccomp2", "cp /packages/callfence.pyz /usr/local/bin/callfence",
            "callfence learn", "callfence enforce", "rm -r /usr/local/bin/callfence ~/.shiv ~/.cache/callfence"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--suite", action="append", help="default: trixie and bookworm")
    parser.add_argument("--only", action="append", choices=[AUTOPKGTEST, IMAGE, *(package.name for package in PACKAGES)])
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("check.py: needs root, for mmdebstrap and chroot")
    packages = options.packages.resolve()
    print("| system | package | installed | learned and enforced | uninstalled | left |\n|---|---|--:|--:|--:|---|", flush=True)
    wrong = False
    for suite in options.suite or ("trixie", "bookworm"):
        with tempfile.TemporaryDirectory(prefix="callfence-packaging-") as scratch:
            wheels = Path(scratch, "packages")
            shutil.copytree(packages, wheels)
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "-w", wheels, *NEEDED], check=True)
            name, _, origin = suite.partition("=")
            is_archive = Path(origin).is_file()
            bare = Path(origin) if is_archive else Path(scratch, "bare.tar")
            if not is_archive:
                unpack(name, origin, target=bare)
            wanted = set(options.only or (*(package.name for package in PACKAGES), AUTOPKGTEST, IMAGE))
            wanted -= {PACKAGES[0].name, AUTOPKGTEST, IMAGE} if is_archive else set()
            for package in PACKAGES:
                if package.name not in wanted:
                    continue
                root = Path(scratch, "root")
                root.mkdir()
                subprocess.run(["tar", "xf", bare, "-C", root], check=True)
                seconds, left = tried(package, root, wheels)
                wrong = wrong or bool(left)
                times = " | ".join(f"{part:.1f} s" for part in seconds)
                rest = " ".join(left[:5]) or "nothing"
                print(f"| {name} | {package.name} | {times} | {rest} |", flush=True)
                shutil.rmtree(root)
            if AUTOPKGTEST in wanted:
                seconds_of_tests = autopkgtest(bare, packages, Path(scratch))
                print(f"| {name} | {AUTOPKGTEST} | | {seconds_of_tests:.1f} s | | |", flush=True)
            if IMAGE in wanted:
                times = " | ".join(f"{part:.1f} s" for part in image(bare, packages, Path(scratch)))
                print(f"| {name} | {IMAGE} | {times} | nothing |", flush=True)
    sys.exit(wrong)


def unpack(suite: str, mirror: str = "", *, target: Path) -> None:
    """A bare system with apt, as an archive."""
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--include=ca-certificates", suite, target]
    if mirror:
        command += [f"deb [signed-by={UBUNTU}] {mirror} {suite} main universe"]
    else:
        targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        listed = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.split()
        command += [f"deb {next(uri for uri in listed if uri.rstrip('/').endswith('/debian'))} {suite} main"]
    subprocess.run(command, check=True)


def tried(package: Package, root: Path, packages: Path) -> tuple[list[float], list[str]]:
    """The seconds that installing, using and uninstalling take, and the files that are left."""
    shutil.copytree(packages, root / "packages")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/hostname").write_text("bare\n")
    if (root / "usr/bin/apt-get").exists():
        inside(root, f"apt-get update -qq && {package.before}")
    before = files(root)
    seconds = []
    for command in (package.install, SAMPLE.format(learn=package.learn, enforce=package.enforce), package.uninstall):
        begun = time.monotonic()
        inside(root, command)
        seconds.append(time.monotonic() - begun)
    return seconds, sorted(files(root) - before)


def autopkgtest(bare: Path, packages: Path, scratch: Path) -> float:
    """The seconds that installing the Debian package and its tests take."""
    root, source = scratch / "root", scratch / "source"
    root.mkdir()
    subprocess.run(["tar", "xf", bare, "-C", root], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for folder in ("debian", "samples"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True)
    (package,) = packages.glob("callfence_*.deb")
    begun = time.monotonic()
    mounted(root, f'autopkgtest -U --no-built-binaries {package} {source}/ -- chroot "$1"')
    shutil.rmtree(root)
    return time.monotonic() - begun


def image(bare: Path, packages: Path, scratch: Path) -> list[float]:
    """The seconds that it takes to build the image, to use it, and to remove it with all that podman has kept."""
    store, work = scratch / "podman", scratch / "work"
    work.mkdir()
    work.chmod(0o777)
    podman = f"podman --root={store}/root --runroot={store}/run --tmpdir={store}/tmp --storage-driver=vfs --runtime=crun"
    podman += " --cgroup-manager=cgroupfs --events-backend=none"
    limits = "--ulimit nofile=20000:20000 --ulimit nproc=20000:20000"  # those of podman may be above ours
    run = f"{podman} run --pull=never --rm --cgroups=disabled --network=none --volume={work}:/work"
    recipe = Path(__file__).with_name("Containerfile")
    steps = (
        f"{podman} import -q {bare} bare && {podman} build -q --isolation=chroot --network=host {limits} "
        f"--build-arg BASE=localhost/bare -t callfence -f {recipe} {packages}",
        f"test $({run} --entrypoint id localhost/callfence -u) -ne 0"
        f" && {run} localhost/callfence learn -q -o cat.policy -- cat /etc/hostname"
        f" && {run} localhost/callfence enforce -p cat.policy cat /etc/hostname"
        f" && ! {run} localhost/callfence enforce -p cat.policy mkdir denied && test ! -e {work}/denied",
        f"rm -rf {store}",
    )
    # runtimes take no mixture of cgroup v1 and v2; the mount is gone with the namespace
    mount = "case $(stat -f -c %T /sys/fs/cgroup) in cgroup2fs) ;; *) mount -t cgroup2 none /sys/fs/cgroup ;; esac; "
    seconds = []
    for step in steps:
        begun = time.monotonic()
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount + step],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"check.py: {step}\n{done.stdout[-3000:]}{done.stderr[-3000:]}status {done.returncode}")
        seconds.append(time.monotonic() - begun)
    return seconds


def inside(root: Path, command: str) -> None:
    """Run a command of the shell in the system, in namespaces of its own."""
    mounted(root, 'exec chroot "$1" sh -c "$2"', command)


def mounted(root: Path, *words: str) -> None:
    """Run a command of the shell, with `root` as its $1, in namespaces in which the system has /proc, /sys and /dev."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    environment |= {"DEBIAN_FRONTEND": "noninteractive", "PYTHONDONTWRITEBYTECODE": "1"}
    mounts = 'mount -t proc proc "$1/proc" && mount -t sysfs sys "$1/sys" && mount --rbind /dev "$1/dev" && '
    command = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
    command += ["sh", "-c", mounts + words[0], "sh", str(root), *words[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        sys.exit(f"check.py: in {root}: {words[-1]}\n{done.stdout[-3000:]}{done.stderr[-3000:]}status {done.returncode}")


def files(root: Path) -> set[str]:
    """The paths of the system, without what package managers keep."""
    found = (os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names)
    return {path for path in found if not path.startswith(IGNORED)}


if __name__ == "__main__":
    main()
