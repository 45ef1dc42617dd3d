"""A change that completes a combination is a danger in the first line of every form of a comparison."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from calls import parse

from callfence.judging import formats
from callfence.judging.differences import as_text
from callfence.policygen.review.judgement import judge
from callfence.report.content import gather
from callfence.report.page import page
from tests.policygen.lint.test_catalogue import COMPLETED


@pytest.mark.parametrize("implied", ["", "implied 1\n"], ids=["exact", "implied"])
@pytest.mark.parametrize(("before", "after", "name"), COMPLETED, ids=[f"{name}-{after}" for _, after, name in COMPLETED])
def test_what_becomes_possible_is_said_first(before: list[str], after: str, name: str, implied: str) -> None:
    old, new = (parse(implied + "\n".join(lines)) for lines in (before, [*before, after]))
    judgement = judge(old, new)
    if implied and after.startswith("fcntl"):  # granted by the set: nothing changes
        assert judgement.headlines == ()
        return
    call = after.partition(":")[0]
    text = next(iter(as_text(judgement)))
    assert re.fullmatch(rf"wider: danger: {call}\b.*: it .* \[{name}\]", text)
    first = formats.as_markdown(judgement, "a.policy").splitlines()[0]
    assert first == f"**`a.policy`: wider**: **danger**: {text.partition('danger: ')[2]}."
    result = json.loads(formats.as_sarif(judgement, "-"))["runs"][0]["results"][0]
    assert (result["level"], result["ruleId"]) == ("error", name)
    shown = page(gather("a.policy", new, None, ("old.policy", old)))
    said = [html.unescape(one) for one in re.findall(r'<p class="answer">(.*?)</p>', shown)]
    grants = text.partition("danger: ")[2].partition(" [")[0]
    assert said[0] == f'<span class="badge danger">wider</span> Danger: {grants}.'


def test_many_lines_take_no_time_for_each_pair(tmp_path: Path) -> None:
    """A check on a pull request must not wait for a change that adds 20,000 lines about hosts."""
    (tmp_path / "old.policy").write_text("tcp connect h.example.org: 1\nread: allow\n")
    lines = (f"tcp connect h{number}.example.org: {number + 1}\n" for number in range(20000))
    (tmp_path / "new.policy").write_text(f"{''.join(lines)}read: allow\n")
    command = [sys.executable, "-m", "callfence", "diff", "old.policy", "new.policy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("incomparable"), done.stderr
