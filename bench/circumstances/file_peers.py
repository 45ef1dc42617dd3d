"""The attacks of files.py under what else keeps a program from files: five programs, side by side.

    file_peers.py PAGE

Each program first does its work, in a folder, with a home and a folder for temporary files, as another user: it is broken if it
ends otherwise than natively or prints other text.  Then the attacker is started in its place.  All know the folder and TMPDIR:
what a person writes down within a minute, without looking at the program's calls.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from files import ATTACKS, ENFORCED, IMPLANT, LEARNED, Site, lines_alone, plant
from programs import PROGRAMS, Program
from run import Place, prepare
from start import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

FIVE = ("sed", "sqlite3", "git", "gcc", "restic (Go)")
MANAGER = Path(__file__).parents[2] / "tests/exports/programs/user_manager.sh"
BWRAP = "bwrap --ro-bind /usr /usr --ro-bind /etc /etc --symlink usr/bin /bin --symlink usr/lib /lib "
BWRAP += "--symlink usr/lib64 /lib64 "
BWRAP += "--proc /proc --dev /dev --bind {folder} {folder} --bind {temporary} {temporary} --unshare-all --die-with-parent"
SYSTEMD = "ProtectSystem=strict ReadWritePaths={folder} ReadWritePaths={temporary} TemporaryFileSystem={home}:ro "
SYSTEMD += "NoNewPrivileges=yes"
FIREJAIL = "firejail --quiet --profile=/etc/firejail/default.profile"
HEADING = "## Side by side"


@dataclass(slots=True)
class Found:
    broken: list[str] = field(default_factory=list)
    stopped: dict[str, list[str]] = field(default_factory=dict)
    """By attack, the programs in whose place it failed."""


def as_user(words: list[str]) -> list[str]:
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words]


def filled(text: str, site: Site) -> list[str]:
    return [word.format(folder=site.folder, home=site.home, temporary=site.temporary) for word in text.split()]


# How words are run, as root, so that the program is another user's.


def natively(place: Place, site: Site, words: list[str]) -> list[str]:
    return as_user(words)


def bubblewrap(place: Place, site: Site, words: list[str]) -> list[str]:
    return as_user([*filled(BWRAP, site), *_with(words, site), "--chdir", str(site.folder), "--", *words])


def firejail(place: Place, site: Site, words: list[str]) -> list[str]:
    """The user's home is the one in /etc/passwd, and firejail serves no `nobody`: a mount gives another entry."""
    accounts = site.top / "passwd"
    entry = f"someone:x:{NOBODY}:{NOBODY}::{site.home}:/bin/sh"
    accounts.write_text(re.sub(r"(?m)^nobody:.*$", entry, Path("/etc/passwd").read_text()))
    inner = f'mount --bind "{accounts}" /etc/passwd && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", inner, "sh", *as_user([*FIREJAIL.split(), "--", *words])]


def systemd(place: Place, site: Site, words: list[str]) -> list[str]:
    """A service of a `systemd --user` of root's, in namespaces of its own, where there is no other user."""
    subprocess.run(["chown", "-R", "0:0", site.top], check=True)
    settings = [part for one in filled(SYSTEMD, site) for part in ("-p", one)]
    settings += [part for name, value in site.environment.items() for part in ("-E", f"{name}={value}")]
    settings += ["-p", f"WorkingDirectory={site.folder}"]
    run = ["systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect", *settings]
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    scratch = Path(tempfile.mkdtemp(dir=place.root))
    waiting = 'until [ -S "$XDG_RUNTIME_DIR/bus" ]; do sleep 0.05; done; exec "$@"'
    return [*namespaces, "sh", str(MANAGER), str(scratch), "sh", "-c", waiting, "sh", *run, "--", *words]


def callfence(place: Place, site: Site, words: list[str]) -> list[str]:
    return as_user([*place.command("enforce", "-p", place.root / "peer.policy"), *words])


PEERS: dict[str, Callable[[Place, Site, list[str]], list[str]]] = {
    "nothing": natively,
    "callfence, learned": callfence,
    "firejail, its default profile": firejail,
    "systemd, strict": systemd,
    "bubblewrap, by hand": bubblewrap,
}


def _with(words: list[str], site: Site) -> list[str]:
    """bubblewrap's words for a program that is not in /usr or its folder."""
    top = Path(words[0])
    needed = [top] if top.is_absolute() and not top.is_relative_to("/usr") else []
    named = (Path(word) for word in words[1:] if word.startswith("/"))
    needed += [path for path in named if path.exists() and site.top not in path.parents]
    return [part for one in needed for part in ("--ro-bind", str(one), str(one))]


def ran(place: Place, site: Site, peer: str, words: list[str]) -> tuple[int, str]:
    """The status, and the standard output without what varies."""
    command = PEERS[peer](place, site, words)
    done = subprocess.run(
        command, cwd=site.folder, env=site.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )  # fmt: skip
    return done.returncode, site.constant(done.stdout).decode(errors="replace")


def measure(place: Place, program: Program, implant: Path, found: dict[str, Found]) -> None:
    policy = place.root / "peer.policy"
    policy.unlink(missing_ok=True)
    shutil.rmtree(place.root / ".callfence", ignore_errors=True)
    for name, file, size in LEARNED:
        site = Site(place, program, name, file, size)
        site.run([*place.command("learn", "--files", "-q", "-o", policy), *site.words], other=False)
    lines = lines_alone(policy)
    wanted = None
    for peer, one in found.items():
        policy.write_text(lines)
        site = Site(place, program, *ENFORCED[0])
        site.give_away()
        result = ran(place, site, peer, site.words)
        wanted = wanted or result
        if result != wanted:
            one.broken.append(program.name)
        _attack(place, program, implant, peer, one)


def _attack(place: Place, program: Program, implant: Path, peer: str, found: Found) -> None:
    site = Site(place, program, *ENFORCED[0])
    policy = place.root / "peer.policy"
    policy.write_text(f"{policy.read_text()}path {implant}: read, execute\n")
    with socket.socket() as listening:
        tried = plant(site, listening)
        _, output = ran(place, site, peer, [str(implant), *tried])
    outcome = output.split()
    if len(outcome) != len(ATTACKS):
        raise SystemExit(f"{peer}: the implant was not run: {outcome}")
    changed = _effects(site)
    for name, result in zip(ATTACKS, outcome, strict=True):
        if result != "ok" or (name in changed and not changed[name]):
            found.stopped.setdefault(name, []).append(program.name)


def _effects(site: Site) -> dict[str, bool]:
    """Of the attacks that leave something, whether it is there: a sandbox may throw away what is written."""
    return {
        "adds a unit that is started at login": (site.home / ".config/systemd/user/x.service").exists(),
        "replaces a program on PATH": not (site.home / "bin/new").exists(),
    }


def section(place: Place, implant: Path) -> str:
    found = {peer: Found() for peer in PEERS}
    for name in FIVE:
        measure(place, PROGRAMS[name], implant, found)
        print(f"{name}: measured", file=sys.stderr)
    rows = []
    for peer, one in found.items():
        cells = [_cell(one.stopped.get(name, [])) for name in ATTACKS]
        rows.append(f"| {peer} | {' | '.join(cells)} | {', '.join(one.broken) or 'none'} |")
    return "\n".join(
        [
            HEADING,
            "",
            "`python bench/circumstances/file_peers.py docs/files-measured.md` writes this. Five programs "
            f"({', '.join(FIVE)}), each by its own policy of callfence (lines about files and ports alone), and by what else "
            "is to be had, which knows the folder that the program works in and TMPDIR. Stopped: in the place of each of the "
            "five the attack came to nothing.",
            "",
            f"| | {' | '.join(ATTACKS)} | programs it breaks |",
            f"|---|{'---|' * len(ATTACKS)}---|",
            *rows,
            "",
            f"firejail 0.9.74: `{FIREJAIL}`, with the home in /etc/passwd. systemd 257: `{SYSTEMD}`, in a `systemd --user` "
            "of root's, as the only user of its namespace; TemporaryFileSystem= stands for ProtectHome=tmpfs, as the home is "
            "not in /home here.",
            "",
            f"bubblewrap 0.12: `{BWRAP}`.",
            "",
        ]
    )


def _cell(programs: list[str]) -> str:
    return "stopped" if len(programs) == len(FIVE) else "passes" if not programs else f"stopped for {', '.join(programs)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    if os.geteuid():
        raise SystemExit("this takes root: the programs run as another user")
    with tempfile.TemporaryDirectory(prefix="callfence-peers-", dir="/srv") as root:  # firejail gives each its own /tmp
        place = prepare(Path(root))
        implant = place.root / "built/implant"
        subprocess.run(["gcc", "-O1", "-static", "-o", implant, IMPLANT], check=True)
        text = section(place, implant)
    page = given.page.read_text()
    before = page.partition(HEADING)[0].rstrip("\n")
    given.page.write_text(f"{before}\n\n{text}")


if __name__ == "__main__":
    main()
