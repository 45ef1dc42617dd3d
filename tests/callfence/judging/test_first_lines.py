"""A change that completes a combination is a danger in the first line of every form of a comparison."""

from __future__ import annotations

import html
import json
import re

import pytest
from calls import parse

from callfence.judging import formats
from callfence.judging.differences import as_text
from callfence.policygen.review.judgement import Headline, judge
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


def test_many_lines_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a pull request must not wait for a change that adds thousands of lines about hosts."""
    compared, equal = [0], Headline.__eq__

    def counting(one: Headline, other: object) -> bool:
        compared[0] += 1
        return equal(one, other)

    many = "".join(f"tcp connect h{number}.example.org: {number + 1}\n" for number in range(500))
    judgement = judge(parse("tcp connect h.example.org: 1\nread: allow\n"), parse(f"{many}read: allow\n"))
    assert len(judgement.headlines) >= 500
    monkeypatch.setattr(Headline, "__eq__", counting)
    assert len([*as_text(judgement)]) > 500
    assert compared[0] < 5 * 500
