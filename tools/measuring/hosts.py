#!/usr/bin/env python3
"""Measures what docs/hosts-measured.md says: programs whose policies name hosts, in a network of its own.  As root.

    tools/measuring/hosts.py requests [--requests N] [--only NAME ...] [--keep FOLDER]
    tools/measuring/hosts.py circumstances [--only NAME ...] [--circumstance NAME ...] [--keep FOLDER]

`requests`: each program is learned twice with `learn --hosts`; then it makes N requests plainly and N under enforce, and three
tries that its policy must stop.  `circumstances`: each is learned twice, and then runs plainly and under enforce in
each circumstance of hosts_circumstances.py.  The tables go to standard output, what was denied to standard error.
FOLDER keeps policies, outputs and logs.

The programs are those of hosts_programs.py; the network and its servers are those of hosts_network.py.  They need curl, wget,
git, npm, go, rustc, javac, busybox, musl-gcc, redis, postgres, psql, ssh, sshd, nginx, php, ruby, perl, dig, ping and apt-get.
Everything runs in namespaces of its own, and ends with them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from hosts_circumstances import CIRCUMSTANCES, Circumstance, target_of
from hosts_network import (
    FIXED,
    FIXED6,
    OTHER_SERVER,
    ROTATING,
    ROTATING6,
    SERVER,
    SERVER6,
    STRANGER,
    NameServer,
    Servers,
    certificates,
    enter,
    proxy,
    reached,
)
from hosts_programs import PROGRAMS, SOURCES, Program, build, fill
from packages import copy_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
NAMES = {
    **{name: [*ROTATING, *ROTATING6] for name in ("api", "big", "slow", "git", "pypi", "registry", "deb", "srv", "*.many")},
    "*.dbs": [FIXED, FIXED6], "db": [FIXED, FIXED6], "other": [STRANGER],
}  # fmt: skip
CHAINS = {
    "www.example.org": "www.edge.example.net", "www.edge.example.net": "e1.cdn.example.com",
    "e1.cdn.example.com": "api.example.org",
}  # fmt: skip
KINDS = ("name", "address", "port")
"""What differs in the tries that a policy must stop."""
NEEDED = {"name": r"other\.", "address": r" 10\.77\.[35]\.", "port": r": (?!80$|443$|22$|53$|5432$|6379$)\d+$"}
"""What the line has that would permit such a try."""
AT_ONCE = {"requests": 2, "circumstances": 4}
"""How many programs are measured at once."""


@dataclass
class Result:
    """What a run of a program did."""

    output: str
    done: int
    """Requests that succeeded."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """What was denied, by the log."""

    @property
    def hosts(self) -> int:
        """How many requests and look-ups were denied: the records' counts are those so far of each distinct one."""
        return counted([record for record in self.records if is_about_hosts(record)])

    @property
    def others(self) -> int:
        return counted([record for record in self.records if not is_about_hosts(record)])


def counted(records: Sequence[dict[str, Any]]) -> int:
    last = {json.dumps({**record, "count": 0, "time": 0}, sort_keys=True): record.get("count", 1) for record in records}
    return sum(last.values())


def is_about_hosts(record: dict[str, Any]) -> bool:
    return bool(record.get("ungranted")) or re.search(r"connect|sendto|sendm", record.get("call") or "") is not None


class Place:
    """The folder of all runs, and the network."""

    def __init__(self, root: Path, keep: Path | None) -> None:
        self.root = root
        self.keep = keep
        self.names = NameServer({f"{name}.example.org": found for name, found in NAMES.items()}, dict(CHAINS))
        self.names.names["mirror.example.net"] = ROTATING
        self.names.services["_http._tcp.srv.example.org"] = "mirror.example.net"
        self._filled = {"built": str(root / "built"), "sources": str(root / "sources"), "folder": str(root)}
        self._filled["python"] = str(root / "built/venv/bin/python")

    def set_up(self) -> None:
        enter(self.root)
        for address in (SERVER, OTHER_SERVER, SERVER6):
            self.names.serve(address)
        proxy()
        hosts = [f"{name}.example.org" for name in NAMES] + ["www.example.org"]
        certificates(self.root / "tls", hosts)
        shutil.copy("/etc/ssl/certs/java/cacerts", self.root / "tls/java")
        store = ["-keystore", self.root / "tls/java", "-storepass", "changeit"]
        trust = ["keytool", "-importcert", "-noprompt", *store, "-file", self.root / "tls/ca.pem"]
        subprocess.run(trust, check=True, capture_output=True)
        fill(self.root / "web")
        servers = Servers(self.root)
        servers.web()
        servers.databases()
        servers.sshd()
        for port in (22, 5432, 6379):
            reached(FIXED, port)
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        subprocess.run(["chmod", "-R", "a+rX", self.root], check=True)
        (self.root / "ssh/id").chmod(0o600)

    def callfence(self, name: str, *options: str | Path) -> list[str]:
        """The words of a command of callfence, by the system's Python, from a copy that every user can read."""
        start = f"import sys; sys.path.insert(0, {str(self.root / 'packages')!r}); from callfence.cli import main; main()"
        words = ["/usr/bin/python3", "-c", start, name, *map(str, options)]
        return [*words, "--"] if name in ("learn", "enforce") else words

    def run(
        self, program: Program, count: int, targets: tuple[str, ...], prefix: Sequence[str] = (), seconds: float = 900,
        user: int | None = None, **settings: str,
    ) -> Result:  # fmt: skip
        """Run a program; `user`: as this user.  One that does not end is ended with its namespace."""
        with tempfile.TemporaryDirectory(dir=self.root / "work") as name:
            folder = Path(name)
            environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/bin", "HOME": name, "LC_ALL": "C.UTF-8", "TMPDIR": name}
            trusting = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "PIP_CERT")
            environment |= dict.fromkeys(trusting, BUNDLE) | settings
            become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
            if user:
                os.chown(folder, user, user)
                if "{folder}/ssh" in program.command:
                    shutil.copy(self.root / "ssh/id", folder / "id")
                    os.chown(folder / "id", user, user)
            words = program.words(self._filled | ({"folder/ssh": str(folder)} if user else {}), count, targets)
            command = [*become, *prefix, *words]
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **quiet)  # type: ignore[call-overload]
            try:
                output = process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output = process.communicate()[0] + b"\nfailed: did not end\n"
            text = output.decode("utf-8", "replace")
            return Result(text, sum("hello" in line for line in text.splitlines()))

    def policy(self, program: Program) -> Path:
        return self.root / "policies" / f"{re.sub('[^a-zA-Z0-9]+', '-', program.name)}.policy"

    def learn(self, program: Program, count: int, targets: tuple[str, ...], **settings: str) -> None:
        """Learn a program twice."""
        for times in (count, 2 * count):
            learn = self.callfence("learn", "-q", "--hosts", "-o", self.policy(program))
            result = self.run(program, times, targets, learn, **settings)
            if not result.done:
                print(f"{program.name}: learn: {result.output[-1000:]}", file=sys.stderr)

    def enforce(self, program: Program, count: int, targets: tuple[str, ...], what: str, **settings: Any) -> Result:
        name = re.sub("[^a-zA-Z0-9]+", "-", f"{program.name} {what}")
        log = self.root / "logs" / f"{name}.log"
        log.touch()
        log.chmod(0o666)
        enforce = self.callfence("enforce", "-p", self.policy(program), "--log", log)
        result = self.run(program, count, targets, enforce, **settings)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        result.records = [row for row in rows if row["event"] == "denied"]
        for row in rows:
            if row["event"] == "message" and row["level"] != "note":
                print(f"{program.name}: {what}: {row}", file=sys.stderr)
        (self.root / "logs" / f"{name}.out").write_text(result.output)
        if log.stat().st_size == 0:
            log.unlink()
        return result

    def close(self) -> None:
        if self.keep:
            for name in ("logs", "policies"):
                shutil.copytree(self.root / name, self.keep / name, dirs_exist_ok=True)


def measure_requests(place: Place, program: Program, count: int) -> str:
    """Measure a program's requests; return the row of the table."""
    targets = program.targets
    place.learn(program, max(2 * len(targets) // program.weight, 1), targets)
    count = -(-count // program.weight)
    expected = place.run(program, count, targets)
    result = place.enforce(program, count, targets, "requests")
    tell(program, "requests", result)
    differ = abs(expected.done - result.done)
    tries = []
    for kind, target in zip(KINDS, program.strange, strict=True):
        if not target:
            tries.append("—")
            continue
        tried = place.enforce(program, 1, (target,), kind)
        lines = [line for record in tried.records for line in record.get("ungranted", ())]
        explained = any(re.search(NEEDED[kind], line) for line in lines)
        tries.append("**passed**" if tried.done else "stopped" if explained else "stopped, **not explained**")
    count_of_lines = sum(line.startswith(("tcp ", "udp ", "unix ")) for line in place.policy(program).read_text().splitlines())
    cells = [program.name, count_of_lines, expected.done, result.hosts, result.others, differ, *tries]
    return f"| {' | '.join(map(str, cells))} |"


def tell(program: Program, what: str, result: Result) -> None:
    """Say what was denied, each different line once."""
    told = {json.dumps(record.get("ungranted") or record.get("allow") or record["call"]): record for record in result.records}
    for record in told.values():
        print(f"{program.name}: {what}: {json.dumps(record)[:700]}", file=sys.stderr, flush=True)


def measure_circumstance(place: Place, program: Program, circumstance: Circumstance) -> dict[str, int]:
    """Run a program in a circumstance; return the counts."""
    targets, settings = circumstance.targets(program), circumstance.settings(program)
    if circumstance.line:
        allow = place.callfence("allow", place.policy(program), circumstance.line)
        subprocess.run(allow, check=True, capture_output=True, cwd=place.root)
    count, seconds = len(targets), circumstance.seconds or 120
    if circumstance.at_once > 1:
        if program.start:
            return {}
        names = [f"{circumstance.name} {number}" for number in range(circumstance.at_once)]
        with ThreadPoolExecutor(circumstance.at_once) as pool:
            expected = sum(one.done for one in pool.map(lambda _: place.run(program, count, targets, **settings), names))
            results = [*pool.map(lambda name: place.enforce(program, count, targets, name, **settings), names)]
    else:
        expected = place.run(program, count, targets, seconds=seconds, **settings).done
        results = [place.enforce(program, count, targets, circumstance.name, seconds=seconds, **settings)]
    for result in results:
        tell(program, circumstance.name, result)
    done = sum(result.done for result in results)
    if done != expected:
        print(f"{program.name}: {circumstance.name}: {expected} plainly, {done} under enforce", file=sys.stderr, flush=True)
        print("    " + results[0].output[-300:].replace("\n", "\n    "), file=sys.stderr, flush=True)
    return {
        "runs": len(results), "denied": sum(result.hosts > 0 for result in results), "expected": expected, "done": done,
        "other": sum(result.others > 0 for result in results), "lost": max(0, expected - done),
    }  # fmt: skip


def requests(place: Place, programs: Sequence[Program], count: int) -> None:
    place.names.slow = 0.05
    heads = ("program", "lines", "requests", "denied: hosts", "calls", "other answers", *(f"another {kind}" for kind in KINDS))
    print(f"| {' | '.join(heads)} |")
    print("|---|--:|--:|--:|--:|--:|---|---|---|", flush=True)
    with ThreadPoolExecutor(AT_ONCE["requests"]) as pool:
        for row in pool.map(lambda program: measure_requests(place, program, count), programs):
            print(row, flush=True)


def circumstances(place: Place, programs: Sequence[Program], chosen: Sequence[Circumstance]) -> None:
    with ThreadPoolExecutor(AT_ONCE["circumstances"]) as pool:
        learned = [*pool.map(lambda program: place.learn(program, len(target_of(program)), target_of(program)), programs)]
        print(f"{len(learned)} programs learned", file=sys.stderr, flush=True)
        heads = ("circumstance", "runs", "denied hosts", "denied calls", "requests done plainly", "under enforce", "")
        print(f"| {' | '.join(heads)} |")
        print("|---|--:|--:|--:|--:|--:|---|", flush=True)
        totals = dict[str, int]()
        for circumstance in chosen:
            with circumstance.made(place.names):
                workers = 1 if circumstance.at_once > 1 else AT_ONCE["circumstances"]
                with ThreadPoolExecutor(workers) as few:
                    rows = [*few.map(measure_circumstance, repeat(place), programs, repeat(circumstance))]
            total = {key: sum(row.get(key, 0) for row in rows) for key in ("runs", "denied", "other", "expected", "done")}
            totals = {key: totals.get(key, 0) + value for key, value in total.items()}
            odd = list[str]()
            for program, row in zip(programs, rows, strict=True):
                kinds = [f"{row[kind]} {kind}" for kind in ("denied", "lost") if row.get(kind)]
                odd += [f"{program.name}: {', '.join(kinds)}"] if kinds else []
            print(f"| {circumstance.name} | {' | '.join(map(str, total.values()))} | {'; '.join(odd)} |", flush=True)
        print(f"| all | {' | '.join(map(str, totals.values()))} | |", flush=True)


def inside(options: argparse.Namespace, root: Path) -> None:
    """Measure, in the namespaces; this process' child does, since the first of a pid namespace has to reap all others."""
    child = os.fork()
    if child:
        while (ended := os.wait())[0] != child:
            pass
        sys.exit(os.waitstatus_to_exitcode(ended[1]))
    place = Place(root, options.keep)
    place.set_up()
    programs = [one for one in PROGRAMS if not options.only or one.name in options.only]
    try:
        if options.mode == "requests":
            requests(place, programs, options.requests)
        else:
            chosen = [one for one in CIRCUMSTANCES if not options.circumstance or one.name in options.circumstance]
            circumstances(place, [one for one in programs if target_of(one)], chosen)
    finally:
        place.close()
    sys.stdout.flush()
    os._exit(0)


def prepare(root: Path) -> None:
    for name in ("built", "policies", "logs", "work"):
        (root / name).mkdir()
    copy_packages(root / "packages")
    shutil.copytree(SOURCES, root / "sources")
    build(root / "built")
    root.chmod(0o755)
    for name in ("policies", "logs", "work"):
        (root / name).chmod(0o777)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("requests", "circumstances"))
    parser.add_argument("--requests", type=int, default=1000, metavar="N")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=[one.name for one in PROGRAMS])
    parser.add_argument("--circumstance", nargs="+", default=[], metavar="NAME", choices=[one.name for one in CIRCUMSTANCES])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    if root := os.environ.pop("CALLFENCE_MEASURED", ""):
        inside(options, Path(root))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which ends the namespaces
    with tempfile.TemporaryDirectory(prefix="callfence-hosts-") as name:
        prepare(Path(name))
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        environment = {**os.environ, "CALLFENCE_MEASURED": name}
        done = subprocess.run([*unshare, sys.executable, __file__, *sys.argv[1:]], env=environment, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
