"""`callfence doctor`: check what works on this machine, and say how to fix the rest."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from callfence import start
from callfence.enforcer.errors import EnforceError
from callfence.policygen.values import frozen
from callfence.shared.options import Parser
from callfence.shared.text import plural, printable
from callfence.tracer import linux, machine, proc

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
    names_files: bool = False
    """Whether the advice has names of files, which a report for others leaves out."""


def parser() -> argparse.ArgumentParser:
    description = "Check that everything callfence needs works on this machine, for this user."
    parser = Parser(prog="callfence doctor", description=description)
    what = "print a report in Markdown for an issue: versions, this system, and the checks; without names, paths and secrets"
    parser.add_argument("--report", action="store_true", help=what)
    what = "add a policy or a log of enforce to the report, without what looks like a secret; may be given several times"
    parser.add_argument("--attach", metavar="FILE", action="append", default=[], help=what)
    what = "mask every word of attached files that may be a path, a host, a user, an argument's value or a comment"
    parser.add_argument("--mask", action="store_true", help=what)
    return parser


def main(arguments: list[str]) -> int:
    """Run `doctor`.  Return 0 if everything that callfence needs works, 1 if something does not, 2 for a file that cannot be
    attached."""
    command = parser()
    options = command.parse_args(arguments)
    if (options.attach or options.mask) and not options.report:
        command.error("--attach and --mask are for --report")
    if options.mask and not options.attach:
        command.error("--mask is about attached files: name one by --attach")
    if options.report:
        from callfence.shared.inputs import run_command

        return run_command("doctor", lambda: _report(options))
    findings = _findings()
    for line in _lines(findings):
        print(line)
    return _status(findings)


def _report(options: argparse.Namespace) -> int:
    from callfence.diagnosing.report import report

    findings = _findings()
    lines = [line for finding in findings for line in _lines([finding], advises=not finding.names_files)]
    print(report(lines, options.attach, masks=options.mask), end="")
    return _status(findings)


def _findings() -> list[CheckResult]:
    return [*(check() for check in CHECKS), *_features()]


def _status(findings: Sequence[CheckResult]) -> int:
    return int(any(finding.needed and not finding.works for finding in findings))


def _lines(findings: Sequence[CheckResult], *, advises: bool = True) -> Iterator[str]:
    for finding in findings:
        mark = "ok  " if finding.works else "FAIL" if finding.needed else "note"
        yield f"{mark}  {finding.what}"
        if not finding.works:
            yield f"      -> {finding.advice if advises else 'the report leaves out the names of files'}"


def _machine() -> CheckResult:
    name = os.uname()
    what = f"{name.sysname} {name.release} on {name.machine}, Python {sys.version.split()[0]}, callfence {start.__version__}"
    return CheckResult(machine.IS_KNOWN, what, f"learn and enforce need Linux on {' or '.join(machine.KNOWN)}")


def _libseccomp() -> CheckResult:
    from callfence.policygen.filter.compile import compile_policy
    from callfence.policygen.language.document import parse
    from callfence.tracer.errors import CallfenceError

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
    advice = f"the kernel lacks {', '.join(sorted(missing))}: Linux 5.9 or newer is needed"
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
    what = f"{plural(count, 'cached filter')}, each equivalent to its policy"
    return CheckResult(not wrong, what, "; ".join(wrong), names_files=True)


def _keyring() -> CheckResult:
    from callfence.enforcing import cache

    advice = "cached filters have only a checksum: a program that can write to the cache can replace them (docs/limits.md)"
    what = "the kernel's keyring holds the secret that signs the cache of filters"
    try:
        return CheckResult(cache.is_signed(), what, advice, needed=False)
    except EnforceError as error:
        return CheckResult(False, what, f"{error}; until then your cache is not used", needed=False)


def _features() -> list[CheckResult]:
    """Check for each feature that depends on the version of Linux whether this kernel has it."""
    from callfence.diagnosing.kernels import FEATURES, is_there, sentence

    results = []
    for feature in FEATURES:
        what = "{} (Linux {}.{})".format(feature.name, *feature.since)
        results.append(CheckResult(is_there(feature), what, sentence(feature), needed=False))
    return results


def _hosts() -> CheckResult:
    """Check whether `enforce` can make calls for programs of this user, which lines about hosts need (docs/hosts.md)."""
    from callfence.enforcer.hosts.granted import problem

    text = problem()
    what = "enforce takes lines about hosts and unix sockets from this user"
    return CheckResult(not text, what, f"a policy with such lines is refused: {text}", needed=False)


def _probe(command: str, what: str, advice: str) -> CheckResult:
    """Check that a command works on the program `true`, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder, "true.policy")
        policy.write_text("default allow\n")
        arguments = ["-q", "--fresh", "-o", str(policy)] if command == "learn" else ["-p", str(policy)]
        try:
            done = subprocess.run(
                start.command(command, *arguments, "true"),
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
    _libseccomp,
    _actions,
    _ptrace_scope,
    _surroundings,
    _keyring,
    _cache,
    partial(_probe, "learn", "records a program", "see the findings above; in a container, allow ptrace"),
    partial(_probe, "enforce", "confines a program at its execve and explains denials", "try --quiet-kernel, or --arm now"),
    _hosts,
)
