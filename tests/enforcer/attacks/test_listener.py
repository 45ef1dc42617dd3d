"""Whoever gets hold of a listener answers nothing by it."""

from __future__ import annotations

import subprocess

import pytest

ROUNDS = 100
"""`make storm` has a thousand."""
DENIED = "Operation not permitted"
LATE = """
import sys, time
from callfence.enforcing.command import main
from callfence.enforcer.arming import inject
real, events = inject.Stops.next, []
def late(stops, *, waits=True):  # the events of fork, vfork and clone come once nothing else has come for a moment
    end = time.monotonic() + 0.1
    while not events or time.monotonic() < end:
        pid, stop = real(stops, waits=waits and not events)
        if pid and stop.kind == "created":
            events.append((pid, stop))
        elif pid or not events:
            return pid, stop
        else:
            time.sleep(0.001)
    return events.pop(0)
inject.Stops.next = late
sys.exit(main())
"""


@pytest.mark.long
def test_a_listener_that_is_copied_answers_nothing(place, attacker):
    """grab.c: threads copy the listener while the filter of the phase is put on."""
    program = attacker("listener/grab")
    for number in range(ROUNDS):
        done = place.enforce("-p", "grab.policy", program, "4", "4", f"made-{number}")
        assert "RAN" not in done.stdout, done.stdout
    assert not [*place.folder.glob("made-*")]


@pytest.mark.long
def test_a_process_that_shares_the_table_gets_no_listener(place, attacker):
    """share.c: it serves already, and nothing traces it."""
    program = attacker("listener/share")
    attacker("listener/grab")  # whose policy it has
    place.policy((place.folder / "grab.policy").read_text() + "kill: allow\n", "share.policy")
    for _ in range(ROUNDS):
        done = place.enforce("-p", "share.policy", program, "made")
        assert (done.returncode, done.stdout) == (1, "missed\n"), done.stderr
        assert "in serving are not reported, because it shares its table of descriptors with another process" in done.stderr


@pytest.mark.parametrize("options", [(), ("--scope", "none")])
def test_processes_without_a_listener_go_on_when_nobody_is_answered_for(place, attacker, options):
    """share.c: the helper ends then.  Where a program could signal it, the program ends with a helper that dies."""
    program = attacker("listener/share")
    attacker("listener/grab")
    place.policy((place.folder / "grab.policy").read_text() + "kill: allow\n", "share.policy")
    done = place.enforce(*options, "-p", "share.policy", program, "made", "300000")
    assert (done.returncode, done.stdout) == (1, "missed\n"), done.stderr


def test_a_process_gets_no_listener_before_it_is_known_whose_table_it_has(place, attacker):
    """share.c, where the event of its clone comes after it could have entered the phase."""
    program = attacker("listener/share")
    attacker("listener/grab")
    place.policy((place.folder / "grab.policy").read_text() + "kill: allow\n", "share.policy")
    place.command = (*place.command[:2], f"{LATE}  # {place.folder}")
    done = place.enforce("-p", "share.policy", program, "made")
    assert (done.returncode, done.stdout) == (1, "missed\n"), done.stderr
    assert "are not reported, because it shares its table of descriptors with another process" in done.stderr


@pytest.mark.parametrize("options", [(), ("--quiet-kernel",), ("--arm", "now"), ("--arm", "entry")])
def test_no_policy_lets_a_listener_be_used_without_naming_it(place, attacker, options):
    program = attacker("listener/notify")
    free = subprocess.run([program], cwd=place.folder, capture_output=True, text=True, check=True).stdout
    assert DENIED not in free, "the kernel knows these commands, or nothing is tested"
    place.policy("default allow\n", "notify.policy")
    done = place.enforce("-p", "notify.policy", "--quiet-kernel", *options, program)
    lines = done.stdout.splitlines()
    assert lines[0] == "listener 1"
    assert [line.split(" ", 1)[1] for line in lines[1:]] == [f"{DENIED} -", *[f"{DENIED} {DENIED}"] * 5]


def test_a_policy_that_names_it_lets_it_be_used(place, attacker):
    program = attacker("listener/notify")
    place.policy(
        "default allow\nseccomp: op == SECCOMP_SET_MODE_FILTER\n"
        "ioctl: cmd in {SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND} else allow\n",
        "notify.policy",
    )
    done = place.enforce("-p", "notify.policy", program)
    assert DENIED not in done.stdout
