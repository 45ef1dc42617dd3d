"""`callfence merge`, alone and as git's merge driver: scripted merges, judged by what the result means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from needed import require

from callfence.policygen.filter.symbolic import decisions
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Recording, Run
from callfence.policygen.sets.region import space

CALLFENCE = [sys.executable, "-m", "callfence"]
BASE = """\
# the base
read: fd == 0
   || fd == 1
mmap: prot == PROT_READ && flags in MAP_PRIVATE|MAP_FIXED
write: allow                   # output
close: allow
"""


def callfence(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CALLFENCE, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with the driver set up, and the base committed as p.policy."""
    git(tmp_path, "init", "-q", "-b", "main")
    done = callfence(tmp_path, "git-setup")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-4:] == [
        ".gitattributes: *.policy diff=callfence merge=callfence",
        ".gitattributes: *.evidence merge=union linguist-generated",
        ".gitattributes: **/.callfence/*.rec -diff merge=callfence linguist-generated",
        "commit .gitattributes; done",
    ]
    (tmp_path / "p.policy").write_text(parse(BASE).text())
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    require("git")
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=check
    )


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def merged(folder: Path, ours: str, theirs: str) -> subprocess.CompletedProcess[str]:
    """Merge a branch that has changed the base to `theirs` into one that has changed it to `ours`."""
    git(folder, "checkout", "-q", "-b", "theirs")
    (folder / "p.policy").write_text(theirs)
    commit(folder)
    git(folder, "checkout", "-q", "main")
    (folder / "p.policy").write_text(ours)
    commit(folder)
    return git(folder, "merge", "-q", "theirs", check=False)


def same(a: str, b: str) -> bool:
    sets = space()
    return sets.difference(decisions(sets, resolved(parse(a).policy)), decisions(sets, resolved(parse(b).policy))) is None


READ = "read: fd == 0\n   || fd == 1\n"
MMAP = "mmap: prot == PROT_READ && flags in MAP_PRIVATE|MAP_FIXED\n"
CLEAN = {
    "each widens another call": (
        (READ, READ + "   || fd == 7\n"),
        (MMAP, MMAP + "  || prot == PROT_NONE\n"),
        BASE.replace(READ, READ + "   || fd == 7\n").replace(MMAP, MMAP + "  || prot == PROT_NONE\n"),
    ),
    "both widen one call": (
        (READ, READ + "   || fd == 7\n"),
        (READ, READ + "   || fd == 8\n"),
        BASE.replace(READ, "read: fd in {0, 1, 7, 8}\n"),
    ),
    "both add calls": (
        ("close: allow\n", "close: allow\nfsync: allow\n"),
        ("close: allow\n", "close: allow\nfdatasync: allow\n"),
        BASE + "fsync: allow\nfdatasync: allow\n",
    ),
    "one widens, one narrows": (
        (READ, READ + "   || fd == 7\n"),
        (READ, "read: fd == 1\n"),
        BASE.replace(READ, "read: fd in {1, 7}\n"),
    ),
    "both widen the same rule": (
        ("MAP_PRIVATE|MAP_FIXED", "MAP_PRIVATE|MAP_FIXED|MAP_STACK"),
        ("MAP_PRIVATE|MAP_FIXED", "MAP_PRIVATE|MAP_FIXED|MAP_NORESERVE"),
        BASE.replace(
            MMAP,
            "mmap: prot == PROT_READ && (flags in MAP_PRIVATE|MAP_FIXED|MAP_STACK"
            " || flags in MAP_PRIVATE|MAP_FIXED|MAP_NORESERVE)\n",
        ),
    ),
    "both narrow the same rule": (
        ("MAP_PRIVATE|MAP_FIXED", "MAP_PRIVATE"),
        ("MAP_PRIVATE|MAP_FIXED", "MAP_FIXED"),
        BASE.replace("flags in MAP_PRIVATE|MAP_FIXED", "flags == 0"),
    ),
    "one removes a call, one widens another": (
        ("write: allow                   # output\n", ""),
        (READ, READ + "   || fd == 7\n"),
        BASE.replace("write: allow                   # output\n", "").replace(READ, READ + "   || fd == 7\n"),
    ),
    "one changes a setting, one a call": (
        ("# the base\n", "# the base\ndefault errno EPERM\n"),
        (READ, READ + "   || fd == 7\n"),
        "default errno EPERM\n" + BASE.replace(READ, READ + "   || fd == 7\n"),
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "expected"), CLEAN.values(), ids=CLEAN)
def test_what_does_not_contradict_merges(
    repository: Path, ours: tuple[str, str], theirs: tuple[str, str], expected: str
) -> None:
    texts = [BASE.replace(*change) for change in (ours, theirs)]
    assert BASE not in texts
    done = merged(repository, *texts)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (repository / "p.policy").read_text()
    assert same(text, expected), text
    assert text == parse(text).text()
    assert ("# output" in text) is all("# output" in one for one in texts)


CONFLICTS = {
    "one widens what the other narrows": (
        ("MAP_PRIVATE|MAP_FIXED", "MAP_PRIVATE|MAP_FIXED|MAP_STACK"),
        ("MAP_PRIVATE|MAP_FIXED", "MAP_PRIVATE"),
        "mmap",
    ),
    "two ways to refuse": (("close: allow", "close: errno EPERM"), ("close: allow", "close: errno EACCES"), "close"),
    "two defaults": (("# the base", "default errno EPERM"), ("# the base", "default errno EACCES"), "default"),
}


@pytest.mark.parametrize(("ours", "theirs", "name"), CONFLICTS.values(), ids=CONFLICTS)
def test_meanings_that_contradict_are_a_conflict(
    repository: Path, ours: tuple[str, str], theirs: tuple[str, str], name: str
) -> None:
    """With everything else merged; what stands between the markers is each side's own."""
    texts = [BASE.replace(*change) for change in (ours, theirs)]
    texts[1] += "fsync: allow\n"
    done = merged(repository, *texts)
    assert done.returncode == 1
    text = (repository / "p.policy").read_text()
    assert text.count("<<<<<<< ours\n") == text.count("=======\n") == text.count(">>>>>>> theirs\n") == 1
    assert "fsync: allow\n" in text
    assert f"p.policy: conflict in {name}: " in done.stderr
    lines = text.splitlines()
    sides: list[list[str]] = []
    for start, end in (("<<<<<<< ours", "||||||| base"), ("=======", ">>>>>>> theirs")):
        chosen = lines[lines.index(start) + 1 : lines.index(end)]
        assert chosen[0].startswith(name)
        rest = lines[: lines.index("<<<<<<< ours")] + chosen + lines[lines.index(">>>>>>> theirs") + 1 :]
        sides.append(rest)
    assert same("\n".join(sides[0]), texts[0] + "fsync: allow\n")
    assert same("\n".join(sides[1]), texts[1])


def test_what_cannot_be_read_is_merged_by_lines(repository: Path) -> None:
    done = merged(repository, BASE + "this is no policy\n", BASE.replace("close: allow", "close: fd == 3"))
    assert done.returncode == 1
    assert "callfence merge: p.policy: a version cannot be parsed, so lines are merged, not meanings: check the" in done.stderr
    assert "this is no policy" in (repository / "p.policy").read_text()


def test_git_shows_what_is_new(repository: Path) -> None:
    (repository / "p.policy").write_text(BASE + "fsync: allow\n")
    shown = git(repository, "diff").stdout
    assert "policy p.policy\n" in shown
    assert "grants nothing beyond the rest (1 call): fsync" in shown
    assert "close" not in shown
    (repository / "p.policy").write_text("this is no policy\n")
    assert "+this is no policy" in git(repository, "diff").stdout


def test_setting_up_again_changes_nothing(repository: Path) -> None:
    files = [repository / ".gitattributes", repository / ".git" / "config"]
    before = [file.read_bytes() for file in files]
    done = callfence(repository, "git-setup")
    assert (done.returncode, done.stdout.splitlines()[-1], ".gitattributes" in done.stdout) == (0, "done", False)
    assert [file.read_bytes() for file in files] == before


def test_policies_are_united_with_their_comments(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: fd == 0  # input\nclose: allow\n")
    (tmp_path / "b.policy").write_text("read: fd == 3  # the log\nclose: fd == 3\nwrite: allow  # all\n")
    done = callfence(tmp_path, "merge", "-o", "out.policy", "a.policy", "b.policy")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.policy").read_text()
    assert same(text, "read: fd in {0, 3}\nclose: allow\nwrite: allow\n")
    assert all(comment in text for comment in ("# input", "# the log", "# all"))
    done = callfence(tmp_path, "merge", "-o", "-", "a.policy", "b.policy")
    assert (done.returncode, done.stdout, done.stderr, (tmp_path / "-").exists()) == (0, text, "", False)


@pytest.mark.parametrize(
    ("other", "said"),
    [("default errno EPERM\nread: allow\n", "default errno EPERM"), ("read: allow else errno EPERM", "deny")],
)
def test_policies_that_have_no_union_are_told(tmp_path: Path, other: str, said: str) -> None:
    other = other.replace("allow else", "fd == 1 else")
    (tmp_path / "a.policy").write_text("read: fd == 0 else errno EACCES\n")
    (tmp_path / "b.policy").write_text(other)
    done = callfence(tmp_path, "merge", "-o", "out.policy", ".")
    assert (done.returncode, "b.policy" in done.stderr, said in done.stderr) == (2, True, True), done.stderr
    assert not (tmp_path / "out.policy").exists()


def test_recordings_fold_in_any_order(tmp_path: Path) -> None:
    for index in range(3):
        run = Run(f"{index}", index, ("x",), 0, True)
        shard = tmp_path / f"shard{index}" / ".callfence"
        shard.mkdir(parents=True)
        recording_file.save(shard / "x.rec", Recording((run,)))
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1, 2))):
        done = callfence(tmp_path, "merge", "-o", f"{name}.rec", *(f"shard{index}" for index in order))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.rec").read_bytes() == (tmp_path / "b.rec").read_bytes()
    assert [run.id for run in recording_file.load(tmp_path / "a.rec").runs] == ["0", "1", "2"]


def test_recordings_of_two_branches_merge(repository: Path) -> None:
    path = repository / ".callfence" / "x.rec"
    path.parent.mkdir()
    runs = [Run(f"{index}", index, ("x",), 0, True) for index in range(3)]
    recording_file.save(path, Recording((runs[0],)))
    commit(repository)
    git(repository, "checkout", "-q", "-b", "theirs")
    recording_file.save(path, Recording((runs[0], runs[2])))
    commit(repository)
    git(repository, "checkout", "-q", "main")
    recording_file.save(path, Recording((runs[0], runs[1])))
    commit(repository)
    git(repository, "merge", "-q", "theirs")
    assert recording_file.load(path).runs == tuple(runs)


def test_sets_compared_here_do_differ() -> None:
    """`same` would be of no use if it found everything equal."""
    assert not same(BASE, BASE.replace("fd == 1", "fd == 2"))


def test_recordings_are_not_merged_into_a_policy(tmp_path: Path) -> None:
    for name in ("a.rec", "b.rec"):
        recording_file.save(tmp_path / name, Recording((Run(name, 1, (), 0, True),)))
    done = callfence(tmp_path, "merge", "-o", "out.policy", "a.rec", "b.rec")
    assert done.returncode == 2
    assert "a.rec is a recording, and cannot be merged into a policy: use -o NAME.rec" in done.stderr
    assert not (tmp_path / "out.policy").exists()


@pytest.mark.parametrize("name", ["-o.policy", "a b'c.policy", "$(touch ran).policy"])
def test_any_name_can_be_compared_and_merged(repository: Path, name: str) -> None:
    (repository / name).write_text(parse(BASE).text())
    commit(repository)
    git(repository, "checkout", "-q", "-b", "theirs")
    (repository / name).write_text(parse(BASE + "fsync: allow\n").text())
    commit(repository)
    git(repository, "checkout", "-q", "main")
    (repository / name).write_text(parse(BASE + "fdatasync: allow\n").text())
    shown = git(repository, "diff").stdout
    assert f"policy {name}\n" in shown
    assert "+ grants nothing beyond the rest (1 call): fdatasync" in shown
    commit(repository)
    git(repository, "merge", "-q", "theirs")
    text = (repository / name).read_text()
    assert "fsync: allow" in text
    assert "fdatasync: allow" in text
    assert not (repository / "ran").exists()


def test_the_folder_of_the_output_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: allow\n")
    command = [sys.executable, "-m", "callfence", "merge", "-o", "new/folder/b.policy", "a.policy"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    assert "read: allow" in (tmp_path / "new/folder/b.policy").read_text()


@pytest.mark.parametrize(
    ("ours", "theirs", "lines", "said"),
    [
        ("a: write, execute, move|b: write, execute, move", "a: write, move|b: write, move|c: write, move",
         "a: write, execute, move|b: write, execute, move|c: write, execute, move", "path ./c: execute: more than either side"),
        ("a: write, execute, move|b: write, move", "a: write, move|b: write, move|c: read",
         "a: write, execute, move|b: write, move|c: read", ""),
    ],
)  # fmt: skip
def test_files_can_still_be_moved_after_a_merge(tmp_path: Path, ours: str, theirs: str, lines: str, said: str) -> None:
    for name, paths in (("base", "a: write, move|b: write, move"), ("ours", ours), ("theirs", theirs)):
        (tmp_path / name).write_text("".join(f"path ./{path}\n" for path in paths.split("|")) + "read: allow\n")
    done = callfence(tmp_path, "merge", "--driver", "base", "ours", "theirs")
    found = [line for line in (tmp_path / "ours").read_text().splitlines() if line.startswith("path ")]
    assert (done.returncode, found) == (0, [f"path ./{path}" for path in lines.split("|")]), done.stderr
    assert said in done.stderr and bool(said) == bool(done.stderr)
