"""The scripts that are installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import callfence

SCRIPTS = Path(callfence.__file__).parent / "bin"
INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


@pytest.mark.parametrize(("script", "loads"), [("callfence", "callfence/cli.py"), ("learn", "callfence/cli.py")])
def test_ctrl_c_ends_one_that_still_loads_without_a_traceback(script, loads, tmp_path):
    module = tmp_path / loads
    module.parent.mkdir()
    (module.parent / "__init__.py").touch()
    (module.parent / "start.py").write_text("def end_in_a_line(): pass\n")
    module.write_text(INTERRUPTED)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPTS / script], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("script", ["callfence", "learn"])
def test_ctrl_c_is_an_exception_again_for_the_command(script, tmp_path):
    """What is being written is taken back."""
    probe = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    (tmp_path / "sitecustomize.py").write_text(
        f"import importlib, types\nfound = importlib.import_module\n"
        f"def main(arguments):\n    {probe}\n    return 0\n"
        "importlib.import_module = lambda name: types.SimpleNamespace(main=main) if 'callfence' in name else found(name)\n"
    )
    words = [sys.executable, SCRIPTS / script, *(["show"] if script == "callfence" else [])]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{SCRIPTS.parents[1]}"}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"True\n", b"")
