"""`callfence git-setup`: make git compare and merge policies by meaning."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from callfence import start
from callfence.policygen.recording import atomic
from callfence.shared.inputs import message
from callfence.shared.options import Parser

DESCRIPTION = """\
Set up the git repository of the current folder: `git diff` then shows what a policy newly allows, and git merges policies by
meaning, recordings by run, and NAME.evidence by taking the lines of both sides.  This adds lines to .gitattributes, for you
to commit, and commands to the configuration of this clone; run it in every clone.  Running it again changes nothing."""

ATTRIBUTES: Final = (
    "*.policy diff=callfence merge=callfence",
    "*.evidence merge=union linguist-generated",
    "**/.callfence/*.rec -diff merge=callfence linguist-generated",
)


def parser() -> argparse.ArgumentParser:
    return Parser(prog="callfence git-setup", description=DESCRIPTION)


def main(arguments: list[str]) -> int:
    """Run `git-setup`.  Return 0, or 2 if the current folder is in no git repository or a file cannot be written."""
    parser().parse_args(arguments)
    try:
        top = Path(_git("rev-parse", "--show-toplevel").removesuffix("\n"))
        for name, value in _settings().items():
            _git("config", "--local", name, value)
            print(f"git config {name} {shlex.quote(value)}")
        added = _add_attributes(top / ".gitattributes")
    except subprocess.CalledProcessError as error:
        print(f"callfence git-setup: {error.stderr.strip()}", file=sys.stderr)
        return 2
    except OSError as error:
        print(message("git-setup", error) + ("; install git" if error.filename == "git" else ""), file=sys.stderr)
        return 2
    for line in added:
        print(f".gitattributes: {line}")
    print(f"{'commit .gitattributes; ' if added else ''}done")
    return 0


def _settings() -> dict[str, str]:
    ours = "callfence" if shutil.which("callfence") else shlex.join(start.command())
    # Called with: path, old file, its hash, its mode, new file ... (git(1), GIT_EXTERNAL_DIFF).  A version that is no
    # policy, or one whose includes are not beside it in git's temporary folder, is shown by lines.
    # Names are arguments, after `--`: one may begin with `-`, or have control characters.
    script = (
        'printf "policy %s\\n" "$(printf %s "$1" | tr -d "[:cntrl:]")"; '
        f'{ours} diff -- "$2" "$5" 2>/dev/null || diff -u -- "$2" "$5" || :'
    )
    return {
        "diff.callfence.command": f"sh -c {shlex.quote(script)} --",
        "merge.callfence.name": "policies by meaning, recordings by run",
        "merge.callfence.driver": f"{ours} merge --driver -- %O %A %B %P",
    }


def _add_attributes(path: Path) -> list[str]:
    """Add the lines that a .gitattributes file lacks, and return them.  Raises OSError."""
    text = path.read_text() if path.exists() else ""
    missing = [line for line in ATTRIBUTES if line not in text.splitlines()]
    if missing:
        start = text if text.endswith("\n") or not text else f"{text}\n"
        atomic.write(path, "\n".join([start.removesuffix("\n"), *missing, ""]).lstrip("\n").encode())
    return missing


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout
