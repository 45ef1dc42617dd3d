"""The recording tells which executable started which."""

from __future__ import annotations

import os
import shutil

import pytest

from callfence.policygen.recording import recording_file


@pytest.fixture
def chain(tmp_path, program):
    """A command line that executes programs in every way there is, and the pairs that it must record."""
    hows = ("fork", "vfork", "thread", "exec")
    names = [os.fspath(tmp_path / name) for name in "abcd"]
    for name in names:
        os.link(program("execs"), name)
    shell, true = (os.path.realpath(shutil.which(name)) for name in ("sh", "true"))
    script = tmp_path / "script"
    script.write_text(f"#!{shell}\n{true}\nexit 7\n")
    script.chmod(0o755)
    argv = [word for pair in zip(names, hows, strict=True) for word in pair]
    return (*argv, script), tuple(sorted(zip(["", *names, shell], [*names, shell, true], strict=True)))


@pytest.mark.parametrize("options", [("-q",), ("-q", "--arm", "entry")])
def test_forks_threads_and_scripts(chain, learn, options):
    argv, expected = chain
    for is_warm in (False, True):
        learned = learn(*argv, options=options)
        assert (learned.done.returncode, learned.done.stderr) == (7, b"")
        runs = recording_file.load(learned.recording).runs
        assert (runs[-1].warm, runs[-1].executed) == (is_warm, expected)


def test_an_execve_that_fails_starts_nothing(program, learn):
    execs = os.fspath(program("execs"))
    learned = learn(execs, "fork", "/nonexistent")
    assert learned.done.returncode == 99
    assert recording_file.load(learned.recording).runs[0].executed == (("", execs),)
