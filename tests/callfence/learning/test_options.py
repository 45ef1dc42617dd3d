"""Command lines of learn that are read without argparse say what they say to it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from callfence.learning.options import _plain, parser
from callfence.start import __version__

FLAGS = ("--write", "-q", "--quiet", "--fresh", "--check", "--tree", "--no-evidence", "--scratch")
VALUED = ("-o", "--output", "--within", "--default", "--write-recording", "--rehearse-only", "--narrow")
OTHERS = (
    *("--pid", "5"), *("--pid", "6"), *("--arm", "exec"), *("--allow-opaque", "clone3"), *("--rehearse-runs", "7"),
    *("--late-after", "8", "true", "-x", "-", "--", "", "a b", "-o=x", "--output=x", "-p9", "-qo", "--fres", "never", "0"),
)


@pytest.mark.long
@settings(max_examples=500)
@given(st.lists(st.sampled_from((*FLAGS, *VALUED, *OTHERS)), max_size=6))
@example(["-q", "--fresh", "true"])
@example(["--pid", "5", "--pid", "6", "--tree"])
@example(["-q", "--", "-x"])
@example(["--allow-opaque", "clone3", "--allow-opaque", "io_uring_setup", "true", "-q"])
def test_the_same_as_argparse(words: list[str]) -> None:
    found = _plain(words)
    assume(found is not None)  # if this is hardly ever so, Hypothesis fails the test
    expected = vars(parser().parse_args(words))
    if expected["command"][:1] == ["--"]:
        del expected["command"][0]
    assert vars(found) == expected


def test_usual_command_lines_are_read_without_argparse() -> None:
    lines = (["-q", "--fresh", "true"], ["true"], ["-o", "a.policy", "--", "./app", "-x"], ["--pid", "5"])
    code = f"""
import sys
from callfence.learning.options import parse
for line in {lines!r}: parse(line)
assert "argparse" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_printed_without_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "callfence", "learn", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout == f"callfence {__version__}\n"
