"""`callfence.confine` of files and ports: what fails has changed nothing, or says what it has; and whose policy it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.tracer.abi import NATIVE, table

POLICY = "default allow\nunknown allow\npath /usr: read, execute\npath /proc: read\n"
ANSWERS_SECCOMP = """
import struct
from callfence.enforcer import kernel
def of(*steps): return b"".join(struct.pack("=HBBI", *step) for step in steps)
"""


def run(folder: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "a.policy").write_text(POLICY)
    (folder / "secret").write_text("is read\n")
    command = [sys.executable, *options, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_filter_that_may_not_be_installed_changes_nothing(tmp_path: Path) -> None:
    """A filter that is in force answers seccomp(2) with EPERM; Landlock would still let itself be entered."""
    seccomp = table(NATIVE).by_name["seccomp"].number
    done = run(
        tmp_path,
        f"{ANSWERS_SECCOMP}\n"
        "import callfence\n"
        "kernel.set_no_new_privs()\n"
        f"kernel.install(of((0x20, 0, 0, 0), (0x15, 0, 1, {seccomp}), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)), 0)\n"
        "try: callfence.confine('a.policy')\nexcept Exception as error: print(error)\n"
        "print(open('secret').read(), end='')",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "is read"
    assert "not permitted" in done.stdout and "confined already" not in done.stdout


def test_a_filter_for_which_there_is_no_room_says_what_has_changed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        f"{ANSWERS_SECCOMP}\n"
        "import callfence\n"
        "kernel.set_no_new_privs()\n"
        "allow = (6, 0, 0, 0x7fff0000)\n"
        "for size in (4096, 512, 64, 8, 1):\n"
        "    try:\n"
        "        while True: kernel.install(of(*[(0x20, 0, 0, 0)] * (size - 1), allow), 0)\n"
        "    except OSError: pass\n"
        "try: callfence.confine('a.policy')\nexcept Exception as error: print(error)\n"
        "try: print(open('secret').read(), end='')\nexcept PermissionError: print('confined')",
    )
    assert done.returncode == 0, done.stderr
    message, read = done.stdout.splitlines()
    assert message.endswith("files and ports are confined already, system calls are not")
    assert read == "confined"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
@pytest.mark.parametrize("call", ["confine('a.policy')", "enter('serving', 'a.policy')"])
def test_another_users_policy_is_warned_of(call: str, tmp_path: Path) -> None:
    program = f"import callfence, warnings, os\nos.chown('a.policy', 1234, -1)\ncallfence.{call}\nprint('confined')"
    warned = "UserWarning: a.policy belongs to user 1234, who can change what it allows"
    if "enter" in call:
        text = "phase serving after accept\naccept: allow\nbind: allow until serving\n"
        program = f"open('a.policy', 'w').write({text!r})\n{program}"
    else:
        done = run(tmp_path, program)
        assert (done.returncode, done.stdout) == (0, "confined\n"), done.stderr
        assert f"<string>:3: {warned}" in done.stderr
    done = run(tmp_path, f"{program}\n", "-W", "error::UserWarning")
    assert done.returncode == 1 and warned in done.stderr


def test_ones_own_policy_is_not(tmp_path: Path) -> None:
    done = run(tmp_path, "import callfence\ncallfence.confine('a.policy')\nprint('confined')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "confined\n", "")
