"""Compiled filters kept between runs: used only if nothing they were made from has changed, ignored if anything is off."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from callfence.enforcing import cache

POLICY = "default errno EACCES\nwrite: allow\nexit_group: allow\n"
WIDER = POLICY + "getppid: allow\n"


@pytest.fixture
def cached(place, tmp_path):
    """(place, the cache's folder, compiles): compiles(*arguments) tells whether that run imports the compiler."""
    place.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    place.policy(POLICY)
    target = place.calls()
    plain = place.command
    timed = (sys.executable, "-X", "importtime", *plain[1:])

    def compiles(*arguments, denied=True):
        place.command = timed
        done = place.enforce(*arguments, target, "getppid")
        place.command = plain
        assert (done.stdout == "-13\n") == denied
        before = done.stderr.split("enforce: denied")[0]
        return "callfence.policygen.filter.compile" in before

    return place, tmp_path / "cache" / "callfence", compiles


def test_a_second_start_imports_no_compiler(cached):
    _, folder, compiles = cached
    assert compiles()
    assert not compiles()
    assert (folder.stat().st_mode & 0o777, [file.stat().st_mode & 0o777 for file in folder.iterdir()]) == (0o700, [0o600])


def test_it_keeps_the_newest_filters(cached):
    _, folder, compiles = cached
    folder.mkdir(0o700, parents=True)
    for number in range(1200):
        old = folder / f"{number}.filter"
        old.touch()
        os.utime(old, (number, number))
    assert compiles()
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 1000 and "200.filter" not in left and "201.filter" in left
    assert not compiles()


@pytest.mark.parametrize(
    ("module", "words"),
    [("callfence.enforcing.command", ()), ("callfence.cli", ("enforce",))],
    ids=["enforce", "callfence enforce"],
)
def test_a_start_imports_nothing_heavy(cached, module, words):
    place, _, compiles = cached
    compiles()
    script = STANDALONE.format(module=module, words=[*words])
    place.command = (sys.executable, "-I", "-S", "-X", "importtime", "-c", script, *sys.path)
    done = place.enforce("--", place.calls())
    assert done.returncode == 9, done.stderr
    for module in HEAVY:
        assert f"| {module}\n" not in done.stderr.replace("|   ", "| ").replace("  ", ""), module


HEAVY = (
    "dataclasses", "enum", "typing", "re", "argparse", "signal", "hashlib", "pathlib", "rich", "pyseccomp", "functools",
    "collections",
)  # fmt: skip


@pytest.mark.parametrize(
    ("imported", "heavy"),
    [
        (("duty", "reporting.peers", "hosts.granted", "hosts.names.known", "files.paths"), HEAVY),
        (("hosts.mediator",), ("dataclasses", "typing", "re", "pathlib", "socket", "subprocess")),
    ],
    ids=["before the program", "before its first connection"],
)
def test_nor_does_one_with_lines_about_files_and_hosts(imported, heavy):
    imports = "; ".join(f"import callfence.enforcer.{name}" for name in imported)
    script = f"import sys; sys.path[:0] = sys.argv[1:]; import callfence.enforcing.command; {imports}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, *sys.path], capture_output=True, text=True, check=True)
    assert {*heavy}.isdisjoint(done.stdout.split())


STANDALONE = """
import sys
place = sys.argv.index("--")
sys.path[:0] = sys.argv[1:place]
from {module} import main
sys.exit(main({words} + sys.argv[place + 1:]))
"""


def test_what_makes_the_programs_calls_is_imported_before_the_first(place):
    """A program that does something else before need not wait for that."""
    place.policy("default allow\ntcp connect 127.0.0.1: 80\nunix connect: none\n")
    place.command = (sys.executable, "-X", "importtime", *place.command[1:])
    program = place.start("-p", "calls.policy", "sh", "-c", "echo up; read word")
    imported = "callfence.enforcer.hosts.mediator"
    assert any(imported in line for line in program.stderr), "the program has ended before"
    assert program.communicate("word\n")[0] == "up\n"


def test_a_change_of_the_policy_counts(cached):
    place, folder, compiles = cached
    compiles()
    place.policy(WIDER)
    assert compiles(denied=False)
    assert not compiles(denied=False)
    assert len(list(folder.iterdir())) == 1, "the cache does not grow with changes"


def test_a_change_of_an_included_file_counts(cached):
    place, _, compiles = cached
    place.policy("default errno EACCES\ninclude more.policy\n")
    place.policy(POLICY.replace("default errno EACCES\n", ""), "more.policy")
    assert compiles()
    assert not compiles()
    place.policy(WIDER.replace("default errno EACCES\n", ""), "more.policy")
    assert compiles(denied=False)


def test_two_policies_with_the_same_text_and_other_includes(cached):
    place, _, compiles = cached
    for folder, text in (("a", POLICY), ("b", WIDER)):
        (place.folder / folder).mkdir()
        place.policy("default errno EACCES\ninclude more.policy\n", f"{folder}/x.policy")
        place.policy(text.replace("default errno EACCES\n", ""), f"{folder}/more.policy")
    for _ in range(2):
        compiles("-p", "a/x.policy")
        compiles("-p", "b/x.policy", denied=False)


def test_filters_with_and_without_reports_are_kept_apart(cached):
    _, folder, compiles = cached
    assert compiles()
    assert compiles("--quiet-kernel")
    assert not compiles("--quiet-kernel")
    assert not compiles()
    assert len(list(folder.iterdir())) == 2


def wider_entry(cached):
    """The content of a cache file for the same policy file when it allowed more."""
    place, folder, compiles = cached
    place.policy(WIDER)
    compiles(denied=False)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    place.policy(POLICY)
    compiles()
    return file, content


@pytest.mark.long
def test_damage_is_noticed_and_repaired(cached):
    _, folder, compiles = cached
    compiles()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for length in (0, 19, 23, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert compiles()
        assert not compiles()
    for place in (0, 19, 23, 27, len(whole) // 3, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert compiles()
    assert not compiles()


def test_what_a_killed_start_has_left_does_not_keep_the_next_one_from_writing(tmp_path, monkeypatch):
    """In a container both may have the same id."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = cache._own(create=True)
    (tmp_path / "callfence" / f"a.filter.{os.getpid()}").touch()
    place.write("a.filter", b"filter")
    os.close(place.descriptor)
    assert (tmp_path / "callfence" / "a.filter").read_bytes() == b"filter"


def test_a_filter_of_another_policy_is_not_used(cached):
    _, _, compiles = cached
    file, content = wider_entry(cached)
    file.write_bytes(content)
    assert compiles()


def spoil_mode(file):
    file.chmod(0o620)


def spoil_folder_mode(file):
    file.parent.chmod(0o777)


def spoil_link(file):
    file.rename(file.with_suffix(".other"))
    file.symlink_to(file.with_suffix(".other"))


def spoil_folder_link(file):
    file.parent.rename(file.parent.with_suffix(".other"))
    file.parent.symlink_to(file.parent.with_suffix(".other"))


def spoil_owner(file):
    os.chown(file, 65534, 65534)


def spoil_folder_owner(file):
    os.chown(file.parent, 65534, 65534)


def spoil_kind(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "spoil",
    [spoil_mode, spoil_folder_mode, spoil_link, spoil_folder_link, spoil_owner, spoil_folder_owner, spoil_kind],
)
def test_what_others_could_have_written_is_not_used(spoil, cached):
    _, folder, compiles = cached
    if os.getuid() != 0 and spoil in (spoil_owner, spoil_folder_owner):
        pytest.skip("needs root to give files away")
    compiles()
    (file,) = folder.iterdir()
    spoil(file)
    assert compiles()


@pytest.mark.parametrize("variables", [{"XDG_CACHE_HOME": "/proc/nowhere"}, {"XDG_CACHE_HOME": "", "HOME": ""}])
def test_no_cache_is_no_error(variables, cached):
    place, _, compiles = cached
    place.environment |= variables
    assert compiles()
    assert compiles()


def test_without_a_variable_the_home_is_that_of_the_user(monkeypatch):
    """Services of the system have none."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    assert cache.folder() == f"{pwd.getpwuid(os.geteuid()).pw_dir}/.cache/callfence"
    monkeypatch.setenv("HOME", "")
    assert cache.folder() == ""


def test_a_home_that_is_missing_is_not_made(cached, tmp_path):
    place, _, compiles = cached
    place.environment |= {"XDG_CACHE_HOME": "", "HOME": str(tmp_path / "nonexistent")}
    assert compiles()
    assert not (tmp_path / "nonexistent").exists()
