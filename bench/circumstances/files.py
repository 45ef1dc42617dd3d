"""Learns what programs do with files on two inputs, and enforces it elsewhere; then does in their place what an attacker would.

    files.py PAGE [--program NAME]

Each program is learned twice, with `learn --files`, in two folders, on two files of other names and sizes.  It is learned again
on the same files, as another user with another home, folder for temporary files and working folder: "another machine", which
has to give the same lines.  Then it runs three
times in other folders, as another user with another home and another folder for temporary files, after each of its files was
replaced by rename: natively, and under the learned lines about files and ports alone (every call is allowed, so that nothing
else is measured).  A run is denied if it ends otherwise than natively, says more often that something is not permitted, or
prints other text (numbers, hashes and dates apart).

The attacker is a program that is started in the place of each, under the same lines.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import file_servers
from circumstances import BASE
from programs import PROGRAMS, SEEN, Program
from run import Place, prepare
from start import NOBODY

from callfence.policygen.files.algebra import granted
from callfence.policygen.files.places import PlaceError, located
from callfence.policygen.grants import Right
from callfence.policygen.language.document import parse, parse_file
from callfence.policygen.paths import encoded

LEARNED = (("first", "one.txt", 200), ("second", "two.txt", 333))
"""Folder, input and its size."""
ENFORCED = (("third", "three.txt", 150), ("a fourth", "four.txt", 500), ("fifth/deep", "five.txt", 77))
IMPLANT = Path(__file__).parents[2] / "tests/enforcer/programs/files.c"
ATTACKS = {
    "reads ~/.ssh/id_ed25519": "read:{home}/.ssh/id_ed25519",
    "reads ~/.aws/credentials": "read:{home}/.aws/credentials",
    "appends to ~/.bashrc": "write:{home}/.bashrc",
    "adds a unit that is started at login": "create:{home}/.config/systemd/user/x.service",
    "replaces a program on PATH": "rename:{home}/bin/new,{home}/bin/ls",
    "executes what it dropped": "execute:{folder}/dropped",
    "connects to another port": "connect:{port}",
}
_DENIED = re.compile(rb"(?i)permission denied|operation not permitted|eacces|eperm|cross-device")
_VARIES = re.compile(rb"[0-9a-f]{6,}|\d+|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z]\w\w|nobody|root|nogroup")
"""Hashes, numbers, dates and users."""


@dataclass(slots=True)
class Measured:
    lines: int = 0
    runs: int = 0
    denied: list[str] = field(default_factory=list)
    written: int = 0
    writable: int = 0
    stopped: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    """Attacks that were not stopped."""
    explained: list[str] = field(default_factory=list)
    """Of those that were stopped, the ones of which `enforce --explain` told what was not granted."""
    differs: list[str] = field(default_factory=list)
    """Lines that only one of two machines gives."""
    failed: str = ""
    """Why nothing was measured."""


def _named(text: str, file: str) -> str:
    return re.sub(r"(?<![\w.])input\b", file, text)


class Site:
    """A folder with one program's files, a home and a folder for temporary files."""

    def __init__(self, place: Place, program: Program, name: str, file: str, size: int) -> None:
        self.top = place.root / "sites" / name
        shutil.rmtree(self.top, ignore_errors=True)
        self.folder, self.home, self.temporary = (self.top / one for one in ("work", "home", "temporary"))
        for one in (self.folder, self.home, self.temporary):
            one.mkdir(parents=True)
        self.environment = {one: value.replace("{home}", str(self.home)) for one, value in BASE.items()}
        self.environment |= {"HOME": str(self.home), "TMPDIR": str(self.temporary)}
        script = f"FILE='{file}' N={size}\n{program.make}\n{_named(place.filled(program.setup, self.folder), file)}"
        subprocess.run(["bash", "-euc", script], cwd=self.folder, env=self.environment, check=True, stdin=subprocess.DEVNULL)
        words = place.filled(program.command, self.folder)
        self.words = [_named(word, file) for word in shlex.split(words)]

    def give_away(self) -> None:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", self.top], check=True)
        for parent in self.top.parents:
            if parent.name == "sites":
                break
            parent.chmod(0o755)

    def replace_files(self) -> None:
        """Each file by a copy of itself, as editors and package managers do."""
        for path in [*self.folder.rglob("*")]:
            if path.is_file() and not path.is_symlink():
                copy = path.with_name(f"{path.name}.new")
                shutil.copy2(path, copy)
                os.rename(copy, path)

    def run(self, words: list[str], *, other: bool) -> tuple[int, int, bytes, bytes]:
        """The exit status, how often something was not permitted, the output, and the standard output without what varies."""
        as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if other else {}
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
            check=False, **as_user,  # type: ignore[call-overload]
        )  # fmt: skip
        both = done.stdout + done.stderr
        return done.returncode, len(_DENIED.findall(both)), both, self.constant(done.stdout)

    @staticmethod
    def constant(output: bytes) -> bytes:
        """The output without what varies."""
        return _VARIES.sub(b"", output)


def measure(place: Place, program: Program, implant: Path) -> Measured:
    found = Measured()
    name = re.sub(r"\W", "", program.name)
    policy = place.root / f"{name}.policy"
    shutil.rmtree(place.root / "sites", ignore_errors=True)
    found.failed = _learn(place, program, policy, "", other=False)
    if found.failed:
        return found
    lines = lines_alone(policy)
    again = place.root / "again" / policy.name
    again.parent.mkdir(exist_ok=True)
    again.parent.chmod(0o777)
    found.failed = _learn(place, program, again, "another-machine/deeper/", other=True)
    if found.failed:
        return found
    found.differs = sorted({*lines.splitlines()} ^ {*lines_alone(again).splitlines()})
    policy.write_text(lines)
    policy.chmod(0o644)
    found.lines = lines.count("\n") - 1
    for name, file, size in ENFORCED:
        _enforce(place, program, policy, found, (name, file, size))
    _attack(place, program, policy, found, implant)
    return found


def _learn(place: Place, program: Program, policy: Path, below: str, *, other: bool) -> str:
    """Learn a program on two inputs, in folders below another one, as another user or not; why it could not be, or ''."""
    for name, file, size in LEARNED:
        site = Site(place, program, f"{below}{name}", file, size)
        if other:
            site.give_away()
        status, _, output, _ = site.run([*place.command("learn", "--files", "-q", "-o", policy), *site.words], other=other)
        if not policy.exists() or status in (125, 126, 127):
            return output.decode(errors="replace").strip().splitlines()[-1] if output else f"status {status}"
    return ""


def lines_alone(policy: Path) -> str:
    """A policy with nothing but the lines about files and ports of a learned one."""
    lines = parse_file(policy).policy.files.lines()
    return "default allow\n" + "".join(f"{line}: {value}\n" for line, value in lines.items())


def _enforce(place: Place, program: Program, policy: Path, found: Measured, where: tuple[str, str, int]) -> None:
    site = Site(place, program, *where)
    site.give_away()
    native = site.run(site.words, other=True)
    shutil.rmtree(site.top)
    site = Site(place, program, *where)
    site.replace_files()
    site.give_away()
    before = _stamps(site)
    confined = site.run([*place.command("enforce", "-p", policy), *site.words], other=True)
    found.runs += 1
    if confined[0] != native[0] or confined[1] > native[1] or confined[3] != native[3]:
        text = confined[2].decode(errors="replace").strip().splitlines()
        found.denied.append(f"{where[0]}: status {confined[0]}, natively {native[0]}: {text[-1] if text else ''}")
    after = _stamps(site)
    found.written += sum(before.get(path) != stamp for path, stamp in after.items()) + len(before.keys() - after.keys())
    found.writable += sum(Right.WRITE in _held(policy, site, path) for path in {*before, *after})


def _stamps(site: Site) -> dict[Path, tuple[int, int]]:
    ours = site.home / ".cache/callfence"  # enforce's own
    paths = [path for path in site.top.rglob("*") if path.is_file() and not path.is_symlink() and ours not in path.parents]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def _held(policy: Path, site: Site, path: Path) -> Right:
    """The rights of the policy to a file."""
    environment = [os.fsencode(f"{name}={value}") for name, value in site.environment.items()]
    whole: dict[str, Right] = {}
    for grant, rights in parse(policy.read_text()).policy.files.grants.items():
        try:
            place = os.fsdecode(located(encoded(grant), environment))
        except PlaceError:
            continue
        place = str(site.folder / place) if place.startswith(".") else place
        whole[os.path.normpath(place)] = whole.get(place, Right(0)) | rights
    return granted(whole, str(path))


def plant(site: Site, listening: socket.socket) -> list[str]:
    """Put what is attacked in place; return what the implant is to try."""
    for name in (".ssh/id_ed25519", ".aws/credentials", ".bashrc", "bin/ls", "bin/new", ".config/systemd/user/old.service"):
        path = site.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    shutil.copy("/usr/bin/true", site.folder / "dropped")
    site.give_away()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    values = {"home": site.home, "folder": site.folder, "port": listening.getsockname()[1]}
    return [attack.format(**values) for attack in ATTACKS.values()]


def _attack(place: Place, program: Program, policy: Path, found: Measured, implant: Path) -> None:
    site = Site(place, program, *ENFORCED[0])
    own = policy.with_name("implant.policy")
    lines = policy.read_text()
    own.write_text(f"{lines}path {implant}: read, execute\n" if "\npath " in lines else lines)
    own.chmod(0o644)
    with socket.socket() as listening:
        tried = plant(site, listening)
        log = site.top / "log"
        command = place.command("enforce", "--explain", "--log", log, "-p", own)
        outcome = site.run([*command, str(implant), *tried], other=True)[3].decode().split()
        told = log.read_text().splitlines() if log.exists() else []
        shutil.rmtree(site.home / ".config/systemd/user", ignore_errors=True)
    if len(outcome) != len(ATTACKS):
        raise SystemExit(f"the implant was not run: {outcome}")
    for name, attack, result in zip(ATTACKS, tried, outcome, strict=True):
        (found.passed if result == "ok" else found.stopped).append(name)
        target = attack.partition(":")[2].partition(",")[0]
        if result != "ok" and any(target in line and '"ungranted"' in line for line in told):
            found.explained.append(name)


def natively(place: Place, implant: Path) -> None:
    """Each attack succeeds without a policy: otherwise nothing would be measured."""
    policy = place.root / "none.policy"
    policy.write_text("default allow\n")
    policy.chmod(0o644)
    found = Measured()
    _attack(place, PROGRAMS["cat"], policy, found, implant)
    if found.stopped:
        raise SystemExit(f"these do not succeed natively: {found.stopped}")


def page(results: dict[str, Measured]) -> str:
    good = {name: one for name, one in results.items() if not one.failed}
    runs, denied = sum(one.runs for one in good.values()), sum(len(one.denied) for one in good.values())
    attacks = sum(len(one.stopped) + len(one.passed) for one in good.values())
    stopped = sum(len(one.stopped) for one in good.values())
    same = sum(not one.differs for one in good.values())
    explained = sum(len(one.explained) for one in good.values())
    written, writable = sum(one.written for one in good.values()), sum(one.writable for one in good.values())
    rows = [
        f"| {name} | {'looked at' if name in SEEN else 'counted'} | {one.lines} | {len(one.denied)} of {one.runs} "
        f"| {one.written} | {one.writable} | {len(one.stopped)} of {len(one.stopped) + len(one.passed)} "
        f"| {len(one.explained)} of {len(one.stopped)} | {'no' if one.differs else 'yes'} |"
        for name, one in good.items()
    ]
    said = {name: (*one.denied, *(f"not stopped: {it}" for it in one.passed)) for name, one in good.items()}
    notes = [f"- {name}: {text}" for name, texts in said.items() for text in texts]
    notes += [f"- {name}, learned elsewhere, differs in `{line}`" for name, one in good.items() for line in one.differs]
    notes += [f"- {name} was not measured: {one.failed}" for name, one in results.items() if one.failed]
    return "\n".join(
        [
            "# Files and ports: programs that were learned on two inputs, run on three others",
            "",
            "`make files` writes this page; bench/circumstances/files.py says at its top what it does.",
            "",
            f"{len(good)} programs, {runs} runs elsewhere: {denied} denied. Files that runs changed or made: {written}; of "
            f"all files in their folders, homes and folders for temporary files, their policies let them write {writable}. "
            f"Attacks: {stopped} of {attacks} stopped, {explained} of these explained by `enforce --explain`. "
            f"Learned by another user, with another home, TMPDIR and working folder, {same} of {len(good)} have the same "
            "lines.",
            "",
            "Why more is writable than was written: a grant to a folder holds for all below it, and a program that "
            "makes a file, or renames one over another, needs its folder. So the input beside a new output is "
            "writable, too; in the folder .git, where git makes lock files, so are the samples of hooks.",
            "",
            f"The attacks: {'; '.join(ATTACKS)}. Without a policy all of them succeed. (The unit stands for a crontab, which a "
            "user can change only by the set-group-ID program crontab.)",
            "",
            "| program | | lines | denied | written | writable | attacks stopped | explained | same elsewhere |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(["What was denied, not stopped, or not the same:", "", *notes, ""] if notes else []),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--program", action="append", choices=[*PROGRAMS], help="only this one; repeatable")
    parser.add_argument("--servers", action="store_true", help="only the servers: adds their section to the page")
    given = parser.parse_args()
    if os.geteuid():
        raise SystemExit("this takes root: the programs run as another user than the one who learned them")
    results: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="callfence-files-") as root:
        place = prepare(Path(root))
        implant = place.root / "built/implant"
        subprocess.run(["gcc", "-O1", "-static", "-o", implant, IMPLANT], check=True)
        natively(place, implant)
        for name in [] if given.servers else given.program or [*PROGRAMS]:
            results[name] = one = measure(place, PROGRAMS[name], implant)
            said = one.failed or f"{len(one.denied)} of {one.runs} denied, {len(one.passed)} attacks passed"
            print(f"{name}: {said}", file=sys.stderr)
        served = "" if given.program else file_servers.section(place)
    text = given.page.read_text() if given.servers else page(results)
    given.page.write_text(text.rstrip("\n") + "\n" + (served and f"\n{served}"))


if __name__ == "__main__":
    main()
