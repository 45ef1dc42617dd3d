"""Named folders: how a path is written in a policy, and what it means when the program is started."""

from __future__ import annotations

import os
import re

import pytest

from callfence.policygen.files import landlock, places
from callfence.policygen.files.places import (
    Linking,
    PlaceError,
    home_of_passwd,
    located,
    named,
    of_process,
    real_path,
    without_links,
)

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
        (b"/var/lib/app/x", [b"HOME=/var/lib/app"], b"/var/lib/app/x"),
        (b"/var/tmp/home/x", [b"HOME=/var/tmp/home"], b"$HOME/x"),
        (b"/var/lib/app", [b"HOME=/var/lib/app"], b"/var/lib/app"),
        (b"/var/lib/app/.cache/x", [b"HOME=/var/lib/app"], b"$HOME/.cache/x"),
        (b"/var/home/me/x", [b"HOME=/var/home/me"], b"$HOME/x"),
        (b"/srv/home/me/x", [b"HOME=/srv/home/me"], b"$HOME/x"),
        (b"/var/tmp/home/x", [b"HOME=/var/tmp/home"], b"$HOME/x"),
    ],
)
def test_a_path_is_written_with_its_deepest_named_folder(path, environment, written):
    assert named(path, environment, b"/w") == written
    assert located(written, environment) in (path, b"." + path.removeprefix(b"/w"))


def test_a_home_below_a_link_is_a_home(tmp_path):
    """The kernel names files without links: /var/home/me/x, where HOME is /home/me."""
    (tmp_path / "var" / "me").mkdir(parents=True)
    (tmp_path / "home").symlink_to("var")
    environment = [b"HOME=%b" % bytes(tmp_path / "home" / "me")]
    for folder in ("var", "home"):
        assert named(bytes(tmp_path / folder / "me" / "x"), environment, b"/w") == b"$HOME/x"
    assert located(b"$HOME/x", environment) == bytes(tmp_path / "home" / "me" / "x")


def test_a_home_is_a_service_s_by_its_name(monkeypatch):
    """A person's may be below a link to /srv, and a service's below one to another disk."""
    for home, real in ((b"/h/me", b"/srv/me"), (b"/srv/app", b"/disk/app")):
        monkeypatch.setitem(places._REAL, home, real)
    assert named(b"/srv/me/x", [b"HOME=/h/me"], b"/w") == b"$HOME/x"
    assert named(b"/disk/app/x", [b"HOME=/srv/app"], b"/w") == b"/disk/app/x"


def test_folders_with_links_are_looked_up_once(tmp_path, monkeypatch):
    """And not once for each path."""
    folders = [bytes(tmp_path / str(number)) for number in range(3)]
    found = Linking((folder, landlock.MAKE_SYM) for folder in folders)
    monkeypatch.setattr(places, "real_path", None)
    assert without_links(folders[0] + b"/x", found) == {folders[0] + b"/x"}
    assert without_links(b"/x", found) == set()


def test_a_link_that_may_not_be_read_is_where_a_path_leads(tmp_path, monkeypatch):
    """Links in another user's folder of /proc: os.path.realpath raises PermissionError for them, before Python 3.13."""
    folder = os.path.realpath(bytes(tmp_path))
    os.symlink("/proc/1/root", folder + b"/link")

    def readlink(path, read=os.readlink):
        if path.startswith(b"/proc/1/"):
            raise PermissionError
        return read(path)

    monkeypatch.setattr(os, "readlink", readlink)
    assert real_path(folder + b"/link/etc") == real_path(b"/proc/1/root/etc") == b"/proc/1/root/etc"
    monkeypatch.chdir(tmp_path)
    assert real_path(b"link/../x") == b"/proc/1/x"
    assert real_path(b"x") == folder + b"/x"


@pytest.mark.parametrize(
    ("path", "of_another"),
    [
        ("/proc/self", "/proc/77"),
        ("/proc/self/maps", "/proc/77/maps"),
        ("/proc/selfish", "/proc/selfish"),
        ("/proc/thread-self/comm", "/proc/77/task/77/comm"),
        ("/dev/fd", "/proc/77/fd"),
        ("/dev/fd/3", "/proc/77/fd/3"),
        ("/dev/stdin", "/proc/77/fd/0"),
        ("/dev/stdout", "/proc/77/fd/1"),
        ("/dev/stderr", "/proc/77/fd/2"),
        ("/proc/%d/maps", "/proc/77/maps"),
        ("/proc/1/maps", "/proc/1/maps"),
        ("/etc/passwd", "/etc/passwd"),
        ("LINKS/self/maps", "/proc/77/maps"),
        ("LINKS/input", "/proc/77/fd/0"),
        ("LINKS/again", "/proc/77/fd/0"),
        ("LINKS/file", "LINKS/file"),
        ("LINKS/round", "LINKS/round"),
    ],
)
def test_a_path_of_another_process(path, of_another, tmp_path):
    for link, target in (("self", "/proc/self"), ("input", "/dev/stdin"), ("again", "input"), ("round", "round")):
        (tmp_path / link).symlink_to(target)
    names = {"LINKS": str(tmp_path), "%d": str(os.getpid())}
    given, expected = (os.fsencode(re.sub("LINKS|%d", lambda name: names[name[0]], text)) for text in (path, of_another))
    assert of_process(given, 77) == expected
    assert of_process(given, 0) == given


def test_a_user_of_no_passwd_has_no_home(monkeypatch):
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert home_of_passwd() == ""
    with pytest.raises(PlaceError, match="HOME is not set, and the policy has path"):
        located(b"$HOME/x", [])


def test_what_leads_nowhere():
    with pytest.raises(PlaceError, match="XDG_RUNTIME_DIR is run, which is not an absolute path"):
        located(b"$XDG_RUNTIME_DIR/x", [b"XDG_RUNTIME_DIR=run"])
    with pytest.raises(PlaceError, match="XDG_RUNTIME_DIR is /, and the policy has path"):
        located(b"$XDG_RUNTIME_DIR", [b"XDG_RUNTIME_DIR=/"])


@pytest.mark.parametrize(
    ("top", "rights"), [(b"/", 1), (b"/a/", 1), (b"/a/b/", 1 | 2), (b"/a/b/c/d/", 1 | 2 | 4), (b"/a/bc/", 1 | 8)]
)
def test_rights_on_the_folders_above_hold_in_a_folder(top, rights):
    held = {b"/": 1, b"/a/": 0, b"/a/b/": 2, b"/a/b/c/d/": 4, b"/a/bc/": 8}
    assert places._united(held, top) == rights
