"""The Python of docs/agents.md is run as it stands there."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.tracer.abi import NATIVE

if TYPE_CHECKING:
    import pytest

    from callfence.asking.session import Denial

PAGE = Path(__file__).parents[3] / "docs" / "agents.md"
POLICY = f"""callfence 1
arch {NATIVE}
table 6.18
default errno EACCES
unknown errno ENOSYS
implied 1

path /usr: read, execute
path /etc: read
path /lib64: read, execute
path /dev: read, write

clone: allow
execve: allow
mmap: allow
openat: allow
"""


def block() -> str:
    """The indented block that begins with the import of Session."""
    text = PAGE.read_text()
    begin = text.index("    from callfence.asking.session import Session\n")
    lines = []
    for line in text[begin:].splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines))


def test_the_harness_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a person agrees to is granted, from the next command on; the baseline bounds it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes").write_text("notes\n")
    (tmp_path / "agent.policy").write_text(POLICY)
    (tmp_path / "limits.policy").write_text(POLICY.replace("path /dev", "path .: read\npath /dev"))
    agreed: list[Denial] = []

    def agree(denial: Denial) -> bool:
        agreed.append(denial)
        return True

    names = {"command": "cat notes", "a_person_agrees": agree, "reason": "a test"}
    code = compile(block(), "agents.md", "exec")
    exec(code, names)
    denial, *_ = agreed
    assert (denial.record["executable"], denial.lines) == ("/usr/bin/cat", ("path ./notes: read",))
    assert "would allow it: path ./notes: read" in capsys.readouterr().out
