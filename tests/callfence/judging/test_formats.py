"""`callfence diff` as a reviewer reads it: the danger first, and few lines; and as machines read it."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needed import needs

from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import Arch, table
from tests.formats.outputs import check_output

CALLFENCE = [sys.executable, "-m", "callfence"]
OLD = {
    "clone3": "errno ENOSYS",
    "close": "allow",
    "clone": "clone_flags == CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD",
    "mmap": "prot == PROT_READ && flags == MAP_PRIVATE || prot == PROT_READ|PROT_WRITE && flags in MAP_PRIVATE|MAP_ANONYMOUS",
    "openat": "flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC",
    "read": "allow",
    "setuid": "deny",
    "socket": "family == AF_UNIX && type == SOCK_STREAM && protocol == 0",
    "write": "allow",
}
THREAD = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS"
TCP = "family == AF_INET && type == SOCK_STREAM|SOCK_CLOEXEC && protocol == IPPROTO_TCP"
CHANGES: dict[str, tuple[dict[str, str], str, str]] = {
    "gains networking": ({"socket": f"{OLD['socket']} || {TCP}", "connect": "allow"}, "wider", "network"),
    "starts a subprocess": ({"execve": "allow", "wait4": "allow", "pipe2": "flags == O_CLOEXEC"}, "wider", "execute"),
    "moves from fork to threads": (
        {"clone": f"clone_flags == {THREAD}", "futex": "op == FUTEX_WAIT_PRIVATE || op == FUTEX_WAKE_PRIVATE"},
        "incomparable",
        "",
    ),
    "gets a new libc": (
        {"rseq": "flags == 0", "getrandom": "flags == GRND_NONBLOCK", "newfstatat": "flag == AT_EMPTY_PATH"},
        "wider",
        "",
    ),
    "switches malloc": (
        {"madvise": "behavior == MADV_DONTNEED || behavior == MADV_FREE", "mremap": "flags == MREMAP_MAYMOVE"},
        "wider",
        "",
    ),
    "adds io_uring": ({"io_uring_setup": "allow", "io_uring_enter": "flags == 0"}, "wider", "io-uring"),
    "drops root": ({"setuid": "allow", "setgid": "allow", "setgroups": "allow"}, "wider", "identity"),
    "an implant that opens a reverse shell": (
        {"socket": f"{OLD['socket']} || {TCP}", "connect": "allow", "dup2": "allow", "execve": "allow"},
        "wider",
        "reverse-shell",
    ),
    "makes code at run time": ({"mmap": f"{OLD['mmap']} || prot == PROT_READ|PROT_WRITE|PROT_EXEC"}, "wider", "write-exec"),
    "clone3 with flags that nobody sees": ({"clone3": "allow"}, "wider", "clone3"),
}


def text(entries: dict[str, str]) -> str:
    return "arch x86_64\n" + "".join(f"{name}: {body}\n" for name, body in entries.items())


def diff(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CALLFENCE, "diff", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "old.policy").write_text(text(OLD))
    (tmp_path / "new.policy").write_text(text({**OLD, **request.param}))
    return tmp_path


@pytest.mark.parametrize(
    ("pair", "verdict", "danger"), CHANGES.values(), ids=list(CHANGES), indirect=["pair"]
)
def test_a_change_is_read_in_a_minute(pair: Path, verdict: str, danger: str) -> None:
    lines = diff(pair, "old.policy", "new.policy").stdout.splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith(f"{verdict}: ")
    named = [line for line in lines[:3] if f"[{danger}]" in line]
    assert bool(named) is bool(danger), lines[:3]
    assert danger or not any("[" in line for line in lines)


REVERSE_SHELL = [CHANGES["an implant that opens a reverse shell"][0]]


@pytest.mark.parametrize("pair", REVERSE_SHELL, indirect=True)
def test_json(pair: Path) -> None:
    found = check_output("diff", diff(pair, "--format", "json", "old.policy", "new.policy").stdout)
    assert found["verdict"] == "wider"
    risks = {one["name"]: [risk["id"] for risk in one["risks"]] for one in found["differences"]}
    assert risks == {"execve": ["execute"], "socket": ["network"], "connect": ["connect"], "dup2": []}
    assert next(iter(risks)) == "execve"  # the gravest first
    assert [one["name"] for one in found["differences"] if one["grants_nothing"]] == ["dup2"]
    assert [(one["id"], one["level"]) for one in found["first"]] == [("reverse-shell", "danger")]


@pytest.mark.parametrize("pair", REVERSE_SHELL, indirect=True)
def test_markdown(pair: Path) -> None:
    shown = diff(pair, "--format", "md", "old.policy", "new.policy").stdout
    assert shown.startswith("**`new.policy`: wider**")
    assert "- **warning**: `execve`: it newly starts other programs" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert "Grants nothing beyond the rest (1 call): `dup2`." in shown
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)  # three cells, whatever is in the code


@pytest.mark.parametrize("pair", REVERSE_SHELL, indirect=True)
def test_sarif_is_stable_when_lines_move(pair: Path) -> None:
    def results() -> list[dict[str, object]]:
        log = json.loads(diff(pair, "--format", "sarif", "old.policy", "new.policy").stdout)
        assert log["version"] == "2.1.0"
        (run,) = log["runs"]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        for result in run["results"]:
            assert rules[result["ruleIndex"]] == result["ruleId"]
            assert result["message"]["text"]
            assert result["level"] in ("error", "warning", "note")
        found: list[dict[str, object]] = run["results"]
        return found

    before = results()
    assert {result["ruleId"] for result in before} == {"reverse-shell", "execute", "connect", "network", "new-behaviour"}
    (pair / "new.policy").write_text("# a comment\n\n" + (pair / "new.policy").read_text())
    after = results()
    assert [one["partialFingerprints"] for one in before] == [one["partialFingerprints"] for one in after]
    assert [one["locations"] for one in before] != [one["locations"] for one in after]


@pytest.mark.parametrize("pair", [{}], indirect=True)
def test_form_makes_no_difference(pair: Path) -> None:
    (pair / "new.policy").write_text("# comments\n" + text(dict(reversed(OLD.items()))))
    for form in ("text", "md"):
        assert "equal" in diff(pair, "--format", form, "--not-wider", "old.policy", "new.policy").stdout
    assert check_output("diff", diff(pair, "--format", "json", "old.policy", "new.policy").stdout)["differences"] == []
    assert json.loads(diff(pair, "--format", "sarif", "old.policy", "new.policy").stdout)["runs"][0]["results"] == []


def test_what_no_entry_names(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text("default errno EPERM\nread: allow\n")
    (tmp_path / "new.policy").write_text("default allow\nunknown allow\nread: allow\n")
    lines = diff(tmp_path, "old.policy", "new.policy").stdout.splitlines()
    assert {line.rpartition("[")[2] for line in lines[:2]} == {"default-allow]", "unknown-allow]"}
    for old, new, risk in (
        ("default kill", "default allow", "default-allow"),
        ("table 6.1", "table 6.1\nunknown allow", "unknown-allow"),
    ):
        (tmp_path / "old.policy").write_text(f"{old}\nread: allow\n")
        (tmp_path / "new.policy").write_text(f"{new}\nread: allow\n")
        (told,) = check_output("diff", diff(tmp_path, "--format", "json", "old.policy", "new.policy").stdout)["differences"]
        assert [one["id"] for one in told["risks"]] == [risk]
        (log,) = json.loads(diff(tmp_path, "--format", "sarif", "old.policy", "new.policy").stdout)["runs"]
        assert [(one["ruleId"], one["level"]) for one in log["results"]] == [(risk, "error")]
        back = check_output("diff", diff(tmp_path, "--format", "json", "new.policy", "old.policy").stdout)["differences"]
        assert [one["risks"] for one in back] == [[]]


@needs("git")
def test_between_revisions(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    folder = tmp_path / "policies"
    folder.mkdir()
    git("init", "-q")
    for body in ("read: allow\n", "read: allow\nmkdirat: allow\n"):
        (folder / "part.policy").write_text(body)
        (folder / "a.policy").write_text("include part.policy\nclose: allow\n")
        git("add", "-A")
        git("commit", "-q", "-m", "x")
    (folder / "part.policy").write_text("read: allow\n")
    (folder / "a.policy").write_text("include part.policy\nclose: allow\nptrace: allow\n")
    assert "+ mkdirat: allow" in diff(folder, "--git", "HEAD~1..HEAD", "a.policy").stdout
    assert "+ mkdirat: allow" in diff(tmp_path, "--git", "HEAD~1..HEAD", "policies/a.policy").stdout
    now = diff(folder, "--git", "HEAD", "a.policy").stdout
    assert "incomparable" in now and "+ ptrace: allow" in now and "- mkdirat: allow" in now
    done = diff(folder, "--git", "nowhere", "a.policy")
    assert (done.returncode, "nowhere is not a revision" in done.stderr) == (2, True)


@needs("git")
def test_a_file_that_a_revision_does_not_have(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True, timeout=60)
    identity = ("-c", "user.name=x", "-c", "user.email=x")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "a.policy").write_text("mkdirat: allow\n")
    done = diff(tmp_path, "--git", "HEAD", "a.policy")
    assert (done.returncode, "+ mkdirat: allow" in done.stdout) == (0, True)


EVERYTHING = {arch: "".join(f"{name}: allow\n" for name in table(arch).by_name) for arch in Arch}
"""A policy's entries for an architecture, each risk of the catalogue among them."""


@pytest.mark.parametrize("arches", [[Arch.X86_64], [Arch.X86_64, Arch.I386]], ids=str)
def test_what_is_told_shortly_leaves_no_call_out(arches: list[Arch], tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text(newest_table() + "".join(f"arch {arch}\nread: fd == 0\n" for arch in arches))
    (tmp_path / "new.policy").write_text(newest_table() + "".join(f"arch {arch}\n{EVERYTHING[arch]}" for arch in arches))
    short = diff(tmp_path, "old.policy", "new.policy").stdout
    sections = short.split("arch ")[1:]
    judged = check_output("diff", diff(tmp_path, "--format", "json", "old.policy", "new.policy").stdout)["differences"]
    for arch, section in zip(arches, sections, strict=True):
        told = set(re.findall(r"\w+", section))
        idle = {one["name"] for one in judged if one["arch"] == arch and one["grants_nothing"]}
        assert told >= set(table(arch).by_name) - idle
    assert re.search(r"^\+ grants nothing beyond the rest \(\d+ calls\): \w+, .* \.\.\.$", short, re.MULTILINE)
    full = diff(tmp_path, "--full", "old.policy", "new.policy").stdout
    assert full.count("for example") == sum(len(table(arch).by_number) for arch in arches)


def test_conditions_are_told_while_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text(text(OLD))
    (tmp_path / "new.policy").write_text(text({**OLD, **dict.fromkeys(("ftruncate", "fchown", "syncfs"), "fd == 1")}))
    lines = diff(tmp_path, "old.policy", "new.policy").stdout.splitlines()
    assert sum("for example" in line for line in lines) == 3
    more = dict.fromkeys(("ftruncate", "fchown", "syncfs", "flock", "vmsplice", "fremovexattr", "fsetxattr"), "fd == 1")
    (tmp_path / "new.policy").write_text(text({**OLD, **more}))
    lines = diff(tmp_path, "old.policy", "new.policy").stdout.splitlines()
    assert [line.strip() for line in lines if line.startswith("  ")] == sorted(f"+ {name}: fd == 1" for name in more)
    assert lines[-1] == "--full shows each difference with its rules and an example"


REVERSE = "arch x86_64\nimplied 1\nexecve: allow\nsocket: family == AF_INET && type == SOCK_STREAM && protocol == 0\n"


def first_lines(folder: Path, old: str, new: str) -> dict[str, str]:
    """What each form of the comparison says first."""
    (folder / "old.policy").write_text(old)
    (folder / "new.policy").write_text(new)
    sarif = json.loads(diff(folder, "--format", "sarif", "old.policy", "new.policy").stdout)["runs"][0]["results"][0]
    page = subprocess.run(
        [*CALLFENCE, "report", "new.policy", "--against", "old.policy"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=True,
    ).stdout
    changes = re.sub(r"<[^>]+>", "", html.unescape(page).partition('id="changes"')[2].partition("<p>Compared")[0])
    return {
        "text": diff(folder, "old.policy", "new.policy").stdout.splitlines()[0],
        "md": diff(folder, "--format", "md", "old.policy", "new.policy").stdout.splitlines()[0].replace("**", ""),
        "sarif": f"{ {'error': 'danger'}.get(sarif['level'], sarif['level'])}: {sarif['message']['text']}",
        "html": changes,
    }


def test_what_completes_a_reverse_shell_is_a_danger_in_the_first_line(tmp_path: Path) -> None:
    """dup2 is implied, so the change is one line."""
    for form, line in first_lines(tmp_path, REVERSE, f"{REVERSE}connect: allow\n").items():
        said = "connect, with dup2, execve and socket: it gives a shell to others over the network"
        assert "danger" in line.partition(said)[0] and said in line and "[reverse-shell]" in line, (form, line)


@pytest.mark.parametrize(
    ("old", "new", "level", "said"),
    [
        ("default kill", "default allow", "danger", "default kill -> allow: calls that no entry names are allowed"),
        ("default kill", "default log", "danger", "default kill -> log: calls that no entry names are allowed"),
        ("default kill", "default notify", "warning", "default kill -> notify: calls that no entry names are put to"),
        ("default kill", "default errno EPERM", "warning", "default kill -> errno EPERM: calls that no entry names fail"),
        ("default errno EPERM", "default kill", "note", "default errno EPERM -> kill: calls that no entry names end"),
        ("unknown errno ENOSYS", "unknown allow", "danger", "unknown errno ENOSYS -> allow: calls that are newer"),
        ("arm exec", "arm entry", "warning", "arm exec -> entry: the filter takes effect after the dynamic loader"),
        ("", "implied 1", "note", "implied none -> 1: calls that grant nothing beyond its entries are allowed without"),
        ("", "portable", "note", "portable: learn adds what other C libraries call instead"),
    ],
)
def test_settings_stand_first(old: str, new: str, level: str, said: str, tmp_path: Path) -> None:
    body = "exit_group: allow\nread: allow\n"
    for form, line in first_lines(tmp_path, f"{old}\n{body}", f"{new}\n{body}ptrace: pid == 1\n").items():
        assert level in line.partition(said)[0] and said in line, (form, line)


def test_what_an_implied_set_adds_takes_one_line(tmp_path: Path) -> None:
    body = "openat: flags == O_RDONLY\nexit_group: allow\n"
    (tmp_path / "old.policy").write_text(body)
    (tmp_path / "new.policy").write_text(f"implied 1\n{body}mkdirat: allow\n")
    lines = diff(tmp_path, "old.policy", "new.policy").stdout.splitlines()
    assert "+ mkdirat: allow" in [line.strip() for line in lines]
    assert len(lines) <= 7
    assert len(diff(tmp_path, "--full", "old.policy", "new.policy").stdout.splitlines()) > 100


def test_what_gives_a_capability_is_no_gift_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text("implied 1\nexit_group: allow\n")
    (tmp_path / "new.policy").write_text("implied 1\nexit_group: allow\nopenat: flags == O_WRONLY\n")
    shown = diff(tmp_path, "old.policy", "new.policy").stdout
    assert "+ openat: " in shown
    assert "+ ftruncate" not in shown


@pytest.mark.parametrize(
    ("added", "headline", "reason"),
    [
        ("default allow  # why: it names what it denies", "[default-allow]", "it names what it denies"),
        ("socket: allow\nconnect: allow\ndup2: allow\nexecve: allow  # why: reverse-shell: a remote shell", "[reverse-shell]",
         "reverse-shell: a remote shell"),
        ("path $HOME/.ssh: read  # why: an SSH client", "[ssh-keys]", "an SSH client"),
    ],
)  # fmt: skip
def test_the_reason_of_a_headline_is_shown(tmp_path: Path, added: str, headline: str, reason: str) -> None:
    """Of a setting, a combination of calls, and a line about files."""
    (tmp_path / "old.policy").write_text("read: allow\npath /usr: read\n")
    (tmp_path / "new.policy").write_text(f"{added}\nread: allow\npath /usr: read\n")
    for form in ("text", "md"):
        lines = diff(tmp_path, "--format", form, "old.policy", "new.policy").stdout.splitlines()
        (line,) = (line for line in lines if headline in line)
        assert line.rstrip("`.").endswith(f"accepted in this change, for this reason: {reason}")


def test_a_headline_in_json_says_why_it_is_one_and_what_is_safer(tmp_path: Path) -> None:
    """Where there is something to say: that a default allows says it all."""
    (tmp_path / "old.policy").write_text("default kill\nread: allow\npath /usr: read\n")
    (tmp_path / "new.policy").write_text("default allow\nread: allow\npath /usr: read\npath $HOME/.ssh: read\n")
    first = check_output("diff", diff(tmp_path, "--format", "json", "old.policy", "new.policy").stdout)["first"]
    why = {entry["id"]: (entry["why"], entry["safer"]) for entry in first}
    assert why["default-allow"] == (None, None)
    assert all(why["ssh-keys"]) and "None" not in why["ssh-keys"]


def test_a_reason_that_comes_with_the_change_is_shown(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text("read: allow\n")
    (tmp_path / "new.policy").write_text("read: allow\nptrace: allow  # why: a debugger\n")
    excuse = "accepted in this change, for this reason: a debugger"
    for form in ("text", "md", "sarif"):
        assert excuse in diff(tmp_path, "--format", form, "old.policy", "new.policy").stdout
    found = check_output("diff", diff(tmp_path, "--format", "json", "old.policy", "new.policy").stdout)
    assert all(excuse in str(one["reasons"]) for one in found["differences"])
