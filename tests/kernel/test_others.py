"""Existing programs that trace, filter and isolate."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from needed import needs, needs_root

LEARN = (sys.executable, "-m", "callfence", "learn", "-q")
SOAK = Path(__file__).parents[2] / "tools/soak.py"


@needs("gdb")
def test_gdb_fails_as_under_any_tracer_and_learn_says_so(program, learn):
    learned = learn("gdb", "-q", "-batch", "-ex", "run", "--args", program("ways"), "clocks", timeout=60)
    assert any("gdb uses ptrace" in gap for gap in learned.gaps())
    assert learned.policy.exists()


@needs("gcc", "libc6-dev")
def test_leak_sanitizer_fails_and_learn_says_so(tmp_path, plain, learn):
    (tmp_path / "leak.c").write_text("#include <stdlib.h>\nint main(void) { return !malloc(7); }\n")
    built = plain("gcc", "-fsanitize=leak", "-o", "leak", "leak.c")
    if built.returncode or b"7 byte" not in plain("./leak").stderr:
        pytest.skip("no leak sanitizer here")
    learned = learn("./leak")
    assert any("leak uses ptrace" in gap for gap in learned.gaps())


@needs("bubblewrap")
def test_bubblewrap(plain, learn):
    command = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "--die-with-parent")
    if plain(*command, "true").returncode:
        pytest.skip("bwrap does not work here")
    options = ("-q", "--allow-opaque", "openat2")  # new versions need it
    learned = learn(*command, "sh", "-c", "echo $$; exit 3", options=options)
    assert (learned.done.returncode, learned.done.stdout) == (3, b"2\n"), learned.done.stderr
    if learn(*command, "true", options=("-q", "--fresh")).done.returncode:
        assert any("--allow-opaque openat2" in gap for gap in learn(*command, "true").gaps())


@needs("openssh-server", "openssh-client")
@needs_root
def test_sshd_whose_session_has_a_filter_of_its_own(tmp_path, port):
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    settings = (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nAllowUsers *\n"
    )
    (tmp_path / "config").write_text(settings)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    command = [*LEARN, "-o", tmp_path / "sshd.policy", sshd, "-D", "-e", "-f", tmp_path / "config"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        ssh = ["ssh", "-F", "none", "-i", tmp_path / "user", "-p", str(port), "-o", "BatchMode=yes"]
        ssh += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "127.0.0.1"]
        end = time.monotonic() + 20
        while (done := subprocess.run([*ssh, "exit 42"], capture_output=True, check=False, timeout=30)).returncode == 255:
            assert time.monotonic() < end and server.poll() is None, done.stderr
            time.sleep(0.2)
        assert done.returncode == 42
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
    assert (tmp_path / "sshd.policy").exists()


@pytest.mark.long
@needs("gcc", "libc6-dev")
def test_a_short_soak():
    done = subprocess.run([sys.executable, SOAK, "5", "--seed", "1"], capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
