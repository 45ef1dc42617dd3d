"""Measures what docs/shell-measured.md says of real packages: shell.py npm|pip [NAME ...], as root.

It downloads the packages, which runs nothing of npm's, and the `setup.py` of pip's for its metadata.  Each package is built
twice under `CALLFENCE_SH=learn callfence-sh`, in two folders, by a user without privileges, and then under `callfence-sh` in a
third folder, by another user with another home.  Then what each package runs is replaced by code that reads a key or connects
out: that version is enforced under the policy of the real one, and learned, for the first line of `callfence diff`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))
from installations import PYTHON, install

ROOT = Path(__file__).resolve().parents[2]
LEARNER, NOBODY = 60001, 65534
"""The users who learn and who enforce."""
NPM = (
    "bcrypt@6.0.0", "bufferutil@4.1.0", "utf-8-validate@6.0.6", "esbuild@0.28.2", "core-js@3.51.0", "cpu-features@0.0.10",
    "ssh2@1.17.0", "node-pty@1.1.0", "microtime@3.1.1", "keccak@3.0.4", "@parcel/watcher@2.6.0", "bigint-buffer@1.1.5",
    "es5-ext@0.10.64", "unix-dgram@2.0.7",
)  # fmt: skip
PIP = (
    "markupsafe==3.0.2", "pyyaml==6.0.2", "cffi==1.17.1", "regex==2024.11.6", "ujson==5.10.0", "msgpack==1.1.0",
    "simplejson==3.19.3", "wrapt==1.17.2", "greenlet==3.1.1", "psutil==6.1.1", "lz4==4.4.3",
)  # fmt: skip
HEADERS = "/usr"
"""Below which node's headers are (`include/node`): node-gyp then downloads none."""
BACKENDS = ("setuptools<81", "wheel", "cython<3.1", "setuptools-scm<9", "pkgconfig")
"""What the builds need, installed once: they have no network."""
TABLE = "| package | files | calls | status when learned | enforced | what it makes | denied |\n|---|--:|--:|--:|--:|---|---|"


class Run(NamedTuple):
    """A build of all packages."""

    folder: Path
    status: dict[str, int]
    """The exit status of each package's build."""
    denied: dict[str, Counter[str]]
    """What was denied, by policy."""


def installation(folder: Path) -> Path:
    """Install callfence where every user can execute it, and return the folder of its commands."""
    install(folder)
    commands = folder / "commands"  # without its `python`
    commands.mkdir()
    (commands / "callfence-sh").symlink_to(folder / "bin" / "callfence-sh")
    return commands


def bare(package: str) -> str:
    return re.split(r"==|(?<=.)@", package)[0]


def download_npm(folder: Path, packages: tuple[str, ...]) -> None:
    (folder / "package.json").write_text('{"name": "measured", "version": "1.0.0"}\n')
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *packages]
    subprocess.run(npm, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def build_npm(package: str, shell: Path) -> list[str]:
    return ["npm", "rebuild", bare(package), f"--script-shell={shell}", "--build-from-source", "--foreground-scripts"]


def download_pip(folder: Path, packages: tuple[str, ...]) -> None:
    subprocess.run([PYTHON, "-m", "venv", folder / ".venv"], check=True)
    pip = [folder / ".venv/bin/python", "-m", "pip", "-q", "--isolated", "--disable-pip-version-check"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([*pip, "install", *BACKENDS], check=True, env=environment)
    for package in packages:
        with tempfile.TemporaryDirectory() as downloaded:
            wanted = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d", downloaded, package]
            subprocess.run([*pip, "download", *wanted], check=True, env=environment)
            (archive,) = Path(downloaded).iterdir()
            place = folder / "build" / bare(package)
            place.mkdir(parents=True)
            subprocess.run(["tar", "-xf", archive, "--no-same-owner", "--strip-components=1", "-C", place], check=True)


def build_pip(package: str, shell: Path) -> list[str]:
    pip = '../../.venv/bin/python -m pip wheel -q --no-index --no-deps --no-build-isolation -w dist .'
    return ["sh", "-c", f'cd build/{bare(package)} && CALLFENCE_NAME=pip-{bare(package)} {shell} -c "{pip}"']


KINDS: dict[str, Any] = {"npm": (NPM, download_npm, build_npm), "pip": (PIP, download_pip, build_pip)}


NODE = {
    "reads a key": "console.log(require('fs').readFileSync(process.env.HOME + '/.ssh/id_ed25519', 'utf8'))",
    "connects out": "require('net').connect(9, '127.0.0.1').on('error', () => process.exit(1))",
}
PYTHONS = {
    "reads a key": "print(open(__import__('os').path.expanduser('~/.ssh/id_ed25519')).read()); raise SystemExit(1)",
    "connects out": "__import__('socket').create_connection(('127.0.0.1', 9))",
}
KEY = "SECRET-KEY"
WANTED = {"reads a key": r"\.ssh", "connects out": "AF_INET|^connect"}
"""What the line that would allow the deed is like."""


def make_hostile(kind: str, folder: Path, package: str, deed: str) -> None:
    """Have a package's scripts, or its setup.py, do that deed, and nothing else."""
    if kind == "pip":
        setup = folder / "build" / bare(package) / "setup.py"
        setup.write_text(PYTHONS[deed] + "\n")
        return
    place = folder / "node_modules" / bare(package)
    description = json.loads((place / "package.json").read_text())
    description["scripts"] = {"install": f'node -e "{NODE[deed]}"'}
    (place / "package.json").write_text(json.dumps(description))


def run(kind: str, folder: Path, commands: Path, packages: tuple[str, ...], *, mode: str, user: int) -> Run:
    """Build all packages in a folder, whose home and temporary folder are beside it."""
    log = folder.parent / "denied.log"
    for name in ("home/.ssh", "temporary"):
        (folder.parent / name).mkdir(parents=True, exist_ok=True)
    (folder.parent / "home/.ssh/id_ed25519").write_text(KEY)
    log.touch()
    subprocess.run(["chown", "-R", f"{user}:{user}", folder.parent], check=True)
    if mode == "enforce":
        subprocess.run(["chown", "-R", "0:0", folder / ".callfence"], check=True)
    environment = {
        "PATH": f"{commands}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder.parent / "home"),
        "TMPDIR": str(folder.parent / "temporary"),
        "LANG": "C.UTF-8",
        "CALLFENCE_SH": mode,
        **({"npm_config_nodedir": HEADERS} if os.path.isdir(f"{HEADERS}/include/node") else {}),
        **({"CALLFENCE_LOG": str(log)} if mode == "enforce" else {}),
    }
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all"]
    status = {}
    for package in packages:
        began = time.monotonic()
        with output(folder, package).open("wb") as out:
            command = [*become, *KINDS[kind][2](package, commands / "callfence-sh")]
            done = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                timeout=1800, check=False,
            )  # fmt: skip
        status[bare(package)] = done.returncode
        print(f"{mode} {package}: {done.returncode}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    denied: dict[str, Counter[str]] = {}
    for record in map(json.loads, log.read_text().splitlines()):
        if record["event"] == "denied":
            name = Path(record["policies"][0]["file"]).stem
            lines = [one["line"] for one in record.get("allow") or record.get("ungranted") or ()]
            denied.setdefault(name, Counter())["; ".join(map(str, lines)) or record["call"] or "?"] += 1
    return Run(folder, status, denied)


def made(kind: str, folder: Path, package: str) -> set[str]:
    """The files of a package after its build, but those named after a moment or by a hash."""
    place = folder / ("node_modules" if kind == "npm" else "build") / bare(package)
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def row(kind: str, package: str, policy: Path, learned: Run, enforced: Run) -> str:
    name = bare(package)
    if not policy.exists():
        return f"| {package} | | | {learned.status[name]} | {enforced.status[name]} | it runs no script | |"
    lines = policy.read_text().splitlines()
    files = sum(line.startswith("path ") for line in lines)
    calls = sum(bool(re.match(r"\w+: ", line)) for line in lines)
    missing = made(kind, learned.folder, package) ^ made(kind, enforced.folder, package)
    what = "the same" if not missing else f"{len(missing)} differ: {', '.join(sorted(missing)[:3])}"
    denials = enforced.denied.get(policy.stem, Counter())
    shown = f"{denials.total()}: {', '.join(f'`{line}`' for line in list(denials)[:4])}" if denials else "0"
    return f"| {package} | {files} | {calls} | {learned.status[name]} | {enforced.status[name]} | {what} | {shown} |"


def hostile(kind: str, top: Path, commands: Path, packages: tuple[str, ...], policies: Path, deed: str) -> dict[str, list[str]]:
    """Return, for each package, whether enforcing stopped a version that does that deed, and how the diff of learning it
    begins."""
    folder = top / deed.replace(" ", "-") / "app"
    shutil.copytree(top / "source", folder, symlinks=True)
    shutil.copytree(policies, folder / ".callfence" / "policies", ignore=shutil.ignore_patterns(".callfence"))
    for package in packages:
        make_hostile(kind, folder, package, deed)
    enforced = run(kind, folder, commands, packages, mode="enforce", user=NOBODY)
    said = {package: output(folder, package).read_text() for package in packages}
    run(kind, folder, commands, packages, mode="learn", user=LEARNER)
    found = {}
    for package in packages:
        name = f"{kind}-{bare(package).replace('/', '%2F')}"
        lines = [line for line in enforced.denied.get(name, ()) if re.search(WANTED[deed], line)]
        stopped = bool(lines) and KEY not in said[package]
        command = [commands.parent / "bin" / "callfence", "diff"]
        files = [one / f"{name}.policy" for one in (policies, folder / ".callfence" / "policies")]
        done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        found[package] = ["yes" if stopped else "NO", (done.stdout.splitlines() or [done.stderr])[0]]
    return found


def output(folder: Path, package: str) -> Path:
    return folder.parent / f"{bare(package).replace('/', '+')}.out"


def main(kind: str, names: list[str]) -> None:
    packages, download, _ = KINDS[kind]
    packages = tuple(package for package in packages if not names or bare(package) in names)
    top = Path(tempfile.mkdtemp(prefix=f"measure-{kind}-", dir=os.environ.get("MEASURE_FOLDER")))
    top.chmod(0o755)
    print(f"in {top}", file=sys.stderr)
    commands = installation(top / "callfence")
    source = top / "source"
    source.mkdir()
    download(source, packages)
    policies = None
    for place in ("first", "second"):
        folder = top / place / "app"
        shutil.copytree(source, folder, symlinks=True)
        if policies:
            shutil.copytree(policies.parent, folder / ".callfence")
        policies = folder / ".callfence" / "policies"
        policies.mkdir(parents=True, exist_ok=True)
        learned = run(kind, folder, commands, packages, mode="learn", user=LEARNER)
    assert policies is not None
    folder = top / "third" / "elsewhere" / "checkout"
    shutil.copytree(source, folder, symlinks=True)
    shutil.copytree(policies, folder / ".callfence" / "policies", ignore=shutil.ignore_patterns(".callfence"))
    enforced = run(kind, folder, commands, packages, mode="enforce", user=NOBODY)
    print(TABLE)
    for package in packages:
        name = bare(package).replace("/", "%2F")
        print(row(kind, package, policies / f"{kind}-{name}.policy", learned, enforced), flush=True)
    for deed in WANTED:
        print(f"\n| a version that {deed} | stopped | the first line of the diff |\n|---|---|---|")
        for package, (stopped, first) in hostile(kind, top, commands, packages, policies, deed).items():
            print(f"| {package} | {stopped} | `{first}` |")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS or os.geteuid() != 0:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
