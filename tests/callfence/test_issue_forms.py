"""The issue forms: valid for GitHub, and true of the commands that they name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.long

FORMS = Path(__file__).resolve().parents[2] / ".github" / "ISSUE_TEMPLATE"
CONFIG = FORMS / "config.yml"
NAMES = sorted(form.name for form in FORMS.iterdir() if form != CONFIG)


def valid(schema: str, *files: Path) -> bool:
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run([checker, "--builtin-schema", schema, *files], capture_output=True, text=True, check=False)
    return done.returncode == 0


def test_github_accepts_them() -> None:
    assert valid("vendor.github-issue-forms", *(FORMS / name for name in NAMES))
    assert valid("vendor.github-issue-config", CONFIG)


def test_the_schema_refuses_what_github_would(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text((FORMS / NAMES[0]).read_text().replace("type: textarea", "type: novel"))
    assert not valid("vendor.github-issue-forms", broken)


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_files_that_they_name_exist(name: str) -> None:
    text = (FORMS / name).read_text()
    form = yaml.safe_load(text)
    fields = [part["id"] for part in form["body"] if "id" in part]
    assert len(fields) == len(set(fields)) > 0
    helped = subprocess.run([sys.executable, "-m", "callfence", "doctor", "--help"], capture_output=True, text=True, check=True)
    for option in re.findall(r"--(?:report|attach|mask)\b", text):
        assert option in helped.stdout
    for page in re.findall(r"\b[A-Z]+\.md\b", text):
        assert (FORMS.parents[1] / page).exists()
