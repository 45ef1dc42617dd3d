"""`callfence report`: one file that is whole, refers to nothing outside, can be used without seeing it, and trusts no name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from needed import require

from callfence.policygen.recording import recording_file
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording, Run
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.abi.waits import bits
from tests.formats.outputs import check_output

CALLFENCE = [sys.executable, "-m", "callfence"]
PROGRAM = ("sh", "-c", 'ls / | wc -l; [ -z "$MORE" ] || python3 -c "import socket; socket.socket().close()"')
VOID = {"meta", "br", "wbr"}
HOSTILE = "/tmp/<script>alert(1)</script>\"'&\udcff\x1b[2J\u202e"
HARMLESS = "/tmp/&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;\\xff\\x1b[2J\\x202e"
NUMBERS = {call.name: call.number for call in table(Arch.X86_64).by_number.values()}


def run(folder: Path, *arguments: str, more: str = "") -> subprocess.CompletedProcess[str]:
    command = [*CALLFENCE, *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8", "MORE": more}
    return subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, check=False, env=environment
    )


class Page(HTMLParser):
    """A page, of which whatever is wrong ends the reading."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.referred: set[str] = set()
        self.style = ""
        self.said: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute of <{tag}> is given twice"
        self.tags[tag] += 1
        self.attributes.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [given["id"] or ""] if "id" in given else []
        self.referred.update(*((given.get(name) or "").split() for name in ("aria-labelledby", "aria-describedby")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.said.append(data)


def checked(text: str) -> Page:
    """The page, after all that is asked of each."""
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=\"en\">") and text.count("<main ") == 1
    assert page.tags.keys().isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image"})
    assert not re.search(r"@import|url\s*\(|expression|https?:", page.style)
    for tag, given in page.attributes:
        assert not given.keys() & {"src", "srcset", "style", "action", "data", "xlink:href"}
        assert not [name for name in given if name.startswith("on")]
        if tag == "a":
            assert given["href"].startswith("#") and given["href"][1:] in page.ids  # type: ignore[union-attr]
        if tag == "th":
            assert given["scope"] in ("col", "row")
        if given.get("role") == "region":
            assert given["tabindex"] == "0" and given["aria-label"]
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            assert given["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")  # type: ignore[union-attr]
    assert "http-equiv" in text
    assert max(Counter(page.ids).values()) == 1
    assert page.referred <= set(page.ids)
    assert page.tags["table"] == page.tags["caption"] == page.tags["thead"]
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.tags["details"] == page.tags["summary"]
    return page


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old.policy` of one run, and `it.policy` of two, of which the second opens a socket."""
    folder = tmp_path_factory.mktemp("learned")
    assert run(folder, "learn", "-q", "--exact", "-o", "old.policy", *PROGRAM).returncode == 0
    assert run(folder, "learn", "-q", "--exact", "-o", "new.policy", *PROGRAM, more="1").returncode == 0
    merged = run(folder, "merge", "-o", "it.policy", "old.policy", "new.policy")
    assert merged.returncode == 0, merged.stderr
    recordings = [str(folder / ".callfence" / f"{name}.rec") for name in ("it", "old", "new")]
    assert run(folder, "merge", "-o", *recordings).returncode == 0
    return folder


@pytest.mark.long
def test_only_the_lines_with_more_risks_are_new(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text("path $HOME/.ssh/a: read\n")
    (tmp_path / "it.policy").write_text("path $HOME/.ssh/a: read\npath $HOME/.ssh/b: read\npath /etc: read, write\n")
    text = run(tmp_path, "report", "it.policy", "--against", "old.policy").stdout
    assert "Both policies answer every call in the same way." in text, "they differ in files"
    found = re.findall(r'<h3>(<span class="badge plain">new</span> )?<span[^>]*>\w+</span> <code>(path [^<]*)</code>', text)
    assert [line for new, line in found if not new] == ["path $HOME/.ssh/a"]
    assert {line for new, line in found if new} == {"path $HOME/.ssh/b", "path /etc"}


@pytest.mark.long
def test_a_real_policy_in_a_browser(learned: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = run(learned, "report", "it.policy", "--against", "old.policy", "-o", str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = checked(out.read_text())
    said = " ".join(page.said)
    for words in ("wider", "socket", "2 runs; about 50%", "Run it next", "Became possible", "reaches the network"):
        assert words in said
    below = [os.path.realpath(shutil.which(name, path="/usr/bin") or "") for name in ("ls", "python3", "wc")]
    shell = os.path.realpath("/bin/sh")
    first = shell if os.path.basename(shell) == "sh" else f"sh ({shell})"
    assert tree(out.read_text()) == [f"  {first}", *(f"    {path}" for path in below)]
    assert page.tags["details"] > 30
    assert "rule-x86_64-socket" in page.ids

    require("chromium")
    browser = shutil.which("chromium")
    assert browser is not None
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    output = [f"--screenshot={picture}", "--window-size=800,600", "--dump-dom"]
    command = [browser, *flags, *output, out.as_uri()]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    seen = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert seen.returncode == 0, seen.stderr
    rendered = Page(seen.stdout)
    assert rendered.tags == page.tags  # nothing was moved, dropped or added by the browser's own parser
    assert rendered.headings == page.headings
    assert picture.stat().st_size > 10_000


def test_phases(tmp_path: Path) -> None:
    entries = "bind: allow until serving\nepoll_pwait: allow\nopenat: flags == O_RDONLY || flags == O_RDWR until serving\n"
    (tmp_path / "it.policy").write_text(f"phase serving after epoll_pwait\n{entries}")
    page = Page(run(tmp_path, "report", "it.policy").stdout)
    said = " ".join(page.said)
    assert said.partition("Calls allowed")[2].split()[:5] == ["start", "3", "serving", "epoll_pwait", "2"]
    gone = said.partition("Gone in serving, after epoll_pwait")[2].partition("No dangerous call stays")[0]
    assert "bind: allow" in gone and "openat: flags == O_RDWR" in gone and "O_RDONLY" not in gone
    assert "No recorded run was followed through its phases." in gone
    assert page.headings[:1] == [1] and "phases" in page.ids


def test_phases_of_a_recording(tmp_path: Path) -> None:
    """Calls made before the trigger, before and after it, and after it alone; and dangerous calls that stay."""
    seen = Aggregator()
    for name, waits in [("bind", [0]), ("getpid", [0, 1]), ("gettid", [1]), ("getuid", [1])]:
        counter = seen.counter("/bin/x", Event(Arch.X86_64.audit, NUMBERS[name], (0, 0, 0, 0, 0, 0)), str)
        counter[0] += 1
        counter[1].update(after * bits(("epoll_pwait",)) for after in waits)
    it = Run("1", 1, ("x",), 0, True, waits=(0, bits(("epoll_pwait",))))
    recording_file.save(tmp_path / "it.rec", Recording((it,), seen.observations()))
    lines = ["phase serving after epoll_pwait", "epoll_pwait: allow", "bind: allow until serving", "execve: allow"]
    lines.append("ptrace: request == PTRACE_PEEKDATA || request == PTRACE_POKEDATA until serving")
    (tmp_path / "it.policy").write_text("\n".join(lines) + "\n")
    page = checked(run(tmp_path, "report", "it.policy", "--recording", "it.rec").stdout)
    said = " ".join(page.said)
    counts = "1 kind of call before it only 1 kind of call before and after it 2 kinds of call after it only"
    assert f"Seen in recorded runs: {counts}" in said
    assert "Dangerous calls that stay allowed:" in said and "No dangerous call" not in said
    risk = said.partition("Allowed until then")[2].partition("Dangerous calls")[0]
    assert risk.count("stays in part") == 1 and re.search(r"ptrace: request == PTRACE_POKEDATA \w+  stays in part", risk)


def test_what_became_possible_is_marked_and_comes_first(learned: Path) -> None:
    """With the program that does it; without another policy nothing is new."""
    text = run(learned, "report", "it.policy", "--against", "old.policy").stdout
    risks = text.partition('id="risks"')[2].partition("</section>")[0].split('class="finding"')[1:]
    marked = ['class="badge plain">new</span>' in one for one in risks]
    assert any(marked) and not all(marked) and marked == sorted(marked, reverse=True)
    (socket,) = [one for one in risks if "reaches the network" in one]
    assert marked[risks.index(socket)] and re.search(r"<dt>Made by</dt><dd>.*python3", socket)
    (execute,) = [one for one in risks if "starts other programs" in one]
    assert re.search(r"</code>: <code>filename=&quot;[/a-z]*/ls&quot;</code>, .*<code>argv=\[&quot;ls&quot;", execute), execute
    assert "opens" not in socket and ">new</span>" not in run(learned, "report", "it.policy").stdout


def test_ports_that_no_run_used(learned: Path) -> None:
    text = run(learned, "report", "it.policy").stdout
    line = re.search(r"<summary><code>tcp connect: none</code>.*?</details>", text)
    assert line
    assert line[0].endswith("<p>No recorded run used it.</p></details>")


def test_the_same_bytes_each_time(learned: Path) -> None:
    first, second = (run(learned, "report", "it.policy", "--against", "old.policy").stdout for _ in range(2))
    assert first == second
    assert str(learned) not in first


def test_json_says_the_same(learned: Path) -> None:
    done = run(learned, "report", "it.policy", "--against", "old.policy", "--format", "json")
    found = check_output("report", done.stdout)
    assert (found["sure"]["runs"], found["sure"]["chance"]) == (2, 0.5) and "socket" in found["sure"]["single"]
    assert found["against"]["verdict"] == "wider" and found["against"]["policy"] == "old.policy"
    socket = next(rule for rule in found["rules"] if rule["rule"].startswith("socket"))
    assert socket["runs"] == [2] and socket["sites"]
    assert all(one["calls"] for one in found["runs"])
    wider = [rule["wider_than_seen"] for rule in found["rules"]]
    assert None in wider and any(wider)
    assert any(finding["name"] == "socket" for finding in found["findings"])


def test_a_difference_without_a_known_risk_says_so(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text("read: allow\n")
    (tmp_path / "it.policy").write_text("read: allow\nmkdir: allow\nptrace: allow\n")
    text = run(tmp_path, "report", "it.policy", "--against", "old.policy").stdout
    rows = [row for row in re.findall("<tr>.*?</tr>", text, re.DOTALL) if "\N{RIGHTWARDS ARROW}" in row]
    assert ["none known" in row for row in rows if "<code>mkdir</code>" in row] == [True]
    assert ["none known" in row for row in rows if "<code>ptrace</code>" in row] == [False]


def test_without_a_recording(learned: Path, tmp_path: Path) -> None:
    shutil.copy(learned / "it.policy", tmp_path)
    done = run(tmp_path, "report", "it.policy")
    assert done.returncode == 0, done.stderr
    said = " ".join(checked(done.stdout).said)
    assert "Without a recording" in said and "Not known." in said and "written by hand" in said


def test_one_run_says_nothing(learned: Path) -> None:
    page = checked(run(learned, "report", "old.policy").stdout)
    assert "One run says nothing about the next one: record more runs." in page.said


def test_accepted_risks_are_counted_and_say_why(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("ptrace: allow # why: it is a debugger\nreboot: allow\n")
    text = run(tmp_path, "report", "it.policy").stdout
    said = " ".join(checked(text).said)
    assert "1 accepted by a comment" in said and "Accepted it is a debugger" in said
    assert re.findall(r'<h3><span class="badge \w+">(\w+)</span> <a [^>]*><code>(\w+)', text) == [
        ("danger", "reboot"), ("accepted", "ptrace"),
    ]  # fmt: skip
    (tmp_path / "it.policy").write_text("reboot: allow\n")
    assert "accepted by a comment" not in " ".join(checked(run(tmp_path, "report", "it.policy").stdout).said)


def test_an_empty_policy(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("arch x86_64\n")
    same = checked(run(tmp_path, "report", "a.policy", "--against", "a.policy").stdout)
    assert "Both policies answer every call in the same way." in same.said


def reported(folder: Path, *executed: tuple[str, str], calls: tuple[str, ...] = ()) -> str:
    """The page of a recording of one run, in which some executables made a call."""
    seen = Aggregator()
    for program in calls:
        seen.counter(program, Event(Arch.X86_64.audit, NUMBERS["getpid"], (0, 0, 0, 0, 0, 0)), str)[0] += 1
    it = Run("1", 1, ("x",), 0, True, executed=tuple(sorted(executed)))
    recording_file.save(folder / "it.rec", Recording((it,), seen.observations()))
    (folder / "it.policy").write_text("getpid: allow\n")
    done = run(folder, "report", "it.policy", "--recording", "it.rec")
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(page: str) -> list[str]:
    """The process tree's lines, each indented by its depth, and the headings between."""
    lines, depth = [], 0
    section = page[page.index('id="processes"') : page.index('id="matrix"')]
    for part in re.findall(r"<ul|</ul>|<p>.*?</p>|<li>.*?(?=<ul|</li>)", section):
        depth += {"<ul": 1, "</ul>": -1}.get(part, 0)
        if "<code" in part or part.startswith("<p>The recording"):
            text = re.sub(r'<span.*?</span>|<a href="#([\w-]+)">', r" \1 ", part)
            lines.append("  " * depth + " ".join(re.sub("<[^>]*>", "", text).split()))
    return lines


def test_the_process_tree(tmp_path: Path) -> None:
    """Shells start each other, and one that nobody was seen to start, starts something."""
    pairs = [("", "/sh"), ("/sh", "/sh"), ("/sh", "/make"), ("/make", "/sh"), ("/make", "/cc"), ("/sh", "/cc"), ("/old", "/cc")]
    page = reported(tmp_path, *pairs, calls=("/cc", "/old", "/sh"))
    checked(page)
    assert tree(page) == [
        "  x (/sh)",
        "    /cc",
        "    /make",
        "      /cc",
        "      x (/sh) ; program-0 what it started",
        "    x (/sh) ; program-0 what it started",
        "The recording does not have what started these:",
        "  /old",
        "    /cc",
    ]
    assert '<code id="program-0">x (/sh)</code>' in page
    assert ">cc</th>" in page and ">make</th>" not in page  # no call of it is recorded
    found = check_output("report", run(tmp_path, "report", "it.policy", "--recording", "it.rec", "--format", "json").stdout)
    said = {one["executable"]: (one["first"], one["started_by"]) for one in found["programs"]}
    assert said["/sh"] == (True, ["/make", "/sh"]) and said["/old"] == (False, [])


def test_a_process_tree_without_a_beginning(tmp_path: Path) -> None:
    page = reported(tmp_path, ("/make", "/sh"), ("/sh", "/make"), calls=("/nobody",))
    assert tree(page) == [
        "The recording does not have what started these:",
        "  /nobody",
        "The recording does not have what started these:",
        "  /make",
        "    /sh ; program-2 what it started",
        "  /sh",
        "    /make ; program-1 what it started",
    ]


def test_a_process_tree_deeper_than_pythons_stack(tmp_path: Path) -> None:
    names = ["", *(f"/{number:04}" for number in range(1500))]
    page = reported(tmp_path, *pairwise(names))
    assert tree(page)[-1] == "  " * 1500 + "/1499"
    assert "No call is recorded." in page


def test_names_are_never_markup(tmp_path: Path) -> None:
    """Of programs, words of their command lines, gaps, call sites, files of policies."""
    parts = []
    for index in range(3):
        aggregator = Aggregator()
        for name in ("execve", "openat"):
            event = Event(Arch.X86_64.audit, NUMBERS[name], (index, 0, index, 0, 0, 0))
            for program in (HOSTILE, f"{HOSTILE}2"):
                aggregator.counter(program, event, lambda: f"{HOSTILE}+0x1")[0] += 10**index
        when = index * 86_400 * 10**9
        pairs = ("", HOSTILE), (HOSTILE, HOSTILE)
        seen = Run(f"{HOSTILE}{index}", when, (HOSTILE,), 0, True, (HOSTILE,), executed=pairs)
        parts.append(Recording((seen,), aggregator.observations()))
    name = "<img src=x onerror=alert(1)>.policy"
    (tmp_path / name).write_text("openat: allow  # why: </code><script>alert(2)</script>\nexecve: allow\nlistxattr: allow\n")
    recording_file.save(tmp_path / "it.rec", merge(*parts))
    done = run(tmp_path, "report", name, "--against", name, "--recording", "it.rec")
    assert done.returncode == 0, done.stderr
    page = checked(done.stdout)
    assert "script" not in page.tags and "img" not in page.tags
    assert f"<code>{HARMLESS}</code>" in done.stdout and f'<code id="program-0">{HARMLESS}</code>' in done.stdout
    assert "<script" not in done.stdout and "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert "&lt;img src=x onerror=alert(1)&gt;.policy" in done.stdout
    found = check_output("report", run(tmp_path, "report", name, "--recording", "it.rec", "--format", "json").stdout)
    assert found["programs"][0]["executable"].endswith("\\xff\\x1b[2J\\x202e")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.policy"], "missing.policy: No such file"),
        (["bad.policy"], "bad.policy:1:"),
        (["good.policy", "--against", "bad.policy"], "bad.policy:1:"),
        (["good.policy", "--recording", "missing.rec"], "missing.rec: No such file"),
        (["good.policy", "--recording", "good.policy"], "not a callfence recording"),
        (["good.policy", "-o", "no/such/folder.html"], "No such file"),
        (["good.policy", "-o", "."], "is not a regular file"),
        (["-"], "POLICY cannot be standard input"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "good.policy").write_text("read: allow\n")
    (tmp_path / "bad.policy").write_text("raed: allow\n")
    before = sorted(tmp_path.iterdir())
    done = run(tmp_path, "report", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_an_old_report_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    (tmp_path / "good.policy").write_text("read: allow\n")
    (tmp_path / "bad.policy").write_text("raed: allow\n")
    out = tmp_path / "r.html"
    assert run(tmp_path, "report", "good.policy", "-o", "r.html").returncode == 0
    old = out.read_bytes()
    assert run(tmp_path, "report", "bad.policy", "-o", "r.html").returncode == 2
    assert out.read_bytes() == old
    (tmp_path / "good.policy").write_text("read: allow\nwrite: allow\n")
    assert run(tmp_path, "report", "good.policy", "-o", "r.html").returncode == 0
    assert out.read_bytes() != old


BACK = ("page", "card", "code")
PAIRS = [(text, back) for text in ("ink", "muted", "link") for back in BACK]
PAIRS += [(level, f"{level}-back") for level in ("danger", "warning", "note", "fine")] + [("ink", "plain-back")]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_read(tmp_path: Path, dark: bool) -> None:
    """4.5 : 1 for text (WCAG 2.2, 1.4.3), in both of the page's colour schemes."""
    (tmp_path / "a.policy").write_text("read: allow\n")
    light, _, after = Page(run(tmp_path, "report", "a.policy").stdout).style.partition("prefers-color-scheme: dark")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", after if dark else light))
    for text, back in PAIRS:
        low, high = sorted((luminance(colours[text]), luminance(colours[back])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back)
