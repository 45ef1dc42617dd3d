"""What confining ports alone costs: programs that no other page has, learned once, run on other servers' ports, on other files
and in other circumstances, and counted by whether the policy lacked the denied call, or only a port.

    ports.py        prints a line for each program with a denial, and a line for all
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
FILES = (
    "mawk {print} IN", "tr a b", "cut -c1-3 IN", "head IN", "tail IN", "uniq IN", "comm IN IN", "join IN IN", "paste IN IN",
    "nl IN", "od IN", "base64 IN", "md5sum IN", "b2sum IN", "cksum IN", "split IN OUT", "shuf IN", "tac IN", "fold IN",
    "fmt IN", "column IN", "hexdump IN", "strings IN", "file IN", "xxd IN", "bzip2 -kc IN", "lz4 -c IN", "zip OUT IN",
    "factor 12345", "du IN", "tsort IN", "expand IN", "pr IN", "sum IN", "cmp IN IN", "dd if=IN of=OUT", "gpg --version",
    "iconv IN",
)  # fmt: skip
PERL = (
    'use IO::Socket::INET; my $s = IO::Socket::INET->new("127.0.0.1:$ARGV[0]") or die; '
    'print $s "GET / HTTP/1.0\\r\\n\\r\\n"; print <$s>'
)
NODE = "require('http').get('http://127.0.0.1:PORT/', r => r.pipe(process.stdout))"
NETWORK = (
    ("wget", "-qO-", "http://127.0.0.1:PORT/"), ("perl", "-e", PERL, "PORT"), ("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/PORT"),
    ("nodejs", "-e", NODE), ("git", "ls-remote", "http://127.0.0.1:PORT/x"), ("busybox", "wget", "-qO-", "http://127.0.0.1:PORT/"),
    ("curl", "-s", "http://127.0.0.1:PORT/"), ("openssl", "s_client", "-connect", "127.0.0.1:PORT"),
    ("redis-cli", "-p", "PORT", "ping"), ("psql", "-h", "127.0.0.1", "-p", "PORT", "-c", "select 1"),
)  # fmt: skip
CIRCUMSTANCES: dict[str, dict[str, Any]] = {
    "as learned": {}, "another file": {"file": "other"}, "a large file": {"file": "large"}, "an empty file": {"file": "empty"},
    "no such file": {"file": "none"}, "an unreadable file": {"file": "secret"}, "a folder": {"file": "folder"},
    "closed input": {"shell": "<&-"}, "closed output": {"shell": ">&-"}, "a full disk": {"shell": ">/dev/full"},
    "output to a file": {"shell": ">made"}, "output to a pipe": {"shell": "|cat"}, "a pipe that breaks": {"shell": "|true"},
    "another locale": {"env": {"LC_ALL": "de_DE.UTF-8"}}, "no environment": {"env": {"PATH": os.environ["PATH"]}},
    "another home": {"env": {"HOME": "/nonexistent"}}, "few files": {"shell": "", "limit": "ulimit -n 20;"},
    "another user": {"user": 65534}, "nobody listens": {"dead": True}, "a signal": {"limit": "timeout 0.2"},
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello\n" * 100)

    def log_message(self, *_: object) -> None:
        pass


def server() -> ThreadingHTTPServer:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made


def run(folder: Path, words: list[str], prefix: list[str], how: dict[str, Any], port: int) -> None:
    file = str(how.get("file", "input"))
    values = {"IN": file, "OUT": "made.out", "PORT": str(1 if how.get("dead") else port)}
    told = [re.sub(r"\b(?:IN|OUT|PORT)\b", lambda match: values[match[0]], word) for word in words]
    environment: Any = how.get("env", os.environ)
    user: dict[str, Any] = {"user": how["user"], "group": how["user"], "extra_groups": []} if "user" in how else {}
    script = f'{how.get("limit", "")} "$@" {how.get("shell", "")}'
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["bash", "-c", script, "it", *prefix, *told], cwd=folder, env=dict(environment), timeout=20, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
        )  # fmt: skip


def main() -> None:
    ports, others, runs, programs = 0, 0, 0, 0
    learned, other = server(), server()
    with tempfile.TemporaryDirectory() as name:
        for command in [line.split() for line in FILES] + [list(words) for words in NETWORK]:
            if shutil.which(command[0]) is None:
                print(f"{command[0]}: not installed")
                continue
            folder = Path(name) / "work"
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "folder").mkdir(parents=True)
            for file, size in {"input": 100, "other": 333, "large": 20_000, "empty": 0, "secret": 5}.items():
                (folder / file).write_text("".join(f"line {number}\n" for number in range(size)))
            (folder / "secret").chmod(0)
            for path in (Path(name), folder):
                path.chmod(0o777)
            programs += 1
            run(folder, command, [str(BIN / "learn"), "-q", "-o", "it.policy", "--"], {}, learned.server_port)
            for circumstance, how in CIRCUMSTANCES.items():
                log = folder / "log"
                log.unlink(missing_ok=True)
                log.touch()
                log.chmod(0o666)
                run(folder, command, [str(BIN / "enforce"), "-p", "it.policy", "--log", "log", "--"], how, other.server_port)
                records = [json.loads(line) for line in log.read_text().splitlines()]
                denied = [record for record in records if record["event"] == "denied"]
                by_port = [record["ungranted"] for record in denied if record["ungranted"]]
                runs, ports, others = runs + 1, ports + bool(by_port), others + (len(denied) > len(by_port))
                if denied:
                    print(f"{command[0]}, {circumstance}: {by_port or [record['call'] for record in denied][:2]}")
    print(f"{programs} programs, {runs} runs: {ports} denied by ports alone, {others} by calls")


if __name__ == "__main__":
    main()
