"""Exported profiles in the programs that they are for: crun, runc and podman."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import for_this_machine

from callfence.policygen.comparing.compare import compare
from callfence.policygen.formats import FormatOptions
from callfence.policygen.formats.containers.files import export_oci, read_oci
from callfence.policygen.formats.containers.written import own_calls
from callfence.policygen.language.document import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Containers

STARTING = "brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlinkat getrandom mprotect fstat newfstatat"
POLICY = for_this_machine(f"""\
default errno EACCES
{"".join(f"{name}: allow{chr(10)}" for name in STARTING.split())}
write: fd == 1
exit_group: allow
pause: allow
getppid: allow
socket: family == AF_UNIX
setfsuid: uid <= 5
lseek: offset < 0
getpriority: which != 2
setpriority: errno ESRCH
""")
PRINTED = b"""\
by name ok
by argument ok
upper half ignored ok
in order EINVAL
by range ok
denied by name EACCES
denied by argument EACCES
denied by range EACCES
denied by the kernel ESRCH
allowed by its exception ok
its exception EACCES
"""
SIGSYS = 128 + signal.SIGSYS
"""How runtimes say that the program was killed for a call."""


@pytest.fixture(scope="module")
def image(containers: Containers, compile_c: Callable[..., Path], request: pytest.FixtureRequest) -> Path:
    root = containers.image("probe")
    if not (root / "probe").exists():
        program = compile_c(request.path.parent / "programs" / "probe.c", "-static")
        (root / "probe").write_bytes(program.read_bytes())
        (root / "probe").chmod(0o755)
    return root


def exported(place: Path, text: str, runtime: str, *, gaining: bool) -> Path:
    policy = parse(text).policy
    made = export_oci(policy, FormatOptions(runtime=runtime, no_new_privileges=not gaining))
    profile = place / "profile.json"
    profile.write_bytes(made.data)
    return profile


def in_runtime(
    containers: Containers, consumer: str, image: Path, argv: list[str], profile: Path, *, gaining: bool
) -> subprocess.CompletedProcess[bytes]:
    if consumer == "podman":
        flags = () if gaining else ("--security-opt=no-new-privileges",)
        return containers.podman(image, argv, *flags, profile=profile)
    command, _ = containers.bundle(consumer, image, argv, profile, gaining=gaining)
    return subprocess.run(command, capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("gaining", [False, True], ids=["no_new_privs", "gaining"])
@pytest.mark.parametrize("consumer", ["crun", "runc", "podman"])
def test_calls_are_answered_as_the_policy_says(
    containers: Containers, image: Path, place: Path, consumer: str, gaining: bool
) -> None:
    profile = exported(place, POLICY, "runc" if consumer == "runc" else "crun", gaining=gaining)
    ran = in_runtime(containers, consumer, image, ["/probe"], profile, gaining=gaining)
    assert (ran.stdout, ran.stderr, ran.returncode) == (PRINTED, b"", 0)


@pytest.mark.parametrize("consumer", ["crun", "runc", "podman"])
def test_a_denied_call_kills(containers: Containers, image: Path, place: Path, consumer: str) -> None:
    text = POLICY.replace("errno EACCES", "kill")
    profile = exported(place, text, "runc" if consumer == "runc" else "crun", gaining=False)
    ran = in_runtime(containers, consumer, image, ["/probe", "kill"], profile, gaining=False)
    assert (ran.stdout, ran.returncode) == (b"".join(PRINTED.splitlines(keepends=True)[:3]), SIGSYS)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_what_the_kernel_holds_is_the_profile(containers: Containers, image: Path, place: Path, runtime: str) -> None:
    """The filter of a running container, read back from the kernel, is what the importer says of the file."""
    profile = exported(place, POLICY, runtime, gaining=False)
    command, state = containers.bundle(runtime, image, ["/probe", "wait"], profile, gaining=False, name="waiting")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as running:
        try:
            assert running.stdout is not None
            while running.stdout.readline() != b"by range ok\n":
                assert running.poll() is None, "it ended before it waited"
            told = subprocess.run([runtime, "--root", state, "state", "waiting"], capture_output=True, check=True).stdout
            pid = json.loads(told)["pid"]
            show = [Path(sys.executable).parent / "callfence", "import", "--pid", str(pid)]
            shown = subprocess.run(show, capture_output=True, text=True, check=False).stdout
        finally:
            subprocess.run([runtime, "--root", state, "kill", "waiting", "KILL"], capture_output=True, check=False)
            running.communicate(timeout=60)  # it removes the container's state itself before it ends
    meant = read_oci(profile.read_bytes(), "profile.json", FormatOptions(runtime=runtime)).policy
    differences = compare(meant, parse(shown).policy).differences
    assert [one for one in differences if not NAMELESS <= one.example.number <= NEWEST] == []


NAMELESS, NEWEST = 467, 469
"""Calls of the policy's table that libseccomp 2.6.0 does not know by name: runc answers them like unknown ones."""


@pytest.mark.parametrize(
    ("runtime", "call"),
    [(own.runtime, own.entry.partition(":")[0]) for own in own_calls() if own.when == "always" and own.runtime == "crun"]
    + [("runc", call) for call in ("execve", "openat", "fstatfs", "getdents64", "epoll_ctl")],
)
def test_without_one_of_the_runtimes_own_calls_it_does_not_start(
    containers: Containers, image: Path, place: Path, runtime: str, call: str
) -> None:
    profile = exported(place, POLICY.replace("errno EACCES", "kill"), runtime, gaining=False)
    found = json.loads(profile.read_text())
    for entry in found["syscalls"]:
        entry["names"] = [name for name in entry["names"] if name != call or entry["action"] != "SCMP_ACT_ALLOW"]
    found["syscalls"] = [entry for entry in found["syscalls"] if entry["names"]]
    profile.write_text(json.dumps(found))
    ran = in_runtime(containers, runtime, image, ["/probe"], profile, gaining=False)
    assert ran.returncode != 0
    assert b"by name" not in ran.stdout
