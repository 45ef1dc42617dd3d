"""Existing programs: learned once, enforced on the same input, equal to the plain run.

Each runs three times in a folder of the same name: plainly, under `learn`, under `enforce` with the policy of that one
run.  What it prints, the files it leaves and its exit status must be equal, and no violation may be reported.
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import require

from callfence.policygen.comparing.compare import compare
from callfence.policygen.formats import FormatOptions
from callfence.policygen.formats.containers.files import export_oci, read_oci
from callfence.policygen.formats.containers.written import with_own_calls
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import Commands

    from callfence.policygen.comparing.compare import Difference

    Normalise = Callable[[bytes], bytes]

TABLE = "| program | calls | syscalls | rules | same result | violations |\n|---|--:|--:|--:|---|--:|\n"
"""The head of the table in docs/corpus.md; what stands above it is kept."""
WAIT = 20
"""Seconds for a server to answer, or to end once asked to."""


def same(output: bytes) -> bytes:
    return output


def sorted_lines(output: bytes) -> bytes:
    """For what runs in parallel: the order of the lines depends on timing."""
    return b"".join(sorted(output.splitlines(keepends=True)))


def shape(output: bytes) -> bytes:
    """For fresh keys, which are random: each is replaced by its length, all else is compared."""
    return re.sub(rb"(?<=-----\n)[^-]+(?=-----END)|(?<=ssh-ed25519 )\S+", lambda key: b"<%d>" % len(key[0]), output)


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    words: tuple[str, ...]
    """The command; $URL in the environment is a server on the loopback."""
    setup: str = ""
    """Shell commands that make the input, run plainly."""
    packages: tuple[str, ...] = ()
    """What .ci/packages must have installed."""
    normalise: Normalise = same
    """Applied to what is printed and to the files."""
    ignored: tuple[str, ...] = ()
    """Files that no two plain runs write alike: see the comment beside each."""


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


PROGRAMS = (
    Program("ls | head", shell("ls -laR /usr/share/doc | head")),
    Program(
        "git",
        shell(
            "git init -q -b main repo && cd repo && echo one >a && git add a && git commit -q -m first && "
            "echo two >>a && git commit -q -a -m second && git log --stat && cd .. && git clone -q repo copy && "
            "git -C copy log --oneline"
        ),
        ignored=("*/.git/index",),  # holds inode numbers and times
        packages=("git",),
    ),
    Program(
        "sqlite3",
        ("sqlite3", "-batch", "notes.db", ".read notes.sql"),
        setup="""cat >notes.sql <<'SQL'
            PRAGMA journal_mode = WAL;
            CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                INSERT INTO note SELECT i, hex(i * 7919) FROM n;
            CREATE INDEX by_text ON note (text);
            SELECT count(*), min(text), max(text) FROM note;
            DELETE FROM note WHERE id % 2;
            VACUUM;
            SELECT count(*) FROM note;
SQL""",
        packages=("sqlite3",),
    ),
    Program(
        "python3",
        (
            "python3",
            "-c",
            "import http.client, os, subprocess, threading, urllib.parse\n"
            "def fetch(n):\n"
            "    c = http.client.HTTPConnection(urllib.parse.urlsplit(os.environ['URL']).netloc)\n"
            "    c.request('GET', f'/{n}'); out[n] = c.getresponse().read()\n"
            "out = {}\n"
            "threads = [threading.Thread(target=fetch, args=(n,)) for n in range(4)]\n"
            "[t.start() for t in threads]; [t.join() for t in threads]\n"
            "print(sorted(out.items()))\n"
            "print(subprocess.run(['tr', 'a-z', 'A-Z'], input=b'child', capture_output=True).stdout)",
        ),
    ),
    Program(
        "curl", shell('curl -sS -o page -w "%{http_code} %{size_download}\\n" "$URL/page" && cat page'), packages=("curl",)
    ),
    Program(
        "tar",
        ("tar", "czf", "archive.tar.gz", "tree"),
        setup="mkdir tree && for i in 1 2 3; do seq $i 20000 >tree/$i; done; ln -s 1 tree/link; "
        "find tree -exec touch -h -d @0 {} +",
    ),
    Program(
        "gcc",
        shell("gcc -O2 -o hello hello.c && ./hello"),
        setup="printf '#include <stdio.h>\\nint main(void) { puts(\"compiled\"); return 0; }\\n' >hello.c",
        packages=("gcc", "libc6-dev"),
    ),
    Program(
        "openssl",
        shell(
            "openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout && "
            "seq 1000 >input && openssl dgst -sha256 input"
        ),
        normalise=shape,
        packages=("openssl",),
    ),
    Program(
        "make -j2",
        ("make", "-j2", "--no-print-directory"),
        setup="printf 'all: $(addprefix out/,1 2 3 4 5 6)\\nout/%%: | out\\n\\tseq $* | sort -r >$@; echo made $@\\n"
        "out:\\n\\tmkdir out\\n' >Makefile",
        normalise=sorted_lines,
    ),
    Program(
        "perl",
        ("perl", "-e", 'my %n; $n{$_ % 7} += $_ for 1..99; print "$_ $n{$_}\\n" for sort keys %n; print `echo child`'),
    ),
    Program(
        "jq",
        ("jq", "-c", "map(select(.n % 2 == 0)) | {count: length, sum: map(.n) | add}", "numbers.json"),
        setup="""seq 500 | sed 's/.*/{"n": &},/; 1s/^/[/; $s/,$/]/' >numbers.json""",
        packages=("jq",),
    ),
    Program("find | xargs | sort", shell("find /usr/share/common-licenses -type f -print0 | xargs -0 wc -l | sort -n")),
    Program(
        "bash",
        (
            "bash",
            "-c",
            "set -m; sleep 0.05 & wait %1; echo $?; (exit 3) & wait $!; echo $?; sleep 30 & kill %+; wait $!; echo $?; "
            "sh -c 'kill -STOP $$; echo resumed' & wait $!; echo $?; fg %% >/dev/null; echo $?; trap 'echo usr1' USR1; "
            "kill -USR1 $$; diff <(seq 3) <(seq 4); read -r line <<<'here'; echo $line",
        ),
    ),
    Program(
        "busybox",
        ("busybox", "sh", "-c", "busybox seq 20 | busybox awk '{s += $1} END {print s}'; busybox ls -l /usr/share/perl5"
         " | busybox md5sum; busybox gzip -c input | busybox gunzip | busybox wc"),
        setup="seq 3000 >input",
        packages=("busybox-static",),
    ),
    Program(
        "strings, objdump",
        shell("strings /usr/bin/true | md5sum; objdump -d /usr/bin/true | md5sum"),
        packages=("binutils",),
    ),
    Program(
        "ssh-keygen",
        shell("ssh-keygen -q -t ed25519 -N '' -C me -f key && cat key.pub"),
        normalise=shape,
        packages=("openssh-client",),
    ),
)


@dataclass(frozen=True, slots=True)
class Service:
    """A server under load, on a port of the loopback that is the same in all three runs."""

    name: str
    words: tuple[str, ...]
    """{port} is replaced."""
    load: str
    """Shell commands; what they print is compared, standard error is not."""
    stop: str
    """Shell commands that ask it to end; it must then exit by itself."""
    packages: tuple[str, ...]
    """What .ci/packages must have installed."""
    setup: str = ""


SERVICES = (
    Service(
        "redis-server",
        ("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--dir", "."),
        load="redis-benchmark -p {port} -q -n 3000 -c 20 -t set,get,incr,lpush,lrange_100 >&2 && "
        "redis-cli -p {port} set key value && redis-cli -p {port} get key && redis-cli -p {port} llen mylist && "
        "redis-cli -p {port} bgsave >&2 && sleep 0.3 && redis-cli -p {port} lastsave >&2",
        stop="redis-cli -p {port} shutdown nosave",
        packages=("redis-server", "redis-tools"),
    ),
    Service(
        "nginx",
        ("nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"),
        setup="""mkdir tmp && cat >nginx.conf <<'CONF'
            daemon off;
            worker_processes 3;
            user nobody nogroup;
            pid nginx.pid;
            error_log stderr crit;
            events { worker_connections 64; }
            http {
                access_log off;
                client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
                uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
                sendfile on;
                server {
                    listen 127.0.0.1:{port} reuseport;
                    root /usr/share/common-licenses;
                    location = /hello { return 200 "hello\\n"; }
                }
            }
CONF""",
        load="wrk -t 1 -c 12 -d 1s http://127.0.0.1:{port}/hello >&2 && "
        "wrk -t 1 -c 12 -d 1s http://127.0.0.1:{port}/GPL-2 >&2 && "
        "curl -sS http://127.0.0.1:{port}/hello http://127.0.0.1:{port}/GPL-2 | md5sum && "
        "curl -sS -o none -w '%{{http_code}}\\n' http://127.0.0.1:{port}/missing",
        stop="kill -QUIT $(cat nginx.pid)",
        packages=("nginx", "wrk", "curl"),
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    output: bytes
    files: dict[str, bytes]
    errors: bytes


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"page {self.path}\n".encode() * 100
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def corpus(request: pytest.FixtureRequest) -> Iterator[Callable[[str, bytes, bool, int], None]]:
    """Collects a row per program; with --write-corpus FILE the rows become its table."""
    rows: list[str] = []

    def add(name: str, summary: bytes, same_result: bool, violations: int) -> None:
        text = summary.decode()
        calls = re.search(r"([\d,]+) calls?", text)
        policy = re.search(r"([\d,]+) syscalls?, ([\d,]+) rules?", text)
        assert calls and policy, text
        answer = "yes" if same_result else "**no**"
        cells = (name.replace("|", "\\|"), calls[1], policy[1], policy[2], answer, str(violations))
        rows.append(f"| {' | '.join(cells)} |\n")

    yield add
    target = request.config.getoption("write_corpus")
    if target:
        path = Path(target)
        path.write_text(path.read_text().partition(TABLE)[0] + TABLE + "".join(rows))


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program(
    program: Program, url: str, commands: Commands, corpus: Callable[..., None], tmp_path: Path
) -> None:
    require(*program.packages)
    environment = {**commands.environment, **GIT, "URL": url}
    folder, policy, log = tmp_path / "work", tmp_path / "program.policy", tmp_path / "log"

    def run(prefix: Sequence[str | Path]) -> Result:
        folder.mkdir()
        subprocess.run(["sh", "-euc", program.setup], cwd=folder, env=environment, check=True, timeout=WAIT)
        ran = commands.plain([*prefix, *program.words], folder, env=environment)
        files = {
            name: program.normalise(content)
            for name, content in produced(folder)
            if not any(Path(name).match(pattern) for pattern in program.ignored)
        }
        shutil.rmtree(folder)
        return Result(ran.returncode, program.normalise(ran.stdout), files, ran.stderr)

    plain = run(())
    assert plain.status == 0, plain.errors.decode()
    learned = run(commands.learning(policy))
    expected = (plain.status, plain.output, plain.files)
    assert (learned.status, learned.output, learned.files) == expected, learned.errors.decode()
    assert learned.errors.startswith(plain.errors)
    enforced = run(commands.enforcing(policy, log))
    violations = commands.violations(log)
    corpus(program.name, learned.errors, enforced == plain, len(violations))
    assert violations == []
    assert enforced == plain
    assert as_a_profile(policy) == []


@pytest.mark.long
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_service(service: Service, commands: Commands, corpus: Callable[..., None], tmp_path: Path, port: int) -> None:
    require(*service.packages)
    folder, policy, log = tmp_path / "work", tmp_path / "service.policy", tmp_path / "log"

    def run(prefix: Sequence[str | Path]) -> Result:
        folder.mkdir(mode=0o755)
        ask(service.setup.replace("{port}", str(port)), folder)
        words = [*prefix, *(word.format(port=port) for word in service.words)]
        errors = tmp_path / "errors"
        with errors.open("wb") as sink:
            server = subprocess.Popen(
                words, cwd=folder, env=commands.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=sink, start_new_session=True,
            )
            try:
                wait_for(port, server)
                output = ask(service.load.format(port=port), folder)
                ask(service.stop.format(port=port), folder)
                status = server.wait(WAIT)
            finally:
                end_session(server)
        shutil.rmtree(folder)
        return Result(status, output, {}, errors.read_bytes())

    def ask(script: str, folder: Path) -> bytes:
        ran = subprocess.run(
            ["sh", "-euc", script], cwd=folder, env=commands.environment, capture_output=True, timeout=WAIT * 3,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout

    plain = run(())
    assert plain.status == 0
    learned = run(commands.learning(policy))
    assert (learned.status, learned.output) == (plain.status, plain.output)
    enforced = run(commands.enforcing(policy, log))
    violations = commands.violations(log)
    corpus(service.name, learned.errors, enforced == plain, len(violations))
    assert violations == []
    assert enforced == plain
    assert as_a_profile(policy) == []


def as_a_profile(policy: Path) -> list[Difference]:
    """What is not the same in the container profile that a policy is exported as, read back."""
    learned = resolved(parse_file(policy).policy).written()
    exported = export_oci(learned, FormatOptions(runtime="runc"))
    read = read_oci(exported.data, "profile.json", FormatOptions(runtime="runc")).policy
    return list(compare(with_own_calls(learned, "runc").policy, read).differences)


GIT = {
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
       for what, value in (("NAME", "me"), ("EMAIL", "me@localhost"), ("DATE", "2001-01-01T00:00:00Z"))},
    "GIT_CONFIG_NOSYSTEM": "1",
}
"""Makes commits equal in every run."""


def produced(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder: its name, and its mode and content or target."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        yield str(path.relative_to(folder)), stat.filemode(mode).encode() + b"\n" + content


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended before it was ready"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the server is not ready")


def end_session(server: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a server that leads a session of its own."""
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        server.wait(WAIT)
