"""What the last runs did not use is removed, and nothing that they used."""

from __future__ import annotations

import pytest
from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.files.made import MADE
from callfence.policygen.narrowing import Unused, last_runs, narrowed, users
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording, Run
from callfence.tracer.abi import Arch
from callfence.tracer.abi.waits import bits

NONE = ("tcp bind: none", "tcp connect: none")


def run(at, calls=(), files=(), **more):
    aggregator = Aggregator()
    for name, *arguments in calls:
        aggregator.counter("/app", event(name, *arguments), str)[0] += 1
    uses = tuple(sorted((*line.split(": "), "/app") for line in files))
    return Recording((Run(f"r{at}", at, ("./app",), 0, True, files=uses, **more),), aggregator.observations())


def judged(text, *recordings, last=10):
    whole = merge(*recordings)
    return narrowed(parse(text), whole, last_runs(whole, last))


def lines(text, *recordings, last=10):
    made = judged(f"implied 1\n{text}", *recordings, last=last)
    assert not made.not_judged
    return made.policy.files.lines(), made.unused


def test_a_rule_is_named_with_its_action():
    made = judged("ptrace: notify\nioctl: notify if cmd == TIOCSTI\nread: fd == 0", run(0, [("getpid",)]))
    assert [each.line for each in made.unused] == ["ptrace: notify", "ioctl: notify if cmd == TIOCSTI", "read: fd == 0"]


CALLS = """\
callfence 1
arch x86_64

getpid: allow
kill: sig == 0
   || sig == SIGHUP
   || sig == SIGTERM           # why: it ends its workers
mkdir: allow                   # why: reviewed
ptrace: errno EPERM
reboot: allow
unlink: allow                  # later: removes old ones
"""


def test_rules_that_no_call_matches():
    made = judged(CALLS, run(0, [("getpid",), ("kill", 1, 1)]))
    assert made.unused == (
        Unused("kill: sig == 0"),
        Unused("kill: sig == SIGTERM", "why: it ends its workers"),
        Unused("mkdir: allow", "why: reviewed"),
        Unused("reboot: allow"),
        Unused("unlink: allow", "later: removes old ones"),
    )
    for call, allowed in ((("kill", 1, 1), True), (("kill", 1, 0), False), (("reboot",), False), (("mkdir",), True)):
        assert evaluate(made.policy, event(*call)).allows == allowed
    assert "ptrace: errno EPERM" in parse(CALLS).with_policy(made.policy).text()


@pytest.mark.parametrize(
    "text",
    [
        "ioctl: notify if cmd == TIOCSTI else allow",
        "default allow\nioctl: notify if cmd == TIOCSTI",
        "implied 1\ngetcwd: notify",
    ],
)
def test_what_has_a_supervisor_asked_is_kept(text):
    """Without it, the call would be allowed."""
    made = judged(f"{text}\ngetpid: allow", run(0, [("getpid",)]))
    assert made.policy.entries[Arch.X86_64].items() >= parse(text).policy.entries[Arch.X86_64].items()


def test_what_only_rehearsed_runs_used_is_kept():
    made = judged("getpid: allow\nreboot: allow\n", run(0, [("getpid",)]), run(1, [("reboot",)], rehearsed="it fails"))
    assert made.unused == (Unused("reboot: allow", "rehearsed runs use it"),)


def test_so_are_files_ports_and_hosts():
    """Under other rules too: of a folder that holds a program's configuration."""
    text = "path ./a: read\npath ./b: read\npath /etc/app: read\ntcp connect: 80, 443, 8080"
    plain = run(0, files=["./a: read", "tcp connect: 80", "tcp bind: none"])
    uses = ["./b: read", "public: /etc/app", "/etc/app/x: read", "tcp connect: 443", "tcp bind: none"]
    kept = {"path ./a": "read", "path ./b": "read", "path /etc/app": "read", "tcp connect": "80, 443"}
    assert lines(text, plain, run(1, files=uses, rehearsed="it fails"))[0] == kept
    none = ("udp send: none", "unix connect: none", "dns query: none")
    text = "\n".join(("tcp connect a.org: 80", "tcp connect b.org: 80", "tcp connect c.org: 80", *none))
    plain = run(0, files=["tcp connect a.org: 80", "tcp bind: none", *none])
    fails = run(1, files=["tcp connect b.org: 80", "tcp bind: none", *none], rehearsed="it fails")
    kept = lines(text, plain, fails)[0]
    assert [line for line in kept if line.startswith("tcp")] == ["tcp connect a.org", "tcp connect b.org"]


def test_a_rule_that_brings_what_was_used_into_the_implied_set_is_used():
    text = "implied 1\nunlink: allow\nreboot: allow\n"
    calls = [("unlinkat", 0xFFFFFF9C, 0, 0)]
    assert evaluate(parse(text).policy, event(*calls[0])).allows, "this is what the test is about"
    made = judged(text, run(0, calls))
    assert made.unused == (Unused("reboot: allow"),)
    assert evaluate(made.policy, event(*calls[0])).allows


def test_only_the_last_runs_count():
    runs = [run(at, [("getpid",)] if at else [("reboot",)]) for at in range(3)]
    assert [unused.line for unused in judged("getpid: 1\nreboot: 1\n", *runs, last=2).unused] == ["reboot: allow"]
    assert not judged("getpid: 1\nreboot: 1\n", *runs, last=3).unused


def test_in_every_phase():
    text = "phase serving after poll\n\ngetpid: allow until serving\npoll: allow\nreboot: allow\n"
    made = judged(text, run(0, [("poll",), ("getpid",)]))
    assert [unused.line for unused in made.unused] == ["reboot: allow"]
    assert evaluate(made.policy, event("getpid")).allows
    assert not evaluate(made.policy, event("getpid"), "serving").allows
    assert not evaluate(made.policy, event("reboot"), "serving").allows


@pytest.mark.parametrize(("after", "unused"), [([1], ()), ([0], (Unused("openat: flags == O_RDONLY"),)), ([], ())])
def test_a_rule_that_brings_it_into_the_implied_set_of_a_phase_is_used(after, unused):
    """stat, which was called in the phase, at the start, or at an unknown time; at the start `open` implies it."""
    text = """\
callfence 1
arch x86_64
implied 1
phase serving after epoll_wait

open: flags == O_RDONLY until serving
openat: flags == O_RDONLY
"""
    wait = bits(("epoll_wait",))
    made = run(0, [("open", 4096, 0), ("newfstatat", -100 & 0xFFFFFFFF, 4096, 4096, 0), ("epoll_wait", 3, 4096, 1, 1)])
    times = {"open": (0,), "newfstatat": tuple(wait * each for each in after), "epoll_wait": (0, wait)}
    timed = [observation._replace(after=times[observation.name]) for observation in made.observations]
    assert judged(text, Recording(made.runs, tuple(timed))).unused == unused


def test_runs_that_recorded_only_new_calls_do_not_judge_calls():
    made = judged("getpid: 1\nreboot: 1\n", run(0, [("getpid",)], warm=True))
    assert not made.unused
    assert made.not_judged == ("calls: 1 of these runs recorded only new ones (`learn --every-call` records all)",)


@pytest.mark.parametrize(
    ("before", "used", "after"),
    [
        ("path .: read, write, create, remove", ["./a: read"], {"path ./a": "read"}),
        ("path .: read", [".: list"], {"path .": "list"}),
        ("path ./a: read, write\npath ./b: read", ["./a: read"], {"path ./a": "read"}),
        ("path /: any", ["/usr/lib/x/y: read", "/srv/a: write"], {"path /srv/a": "write", "path /usr/lib": "read"}),
        ("path ./a: read", ["./a: read", "./b: read"], {"path ./a": "read"}),
        ("path /opt: read  # why: plugins\npath ./a: read", ["./a: read"], {"path ./a": "read", "path /opt": "read"}),
    ],
)
def test_files(before, used, after):
    assert lines(before, run(0, files=used), run(1, files=used))[0] == after


def test_a_line_says_what_remains_of_it():
    _, unused = lines("path ./a: read, write\npath .: list\npath ./x: read", run(0, files=["./a: read", "./b: list"]))
    assert unused == (
        Unused("path .: list"),
        Unused("path ./a: read, write", remains="path ./a: read"),
        Unused("path ./x: read"),
        Unused("", remains="path ./b: list"),
    )


def test_names_that_vary_and_old_logs_stay_granted():
    runs = [run(at, files=[f"./in/{at}: read", "./logs: write, create", f"{MADE}: ./logs/{at}.log"]) for at in range(3)]
    remaining, unused = lines("path ./in: read\npath ./logs: write, create, remove", *runs)
    assert not unused
    assert remaining == {"path ./in": "read", "path ./logs": "write, create, remove"}


def test_ports():
    before = "tcp connect: 80, 443\ntcp bind: any  # why: it is a server"
    remaining, unused = lines(before, run(0, files=["tcp connect: 443", "tcp bind: none"]))
    assert remaining == {"tcp connect": "443", "tcp bind": "any"}
    assert unused == (
        Unused("tcp connect: 80, 443", remains="tcp connect: 443"),
        Unused("tcp bind: any", "why: it is a server"),
    )


def test_ports_of_hosts():
    before = "tcp connect 10.0.0.1: 80, 443\ntcp connect a.example: 22\nudp send 10.0.0.1: 53\nunix connect @a"
    made = judged(before, run(0, files=["tcp connect: 443", "tcp bind: none"]))
    assert made.policy.files.lines() == {
        "tcp connect 10.0.0.1": "443", "udp send 10.0.0.1": "53", "unix connect @a": "", "dns query": "none",
    }  # fmt: skip
    assert Unused("tcp connect a.example: 22") in made.unused
    assert made.not_judged == (
        "ports (udp send): 1 of these runs did not record them",
        "unix sockets: 1 of these runs did not record them",
        "names: 1 of these runs did not record them",
    )
    kept = f"{before}  # why: the display\n".replace("a.example: 22", "a.example: 22  # why: once a year")
    made = judged(kept, run(0, files=["tcp connect: none", "tcp bind: none"]))
    assert made.policy.files.lines()["tcp connect a.example"] == "22"
    assert "tcp connect 10.0.0.1" not in made.policy.files.lines()


def test_names_that_are_looked_up():
    before = "tcp connect a.org: 443\nudp send: none\nunix connect: none\n"
    before += "dns query b.org\ndns query c.org\ndns query *.d.org"
    files = ["tcp connect: 443", "tcp connect a.org: 443", "tcp bind: none", "udp send: none", "unix connect: none"]
    files += ["name a.org: 192.0.2.1", "dns query b.org: ", "dns query x.d.org: "]
    made = judged(before, run(0, files=files))
    assert made.policy.files.query == ("b.org", "x.d.org")
    assert Unused("dns query c.org") in made.unused
    connects = [*files[:-2], "dns query: none", "tcp connect b.org: 443"]
    made = judged(before, run(0, files=files), run(1, files=[*connects, "name b.org: 192.0.2.2"]))
    assert "dns query b.org" in made.policy.files.lines(), "it may be looked up, whatever a run did with it"


def test_addresses_of_names_stay_where_the_names_have_no_line():
    before = "tcp connect 192.0.2.0/24: 443\nudp send: none\nunix connect: none\ndns query: any\n"
    files = ["tcp connect a.org: 443", "tcp bind: none", "udp send: none", "unix connect: none", "name a.org: 192.0.2.1"]
    made = judged(before, run(0, files=files))
    assert made.policy.files.lines()["tcp connect 192.0.2.0/24"] == "443"
    assert "ports (tcp connect): addresses of names that these runs used are granted, and not the names" in made.not_judged


def test_the_port_of_name_servers_stays_if_any_run_asks_them():
    asking, other = run(0, files=["udp connect: 53", *NONE]), run(1, files=NONE)
    assert lines("tcp connect: 53, 80", asking, other, last=1)[0] == {"tcp connect": "53"}
    assert lines("tcp connect: 53, 80", other, last=1)[0] == {"tcp connect": "none"}


def test_what_was_not_recorded_is_not_judged():
    made = judged("path ./a: read\ntcp connect: 80", run(0, files=NONE), run(1))
    assert made.policy.files.lines() == {"path ./a": "read", "tcp connect": "80"}
    assert made.not_judged == (
        "files: 2 of these runs did not record them",
        "ports (tcp connect): 1 of these runs did not record them",
    )


def test_attached_and_rehearsed_runs_are_not_among_the_last():
    attached = Recording((Run("a", 5, ("./app",), None, False),))
    whole = merge(run(0), run(1, rehearsed="x"), attached, run(2))
    assert [one.id for one in last_runs(whole, 10)] == ["r0", "r2"]


def used(text, *calls):
    """The rules of a policy, each with the names of the calls that use it."""
    observations = run(0, calls).observations
    names = {event(name).number: name for name, *_ in calls}
    return {line: {names[observations[at].number] for at in by} for line, by in users(parse(text).policy, observations).items()}


def test_which_calls_use_a_rule():
    rules = used(CALLS, ("getpid",), ("kill", 1, 1), ("ptrace", 0))
    assert rules["getpid: allow"] == {"getpid"} and rules["kill: sig == SIGHUP"] == {"kill"}
    assert not any(by for line, by in rules.items() if line not in ("getpid: allow", "kill: sig == SIGHUP"))
    assert "ptrace: errno EPERM" not in rules


IMPLIED = "callfence 1\narch x86_64\nimplied 1\n\n"
READING = ("openat", 3, 0, 0o2000000, 0)
"""O_CLOEXEC: no rule matches it, and the implied set allows it beside O_RDONLY."""


def test_a_call_uses_the_rule_that_implies_it():
    assert used(f"{IMPLIED}openat: flags == O_RDONLY\nmkdir: allow\n", READING) == {
        "openat: flags == O_RDONLY": {"openat"},
        "mkdir: allow": set(),
    }


def test_rules_that_could_take_each_others_place_are_all_used():
    """Either may be removed, but not both."""
    text = f"{IMPLIED}open: flags == O_RDONLY\nopenat: flags == O_RDONLY\nmkdir: allow\n"
    assert used(text, ("stat", 1, 1)) == {
        "open: flags == O_RDONLY": {"stat"},
        "openat: flags == O_RDONLY": {"stat"},
        "mkdir: allow": set(),
    }
