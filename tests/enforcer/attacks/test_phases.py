"""No process keeps more than its phase allows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

INCLUDE = os.path.join(os.path.dirname(__file__), *[".."] * 3, "include")
WITH_LIMIT = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
os.execv(sys.argv[1], sys.argv[1:])
"""
NOBODY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@pytest.mark.long
@pytest.mark.parametrize("mode", ["1", "2"], ids=["dying parent", "CLONE_PARENT"])
@pytest.mark.parametrize("policy", ["lost", "lost2", "hang"])
def test_a_child_whose_parent_is_not_known_is_in_its_phase(place, attacker, mode, policy):
    """lost.c: the helper cannot tell what the parent had reached; hang.policy: nor may it wait for a dead one."""
    (place.folder / attacker("phases/lost")).rename(place.folder / "program")
    source = os.path.join(os.path.dirname(__file__), "phases", f"{policy}.policy")
    with open(source) as file:
        place.policy(file.read(), "lost.policy")
    done = place.enforce("-p", "lost.policy", "./program", mode, "100")
    assert "held" in done.stdout, done.stdout + done.stderr
    assert not (place.folder / "lost").exists()
    place.wait_for_helpers()


@pytest.mark.long
@pytest.mark.parametrize("under", [(), NOBODY], ids=["root", "no privilege"])
def test_as_many_processes_as_the_helper_has_descriptors(place, attacker, under):
    """many.c: each process that entered the phase took a descriptor, and the last ones stayed in the start phase."""
    program = attacker("phases/many")
    done = place.enforce("-p", "many.policy", program, "60", under=(*under, sys.executable, "-c", WITH_LIMIT))
    assert done.stdout.splitlines()[-1] == "60 ended, 1 badly", done.stderr  # the one that makes a folder
    assert not (place.folder / "late").exists()
    if under:
        assert "the helper cannot open another descriptor" in done.stderr


@pytest.mark.parametrize("passed", [False, True], ids=["", "past another"])
def test_a_process_without_a_free_descriptor_enters_its_phase(place, attacker, passed):
    """full.c: it was killed, for want of a number for the listener, which is closed at once."""
    program = attacker("phases/full")
    if passed:
        text = (place.folder / "full.policy").read_text() + "bind: allow until early\n"
        place.policy(text.replace("phase serving", "phase early after rt_sigsuspend\nphase serving"), "full.policy")
    done = place.enforce("-p", "full.policy", program)
    assert (done.returncode, done.stdout) == (0, "start: may, free -1\nserving: may not, free -1\n"), done.stderr
    assert "are not reported, because it cannot open another descriptor" in done.stderr
    assert "cannot enter" not in done.stderr


@pytest.mark.parametrize("line", ["", "phases optional\n"])
def test_nobody_is_told_to_be_in_a_phase_that_is_not(place, attacker, line):
    """lie.c: there is no memory for the filter of the phase."""
    (place.folder / attacker("phases/lie", f"-I{INCLUDE}")).rename(place.folder / "program")
    program = "./program"
    text = (place.folder / "lie.policy").read_text().replace("implied 1\n", f"implied 1\n{line}")
    place.policy(text, "lie.policy")
    done = place.enforce("-p", "lie.policy", program)
    assert done.stdout == "enter: 1\n", "with memory it enters, and is killed then"
    done = place.enforce("-p", "lie.policy", program, "x")
    if line:
        assert done.stdout == "setrlimit 0\nenter: 0\nmkdir (allow until serving): RAN\n"
        assert "cannot enter its phase and keeps its start-up permissions, because mmap: Cannot allocate memory" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (-9, "setrlimit 0\n")
        assert "cannot enter its phase and is killed, because mmap: Cannot allocate memory" in done.stderr


def test_lint_names_what_lets_processes_stay_in_the_start_phase(place):
    place.policy("phase serving after poll\nphases optional\npoll: allow\nbind: allow until serving\n", "p.policy")
    command = [sys.executable, "-m", "callfence", "lint", "p.policy"]
    done = subprocess.run(command, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False)
    assert done.returncode and "danger" in done.stdout and "phases" in done.stdout, done.stdout
