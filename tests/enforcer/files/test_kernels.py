"""What docs/kernels.md says of features that the kernel may lack: each works on this kernel, or comes to what the table says.

`make kernels` runs this on four kernels; `test_landlock.py` takes this kernel for older ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from callfence.diagnosing import kernels
from callfence.enforcer.kernel import landlock_abi

COMMANDS = Path(sys.executable).parent
EVERY_CALL = "default allow\nscope none\n"


def feature(name):
    (found,) = (row for row in kernels.FEATURES if row.name.startswith(name))
    return found


@pytest.mark.parametrize(("text", "version"), [("6.18.3-arch1", (6, 18)), ("7.0", (7, 0)), ("unknown", (0, 0))])
def test_the_version_of_a_kernel(monkeypatch, text, version):
    """One that is not written as usual has nothing."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=text))
    assert kernels.release() == version


@pytest.mark.parametrize(
    ("name", "lines", "operation", "works", "reason", "without"),
    [
        ("lines about files", "path ./data: read", "write:data/a", "EACCES", "has no Landlock", "ok"),
        ("moving files", "path .: read, create, remove, move", "rename:data/a,other/n", "ok", "let the program move", "EXDEV"),
        ("truncating files", "path ./data: read", "truncate:other/a", "EACCES", "truncating files that it may not write", "ok"),
        ("lines about ports", "tcp bind: 9", "bind:0", "EACCES", "restrict the TCP ports that the program can bind", "ok"),
    ],
)  # fmt: skip
def test_lines_are_enforced_or_refused_with_the_reason(place, program, name, lines, operation, works, reason, without):
    place.policy(f"{EVERY_CALL}{lines}\n" + f"path {program}: read, execute\n" * ("path" in lines), "it.policy")
    refused = place.enforce("-p", "it.policy", program)
    done = place.enforce("-p", "it.policy", "--best-effort", program, operation)
    if kernels.is_there(feature(name)):
        assert reason not in refused.stderr
        assert done.stdout.split() == [works]
        return
    assert feature(name).without == kernels.REFUSED
    assert (refused.returncode, refused.stdout) == (125, "")
    assert (reason if landlock_abi() else "has no Landlock") in refused.stderr
    assert "--best-effort runs the program without that" in refused.stderr
    assert done.stdout.split() == [without if landlock_abi() else "ok"]
    assert "the program runs without that" in done.stderr


ITSELF = """
import errno, os, socket
from callfence.enforcer import kernel
from callfence.enforcer.files.landlock import Confinement
from callfence.policygen.files.landlock import Ruleset, encode
listening = socket.socket(socket.AF_UNIX)
listening.bind("socket")
listening.listen()
for folder in ("from", "to"):
    os.mkdir(folder)
os.mkdir("from/folder")
kernel.set_no_new_privs()
Confinement([encode(Ruleset(None, [], None))], [], best_effort=False, makes_calls=True, makes_sends=True).enter()
tries = (
    (socket.AF_UNIX, socket.SOCK_STREAM, "socket"),
    (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 9)),
)
for family, kind, address in tries:
    with socket.socket(family, kind) as client:
        print(errno.errorcode.get(client.connect_ex(address), "ok"))
os.rename("from/folder", "to/folder")
"""


@pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
def test_what_the_helper_makes_the_program_cannot_make_itself(tmp_path):
    """As far as the kernel can deny that; files still move."""
    done = subprocess.run([sys.executable, "-c", ITSELF], cwd=tmp_path, capture_output=True, text=True, check=False)
    denied = ["EACCES" if landlock_abi() >= since else "ok" for since in (9, 10, 4)]
    assert (done.stdout.split(), done.stderr) == (denied, "")


def test_scopes(place):
    place.policy("default allow\nscope signals, abstract sockets\n", "it.policy")
    program = ("sh", "-c", "kill -0 $1 2>kill.txt; echo $?", "sh", str(os.getpid()))
    done = place.enforce("-p", "it.policy", *program)
    refused = place.enforce("-p", "it.policy", "--scope", "signals", *program)
    if kernels.is_there(feature("scopes")):
        assert (done.stdout, refused.stdout, done.stderr) == ("1\n", "1\n", "")
        return
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "the policy's `scope signals, abstract sockets` is not enforced, because that needs Linux 6.12" in done.stderr
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "--scope needs version 6 of Landlock (Linux 6.12)" in refused.stderr


def test_the_helper_opens_dev_null(place):
    learned = ("learn", "-q", "-o", "it.policy", "sh", "-c", "true")
    subprocess.run([COMMANDS / learned[0], *learned[1:]], check=True, cwd=place.folder, env=place.environment)
    done = place.enforce("-p", "it.policy", "sh", "-c", "echo gone >/dev/null && echo on")
    is_there = kernels.is_there(feature("the helper opens /dev/null"))
    assert (done.stdout, "denied open" in done.stderr) == (("on\n", False) if is_there else ("", True)), done.stderr


WITHOUT_ITS_FIRST_THREAD = """
import ctypes, errno, os, socket, threading
def connect():
    while "Z" not in open("/proc/self/stat").read().rpartition(")")[2][:3]:
        pass
    with socket.socket() as client:
        failed = client.connect_ex(("127.0.0.1", 1))
    os.write(1, errno.errorcode[failed].encode())
    os._exit(0)
threading.Thread(target=connect).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2)
"""


def test_a_process_whose_first_thread_has_ended_connects_to_hosts(place):
    place.policy("default allow\nscope none\ntcp connect 127.0.0.1: any\n", "it.policy")
    done = place.enforce("-p", "it.policy", sys.executable, "-c", WITHOUT_ITS_FIRST_THREAD)
    is_there = kernels.is_there(feature("descriptors of threads"))
    assert (done.stdout, "the helper may not look into" in done.stderr) == (
        ("ECONNREFUSED", False) if is_there else ("EACCES", True)
    )


def test_the_status_at_the_end(place):
    place.policy(EVERY_CALL, "it.policy")
    assert place.enforce("-p", "it.policy", "--log", "log", "sh", "-c", "exit 3").returncode == 3
    place.wait_for_helpers()
    status = place.records()[-1]["status"]
    assert status == 3 or (status is None and not kernels.is_there(feature("the exit status")))


LANDLOCK = {1: (5, 13), 2: (5, 19), 3: (6, 2), 4: (6, 7), 5: (6, 10), 6: (6, 12), 7: (6, 15)}
"""Version of Landlock's ABI -> the version of Linux that has it (Documentation/userspace-api/landlock.rst)."""


@pytest.mark.parametrize("row", [row for row in kernels.FEATURES if row.landlock], ids=lambda row: row.name)
def test_landlock_decides_whether_a_feature_is_there(monkeypatch, row):
    assert row.since == LANDLOCK[row.landlock]
    for version, is_there in ((row.landlock - 1, False), (row.landlock, True), (row.landlock + 1, True)):
        monkeypatch.setattr(kernels.kernel, "landlock_abi", lambda version=version: version)
        assert kernels.is_there(row) == is_there


@pytest.mark.parametrize("row", [row for row in kernels.FEATURES if not row.landlock], ids=lambda row: row.name)
def test_the_version_of_linux_decides_whether_another_feature_is_there(monkeypatch, row):
    major, minor = row.since
    for release, is_there in ((f"{major}.{minor - 1}.9", False), (f"{major}.{minor}", True), (f"{major + 1}.0", True)):
        monkeypatch.setattr(os, "uname", lambda release=release: SimpleNamespace(release=release))
        assert kernels.is_there(row) == is_there


def test_the_page_has_the_table_of_the_code():
    page = Path(__file__).parents[3] / "docs" / "kernels.md"
    before, _, rest = page.read_text().partition("| feature |")
    after = rest.partition("\n\n")[2]
    wanted = f"{before}{kernels.table()}\n{after}"
    if os.environ.get("CALLFENCE_UPDATE"):
        page.write_text(wanted)
    assert page.read_text() == wanted


@pytest.mark.long
def test_doctor_says_the_same():
    done = subprocess.run([COMMANDS / "callfence", "doctor"], capture_output=True, text=True, check=False, timeout=300)
    for row in kernels.FEATURES:
        (line,) = (line for line in done.stdout.splitlines() if f"  {row.name} (Linux " in line)
        assert line.startswith("ok" if kernels.is_there(row) else "note")
        assert (kernels.sentence(row) in done.stdout) == (not kernels.is_there(row))
