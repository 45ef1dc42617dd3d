"""The programs that hosts.py measures, and the content of the web servers that they ask.

Each makes COUNT requests, to one target after the other, and prints a line with `hello` for each that succeeds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from hosts_network import STRANGER

SOURCES = Path(__file__).with_name("hosts_sources")
LOOP = "n=$1; shift; i=0; while :; do for t; do [ $i -lt $n ] || exit 0; {}; i=$((i+1)); done; done"
PACKAGES, LISTS = 40, 10
"""How many packages one pip or npm gets, and from how many sources one apt-get does."""
APT = " ".join(
    f"-o {option}"
    for option in ("Dir::Etc::sourcelist=$PWD/l", "Dir::Etc::sourceparts=/dev/null", "Dir::State=$PWD/s", "Dir::Cache=$PWD/c",
                   "Dir::State::status=/dev/null", "APT::Sandbox::User=root", "Acquire::Retries=0")
)  # fmt: skip
NGINX = """\
s=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2 }' /etc/resolv.conf | tr '\\n' ' ')
cat >n.conf <<EOT
daemon off; master_process off; pid $PWD/pid; error_log $PWD/n.log;
events {} http { access_log off; client_body_temp_path $PWD/b; proxy_temp_path $PWD/p; fastcgi_temp_path $PWD/f;
uwsgi_temp_path $PWD/u; scgi_temp_path $PWD/g; resolver $s valid=1s; resolver_timeout 10s;
server { listen unix:$PWD/in;
location ~ ^/to/(?<up>[^/]+)/(?<rest>.*)$ { proxy_connect_timeout 20s; proxy_pass http://\\$up/\\$rest; } } }
EOT
nginx -e $PWD/n.log -c $PWD/n.conf & p=$!
while ! [ -S in ]; do sleep 0.05; done
"""
NGINX_REQUEST = "curl -sS --max-time 30 --noproxy '*' --unix-socket in http://in/to/${t#http://} || echo failed"


@dataclass(frozen=True)
class Program:
    """A program and its targets."""

    name: str
    command: str
    """A shell command for the target `$t` in a loop, or words before COUNT and the targets if it does not have `$t`.
    {built}, {sources}, {folder}, {python} are filled in."""
    targets: tuple[str, ...]
    strange: tuple[str, ...]
    """Other targets, which policies must not let it reach: another name, another address, another port; "" for none."""
    weight: int = 1
    """How many requests, at least, one command makes."""
    start: str = ""
    """Shell commands before the loop, and `end` after it."""
    end: str = ""

    def words(self, filled: dict[str, str], count: int, targets: tuple[str, ...]) -> list[str]:
        """The words of a command that does what it does `count` times."""
        times, command = str(count), self.command
        for name, value in filled.items():
            command = command.replace(f"{{{name}}}", value)
        if "$t" not in self.command.replace("{", ""):
            return [*command.split(), times, *targets]
        loop = LOOP.format(command)
        return ["sh", "-c", f"{self.start}({loop})\n{self.end}" if self.start else loop, "sh", times, *targets]


def web(scheme: str = "https") -> dict[str, tuple[str, ...]]:
    """The targets of a program that makes requests of the web; `https`: one of them by HTTPS."""
    port = 444 if scheme == "https" else 81
    names = ("http://api.example.org/page", f"{scheme}://www.example.org/page", "http://big.example.org/page",
             "http://slow.example.org/page")  # fmt: skip
    return {
        "targets": names,
        "strange": ("http://other.example.org/page", f"http://{STRANGER}/page", f"{scheme}://www.example.org:{port}/page"),
    }


def one(target: str, port: str, other: str) -> dict[str, tuple[str, ...]]:
    """The target of a program with one server: `HOST` in it is the host, `PORT` the port."""
    made = [("db.example.org", port), ("other.example.org", port), (STRANGER, port), ("db.example.org", other)]
    first, *strange = (target.replace("HOST", host).replace("PORT", number) for host, number in made)
    return {"targets": (first,), "strange": tuple(strange)}


def place(scheme: str, name: str, path: str, port: int) -> dict[str, tuple[str, ...]]:
    """The target of a program that gets what is below a path of the web servers."""
    url = f"{scheme}://{{}}{path}"
    strange = ("other.example.org", STRANGER, f"{name}:{port}")
    return {"targets": (url.format(name),), "strange": tuple(map(url.format, strange))}


NAMES = " ".join(f"pkg{number}" for number in range(PACKAGES))
PROGRAMS = [
    Program("curl", 'curl -sS --max-time 20 "$t" || echo failed', **web()),
    Program("wget", 'wget -qO- -T 20 -t 1 "$t" || echo failed', **web()),
    Program("git clone", 'git clone -q "$t" d && cat d/hello || echo failed; rm -rf d', weight=4,
            **place("http", "git.example.org", "/repo.git", 81)),
    Program("pip download",
            '{python} -m pip download -q --no-deps --no-cache-dir --retries 0 -i "$t" -d d ' + NAMES
            + " || echo failed; ls d 2>/dev/null | sed s/.*/hello/; rm -rf d",
            weight=PACKAGES, **place("https", "pypi.example.org", "/simple/", 444)),
    Program("npm install",
            'npm install --loglevel=error --no-audit --no-fund --no-update-notifier --fetch-retries 0 --cache c '
            '--registry "$t" ' + NAMES + " >/dev/null || echo failed; ls node_modules 2>/dev/null | sed s/.*/hello/; "
            "rm -rf c node_modules *.json",
            weight=PACKAGES, **place("http", "registry.example.org", "/npm/", 81)),
    Program("npm view",
            'npm view --no-update-notifier --fetch-retries 0 --cache c --registry "$t" pkg1 description || echo failed; '
            "rm -rf c",
            weight=20, **place("http", "registry.example.org", "/npm/", 81)),
    Program("python urllib", "/usr/bin/python3 {sources}/fetch_urllib.py", **web()),
    Program("python requests", "{python} {sources}/fetch_requests.py", **web()),
    Program("python aiohttp", "{python} {sources}/fetch_aiohttp.py", **web()),
    Program("node fetch", "/usr/bin/node {sources}/fetch.mjs", **web()),
    Program("node dns.resolve", "/usr/bin/node {sources}/resolve.mjs", **web("http")),
    Program("Go", "{built}/fetch-go", **web()),
    Program("Rust", "{built}/fetch-rust", **web("http")),
    Program("Java", "/usr/bin/java -Djavax.net.ssl.trustStore={folder}/tls/java -Xshare:auto -cp {built} Fetch", **web()),
    Program("busybox wget", 'busybox wget -qO- -T 20 "$t" || echo failed', **web("http")),
    Program("musl, static", "{built}/fetch-musl", **web("http")),
    Program("psql", 'psql -Atc "select \'hello\'" "$t" || echo failed',
            **one("postgresql://postgres@HOST:PORT/postgres", "5432", "5433")),
    Program("redis-cli", 'redis-cli -u "$t" ECHO hello || echo failed', **one("redis://HOST:PORT", "6379", "6380")),
    Program("ssh",
            "ssh -i {folder}/ssh/id -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            '-o LogLevel=ERROR -o ConnectTimeout=20 "$t" || echo failed',
            **one("ssh://root@HOST:PORT", "22", "23")),
    Program("nginx", NGINX_REQUEST, start=NGINX, end="kill $p; wait $p; rm -f in", **web("http")),
    Program("php", "/usr/bin/php {sources}/fetch.php", **web()),
    Program("ruby", "/usr/bin/ruby {sources}/fetch.rb", **web()),
    Program("perl", "/usr/bin/perl {sources}/fetch.pl", **web("http")),
    Program("dig", "dig +short +time=5 +tries=2 $t | grep -q '^[0-9f]' && echo hello || echo failed",
            targets=("api.example.org", "www.example.org", "big.example.org", "slow.example.org"),
            strange=("", "@10.77.5.53 api.example.org", "-p 54 api.example.org")),
    Program("ping", 'ping -n -c 1 -W 5 "$t" >out && echo hello || echo failed', targets=("api.example.org", "www.example.org"),
            strange=("other.example.org", STRANGER, "")),
    Program("apt-get update",
            "rm -rf s c l; mkdir -p s/lists/partial c/archives/partial; for k in 0 1 2 3 4 5 6 7 8 9; do "
            'echo "deb [trusted=yes] $t$k ./" >>l; done; ' + f"apt-get -q {APT} update >out 2>&1 || cat out; "
            "ls s/lists | grep Packages | sed s/.*/hello/",
            weight=LISTS, **place("http", "deb.example.org", "/deb", 81)),
]  # fmt: skip
_BY_SRV = place("http", "srv.example.org", "/deb", 81)
PROGRAMS.append(replace(PROGRAMS[-1], name="apt-get update, by SRV", **_BY_SRV | {"strange": (*_BY_SRV["strange"][:2], "")}))
"""As deb.debian.org is: a record of `_http._tcp.` leads to a name that nobody has given to apt, and to port 80 whatever it has
been given."""


def build(target: Path) -> None:
    """Build what is compiled, and make the virtual environment of the Python programs."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(target / "go-cache"), "GO111MODULE": "off"}
    rustc = next((path for path in (Path.home() / ".cargo/bin/rustc", Path("/usr/bin/rustc")) if path.exists()), "rustc")
    for command in (
        ["go", "build", "-o", target / "fetch-go", SOURCES / "fetch.go"],
        [rustc, "-O", "-o", target / "fetch-rust", SOURCES / "fetch.rs"],
        ["javac", "-d", target, SOURCES / "Fetch.java"],
        ["musl-gcc", "-static", "-O2", "-o", target / "fetch-musl", SOURCES / "fetch.c"],
        ["/usr/bin/python3", "-m", "venv", target / "venv"],
        [target / "venv/bin/pip", "install", "-q", "requests", "aiohttp"],
    ):
        subprocess.run(command, env=environment, cwd=target, check=True, stdout=sys.stderr)


def fill(web: Path) -> None:
    """Make what the web servers have: a page, a repository, packages, sources of apt."""
    web.mkdir()
    (web / "page").write_text("hello\n")
    work = web / "work"
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", work]
    work.mkdir()
    (work / "hello").write_text("hello\n")
    for command in (
        [*run, "init", "-q"],
        [*run, "add", "hello"],
        [*run, "commit", "-qm", "hello"],
        ["git", "clone", "-q", "--bare", work, web / "repo.git"],
        ["git", "-C", web / "repo.git", "update-server-info"],
    ):
        subprocess.run(command, check=True)
    (web / "npm/tarballs").mkdir(parents=True)
    for number in range(PACKAGES):
        name = f"pkg{number}"
        wheel = web / "simple" / name / f"{name}-1.0-py3-none-any.whl"
        wheel.parent.mkdir(parents=True)
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}.py", "")
            archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
        link = f'<a href="{wheel.name}">{wheel.name}</a>'
        (wheel.parent / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
        manifest = {"name": name, "version": "1.0.0", "description": "hello"}
        content = json.dumps(manifest).encode()
        tarball = io.BytesIO()
        with tarfile.open(fileobj=tarball, mode="w:gz") as archive_:
            member = tarfile.TarInfo("package/package.json")
            member.size = len(content)
            archive_.addfile(member, io.BytesIO(content))
        (web / f"npm/tarballs/{name}-1.0.0.tgz").write_bytes(tarball.getvalue())
        url = f"http://registry.example.org/npm/tarballs/{name}-1.0.0.tgz"
        dist = {"tarball": url, "shasum": hashlib.sha1(tarball.getvalue()).hexdigest()}
        versions = {"1.0.0": {**manifest, "dist": dist}}
        (web / "npm" / name).write_text(json.dumps({**manifest, "dist-tags": {"latest": "1.0.0"}, "versions": versions}))
    for number in range(LISTS):
        source = web / f"deb{number}"
        source.mkdir()
        fields = {"Package": f"pkg{number}", "Version": 1, "Architecture": "all", "Filename": "./p.deb", "Size": 1}
        packages = "".join(f"{key}: {value}\n" for key, value in fields.items()).encode() + b"\n"
        (source / "Packages").write_bytes(packages)
        digest = hashlib.sha256(packages).hexdigest()
        (source / "Release").write_text(f"Date: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n {digest} {len(packages)} Packages\n")
