#!/usr/bin/env python3
"""Learns programs twice, in two folders, with `learn --write-evidence`, and prints the table of docs/review.md: how large
their files of evidence are, and whether they are the same.  With -v also the lines that differ.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LEARN = Path(sys.executable).parent / "learn"
PROGRAMS = {
    "sort": "sort input",
    "cp, tar, gzip": "cp input copy; tar czf copy.tgz copy",
    "git": "git init -q r; cd r; git -c user.name=x -c user.email=x@x commit -q --allow-empty -m 1",
    "gcc": "echo 'int main(void) { return 0; }' >a.c; gcc -o a a.c",
    "make": "printf 'all: a b\\na b:\\n\\tsort input >$@\\n' >Makefile; make -s",
    "python3": "/usr/bin/python3 -c 'import json, socket, tempfile; tempfile.NamedTemporaryFile(); socket.socket()'",
    "sqlite3": "sqlite3 t.db 'create table t (a); insert into t values (1); select count(*) from t'",
    "ssh-keygen": "ssh-keygen -q -t ed25519 -N '' -f key",
    "redis-server": "(sleep 1; kill $$) & exec redis-server --port 0 --unixsocket redis.sock --save '' --logfile redis.log",
    "nginx": (
        "mkdir logs; echo 'daemon off; error_log logs/e; pid logs/pid; events {} http { access_log logs/a; "
        "client_body_temp_path logs; proxy_temp_path logs; fastcgi_temp_path logs; uwsgi_temp_path logs; scgi_temp_path logs; "
        "server { listen unix:logs/s; } }' >c; (sleep 1; kill $$) & exec nginx -p $PWD -c c"
    ),
}


def learned(script: str) -> tuple[str, str]:
    """The policy and the evidence of a program, learned in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        Path(folder, "input").write_text("".join(f"{number}\n" for number in range(1000)))
        environment = {"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": folder, "LC_ALL": "C.UTF-8"}
        command = [LEARN, "-q", "--write-evidence", "-o", "app.policy", "sh", "-c", script]
        subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        return Path(folder, "app.policy").read_text(), Path(folder, "app.evidence").read_text()


def main() -> None:
    print("| program | policy, lines | evidence, lines | bytes | compressed | the same twice |\n|---|--:|--:|--:|--:|---|")
    for name, script in PROGRAMS.items():
        (policy, first), (_, second) = learned(script), learned(script)
        differing = len({*first.splitlines()} ^ {*second.splitlines()})
        same = "yes" if first == second else f"{differing} lines differ"
        data = first.encode()
        sizes = (len(policy.splitlines()), len(first.splitlines()), len(data), len(gzip.compress(data)))
        print("|", " | ".join([name, *(f"{size:,}" for size in sizes), same]), "|", flush=True)
        if "-v" in sys.argv[1:]:
            print("".join(f"{line}\n" for line in sorted({*first.splitlines()} ^ {*second.splitlines()})))


if __name__ == "__main__":
    main()
