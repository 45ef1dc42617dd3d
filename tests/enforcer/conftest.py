"""C programs built on demand, and `enforce` run as a command: nothing forks inside pytest."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import whole_records
from calls import for_this_machine

from callfence.enforcing.cache import _name as filter_name
from callfence.enforcing.filters import VARIANTS

HERE = Path(__file__).parent
DRIVER = HERE / "driver.py"
START = "import sys; from callfence.enforcing.command import main; sys.exit(main())"
SLOW = int(os.environ.get("CALLFENCE_SLOW", "1"))
"""A factor of the seconds that commands may take: tools/arm64/check.sh sets it, since an emulated machine is slow."""
RAW = ("-static", "-nostdlib", "-fno-stack-protector", "-fno-pic", "-no-pie")


@pytest.fixture(scope="session")
def build(compile_c):
    """build("name", "-m32", ...) -> the path of tests/enforcer/programs/name.c, compiled with those flags."""
    return lambda name, *flags: compile_c(HERE / "programs" / f"{name}.c", "-pthread", *flags)


@pytest.fixture
def drive(tmp_path):
    """drive(arm, denied, *argv) -> the finished process, its program run by the driver beside this file.

    `under` is put before the command line, other options are those of subprocess.run."""

    def driven(arm, denied, *argv, under=(), **options):
        command = [*under, sys.executable, DRIVER, arm, ",".join(map(str, denied)), *argv]
        settings = {"capture_output": True, "timeout": 60, "cwd": tmp_path, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, check=False, **(settings | options))

    return driven


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def shared_policy(tmp_path_factory):
    """shared_policy(text, name) -> the file of this policy, the same one for all tests, which is compiled once for all of them.

    A filter is cached by the path of its policy."""

    @functools.cache
    def file(text, name):
        made = tmp_path_factory.mktemp("policies") / name
        made.write_text(for_this_machine(text))
        return made

    return file


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Earlier:
    """The policies that tests have written, whose filters are used again for the same text in another folder.

    A filter notes the name of its policy relative to the working folder, so it fits any folder."""

    def __init__(self, cache):
        self._filters = cache / "callfence"
        self._files = {}

    def reuse(self, file, text):
        """Cache the filters of a file of the same name and text, if there are any, for this file as well."""
        earlier = self._files.setdefault((text, file.name), file)
        filters = [[self._filters / filter_name(str(path), variant) for path in (earlier, file)] for variant in VARIANTS]
        known = [(old, new) for old, new in filters if old.exists() and not new.exists()]
        for old, new in known:
            shutil.copy(old, new)
        if not known:
            self._files[text, file.name] = file


class Workplace:
    """A folder with policies, and `enforce` run in it."""

    def __init__(self, folder, cache, build, earlier=None):
        """`earlier`: the policies of the module's tests so far; None to compile each anew."""
        self.folder = folder
        self._earlier = earlier
        self.environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
        self.command = (sys.executable, "-c", f"{START}  # {folder}")
        self._build = build

    def policy(self, text, name="calls.policy"):
        file = self.folder / name
        file.write_text(for_this_machine(text))
        if self._earlier:
            self._earlier.reuse(file, text)

    def calls(self, *flags):
        """The program that makes any call, in the folder."""
        target = self.folder / "calls"
        shutil.copy(self._build("calls", *RAW, *flags), target)
        return "./calls"

    def options(self, options):
        settings = {"cwd": self.folder, "env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        limit = {"timeout": SLOW * options["timeout"]} if "timeout" in options else {}
        return {"text": True, "errors": "surrogateescape"} | settings | options | limit

    def enforce(self, *arguments, under=(), **options):
        """The finished process."""
        settings = self.options({"stdin": subprocess.DEVNULL, "timeout": 60} | options)
        return subprocess.run([*under, *self.command, *arguments], check=False, **settings)

    def helpers(self):
        """The pids of the helpers and stand-ins of programs started here: only they keep the command line of `enforce`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.fsencode(self.command[-1]) in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it has ended
                continue
        return found

    def both(self):
        """The pids of the helper and its stand-in, which may be started later (`enforcer.duty`)."""
        wait_until(lambda: len(self.helpers()) == 2)
        return self.helpers()

    def helper(self):
        """The pid of the one helper that answers: not its stand-in, which is its child."""
        found = self.helpers()
        (helper,) = (pid for pid in found if parent(pid) not in found)
        return helper

    def wait_for_helpers(self, seconds=60):
        """Until all helpers have ended by themselves."""
        wait_until(lambda: not self.helpers(), seconds)

    def records(self, name="log"):
        """The records of a log."""
        return whole_records.records(self.folder / name)

    def denials(self, name="log"):
        """Those about denied calls, files and ports."""
        return [record for record in self.records(name) if record["event"] == "denied"]

    def messages(self, name="log"):
        """The texts of those that are messages."""
        return [record["message"] for record in self.records(name) if record["event"] == "message"]

    def start(self, *arguments, **options):
        """The running process, with a pipe as its standard input."""
        return subprocess.Popen([*self.command, *arguments], **self.options({"stdin": subprocess.PIPE} | options))


@pytest.fixture(scope="module")
def earlier(cache):
    return Earlier(cache)


@pytest.fixture
def place(tmp_path, cache, build, earlier):
    made = Workplace(tmp_path, cache, build, earlier)
    yield made
    made.wait_for_helpers()
