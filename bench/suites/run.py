"""Learns half of the scripts of other projects' test suites into one policy each, and enforces the other half.

    run.py SOURCES RESULTS [--suite NAME] [--most N]

SOURCES has the packages' original sources, as `apt-get source --download-only` leaves them.  The installed program is run, on
the scripts that end with status 0 by themselves.  A result is a line of JSON that is added to RESULTS: suite, how many scripts
were learned, and for each held-out script the denied calls, and the status if that is not 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60
"""How long a script may take."""
MODES = {"exact": ("--exact",), "implied": (), "files": ("--files",)}
"""The options of `learn`."""
NULL = Path(os.devnull)
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Suite:
    package: str
    folder: str
    """Where the scripts are, and are run."""
    scripts: str
    """A pattern of their names."""
    command: tuple[str, ...]
    """`{}` is the script's name."""
    stdin: str = ""
    """The suffix of the file that is standard input, in the place of the script's own; /dev/null if there is none."""
    setup: str = ""
    """Shell commands run once in the folder."""
    without: tuple[str, ...] = ()
    """Scripts that are left out, because they need a person, another machine, or hours."""
    built: str = ""
    """The programs that the scripts take for built."""


COREUTILS = (
    "b2sum base32 base64 basename basenc cat chgrp chmod chown cksum comm cp csplit cut date dd df dir dircolors dirname du "
    "echo env expand expr factor false fmt fold groups head hostid id install join link ln logname ls md5sum mkdir mkfifo "
    "mknod mktemp mv nice nl nohup nproc numfmt od paste pathchk pinky pr printenv printf ptx pwd readlink realpath rm "
    "rmdir seq sha1sum sha224sum sha256sum sha384sum sha512sum shred shuf sleep sort split stat stdbuf stty sum sync tac "
    "tail tee test timeout touch tr true truncate tsort tty uname unexpand uniq unlink uptime users vdir wc who whoami yes"
)
SUITES = (
    Suite(
        "bash", "tests", "*.tests", ("bash", "./{}"),
        setup="touch ../config.h; for name in recho zecho; do cc -w -I.. -I../include -o $name ../support/$name.c; done",
    ),
    Suite("gawk", "test", "*.awk", ("gawk", "-f", "{}"), stdin=".in"),
    Suite("tcl8.6", "tests", "*.test", ("tclsh8.6", "{}"), without=("http.test", "http11.test", "thread.test", "winPipe.test")),
    Suite("perl", "t", "[bcol]*/*.t", ("perl", "{}")),
    Suite(
        "grep", "tests", "*[a-z0-9]", ("sh", "./{}"), setup="mkdir -p ../src && cp /bin/grep ../src/",
        built="grep egrep fgrep",
    ),
    Suite(
        "coreutils", ".", "tests/*/*.sh", ("bash", "-c", "exec bash ./{} 9>&2"), built=COREUTILS,
        setup="mkdir -p src; grep -lE 'require_root_|expensive_' tests/*/*.sh | xargs rm",
    ),
    Suite(
        "sed", ".", "testsuite/*.sh", ("bash", "-c", "exec bash ./{} 9>&2"), built="sed",
        setup="mkdir -p sed; grep -l require_root_ testsuite/*.sh | xargs rm -f",
    ),
    Suite(
        "zsh", "Test", "*.ztst", ("zsh", "+Z", "-f", "./ztst.zsh", "./{}"),
        setup="mkdir -p ../Src; ln -s /bin/zsh ../Src/zsh",
    ),
    Suite(
        "busybox", "testsuite", "*.tests", ("sh", "./{}"),
        setup="for name in $(busybox --list); do ln -s /bin/busybox $name; done",
    ),
    Suite("gzip", "tests", "*[a-z0-9]", ("sh", "./{}"), setup="cp /bin/gzip /bin/gunzip /bin/z* ..", without=("init.sh",)),
    Suite(
        "diffutils", "tests", "*[a-z0-9]", ("bash", "-c", "exec bash ./{} 9>&2"), without=("init.sh",),
        setup="mkdir -p ../src && cp /bin/diff /bin/cmp /bin/sdiff /bin/diff3 ../src/",
    ),
    Suite(
        "findutils", ".", "tests/*/*.sh", ("bash", "-c", "exec bash ./{} 9>&2"), built="find xargs",
        setup="mkdir -p find xargs; grep -lE 'require_root_|expensive_' tests/*/*.sh | xargs rm -f",
    ),
    Suite("patch", "tests", "*[a-z0-9]", ("bash", "./{}"), setup="mkdir -p ../src && cp /bin/patch ../src/"),
    Suite(
        "make-dfsg", "tests", "scripts/*/*",
        ("sh", "-c", "exec perl run_make_tests.pl -make /usr/bin/make \"${1#scripts/}\"", "sh", "{}"),
        setup="sed 's/@[A-Za-z_]*@//g' config-flags.pm.in >config-flags.pm",
    ),
    Suite("bc", "Test", "*.b", ("sh", "-c", "exec bc -l -q \"$1\" </dev/null", "sh", "{}")),
    Suite("gnuplot", "demo", "*.dem", ("gnuplot", "-e", "set term dumb", "{}")),
    Suite("pari", "src/test/in", "*", ("sh", "-c", "exec gp -q --test <\"$1\"", "sh", "{}")),
    Suite("nodejs", "test/parallel", "test-*.js", ("node", "{}")),
    Suite("ruby3.3", ".", "test/*/test_*.rb", ("ruby", "test/runner.rb", "-q", "{}")),
    Suite("python3.13", "Lib", "test/test_[a-z]*.py", ("/usr/bin/python3.13", "-m", "unittest", "-q", "{}")),
)  # fmt: skip


def unpacked(sources: Path, suite: Suite, folder: Path) -> Path:
    """The suite's folder of scripts, made fresh."""
    archive = min(one for one in sources.glob(f"{suite.package}_*.orig.tar.*") if one.suffix != ".asc")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="tar")
    made = min(folder.iterdir()) / suite.folder
    if suite.setup:
        subprocess.run(["sh", "-c", suite.setup], cwd=made, check=False)
    return made


def run(suite: Suite, folder: Path, script: str, *prefix: str | Path) -> int | None:
    """The exit status, or None if it had to be ended."""
    words = [*map(str, prefix), *(word.replace("{}", script) for word in suite.command)]
    given = folder / (script.rpartition(".")[0] + suite.stdin) if suite.stdin else NULL
    top = str(folder.parent)
    environment = {
        "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": str(folder), "TMPDIR": "/tmp",
        "THIS_SH": "bash", "srcdir": ".", "abs_srcdir": str(folder), "top_srcdir": top, "abs_top_srcdir": top,
        "abs_top_builddir": top, "built_programs": suite.built,
    }  # fmt: skip
    with open(given if given.is_file() else NULL, "rb") as stdin:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(suite: Suite, folder: Path, most: int, mode: str) -> dict[str, object]:
    scripts = sorted(str(one.relative_to(folder)) for one in folder.glob(suite.scripts) if one.is_file())
    scripts = [one for one in scripts if one not in suite.without]
    works = [one for one in scripts[:: max(1, len(scripts) // most)] if run(suite, folder, one) == 0]
    policy, log = folder / "suite.policy", folder / "suite.log"
    for script in works[::2]:
        run(suite, folder, script, BIN / "learn", "-q", *MODES[mode], "-o", policy, "--")
    held_out = {}
    for script in works[1::2]:
        log.write_text("")
        status = run(suite, folder, script, BIN / "enforce", "-p", policy, "--log", log, "--")
        denied = [json.loads(line)["call"] for line in log.read_text().splitlines() if '"call"' in line]
        held_out[script] = {"denied": denied, "status": status}
    return {"suite": suite.package, "mode": mode, "learned": len(works[::2]), "held out": held_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--suite", action="append", choices=[suite.package for suite in SUITES])
    parser.add_argument("--mode", action="append", choices=[*MODES])
    parser.add_argument("--most", type=int, default=100, help="scripts of each suite")
    options = parser.parse_args()
    with options.results.open("a") as results:
        for suite in SUITES:
            for mode in options.mode or MODES:
                if options.suite and suite.package not in options.suite:
                    continue
                with tempfile.TemporaryDirectory(prefix="callfence-suites-") as scratch:
                    row = measure(suite, unpacked(options.sources, suite, Path(scratch)), options.most, mode)
                results.write(json.dumps(row) + "\n")
                results.flush()
                print(f"{suite.package}, {mode}: {row['learned']} learned, {len(row['held out'])} held out", file=sys.stderr)


if __name__ == "__main__":
    main()
