"""`enforce` under a filter that is in force already: another enforce's, or one like a container's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from calls import for_this_machine, native

from callfence.enforcer.arming import nested
from callfence.enforcer.kernel import landlock_abi
from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import NATIVE, table

INNER = "default allow\nmkdir: errno EPERM\n"
MKDIR = ("mkdir", "made")
BUSY = (
    "enforce: another filter has a listener already (a container's, or that of an outer enforce), "
    "so calls that"
)
LISTENING = """
import os, sys
from callfence.enforcer import kernel
kernel.set_no_new_privs()
allow = (6).to_bytes(4, "little") + (0x7FFF0000).to_bytes(4, "little")
os.set_inheritable(kernel.install(allow, int(sys.argv[1])), True)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Runs a command under a filter that allows every call; with 8, SECCOMP_FILTER_FLAG_NEW_LISTENER, one that has a listener."""


@pytest.fixture
def enforced(place):
    """enforced(outer, *options, program=...) -> inner.policy enforced with these options, under one with those entries."""

    def run(outer, *options, inner=INNER, program=MKDIR, outermost=()):
        place.policy(inner, "inner.policy")
        place.policy(f"default allow\n{outer}\n", "outer.policy")
        words = [*place.command, "-p", "inner.policy", *options, *program]
        return place.enforce("-p", "outer.policy", *outermost, *words, timeout=120)

    return run


def is_confined(done, place):
    assert "Operation not permitted" in done.stderr, done.stderr
    assert done.returncode == 1
    assert not (place.folder / "made").exists()
    return True


def compile_(place):
    command = [sys.executable, "-m", "callfence", "compile", "-o", "inner.filter", "inner.policy"]
    subprocess.run(command, cwd=place.folder, env=place.environment, check=True, capture_output=True, timeout=120)


def test_where_no_filter_is_in_force_nothing_is_tried():
    """These tests may themselves run in a container."""
    script = "from callfence.enforcer import launch; print(launch.is_filtered())"
    status = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    with open("/proc/self/status") as file:
        assert status == str("Seccomp:\t0\n" not in file.read())
    assert nested.problems("exec", listens=False, traces=False) == ("", "")


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
@pytest.mark.parametrize("option", ["--no-cache", "--quiet-kernel", "--log=log", "--explain"])
def test_an_inner_policy_narrows_and_says_what_it_loses(enforced, place, arm, option):
    enforced("")  # so that the filter is in the cache, but for --no-cache
    done = enforced("", f"--arm={arm}", option)
    assert is_confined(done, place)
    if option == "--quiet-kernel":
        assert "enforce:" not in done.stderr
    else:
        loss = "neither explained nor logged" if option == "--log=log" else "not explained"
        assert done.stderr.count(f"{BUSY} mkdir is denied are {loss}: the kernel alone answers (--quiet-kernel)") == 1


def test_an_audit_needs_the_listener(enforced):
    done = enforced("", "--audit")
    assert done.returncode == 125
    assert "--audit cannot report violations here: another filter has a listener already" in done.stderr


def test_what_the_outer_policy_denies_is_explained_as_its(place):
    """Of the inner one's program, too."""
    calls = sorted(call.name for call in table(NATIVE).by_number.values() if "symlink" not in call.name)
    place.policy(f"{newest_table()}default errno EPERM\n" + "".join(f"{name}: allow\n" for name in calls), "outer.policy")
    place.policy(INNER, "inner.policy")
    done = place.enforce("-p", "outer.policy", *place.command, "-p", "inner.policy", "ln", "-s", "a", "made", timeout=120)
    assert is_confined(done, place)
    assert "enforce: denied symlinkat(" in done.stderr
    assert "to allow it: callfence allow outer.policy 'symlinkat:" in done.stderr


KILLED = "a filter that is in force already kills a process that uses ptrace, or calls that go with it"
WITHOUT_PTRACE = (
    ("ptrace: kill", KILLED),
    ("ptrace: kill if request == PTRACE_POKEDATA else allow", KILLED),
    ("ptrace: kill if request == PTRACE_DETACH else allow", KILLED),
)


@pytest.mark.parametrize(("outer", "problem"), WITHOUT_PTRACE)
def test_without_ptrace_a_program_is_confined_before_its_execve(enforced, place, outer, problem):
    done = enforced(outer)
    assert is_confined(done, place)
    assert f"{problem}, so mkdir is confined before its execve instead (--arm now)" in done.stderr


@pytest.mark.parametrize(("outer", "problem"), WITHOUT_PTRACE)
@pytest.mark.parametrize("option", ["--arm=exec", "--arm=entry"])
def test_or_is_not_run_where_its_policy_does_not_allow_that(enforced, place, outer, problem, option):
    inner = "default allow\nexecve: errno EACCES\n" if option == "--arm=exec" else INNER
    done = enforced(outer, option, inner=inner)
    assert done.returncode == 125
    assert f"{problem}, so the filter cannot be installed when mkdir is executed; use --arm now" in done.stderr
    assert not (place.folder / "made").exists()


@pytest.mark.parametrize("option", ["--arm=exec", "--arm=entry"])
def test_what_only_fails_is_named_with_what_to_do_instead(enforced, option):
    done = enforced("ptrace: errno EPERM", option, "--quiet-kernel")
    assert done.returncode == 125
    assert "ptrace is denied here" in done.stderr
    assert "--arm now" in done.stderr


@pytest.mark.parametrize("options", [("--quiet-kernel",), ()])
def test_where_no_helper_can_be_the_program_is_confined_before_its_execve(enforced, place, options):
    done = enforced("setsid: errno EPERM", *options)
    assert is_confined(done, place)
    problem = "no helper process can run here (Operation not permitted), so mkdir is confined before its execve"
    assert problem in done.stderr


SERVES = """
import os, select
def attempt():
    try:
        os.rmdir("none")
    except OSError as error:
        print(error.strerror)
attempt()
select.poll().poll(1)
attempt()
"""


def phased():
    calls = sorted(call.name for call in table(NATIVE).by_number.values() if call.name not in ("rmdir", native("rmdir")))
    allowed = "".join(f"{name}: allow\n" for name in calls)
    return f"{newest_table()}default errno EPERM\nphase serving after poll\nrmdir: allow until serving\n{allowed}"


def test_an_inner_policy_with_phases(enforced, place):
    program = (sys.executable, "-I", "-S", "-c", SERVES)
    done = enforced("", inner=phased(), program=program)
    assert done.stdout.splitlines() == ["No such file or directory", "Operation not permitted"], done.stderr
    done = enforced("ptrace: kill", "--arm=now", inner=phased(), program=program)
    assert done.returncode == 125
    assert "cannot be followed through the phases of its policy" in done.stderr


def test_an_outer_policy_with_phases(place):
    """Its helper traces the program, and the inner one then cannot."""
    place.policy(phased(), "outer.policy")
    place.policy(INNER, "inner.policy")
    done = place.enforce("-p", "outer.policy", *place.command, "-p", "inner.policy", *MKDIR, timeout=120)
    assert done.returncode == 125
    assert "this process is already traced by pid" in done.stderr
    assert "--arm now" in done.stderr
    command = (*place.command, "-p", "inner.policy", "--arm=now", "--quiet-kernel", *MKDIR)
    assert is_confined(place.enforce("-p", "outer.policy", *command, timeout=120), place)


@pytest.mark.parametrize(
    "outer",
    [
        "setsid: kill",
        "clone: kill if clone_flags == 0 else allow",
        "capset: kill",
        "setsid: errno EPERM",
        "seccomp: kill if op == SECCOMP_SET_MODE_FILTER && flags has SECCOMP_FILTER_FLAG_NEW_LISTENER else allow",
    ],
)
def test_where_a_helper_cannot_be_the_kernel_alone_answers(place, outer):
    """Also if the filter around has no listener."""
    place.policy(INNER, "inner.policy")
    place.policy(f"default allow\n{outer}\n", "outer.policy")
    compile_(place)
    command = (*place.command, "--compiled=inner.filter", "-p", "inner.policy", "--arm=now", *MKDIR)
    done = place.enforce("-p", "outer.policy", "--quiet-kernel", *command, timeout=120)
    assert "are not explained: the kernel alone answers (--quiet-kernel)" in done.stderr
    if "clone" in outer:  # with --arm now the helper is cloned with other flags, and would hear nothing
        assert "denies answering notifications (that of an outer enforce)" in done.stderr
    assert is_confined(done, place)


COMPILES = (
    # what the outer policy denies of compiling, and what is said, if it cannot be done
    ("prlimit64: errno EPERM", ""),
    ("kill: errno EPERM", ""),
    ("prlimit64: kill if resource == RLIMIT_CORE else allow", "killed the process that runs libseccomp"),
    ("clone: errno EAGAIN", "cannot start a process to run libseccomp in: Resource temporarily unavailable"),
)


@pytest.mark.parametrize(("outer", "problem"), COMPILES)
def test_what_cannot_be_compiled_is_compiled_beforehand(enforced, place, outer, problem):
    options = ("--quiet-kernel", "--arm=now")
    done = enforced(outer, "--no-cache", *options)
    if not problem:
        assert is_confined(done, place)
        return
    assert done.returncode == 125
    assert problem in done.stderr
    remedy = "compile the policy before: `callfence compile -o FILE inner.policy`, then `enforce --compiled FILE`"
    assert remedy in done.stderr
    compile_(place)
    assert is_confined(enforced(outer, "--compiled=inner.filter", *options), place)


def test_three_levels(place):
    for number, call in enumerate(("mkdir", "symlinkat", "mknodat")):
        place.policy(f"default allow\n{call}: errno EPERM\n", f"{number}.policy")
    for program in (MKDIR, ("ln", "-s", "a", "made"), ("mkfifo", "made")):
        words = (*place.command, "-p", "1.policy", *place.command, "-p", "2.policy", *program)
        done = place.enforce("-p", "0.policy", *words, timeout=120)
        assert is_confined(done, place)
        assert done.stderr.count(BUSY) == 2


@pytest.mark.skipif(landlock_abi() < 1, reason="needs Landlock")
@pytest.mark.parametrize("outer", ["", "path /: read, execute, write, create\n", "path /: read, execute\npath /dev: write\n"])
@pytest.mark.parametrize("options", [(), ("--arm=now",), ("--scope=signals",)])
def test_files_are_those_that_every_policy_grants(enforced, place, outer, options):
    """With the third, /proc is not writable, which ptrace takes."""
    if options and options[0].startswith("--scope") and landlock_abi() < 6:
        pytest.skip("needs Landlock's ABI 6 (Linux 6.12)")
    inner = "default allow\npath /: read, execute\npath ./own: write, create\n"
    (place.folder / "own").mkdir()
    for name, is_granted in (("own/made", outer.count("write, create") or not outer), ("made", False)):
        done = enforced(outer, *options, inner=inner, program=("touch", name))
        assert (place.folder / name).exists() == bool(is_granted), done.stderr
        assert done.returncode == int(not is_granted)


@pytest.mark.parametrize(("flags", "listens"), [("8", True), ("0", False)])
@pytest.mark.parametrize("arm", ["now", "exec"])
def test_under_a_container_s_filter(place, flags, listens, arm):
    """One with a listener takes it from us."""
    place.policy(INNER, "inner.policy")
    under = (sys.executable, "-c", LISTENING, flags)
    done = place.enforce("-p", "inner.policy", f"--arm={arm}", *MKDIR, under=under)
    assert is_confined(done, place)
    assert (BUSY in done.stderr) == listens


@pytest.mark.long
def test_a_learned_outer_policy(place):
    """As docs/production.md has it: the inner one is learned with --arm now --quiet-kernel."""
    (place.folder / "inner.policy").write_text(for_this_machine(INNER))  # whose filter is not cached
    inner = (*place.command, "-p", "inner.policy", "--arm=now", "--quiet-kernel", *MKDIR)
    learn = [sys.executable, "-m", "callfence", "learn", "-q", "-o", "outer.policy", *inner]
    for _ in range(2):  # the first one compiles
        subprocess.run(learn, cwd=place.folder, env=place.environment, check=False, capture_output=True, timeout=120)
    for options in (["--no-cache"], []):
        done = place.enforce("-p", "outer.policy", *inner[:-2], *options, *MKDIR, timeout=120)
        assert is_confined(done, place), options
