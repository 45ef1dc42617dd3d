"""What learn does once: it parses a policy, and again only if the file has changed since; and what becomes of what it recorded
if it cannot be stored."""

from __future__ import annotations

import fcntl
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from callfence.enforcing import filters
from callfence.learning import options, store
from callfence.learning.prepare import Prepared
from callfence.policygen.grants import NOT_CONFINED
from callfence.policygen.language import document as language
from callfence.policygen.learning.generate import Generated
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Recording

if TYPE_CHECKING:
    from pathlib import Path

    from callfence.policygen.language.document import Document

TEXT = "arch x86_64\ninclude more.inc\nread: allow\n"


def as_it_is(_old: Recording, _whole: Recording, existing: Document | None) -> Generated:
    assert existing is not None
    return Generated(existing, (), {}, (), ())


def test_a_policy_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = language.parse, []
    monkeypatch.setattr(language, "parse", lambda *what, **how: parsed.append(what[0]) or parse(*what, **how))
    policy, more = tmp_path / "a.policy", tmp_path / "more.inc"
    policy.write_text(TEXT)
    more.write_text("write: allow\n")
    existing = filters.compiled(str(policy), "warm", cached=False)
    prepared = Prepared(options.parse(["true"]), policy, tmp_path / "a.rec", existing, True, None, None, False, NOT_CONFINED)
    added = store.add(policy, Recording(), as_it_is, prepared=prepared)
    assert added.existing is prepared.document and parsed == [TEXT]
    more.write_text("write: fd == 1\n")
    added = store.add(policy, Recording(), as_it_is, prepared=prepared)
    assert added.existing != prepared.document and parsed == [TEXT, TEXT]


@pytest.mark.parametrize("before", [False, True], ids=["first", "warm"])
def test_what_was_recorded_is_not_lost_if_another_process_holds_the_lock(tmp_path: Path, before: bool) -> None:
    learn = (
        "import sys; from callfence.policygen.recording import atomic; atomic.MAX_WAIT = 0.0;"
        "from callfence.learning.command import main; main(sys.argv[1:])"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    if before:
        assert run("-c", learn, "-q", "true").returncode == 0
    (tmp_path / ".callfence").mkdir(exist_ok=True)
    with (tmp_path / ".callfence" / ".true.rec.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = run("-c", learn, "-q", "true")
    assert done.returncode == 125
    assert ".callfence/.true.rec.lock: another process has held this lock" in done.stderr
    (add,) = re.findall("callfence (import .*)", done.stderr)
    added = run("-m", "callfence", *add.split())
    assert added.returncode == 0, added.stderr
    assert len(recording_file.load(tmp_path / ".callfence" / "true.rec").runs) == 1 + before
    assert run("-m", "callfence", "learn", "--check", "-q", "true").returncode == 0


@pytest.mark.parametrize("place", ["recorder.observations", "store.learn"])
@pytest.mark.parametrize("option", ["-q", "--check"])
def test_what_was_recorded_is_not_lost_by_a_second_interrupt(tmp_path: Path, place: str, option: str) -> None:
    """^C while the policy is made, or just after the program has ended."""
    learn = f"""
import os, signal, sys
from callfence.learning import store, watch
from callfence.learning.command import main
def interrupt(*given):
    os.kill(os.getpid(), signal.SIGINT)
    return watch.Aggregator.observations(*given)
if {place!r} == "store.learn":
    store.learn = interrupt
else:
    watch.Recorder.observations = interrupt
main(sys.argv[1:])
"""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    if option == "--check":
        (tmp_path / "true.policy").write_text(TEXT.replace("include more.inc\n", ""))
    done = run("-c", learn, option, "true")
    add = re.findall("callfence (import .*)", done.stderr)
    if option == "--check":
        assert not add and not (tmp_path / ".callfence").exists()
        return
    assert done.returncode == -signal.SIGINT and "learn: interrupted" in done.stderr
    assert run("-m", "callfence", *add[0].split()).returncode == 0
    assert run("-m", "callfence", "learn", "--check", "-q", "true").returncode == 0
