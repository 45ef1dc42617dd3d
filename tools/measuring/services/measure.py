"""Four services under a systemd of their own: learned, audited, enforced, upgraded, changed, and enforced again, under load.

`measure.py [REQUESTS]`, as root, on Debian 13 with nginx, lighttpd, redis-server and postgresql: prints the table of
docs/services.md.  All but Postgres begin with the version of Debian 12, and apt upgrades them while they are enforced.  A
request is lost if it was sent and its whole, right answer did not come.  While a unit is restarted nothing is sent.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[3]
sys.path += [str(ROOT / "tests" / "support"), str(ROOT)]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

THREADS = 4
NGINX = """user www-data; pid /run/nginx.pid; error_log /var/log/nginx/error.log; worker_processes 2; events {{}}
http {{ access_log off; server {{ listen 127.0.0.1:{port}; root /srv/www; }} {more} }}
"""
PROXY = "server { listen 127.0.0.1:8081; location / { proxy_pass http://127.0.0.1:8082; } }"
LIGHTTPD = """server.document-root = "/srv/www"
server.bind = "127.0.0.1"
server.port = 8091
server.username = "www-data"
server.groupname = "www-data"
index-file.names = ("index.html")
server.errorlog = "/var/log/lighttpd/error.log"
{more}
"""
LOGGING = 'server.modules += ("mod_accesslog")\naccesslog.filename = "/var/log/lighttpd/access.log"'
REDIS = "port 6399\nbind 127.0.0.1\ndir /var/lib/redis\nsupervised systemd\nsave ''\n"
BODY = b"hello " * 200
OLDER = "bookworm"
"""The Debian that the older versions are from."""
SOURCE = f"""Types: deb
URIs: http://deb.debian.org/debian
Suites: {OLDER}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp
"""


class Service:
    """A unit, how it is prepared and changed, and its load."""

    name = ""
    port = 0
    packages: tuple[str, ...] = ()
    """Those of which Debian has an older version."""
    change = ""
    """What it does more with another configuration."""

    def prepare(self) -> None: ...

    def reconfigure(self) -> None: ...

    def load(self, count: int) -> int:
        """Make so many requests; return how many were lost."""
        raise NotImplementedError

    def extra(self) -> None:
        """What it does seldom, while it is learned."""


def in_threads(count: int, work: Callable[[int], int]) -> int:
    """The sum of what the threads return; each gets its share of the count."""
    lost = [0] * THREADS

    def run(index: int) -> None:
        lost[index] = work(count // THREADS)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(lost)


class Web(Service):
    """One that answers / with BODY, and /none with status 404."""

    def load(self, count: int) -> int:
        def work(share: int) -> int:
            lost = 0
            for index in range(share):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                try:
                    connection.request("GET", "/" if index % 10 else "/none")
                    answer = connection.getresponse()
                    body = answer.read()
                    lost += (answer.status, body == BODY) != ((200, True) if index % 10 else (404, False))
                except OSError:
                    lost += 1
                finally:
                    connection.close()
            return lost

        return in_threads(count, work)


class Nginx(Web):
    name = "nginx"
    packages = ("nginx", "nginx-common")
    port = 8081
    change = "it forwards requests to another server"

    def prepare(self) -> None:
        for folder in ("/var/log/nginx", "/var/lib/nginx", "/srv/www"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        Path("/srv/www/index.html").write_bytes(BODY)
        Path("/etc/nginx/nginx.conf").write_text(NGINX.format(port=8081, more=""))

    def reconfigure(self) -> None:
        Path("/etc/nginx/nginx.conf").write_text(NGINX.format(port=8082, more=PROXY))

    def extra(self) -> None:
        """Have it replace itself, as its package does at an upgrade (https://nginx.org/en/docs/control.html)."""
        old = Path("/run/nginx.pid.oldbin")
        run("systemctl", "kill", "-s", "USR2", "--kill-whom=main", self.name)
        until = time.monotonic() + 30
        while not (old.exists() and Path("/run/nginx.pid").exists()) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(0.5)
        run("kill", "-QUIT", old.read_text().strip())
        while old.exists() and time.monotonic() < until:
            time.sleep(0.1)


class Lighttpd(Web):
    name = "lighttpd"
    packages = ("lighttpd",)
    port = 8091
    change = "it logs what it is asked"

    def _configure(self, more: str) -> None:
        Path("/etc/lighttpd/lighttpd.conf").write_text(LIGHTTPD.format(more=more))

    def prepare(self) -> None:
        Path("/srv/www").mkdir(parents=True, exist_ok=True)
        Path("/srv/www/index.html").write_bytes(BODY)
        Path("/var/log/lighttpd").mkdir(exist_ok=True)
        shutil.chown("/var/log/lighttpd", "www-data", "www-data")
        self._configure("")

    def reconfigure(self) -> None:
        self._configure(LOGGING)


class Redis(Service):
    name = "redis-server"
    packages = ("redis-server", "redis-tools")
    port = 6399
    change = "it keeps a log of what it does (appendonly)"

    def prepare(self) -> None:
        for folder in ("/var/lib/redis", "/var/log/redis"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.chown(folder, "redis", "redis")
        Path("/etc/redis/redis.conf").write_text(REDIS)
        Path("/etc/redis/redis.conf").chmod(0o644)

    def reconfigure(self) -> None:
        Path("/etc/redis/redis.conf").write_text(f"{REDIS}appendonly yes\n")

    def load(self, count: int) -> int:
        def work(share: int) -> int:
            lost = 0
            for start in range(0, share, 50):
                connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                with connection, connection.makefile("rwb") as file:
                    for index in range(start, min(start + 50, share)):
                        try:
                            file.write(b"SET it:%d %d\r\n" % (index, index))
                            file.flush()
                            lost += file.readline() != b"+OK\r\n"
                        except OSError:
                            lost += 1
            return lost

        return in_threads(count, work)

    def extra(self) -> None:
        for words in (("save",), ("bgsave",), ("config", "get", "maxmemory"), ("info",)):
            subprocess.run(["redis-cli", "-p", "6399", *words], check=True, capture_output=True)
        time.sleep(0.5)


class Postgres(Service):
    name = "postgresql@15-main"
    port = 5432
    change = "it archives its log of changes by a command (archive_command)"

    def as_postgres(self, *words: str) -> str:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout

    def first(self) -> None:
        """When it runs for the first time, without callfence."""
        self.as_postgres("createdb", "it")
        self.as_postgres("pgbench", "-i", "-q", "it")

    def reconfigure(self) -> None:
        with Path("/etc/postgresql/15/main/postgresql.conf").open("a") as file:
            file.write("archive_mode = on\narchive_command = 'cp %p /var/lib/postgresql/15/%f'\n")

    def load(self, count: int) -> int:
        printed = self.as_postgres("pgbench", "-n", "-c", str(THREADS), "-t", str(count // THREADS), "it")
        done, wanted = map(int, re.search(r"actually processed: (\d+)/(\d+)", printed).groups())  # type: ignore[union-attr]
        return wanted - done

    def extra(self) -> None:
        for text in ("select pg_switch_wal()", "checkpoint", "vacuum analyze", "select count(*) from pgbench_accounts"):
            self.as_postgres("psql", "-Atc", text, "it")


SERVICES = (Nginx(), Lighttpd(), Redis(), Postgres())


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


def installed(packages: Sequence[str], *where: str) -> str:
    """Have apt install packages, and return the version of the first; `where`: options of apt-get.  Do nothing without
    packages."""
    if not packages:
        return ""
    keeping = ("-o", "Dpkg::Options::=--force-confold")
    run("apt-get", "install", "-y", "-qq", "--allow-downgrades", *keeping, *where, *packages)
    return run("dpkg-query", "-W", "-f", "${Version}", packages[0].partition("/")[0])


def callfence(*words: str) -> float:
    """Run a step, and return its seconds."""
    begun = time.monotonic()
    run("callfence", "service", *words)
    return time.monotonic() - begun


def restart(service: Service) -> None:
    """Restart a unit, and wait until it accepts connections: while it is learned, systemd does not know when that is."""
    run("systemctl", "restart", service.name)
    wait(service)


def wait(service: Service) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", service.port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < until, service.name
            time.sleep(0.05)


def with_reloads(service: Service, count: int) -> int:
    """A load of so many requests, with reloads all along; return how many were lost."""
    ended = threading.Event()

    def reload() -> None:
        while not ended.wait(0.5):
            run("systemctl", "reload", service.name)

    reloads = threading.Thread(target=reload)
    if not isinstance(service, Redis):  # its unit has no reload
        reloads.start()
    try:
        return service.load(count)
    finally:
        ended.set()
        if reloads.ident:
            reloads.join()


def measured(service: Service, count: int) -> dict[str, object]:
    times: dict[str, float] = {}
    versions = [installed([f"{package}/{OLDER}" for package in service.packages])]
    service.prepare()
    restart(service)
    if isinstance(service, Postgres):
        service.first()
    lost = {"plain": service.load(count // 10)}
    times["learn"] = callfence("learn", service.name)
    wait(service)
    lost["learned"] = with_reloads(service, count // 10)
    service.extra()
    restart(service)
    lost["learned"] += service.load(count // 10)
    service.extra()
    times["audit"] = callfence("audit", service.name)
    lost["audited"] = with_reloads(service, count // 10)
    service.extra()
    first = status(service)
    if first["calls"]:
        callfence("review", service.name, "--", "--accept-all")
    times["enforce"] = callfence("enforce", service.name)
    lost["enforced"] = with_reloads(service, count)
    service.extra()
    before = status(service)
    versions.append(installed(service.packages))  # which restarts the unit
    wait(service)
    lost["upgraded"] = with_reloads(service, count // 10)
    service.extra()
    upgraded = status(service)
    callfence("audit", service.name)
    if upgraded["calls"]:
        callfence("review", service.name, "--", "--accept-all")
    service.reconfigure()
    restart(service)
    lost["changed"] = service.load(count // 10)
    service.extra()
    restart(service)
    changed = status(service)
    refused = subprocess.run(["callfence", "service", "enforce", service.name], capture_output=True, check=False).returncode
    if changed["calls"]:
        times["review"] = callfence("review", service.name, "--", "--accept-all")
    callfence("enforce", service.name)
    lost["enforced again"] = with_reloads(service, count)
    last = status(service)
    times["remove"] = callfence("remove", service.name)
    lost["removed"] = with_reloads(service, count // 10)
    return {
        "lost": lost, "times": times, "versions": versions, "first": first["calls"], "before": before["calls"],
        "upgraded": upgraded["calls"], "changed": changed["calls"], "refused": refused,
        "denied": last["denied"], "digest": last["digest"] == last["runs_policy"],
    }  # fmt: skip


def status(service: Service) -> dict[str, object]:
    (found,) = json.loads(run("callfence", "service", "status", "--format", "json", service.name))["units"]
    return found  # type: ignore[no-any-return]


def inside(count: int, names: list[str]) -> None:
    Path("/etc/apt/sources.list.d/older.sources").write_text(SOURCE)
    Path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)  # which keeps units of containers from being started
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update", "-qq")
    for service in SERVICES:
        if names and service.name not in names:
            continue
        begun = time.monotonic()
        found = measured(service, count)
        lost, times = found["lost"], found["times"]
        assert isinstance(lost, dict) and isinstance(times, dict)
        print(f"{service.name}: {time.monotonic() - begun:.0f} s; another configuration: {service.change}")
        print("  lost:", ", ".join(f"{name} {number}" for name, number in lost.items()))
        print("  seconds:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items()))
        print(f"  after the first audit the policy lacked: {found['first']}; enforced, it was denied: {found['before']}")
        if service.packages:
            print(f"  upgraded while enforced, {' -> '.join(found['versions'])}: denied {found['upgraded']}")
        print(f"  the change was in the log as: {found['changed']}; enforcing it unreviewed: exit status {found['refused']}")
        print(f"  enforced again: {found['denied']} denied; it runs the policy of the file: {found['digest']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="services under a systemd of their own, from learned to enforced")
    parser.add_argument("requests", type=int, nargs="?", default=20_000)
    parser.add_argument("--only", action="append", default=[], help="a service")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.requests, options.only)
        return
    from installations import install

    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder, "opt"), "/opt/callfence")
        words = [str(options.requests), *(word for name in options.only for word in ("--only", name))]
        environment = {"PATH": "/opt/callfence/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        system = ROOT / "tests/support/system.sh"
        command = ["bash", system, folder, "/usr/bin/python3", Path(__file__).resolve(), "--inside", *words]
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
