"""Named folders: how a path is written in a policy, and what it means when the program is started."""

from __future__ import annotations

import os

import pytest

from callfence.policygen.files.places import PlaceError, located, named

OWN = b"/run/user/%d" % os.geteuid()


@pytest.mark.parametrize(
    ("path", "environment", "written"),
    [
        (b"/h/x", [b"HOME=/h"], b"$HOME/x"),
        (b"/h/run/x", [b"HOME=/h", b"XDG_RUNTIME_DIR=/h/run"], b"$XDG_RUNTIME_DIR/x"),
        (OWN + b"/bus", [b"HOME=/h"], b"$XDG_RUNTIME_DIR/bus"),
        (OWN + b"/bus", [b"XDG_RUNTIME_DIR=/other"], OWN + b"/bus"),
        (b"/tmp/x", [], b"$TMPDIR/x"),
        (b"/tmp/x", [b"XDG_RUNTIME_DIR=/tmp"], b"$TMPDIR/x"),
        (b"/w/x", [b"XDG_RUNTIME_DIR=/w"], b"./x"),
        (b"/runner", [b"XDG_RUNTIME_DIR=/run"], b"/runner"),
    ],
)
def test_a_path_is_written_with_its_deepest_named_folder(path, environment, written):
    assert named(path, environment, b"/w") == written
    assert located(written, environment) in (path, b"." + path.removeprefix(b"/w"))


def test_what_leads_nowhere():
    with pytest.raises(PlaceError, match="XDG_RUNTIME_DIR is run, which is not an absolute path"):
        located(b"$XDG_RUNTIME_DIR/x", [b"XDG_RUNTIME_DIR=run"])
    with pytest.raises(PlaceError, match="XDG_RUNTIME_DIR is /, and the policy has path"):
        located(b"$XDG_RUNTIME_DIR", [b"XDG_RUNTIME_DIR=/"])
