"""`callfence doctor`: what works on this machine, and how to fix the rest."""

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
from tracer import linux, proc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SECONDS: Final = 30
"""Timeout of a probe."""


@frozen
class CheckResult:
    works: bool
    what: str
    advice: str = ""
    """How to fix it; shown if it does not work."""
    needed: bool = True
    """Whether learn or enforce cannot work without it."""


def parser() -> argparse.ArgumentParser:
    description = "Check that everything callfence needs works on this machine, for this user."
    return Parser(prog="callfence doctor", description=description)


def main(arguments: list[str]) -> int:
    """0: all works; 1: something that is needed does not."""
    parser().parse_args(arguments)
    findings = [check() for check in CHECKS]
    for finding in findings:
        mark = "ok  " if finding.works else "FAIL" if finding.needed else "note"
        print(f"{mark}  {finding.what}")
        if not finding.works:
            print(f"      -> {finding.advice}")
    return int(any(finding.needed and not finding.works for finding in findings))


def _machine() -> CheckResult:
    machine = os.uname()
    what = f"{machine.sysname} {machine.release} on {machine.machine}, Python {sys.version.split()[0]}, callfence {__version__}"
    works = (machine.sysname, machine.machine) == ("Linux", "x86_64")
    return CheckResult(works, what, "learn and enforce run on Linux on x86_64 only")


def _modules() -> CheckResult:
    """Our import names are generic: another package of the same name could be imported instead."""
    home = Path(__file__).parents[2]
    foreign = []
    for name in ("tracer", "policygen", "enforcer"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).parent.parent != home:
            foreign.append(f"{name} ({spec.origin if spec else 'missing'})")
    advice = f"another package has the name of {', '.join(foreign)}: install callfence by itself (pipx, uv tool, a venv)"
    return CheckResult(not foreign, "the packages tracer, policygen and enforcer are callfence's", advice)


def _libseccomp() -> CheckResult:
    from policygen.filter.compile import compile_policy
    from policygen.language.document import parse
    from tracer.errors import CallfenceError

    try:
        compile_policy(parse("read: fd == 0\n").policy)
    except CallfenceError as error:
        return CheckResult(False, "libseccomp compiles policies", str(error))
    return CheckResult(True, "libseccomp compiles policies, and what it writes is proved")


def _actions() -> CheckResult:
    path = Path("/proc/sys/kernel/seccomp/actions_avail")
    try:
        available = path.read_text().split()
    except OSError:
        return CheckResult(False, "the kernel has seccomp filters", f"{path} is missing: a kernel with CONFIG_SECCOMP_FILTER")
    missing = {"kill_process", "errno", "trace", "user_notif"} - {*available}
    advice = f"the kernel lacks {', '.join(sorted(missing))}: Linux 5.6 or newer is needed"
    return CheckResult(not missing, f"seccomp actions: {' '.join(available)}", advice)


def _ptrace_scope() -> CheckResult:
    scope = linux.yama_scope()
    advice = "enforce --arm now works without ptrace; learn needs an administrator to set it to 1"
    return CheckResult(scope in ("", "0", "1"), f"kernel.yama.ptrace_scope is {scope or '0 (no Yama)'}", advice)


def _surroundings() -> CheckResult:
    status = proc.fields("/proc/self")
    filtered, traced = status.get("Seccomp", "0") != "0", status.get("TracerPid", "0") != "0"
    what = f"uid {os.geteuid()}, no filter here, not traced"
    notes = []
    if filtered:
        notes.append("this process is under a seccomp filter already (a container's?): callfence's are added to it")
    if traced:
        notes.append("this process is traced already: what it starts can't be learned, and armed only with --arm now")
    return CheckResult(not notes, what, "; ".join(notes), needed=traced)


def _cache() -> CheckResult:
    """What `enforce` would use without compiling it."""
    from callfence.enforcing.compile import check_cached

    count, wrong = 0, []
    end = time.monotonic() + SECONDS
    for file, policy, text in check_cached():
        count += 1
        if text and not text.startswith("not used"):
            wrong.append(f"{file} is not the filter of {printable(policy)}: {text}; remove it")
        if time.monotonic() > end:
            wrong.append("there are too many to prove here: `callfence verify --cached` proves all")
            break
    return CheckResult(not wrong, f"{plural(count, 'compiled filter')} kept, each that of its policy", "; ".join(wrong))


def _keyring() -> CheckResult:
    from callfence.enforcing import cache

    advice = "its filters have a checksum only: a program that may write to the cache can replace them (docs/limits.md)"
    what = "the kernel keeps a secret that signs the cache of filters"
    try:
        return CheckResult(cache.is_signed(), what, advice, needed=False)
    except EnforceError as error:
        return CheckResult(False, what, f"{error}; until then nothing in your cache is used", needed=False)


def _landlock() -> CheckResult:
    from enforcer.kernel import landlock_abi
    from policygen.files.landlock import VERSIONS

    version, needed = landlock_abi(), next(row for row in VERSIONS if row[-1])
    known = f"Landlock's version {version}" if version else "no Landlock"
    advice = f"lines about them need version {needed[0]} (Linux {needed[1]}) to be enforced whole: enforce --best-effort"
    return CheckResult(version >= needed[0], f"the kernel has {known}, for files and ports", advice, needed=False)


def _learn() -> CheckResult:
    return _probe("learn", "records a program", "see the findings above; in a container, allow ptrace")


def _enforce() -> CheckResult:
    return _probe("enforce", "confines a program at its execve and explains denials", "try --quiet-kernel, or --arm now")


def _probe(command: str, what: str, advice: str) -> CheckResult:
    """Run the command on `true`, in a temporary folder."""
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
            return CheckResult(False, f"{command} {what}", f"it did not end within {SECONDS} s")
    said = done.stderr.strip().splitlines()
    reason = said[-1] if said else f"status {done.returncode}"
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
