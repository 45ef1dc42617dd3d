"""Whose a file is, by its path."""

from __future__ import annotations

import pytest

from callfence.lake.identity import Identity, layout, policy_name
from callfence.tracer.errors import UserError


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("{host}/*", "web1/srv/.callfence/app.rec", Identity("web1")),
        ("{host}/*", "app.rec", Identity()),
        ("{host}/{version}/*", "web1/1.2/app.log", Identity("web1", "1.2")),
        ("*/{policy}-{version}/{host}.rec", "x/app-2/pod.rec", Identity("pod", "2", "app")),
        ("a.b/{host}", "axb/web1/app.rec", Identity()),
        ("{host}", "/web1/app.rec", Identity()),
    ],
)
def test_layouts(pattern: str, path: str, expected: Identity) -> None:
    assert layout(pattern)(path) == expected


@pytest.mark.parametrize("pattern", ["{node}", "{host}/{host}", "{host", "}", "{}"])
def test_a_wrong_layout_is_an_error(pattern: str) -> None:
    with pytest.raises(UserError, match="--layout"):
        layout(pattern)


def test_what_is_given_comes_first() -> None:
    assert Identity("web1").over(Identity("web2", "1", "app")) == Identity("web1", "1", "app")


def test_names_of_policies() -> None:
    assert [policy_name(path) for path in ("/etc/app.policy", "x/.callfence/app.rec", "app")] == ["app"] * 3
