"""The five ordinary programs: what each is run with, and what shows that it did its work."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from attacks import HOME

WORK = HOME / "work"
WEB_PORT, REDIS_PORT = 18080, 16379


class Program(NamedTuple):
    name: str
    source: str
    """The program that is copied to /usr/local/bin/NAME, where it needs the hostile library."""
    arguments: tuple[str, ...]
    shows: str
    """Its output has this if it did its work."""
    others: tuple[str, ...]
    """Arguments for other work, which is not learned and not considered in a profile."""
    others_show: str
    connects: tuple[int, ...] = ()
    binds: tuple[int, ...] = ()

    @property
    def command(self) -> list[str]:
        return [f"/usr/local/bin/{self.name}", *self.arguments]

    def doing_other_work(self) -> Program:
        return self._replace(arguments=self.others, shows=self.others_show)


SQL = "create table notes(text); insert into notes values('milk'), ('mum'); select count(*) || ' notes' from notes;"
URL = f"http://127.0.0.1:{WEB_PORT}/hello"
REDIS = ("--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--dir", str(WORK), "--save", "")
OTHER_SQL = (
    "create table other(n); begin; insert into other values(7); rollback; vacuum; select count(*) || ' others' from other;"
)
TO_FILE = ("-sS", "-o", "page", "-w", "%{http_code} to a file", URL)
APPENDING = (*REDIS, "--appendonly", "yes")
PROGRAMS = (
    Program("sqlite3", "/usr/bin/sqlite3", ("notes.db", SQL), "2 notes", ("notes.db", OTHER_SQL), "0 others"),
    Program("curl", "/usr/bin/curl", ("-sS", URL), "hello from", TO_FILE, "200 to a file", connects=(WEB_PORT,)),
    Program(
        "git",
        "/usr/bin/git",
        ("commit", "-am", "a change"),
        "1 file changed",
        ("checkout", "-b", "other"),
        "new branch 'other'",
    ),
    Program("redis-server", "/usr/bin/redis-server", REDIS, "redis: value", APPENDING, "redis: value", binds=(REDIS_PORT,)),
    Program("python3", "/usr/bin/python3", ("report.py", "data.csv"), "total 42", ("report.py", "other.csv"), "total 7"),
)
REPORT = """import csv, sys
with open(sys.argv[1], newline="") as file:
    print("total", sum(int(row["count"]) for row in csv.DictReader(file)))
"""


def install(folder: Path) -> None:
    """Copy the programs to /usr/local/bin, each with the hostile library of `folder` among the libraries that it needs."""
    here = Path(__file__).parent
    library = Path("/usr/local/lib/libhostile.so")
    run = {"check": True, "cwd": folder}
    small = ["-Os", "-static", "-nostdlib", "-ffreestanding", "-Wl,--build-id=none"]
    subprocess.run(["gcc", *small, "-o", "dropped", here / "dropped.c"], **run)  # type: ignore[call-overload]
    subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-Wa,-I.", "-o", library, here / "hostile.c"], **run)  # type: ignore[call-overload]
    for program in PROGRAMS:
        copy = shutil.copy(Path(program.source).resolve(), f"/usr/local/bin/{program.name}")
        subprocess.run(["patchelf", "--add-needed", library, copy], **run)  # type: ignore[call-overload]


def lay_out(as_user: list[str]) -> None:
    """End what an earlier run left, empty the work folder, and put in what the programs work on: each run begins so."""
    owner = pwd.getpwnam("user").pw_uid  # made by measure.py: all of its processes are ours
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if process.stat().st_uid == owner:
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    (WORK / "report.py").write_text(REPORT)
    (WORK / "data.csv").write_text("count\n40\n")
    (WORK / "other.csv").write_text("count\n7\n")
    for path in (WORK, *WORK.iterdir()):
        shutil.chown(path, "user", "user")
    init = "git init -q . && git config user.name u && git config user.email u@localhost"
    first = "git add data.csv && git commit -qm first && echo 2 >>data.csv"
    subprocess.run([*as_user, "sh", "-c", f"cd {WORK} && {init} && {first}"], check=True)


def drive_redis() -> str:
    """What the clients got who set a key, get it, and shut the server down; TimeoutExpired if it does not answer."""
    for words in (["set", "key", "value"], ["get", "key"], ["shutdown", "nosave"]):
        client = ["redis-cli", "-p", str(REDIS_PORT), *words]
        done = subprocess.run(client, capture_output=True, text=True, check=False, timeout=5)
        if words[0] == "get":
            answer = done.stdout.strip()
    return f"redis: {answer}\n"
