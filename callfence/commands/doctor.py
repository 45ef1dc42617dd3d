"""`callfence doctor`: check what works on this machine, and say how to fix the rest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from callfence.shared.options import Parser
from callfence.shared.text import plural, printable
from callfence.start import __version__
from enforcer.errors import EnforceError
from policygen.values import frozen
from tracer import linux, machine, proc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SECONDS: Final = 30
"""Timeout of a probe, in seconds."""


@frozen
class CheckResult:
    """The result of one check of this machine."""

    works: bool
    what: str
    """What was checked, as one line."""
    advice: str = ""
    """How to fix it; printed if it does not work."""
    needed: bool = True
    """Whether `learn` or `enforce` cannot work without it."""


def parser() -> argparse.ArgumentParser:
    description = "Check that everything callfence needs works on this machine, for this user."
    return Parser(prog="callfence doctor", description=description)


def main(arguments: list[str]) -> int:
    """Run `doctor`.  Return 0 if everything that callfence needs works, 1 if something does not."""
    parser().parse_args(arguments)
    findings = [check() for check in CHECKS]
    for finding in findings:
        mark = "ok  " if finding.works else "FAIL" if finding.needed else "note"
        print(f"{mark}  {finding.what}")
        if not finding.works:
            print(f"      -> {finding.advice}")
    return int(any(finding.needed and not finding.works for finding in findings))


def _machine() -> CheckResult:
    name = os.uname()
    what = f"{name.sysname} {name.release} on {name.machine}, Python {sys.version.split()[0]}, callfence {__version__}"
    return CheckResult(machine.IS_KNOWN, what, f"learn and enforce need Linux on {' or '.join(machine.KNOWN)}")


def _modules() -> CheckResult:
    """Check that no other package is imported under our names, which are generic."""
    home = Path(__file__).parents[2]
    foreign = []
    for name in ("tracer", "policygen", "enforcer"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).parent.parent != home:
            foreign.append(f"{name} ({spec.origin if spec else 'missing'})")
    advice = f"imported from elsewhere: {', '.join(foreign)}; install callfence in its own environment (pipx, uv tool, a venv)"
    return CheckResult(not foreign, "the packages tracer, policygen and enforcer are callfence's", advice)


def _libseccomp() -> CheckResult:
    from policygen.filter.compile import compile_policy
    from policygen.language.document import parse
    from tracer.errors import CallfenceError

    try:
        compile_policy(parse("read: fd == 0\n").policy)
    except CallfenceError as error:
        return CheckResult(False, "libseccomp compiles policies", str(error))
    return CheckResult(True, "libseccomp compiles policies, and the filter of a test policy is proved")


def _actions() -> CheckResult:
    path = Path("/proc/sys/kernel/seccomp/actions_avail")
    try:
        available = path.read_text().split()
    except OSError:
        advice = f"{path} is missing: use a kernel with CONFIG_SECCOMP_FILTER"
        return CheckResult(False, "the kernel has seccomp filters", advice)
    missing = {"kill_process", "errno", "trace", "user_notif"} - {*available}
    advice = f"the kernel lacks {', '.join(sorted(missing))}: Linux 5.6 or newer is needed"
    return CheckResult(not missing, f"seccomp actions: {' '.join(available)}", advice)


def _ptrace_scope() -> CheckResult:
    scope = linux.yama_scope()
    advice = "for learn, an administrator must set it to 1 (sysctl kernel.yama.ptrace_scope=1); enforce works with --arm now"
    return CheckResult(scope in ("", "0", "1"), f"kernel.yama.ptrace_scope is {scope or '0 (no Yama)'}", advice)


def _surroundings() -> CheckResult:
    status = proc.fields("/proc/self")
    filtered, traced = status.get("Seccomp", "0") != "0", status.get("TracerPid", "0") != "0"
    what = f"uid {os.geteuid()}, no filter here, not traced"
    notes = []
    if filtered:
        notes.append("this process already has a seccomp filter (of a container?), which limits programs besides callfence's")
    if traced:
        notes.append("this process is traced, so programs that it starts cannot be learned, and enforce needs --arm now")
    return CheckResult(not notes, what, "; ".join(notes), needed=traced)


def _cache() -> CheckResult:
    """Check that the filters in the caches are equivalent to their policies, as far as there is time."""
    from callfence.enforcing.compile import check_cached

    count, wrong = 0, []
    end = time.monotonic() + SECONDS
    for file, policy, text in check_cached():
        count += 1
        if text and not text.startswith("not used"):
            wrong.append(f"{file} does not match its policy {printable(policy)}: {text}; remove the file")
        if time.monotonic() > end:
            wrong.append("there are too many filters to prove them all here: `callfence verify --cached` does that")
            break
    return CheckResult(not wrong, f"{plural(count, 'cached filter')}, each equivalent to its policy", "; ".join(wrong))


def _keyring() -> CheckResult:
    from callfence.enforcing import cache

    advice = "cached filters have only a checksum: a program that can write to the cache can replace them (docs/limits.md)"
    what = "the kernel's keyring holds the secret that signs the cache of filters"
    try:
        return CheckResult(cache.is_signed(), what, advice, needed=False)
    except EnforceError as error:
        return CheckResult(False, what, f"{error}; until then your cache is not used", needed=False)


def _landlock() -> CheckResult:
    from enforcer.kernel import landlock_abi
    from policygen.files.landlock import VERSIONS

    version, needed = landlock_abi(), next(row for row in VERSIONS if row[-1])
    present = f"version {version} of Landlock" if version else "no Landlock"
    advice = (
        f"enforcing all lines about files and ports needs version {needed[0]} (Linux {needed[1]}); "
        "enforce --best-effort enforces what this kernel can"
    )
    return CheckResult(version >= needed[0], f"the kernel has {present}, for files and ports", advice, needed=False)


def _learn() -> CheckResult:
    return _probe("learn", "records a program", "see the findings above; in a container, allow ptrace")


def _enforce() -> CheckResult:
    return _probe("enforce", "confines a program at its execve and explains denials", "try --quiet-kernel, or --arm now")


def _probe(command: str, what: str, advice: str) -> CheckResult:
    """Check that a command works on the program `true`, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder, "true.policy")
        policy.write_text("default allow\n")
        arguments = ["-q", "--fresh", "-o", str(policy)] if command == "learn" else ["-p", str(policy)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "callfence", command, *arguments, "true"],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return CheckResult(False, f"{command} {what}", f"{command} did not end within {SECONDS} s; {advice}")
    messages = done.stderr.strip().splitlines()
    reason = messages[-1] if messages else f"status {done.returncode}"
    return CheckResult(done.returncode == 0, f"{command} {what}", f"{reason}; {advice}")


CHECKS: Final[tuple[Callable[[], CheckResult], ...]] = (
    _machine,
    _modules,
    _libseccomp,
    _actions,
    _ptrace_scope,
    _surroundings,
    _keyring,
    _landlock,
    _cache,
    _learn,
    _enforce,
)
