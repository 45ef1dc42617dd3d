"""The command line: options, messages, statuses."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from callfence.tracer.abi import NATIVE, table

ALLOW = "default allow\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no program given: write enforce [OPTION ...] PROGRAM [ARGUMENT ...]; `enforce --help` says more"),
        (("--",), "no program given: write enforce [OPTION ...] PROGRAM [ARGUMENT ...]; `enforce --help` says more"),
        (("--unknown", "true"), "unknown option --unknown: write options of the program after its name"),
        (("-x",), "unknown option -x: `enforce --help-all` lists the options"),
        (("-p",), "-p needs a value; `enforce --help-all` describes it"),
        (("--arm", "later", "true"), "--arm later: the value must be now, exec or entry"),
        (("--arm=", "true"), "--arm has an empty value; `enforce --help-all` describes it"),
        (("--within", "", "--ask", "true"), "--within has an empty value; `enforce --help-all` describes it"),
        (
            ("--audit", "--scope", "signals", "true"),
            "--audit enforces nothing, and --scope would be enforced: give one of the two",
        ),
        (
            ("--explain", "--no-explain", "true"),
            "--explain reports the files and ports that --no-explain leaves out: give one of the two",
        ),
        (("--compiled", "f", "--no-cache", "true"), "--compiled compiles nothing and uses no cache: give one of the two"),
        (
            ("--audit", "--quiet-kernel", "true"),
            "--audit needs the helper process, and --quiet-kernel starts none: give one of the two",
        ),
        (
            ("--quiet-kernel", "--log", "file", "true"),
            "--log needs the helper process, and --quiet-kernel starts none: give one of the two",
        ),
        (
            ("true",),
            "the policy true.policy cannot be read: No such file or directory; `learn` writes a policy, -p names another",
        ),
        (("-p", ".", "true"), "the policy . cannot be read: Is a directory"),
    ],
)
def test_mistakes(arguments, message, place):
    done = place.enforce(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (125, "", f"enforce: {message}\n")


def test_a_mistyped_program_is_not_found_rather_than_its_policy(place):
    done = place.enforce("no-such-program")
    assert (done.returncode, done.stdout, done.stderr) == (127, "", "enforce: no-such-program: not found\n")


def test_a_phase_that_no_process_could_enter(place):
    """An implied set might have allowed the call; the parser refuses the rest."""
    place.policy("implied 1\nphase serve after listen\nmkdirat: allow until serve\n", "true.policy")
    done = place.enforce("true")
    message = "enforce: true.policy: phase serve denies listen, the call by which a process enters it\n"
    assert (done.returncode, done.stdout, done.stderr) == (125, "", message)


def test_help_and_version(place):
    from callfence.start import __version__

    done = place.enforce("--help-all")
    assert done.stdout.startswith("usage: enforce [OPTION ...] [--] PROGRAM [ARGUMENT ...]\n")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--policy", "--arm", "--log", "--audit", "--quiet-kernel", "--version", "--help"):
        assert option in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert place.enforce("-V").stdout == f"enforce {__version__}\n"


def test_options_end_at_the_program(place):
    place.policy(ALLOW, "echo.policy")
    assert place.enforce("echo", "-p", "--audit").stdout == "-p --audit\n"
    assert place.enforce("--", "echo", "--", "a").stdout == "-- a\n"


def test_the_policy_is_named_after_the_program(place):
    place.policy(ALLOW, "echo.policy")
    assert place.enforce("/bin/echo", "found").stdout == "found\n"
    for option in (("-p", "x y"), ("-px y",), ("--policy", "x y"), ("--policy=x y",)):
        place.policy(ALLOW, "x y")
        assert place.enforce(*option, "/bin/true").returncode == 0


def test_a_wrong_policy_is_shown_where_it_is_wrong(place):
    place.policy("callfence 1\nreed: allow\n", "true.policy")
    done = place.enforce("true")
    assert (done.returncode, done.stdout) == (125, "")
    first, line, carets, *_ = done.stderr.splitlines()
    assert first.startswith("enforce: true.policy:2:1: ")
    assert (line, carets) == ("  reed: allow", "  ^^^^")


def test_includes_are_part_of_the_policy(place):
    (place.folder / "below").mkdir()
    place.policy("default errno EACCES\ninclude below/b.policy\n")
    place.policy("include c.policy\nread: allow\n", "below/b.policy")
    place.policy("write: allow\nexit_group: allow\n", "below/c.policy")
    assert place.enforce(place.calls(), "getpid").stdout == "-13\n"
    place.policy("write: allow\nexit_group: allow\ngetpid: allow\n", "below/c.policy")
    done = place.enforce(place.calls(), "getpid", "getuid")
    assert done.stdout.splitlines()[1] == "-13"
    assert int(done.stdout.splitlines()[0]) > 1
    (place.folder / "below/c.policy").unlink()
    done = place.enforce(place.calls(), "getpid")
    assert done.returncode == 125
    assert "below/c.policy cannot be read: No such file or directory" in done.stderr


def program(folder, name, content, mode=0o755):
    (folder / name).write_bytes(content)
    (folder / name).chmod(mode)


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_programs_that_cannot_be_executed(arm, place):
    program(place.folder, "plain", b"#!/bin/sh\n", 0o644)
    program(place.folder, "orphan", b"#!/no/such/interpreter\n")
    (place.folder / "folder").mkdir()
    place.policy(ALLOW)
    for name, status, message in (
        ("./missing", 127, "./missing: not found"),
        ("no-such-program", 127, "no-such-program: not found"),
        ("", 127, "'': not found"),
        ("plain/below", 127, "plain/below: not found"),
        ("./plain", 126, "./plain: Permission denied"),
        ("./folder", 126, "./folder: is a directory"),
        ("./orphan", 127, "./orphan: its interpreter (first line of a script) or its dynamic loader was not found"),
    ):
        done = place.enforce("--arm", arm, "-p", "calls.policy", name)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", f"enforce: {message}\n")


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_programs_are_found_and_run_as_by_execvp(arm, place):
    """Along PATH, past what cannot be executed; without a #! line by the shell."""
    for folder in ("one", "two"):
        (place.folder / folder).mkdir()
    program(place.folder / "one", "tool", b"echo wrong\n", 0o644)
    program(place.folder / "two", "tool", b'echo "$0 $*"\n')
    place.environment["PATH"] = f"one:two:{os.environ['PATH']}"
    place.policy(ALLOW, "tool.policy")
    done = place.enforce("--arm", arm, "tool", "a b")
    assert (done.stdout, done.stderr, done.returncode) == ("two/tool a b\n", "", 0)
    program(place.folder, "tool", b'#!/bin/echo option\n')
    place.environment["PATH"] = f":{os.environ['PATH']}"
    assert place.enforce("--arm", arm, "tool", "a").stdout == "option tool a\n"


def test_a_program_that_cannot_be_read(place, nobody):
    """Its memory cannot be written, so the filter cannot be put into it at the execve."""
    place.calls()
    target = shutil.copy(place.folder / "calls", nobody.folder)
    os.chmod(target, 0o111)
    (nobody.folder / "calls.policy").write_text("default errno EACCES\nwrite: allow\nexit_group: allow\nexecve: allow\n")
    enforce = (*nobody.python, "-m", "callfence", "enforce", "-p", "calls.policy")
    settings = {"cwd": nobody.folder, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([*enforce, "./calls", "getpid"], check=False, **settings)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("enforce: ./calls is not readable by this user, so the filter cannot be installed")
    assert subprocess.run([*enforce, "--arm", "now", "./calls", "getpid"], check=False, **settings).stdout == "-13\n"


def test_lost_privilege_is_mentioned(place):
    if os.getuid() != 0:
        pytest.skip("needs root to make a set-user-ID program")
    place.policy("write: allow\nexit_group: allow\n")
    target = place.calls()
    os.chown(place.folder / "calls", 65534, 65534)
    (place.folder / "calls").chmod(0o4755)
    done = place.enforce(target)
    assert done.returncode == 9
    assert done.stderr == "enforce: ./calls runs without the privilege of its set-id bits or capabilities (no_new_privs)\n"


def test_an_earlier_arming_wins(place):
    """Of several policies; the option decides against all."""
    place.policy("arm entry\nwrite: allow\nexit_group: allow\n", "a.policy")
    place.policy("arm now\nwrite: allow\nexit_group: allow\n", "b.policy")
    both = ("-p", "a.policy", "-p", "b.policy", place.calls())
    assert "denied execve(" in place.enforce(*both).stderr
    assert place.enforce("--arm", "exec", *both).returncode == 9


def test_enforce_within_enforce(place):
    """A chain of filters has one listener; without reports any number can be stacked."""
    place.policy(ALLOW)
    inner = (*place.command, "-p", "calls.policy")
    done = place.enforce("-p", "calls.policy", *inner, place.calls())
    assert done.returncode == 9
    assert "another filter has a listener already" in done.stderr
    done = place.enforce("-p", "calls.policy", *inner, "--quiet-kernel", place.calls())
    assert (done.returncode, done.stderr) == (9, "")


def test_a_process_limit(place, nobody):
    place.calls()
    shutil.copy(place.folder / "calls", nobody.folder)
    (nobody.folder / "calls.policy").write_text(ALLOW)
    other = [word.replace("65534", "64321") for word in nobody.python]  # a user with no other process
    limited = other.index("env")
    command = [*other[:limited], "prlimit", "--nproc=1", *other[limited:], "-m", "callfence", "enforce"]
    command += ["-p", "calls.policy", "./calls"]
    done = subprocess.run(command, check=False, cwd=nobody.folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (125, "enforce: clone: Resource temporarily unavailable\n")


@pytest.mark.parametrize(
    ("denied", "options", "message"),
    [
        ("ptrace", (), "ptrace: Operation not permitted: ptrace is denied here"),
        ("pidfd_getfd", (), "pidfd_getfd: Operation not permitted: ptrace is denied here"),
        ("seccomp", (), "reports need seccomp user notification (Linux 5.9)"),
        ("seccomp", ("--quiet-kernel",), "the program was not run: the kernel refused the filter: Operation not permitted"),
        ("clone", (), "clone: Operation not permitted"),
    ],
)
def test_container_rules_that_forbid_what_is_needed(denied, options, message, place, drive):
    """The program does not run, and what to do instead is named where there is something."""
    place.policy(ALLOW + "execve: allow\n")
    number = table(NATIVE).by_name[denied].number
    done = drive("exec", (number,), *place.command, *options, place.calls(), env=place.environment, text=True)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"enforce: {message}")
    if denied == "ptrace":
        assert "--arm now" in done.stderr
        arguments = (*place.command, "--arm", "now", "--quiet-kernel", place.calls())
        assert drive("exec", (number,), *arguments, env=place.environment).returncode == 9
