"""measure.py [TOOL ...]: runs the programs and the attacks under each tool, in the system that run.py has started, as its root.

Writes /mnt/results.json.  Each run begins with the same work folder; the programs run as an ordinary user, `user`."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from attacks import ATTACKS, HOME, KEY, Target
from confined import MNT, PASSED, PROFILES, TOOLS, Tool
from programs import PROGRAMS, WEB_PORT, WORK, Program, drive_redis, install, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

PAIRS = 25
SECONDS = 30
PLAIN = Tool("plain", lambda program: program.command)
ENVIRONMENT = [f"HOME={HOME}", "USER=user", "LOGNAME=user", "LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin"]
AS_USER = ["setpriv", "--reuid=user", "--regid=user", "--init-groups", "env", "-i", *ENVIRONMENT]


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from the server\n")

    def log_message(self, *_: object) -> None:
        pass


def command(words: Sequence[str], environment: dict[str, str]) -> list[str]:
    """The words as the user's, with these variables."""
    if PASSED not in words:
        return [*AS_USER, *(f"{name}={value}" for name, value in environment.items()), *words]
    passed = [word for name, value in {"HOME": str(HOME), **environment}.items() for word in ("-E", f"{name}={value}")]
    at = list(words).index(PASSED)
    return [*words[:at], *passed, *words[at + 1 :]]


def run(program: Program, words: list[str], *, serves: bool = True) -> tuple[int, str]:
    """Exit status and output of a command that runs the program; 'timeout' and -1 if it does not end."""
    process = subprocess.Popen(
        words, cwd=WORK, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    said: list[str] = []
    if serves and program.binds:
        client = threading.Thread(target=lambda: said.append(_driven(process)))
        client.start()
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += b"\ntimeout\n"
    if serves and program.binds:
        client.join()
    return process.returncode, output.decode(errors="replace") + "".join(said)


def _driven(process: subprocess.Popen[bytes]) -> str:
    """What the clients of redis-server got, once it answers; nothing if it ends before."""
    for _ in range(SECONDS * 10):
        ping = subprocess.run(["redis-cli", "-p", "16379", "ping"], capture_output=True, text=True, check=False)
        if "PONG" in ping.stdout:
            try:
                return drive_redis()
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return "redis: no answer\n"
        if process.poll() is not None:
            break
        time.sleep(0.1)
    return ""


def ordinary(tool: Tool, program: Program) -> tuple[bool, str]:
    """Whether the program does its work under the tool, and its output; the library has to say that it was there."""
    lay_out(AS_USER)
    status, output = run(program, command(tool.confined(program), {"ATTACK": "none"}))
    return status == 0 and program.shows in output and "attack none: tried" in output, f"status {status}\n{output}"


def attacked(tool: Tool, program: Program, attack: str) -> dict[str, Any]:
    lay_out(AS_USER)
    target = Target(attack, AS_USER)
    try:
        words = command(tool.confined(program), {"ATTACK": attack, "TARGET": target.argument})
        status, output = run(program, words)
        tried = f"attack {attack}: tried" in output
        return {"through": target.hit(output), "tried": tried, "status": status, "output": output[-30000:]}
    finally:
        target.close()


def examine(tool: Tool, program: Program) -> dict[str, Any]:
    for words in tool.learnt(program):
        lay_out(AS_USER)
        status, output = run(program, command(words, {"ATTACK": "none"}), serves=words[0] != "sh")
        if status:
            print(f"  {tool.name}: {words[0]} of {program.name}: status {status}: {output[-500:]}", flush=True)
    works, output = ordinary(tool, program)
    print(f"  {tool.name}: {program.name}: {'works' if works else 'BROKEN: ' + output[-700:]}", flush=True)
    result: dict[str, Any] = {"works": works, "others": None, "output": output[-1500:], "attacks": {}}
    if works:
        result["others"], result["output"] = ordinary(tool, program.doing_other_work())
        result["attacks"] = {attack: attacked(tool, program, attack) for attack in ATTACKS}
    return result


def cost(tool: Tool) -> dict[str, float]:
    """Milliseconds that sqlite3 takes plainly, and more under the tool; of them, loading a Python library.  Medians of runs in
    turn, and the shortest run less the shortest plain one, which other work on the machine disturbs least."""
    program = PROGRAMS[0]
    commands = {"plain": command(program.command, {}), "tool": command(tool.confined(program), {})}
    if tool.loading:
        commands["loading"] = command(tool.loading, {})
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(PAIRS):
        for name, words in commands.items():
            lay_out(AS_USER)
            start = time.perf_counter()
            subprocess.run(words, cwd=WORK, check=False, stdin=subprocess.DEVNULL, capture_output=True)
            times[name].append((time.perf_counter() - start) * 1000)
    medians = {name: statistics.median(some) for name, some in times.items() if name != "tool"}
    more = statistics.median(after - before for before, after in zip(times["plain"], times["tool"], strict=True))
    return {**medians, "more": more, "least": min(times["tool"]) - min(times["plain"])}


def main(names: list[str]) -> None:
    subprocess.run(["useradd", "--create-home", "--home-dir", HOME, "--shell", "/bin/bash", "user"], check=True)
    for folder in (HOME / ".ssh", PROFILES):
        folder.mkdir()
    (HOME / ".ssh/id_ed25519").write_text(KEY)
    subprocess.run(["chown", "-R", "user:user", HOME], check=True)
    (MNT / "built").mkdir(exist_ok=True)
    install(MNT / "built")
    server = ThreadingHTTPServer(("127.0.0.1", WEB_PORT), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    machine = {"kernel": os.uname().release.split("-")[0], "load": os.getloadavg()[0], "pairs": PAIRS}
    results: dict[str, Any] = {**machine, "tools": {}}
    for tool in [PLAIN, *(one for one in TOOLS if not names or one.name in names)]:
        version = subprocess.run(tool.version or "true", shell=True, capture_output=True, text=True, check=False).stdout.strip()
        programs = {program.name: examine(tool, program) for program in PROGRAMS}
        worked = programs[PROGRAMS[0].name]["works"] and tool is not PLAIN
        results["tools"][tool.name] = {"version": version, "programs": programs, "cost": cost(tool) if worked else None}
        (MNT / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
