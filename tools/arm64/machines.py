"""Programs that are learned and enforced on this machine, or enforced by policies that another machine has learned:

    machines.py learn FOLDER      run each program plainly, under `learn`, and enforced by what was learned, which FOLDER keeps
    machines.py enforce FOLDER    run each program plainly, and enforced by the policy in FOLDER

Prints a row for each program: whether status and output were those of the plain run, and which calls were denied.  Programs
that are not installed are named at the end.  For docs/architectures.md; tools/arm64 has an arm64 Debian to run it in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
MADE = """
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>
int main(void) { struct utsname u; printf("%zu %d\\n", sizeof(long), uname(&u) || getpid() < 1); return 3; }
"""
SERVE = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(len(urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/text").read()))
server.shutdown()
"""
NGINX = """daemon off; pid {0}/nginx.pid; error_log {0}/e; events {{}}
http {{ access_log off; server {{ listen 127.0.0.1:7781; root {0}; }} }}
"""
PROGRAMS = [line.split("\t") for line in Path(__file__).with_suffix(".tsv").read_text().splitlines() if line[0] != "#"]
"""Of each: its name, a program or a file that shows whether it is there, and a line for sh."""


def prepare(folder: Path) -> None:
    (folder / "text").write_text("a line\nanother line\nb\n")
    (folder / "made.c").write_text(MADE)
    (folder / "serve.py").write_text(SERVE)
    (folder / "app.py").write_text("def app(e, start):\n    start('200 OK', [])\n    return [b'served']\n")
    (folder / "nginx.conf").write_text(NGINX.format(folder))
    (folder / "Makefile.txt").write_text("all: ; @echo made; cat text\n")
    short = "arm-linux-gnueabihf-gcc" if os.uname().machine == "aarch64" else "gcc -m32"
    for name, command in {"static": "gcc -static", "dynamic32": short, "static32": f"{short} -static"}.items():
        subprocess.run(f"{command} -o {name} made.c", shell=True, cwd=folder, check=False, stderr=subprocess.DEVNULL)


def run(folder: Path, *command: str | Path) -> tuple[int, str]:
    done = subprocess.run([*command], cwd=folder, capture_output=True, text=True, errors="replace", timeout=900, check=False)
    return done.returncode, done.stdout


def main(mode: str, policies: Path) -> int:
    policies.mkdir(exist_ok=True)
    policies = policies.resolve()
    missing, same, denied, count = [], 0, 0, 0
    print("| program | as without | denied |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        for name, shows, line in PROGRAMS:
            policy = policies / f"{name.replace(' ', '-').replace(',', '')}.policy"
            if not shutil.which(shows, path=f"{os.environ['PATH']}:{folder}") or (mode == "enforce" and not policy.exists()):
                missing.append(name)
                continue
            shell = ("sh", "-c", line)
            plain = run(folder, *shell)
            if mode == "learn":
                policy.unlink(missing_ok=True)
                learned = run(folder, BIN / "learn", "-q", "-o", policy, *shell)
                if learned != plain:
                    print(f"| {name} | learn: {learned} instead of {plain} | |", flush=True)
            log = policies / "log"
            log.unlink(missing_ok=True)
            enforced = run(folder, BIN / "enforce", "-p", policy, "--log", log, *shell)
            records = [json.loads(record) for record in log.read_text().splitlines()] if log.exists() else []
            calls = [record["call"].partition("(")[0] for record in records if record["event"] == "denied"]
            count, same, denied = count + 1, same + (enforced == plain), denied + bool(calls)
            differs = "yes" if enforced == plain else f"NO: {enforced} instead of {plain}"
            print(f"| {name} | {differs} | {', '.join(dict.fromkeys(calls))} |", flush=True)
    print(f"\n{same} of {count} as without, {denied} with denied calls.  Not there: {', '.join(missing) or 'none'}.")
    return int(same != count)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
