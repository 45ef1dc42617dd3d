"""`callfence.confine` and `callfence.apply` with a policy that confines files: this process, or a refusal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from callfence.enforcer.kernel import landlock_abi

pytestmark = pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
POLICY = "default allow\npath ./data: read\n"
OPENS = """
for name in ("data/a", "other"):
    try:
        open(name).close()
        print("ok")
    except PermissionError:
        print("denied")
"""
THREAD = "import threading; event = threading.Event(); threading.Thread(target=event.wait, daemon=True).start()\n"


def run(folder, text):
    (folder / "data").mkdir()
    for name in ("data/a", "other", "it.policy"):
        (folder / name).write_text(POLICY)
    words = [sys.executable, "-c", f"import callfence\n{text}"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("call", ["callfence.confine('it.policy')", f"callfence.apply({POLICY!r})"])
def test_this_process_is_confined(tmp_path, call):
    done = run(tmp_path, f"{call}{OPENS}")
    assert done.stdout.split() == ["ok", "denied"], done.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            f"{THREAD}callfence.confine('it.policy')",
            "this process has 2 threads, and Landlock confines the files and ports of one only",
        ),
        (f"callfence.apply({POLICY!r}, 'on_exec')", "cannot confine files and ports"),
    ],
)
def test_what_cannot_be_confined_is_refused(tmp_path, call, message):
    indented = call.replace("\n", "\n    ")
    done = run(tmp_path, f"try:\n    {indented}\nexcept Exception as error:\n    print(error){OPENS}")
    assert message in done.stdout
    assert done.stdout.split()[-2:] == ["ok", "ok"], "nothing is confined"
