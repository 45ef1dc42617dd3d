"""Exports loaded by the programs that they are for: what is allowed works, what is denied is denied as the policy says,
and the filter that the kernel has differs from the policy only as reported."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from announced import check
from calls import format_options, parse
from installed import PAUSE, PROBE_POLICY, policy_of, waiting
from needed import needs_root, require

from callfence.policygen import formats
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.only_on("x86_64")
"""The samples are of that machine."""
ROOT = Path(__file__).parent.parent.parent
CONSUMERS = ["bwrap", "c", "kafel", "firejail"]

# getuid, getppid (EACCES), clone3 (ENOSYS), socket(AF_UNIX, SOCK_STREAM), lseek(9, 1, SEEK_SET) (EBADF)
ALLOWED = ["102", "110", "435", "41,1,1,0", "8,9,1,0"]
ANSWERS = [str(os.getuid()), "-13", "-38", "3", "-9"]
# a call that no entry has; arguments that the conditions exclude
BY_NAME = {"getpid": "39", "ptrace": "101"}
BY_ARGUMENT = {
    "socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)": "41,2,3,1",
    "ioctl(0, TIOCSTI)": "16,0,21522",
    "setpriority(PRIO_PROCESS, 0, 5)": "141,0,0,5",
}


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "probe.policy"
    path.write_text(PROBE_POLICY)
    return path


@pytest.fixture(scope="module")
def confine(policy_file: Path, probe: Path, compile_c: Callable[..., Path]) -> Callable[[str], list[str]]:
    """The command line, up to the arguments of the probe, that runs it under a format's consumer."""
    made: dict[str, list[str]] = {}

    def command(name: str) -> list[str]:
        if name not in made:
            file = exported(name, policy_file, policy_file.with_suffix(f".{name}"))
            loader = [str(compile_c(file, "-O2"))] if name == "c" else _command(name, file)
            made[name] = [*loader, str(probe)]
        return made[name]

    return command


def exported(name: str, policy: Path, file: Path) -> Path:
    """By the command, as a user does it."""
    command = [Path(sys.executable).parent / "callfence", "export", "--to", name, "-o", file, policy]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return file


def _command(name: str, file: Path) -> list[str]:
    match name:
        case "bwrap":
            require("bubblewrap")
            shell = 'exec bwrap --ro-bind / / --dev /dev --seccomp 9 "$@" 9<' + str(file)
            return ["sh", "-c", shell, "sh"]
        case "kafel":
            spaces = ["user", "net", "ns", "pid", "ipc", "uts", "cgroup"]
            jail = [f"--disable_clone_new{space}" for space in spaces[os.geteuid() != 0 :]]
            nsjail = Path(sys.executable).parent / "nsjail"
            return [str(nsjail), "-Q", "-Mo", "--chroot", "/", "--disable_proc", *jail, "--seccomp_policy", str(file), "--"]
        case "firejail":
            require("firejail")
            profile = shutil.copy(file, file.with_suffix(".profile"))
            return ["firejail", "--quiet", f"--profile={profile}"]
    raise AssertionError(name)


def run(command: list[str], *calls: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *calls], capture_output=True, text=True, timeout=60, check=False)


def killed(result: subprocess.CompletedProcess[str]) -> bool:
    """By SIGSYS: what runs under another program is reported as a shell does."""
    return result.returncode in (-signal.SIGSYS, 128 + signal.SIGSYS)


@pytest.mark.parametrize("name", CONSUMERS)
def test_what_is_allowed_works_and_what_fails_fails_as_written(name: str, confine: Callable[[str], list[str]]) -> None:
    result = run(confine(name), *ALLOWED)
    assert (result.stdout.split(), result.returncode) == (ANSWERS, 9), result.stderr


@pytest.mark.parametrize("call", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("name", CONSUMERS)
def test_a_call_without_an_entry_is_killed(name: str, call: str, confine: Callable[[str], list[str]]) -> None:
    result = run(confine(name), "102", call, "102")
    assert result.stdout.split() == [str(os.getuid())]
    assert killed(result), result


@pytest.mark.parametrize("call", BY_ARGUMENT.values(), ids=BY_ARGUMENT)
@pytest.mark.parametrize("name", ["bwrap", "c", "kafel"])
def test_conditions_on_arguments_hold(name: str, call: str, confine: Callable[[str], list[str]]) -> None:
    result = run(confine(name), "102", call, "102")
    assert result.stdout.split() == [str(os.getuid())]
    assert killed(result), result


def test_firejail_compares_no_arguments_as_reported(confine: Callable[[str], list[str]], policy_file: Path) -> None:
    losses = formats.exporter("firejail")(resolved(parse_file(policy_file).policy).written(), format_options()).losses
    assert {"socket", "setpriority", "ioctl"} <= {call for loss in formats.wider(losses) for call in loss.calls}
    result = run(confine("firejail"), "141,0,0,19")
    assert (result.stdout.split(), result.returncode) == (["0"], 9)


@pytest.mark.parametrize("option", [[], ["--unshare-pid"], ["--unshare-pid", "--as-pid-1"]], ids=" ".join)
def test_bubblewraps_own_calls_are_allowed(option: list[str], confine: Callable[[str], list[str]], probe: Path) -> None:
    """Its process 1 is under the filter, too: without its calls it would never tell the exit status."""
    command = confine("bwrap")
    shell = command[2].replace("--ro-bind", " ".join([*option, "--ro-bind"]))
    result = run(["sh", "-c", shell, "sh", str(probe)], "102")
    assert (result.stdout.split(), result.returncode) == ([str(os.getuid())], 9), result.stderr


def test_without_bubblewraps_own_calls_it_fails(confine: Callable[[str], list[str]], policy_file: Path, probe: Path) -> None:
    bare = exported("bpf", policy_file, policy_file.with_suffix(".bare"))
    shell = confine("bwrap")[2].replace(str(policy_file.with_suffix(".bwrap")), str(bare))
    assert killed(run(["sh", "-c", shell, "sh", str(probe)], "102"))


def test_the_loader_says_why_a_program_was_not_run(confine: Callable[[str], list[str]]) -> None:
    loader = confine("c")[0]
    assert run([loader]).returncode == 125
    assert run([loader, "/no/such/program"]).returncode == 127
    assert run([loader, "/"]).returncode == 126


def test_the_c_source_can_be_part_of_another_program(
    policy_file: Path, compile_c: Callable[..., Path], tmp_path: Path
) -> None:
    source = exported("c", policy_file, tmp_path / "probe.c")
    (tmp_path / "own.c").write_text(f'#define FILTER_ONLY\n#include "{source}"\nint main(void) {{ return arm(); }}\n')
    assert run([str(compile_c(tmp_path / "own.c"))]).returncode == 0


@pytest.fixture
def running() -> Iterator[Callable[[list[str], str], int]]:
    """Starts a program that waits, and gives its process id."""
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def start(command: list[str], name: str) -> int:
        process = subprocess.Popen([*command, PAUSE], stdin=subprocess.DEVNULL)
        try:
            pid = waiting(name)
        except BaseException:
            process.kill()
            process.wait(30)
            raise
        started.append((process, pid))
        return pid

    yield start
    for process, pid in started:
        os.kill(pid, signal.SIGKILL)
        process.wait(30)


@needs_root
@pytest.mark.parametrize("name", CONSUMERS)
def test_the_kernels_filter_differs_from_the_policy_as_reported(
    name: str, confine: Callable[[str], list[str]], policy_file: Path, probe: Path, running: Callable[[list[str], str], int]
) -> None:
    policy = resolved(parse_file(policy_file).policy).written()
    real = policy_of(running(confine(name), str(probe)))
    check(policy, formats.exporter(name)(policy, format_options()), real)


@pytest.mark.long
@needs_root
@pytest.mark.parametrize("sample", ["httpd", "notes", "families"])
@pytest.mark.parametrize("name", ["kafel", "firejail"])
def test_the_kernels_filter_of_a_sample(
    name: str, sample: str, probe: Path, tmp_path: Path, running: Callable[[list[str], str], int]
) -> None:
    text = re.sub(r"path .*\n", "", (ROOT / "samples" / f"{sample}.policy").read_text()) + "pause: allow\n"
    (tmp_path / "it.policy").write_text(text)
    policy = resolved(parse(text).policy).written()
    command = _command(name, exported(name, tmp_path / "it.policy", tmp_path / f"it.{name}"))
    real = policy_of(running([*command, str(probe)], str(probe)))
    check(policy, formats.exporter(name)(policy, format_options()), real)
