"""`callfence mcp`, driven by a client of the protocol's own package."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import for_this_machine
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import ElicitResult

import callfence
from callfence.asking.session import Session
from callfence.tracer.abi import NATIVE, table
from callfence.tracer.errors import UserError

POLICY = f"""callfence 1
arch {NATIVE}
table 6.18
default errno EACCES
unknown errno ENOSYS
implied 1

execve: allow
mmap: allow
openat: allow
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "it.policy"
    file.write_text(POLICY)
    return file


def served(policy: Path, work: Callable[[ClientSession], Any], *options: str, answer: str | None = None) -> list[str]:
    """Let `work` talk to the server; return what the person was asked.  `answer`: theirs; None declines."""
    asked: list[str] = []

    async def decide(_context: Any, request: Any) -> ElicitResult:
        asked.append(request.message)
        if answer is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"answer": answer})

    async def talk() -> None:
        command = ["-m", "callfence", "mcp", *options, str(policy)]
        server = StdioServerParameters(command=sys.executable, args=command, cwd=policy.parent)
        async with stdio_client(server) as (reading, writing), ClientSession(
            reading, writing, elicitation_callback=decide
        ) as session:
            await session.initialize()
            await work(session)

    asyncio.run(asyncio.wait_for(talk(), 120))
    return asked


async def said(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    return "".join(part.text for part in result.content)


CHROOT = ["chroot", "/", "true"]


@pytest.mark.long
@pytest.mark.parametrize("answer", ["this session", "always", "no", None])
def test_a_command_is_denied_explained_and_granted(policy: Path, answer: str | None) -> None:
    texts: list[str] = []

    async def work(session: ClientSession) -> None:
        assert {tool.name for tool in (await session.list_tools()).tools} == {"run", "explain_denial", "request_permission"}
        texts.append(await said(session, "run", command=["echo", "hello"]))
        texts.append(await said(session, "run", command=CHROOT))
        texts.append(await said(session, "explain_denial", number=1))
        texts.append(await said(session, "request_permission", number=1, reason="it is a test"))
        texts.append(await said(session, "run", command=CHROOT))

    asked = served(policy, work, answer=answer)
    plain, denied, explained, permission, again = texts
    assert plain == "exit status 0\nstandard output:\nhello\n"
    assert denied.startswith("exit status 125\n")
    assert 'denied 1: chroot(filename="/")' in denied
    assert explained.splitlines()[0] in denied.partition("standard error:\n")[0]  # what is printed may look like that
    assert "would allow it: chroot: allow" in explained
    (question,) = asked
    assert "The agent's reason: 'it is a test'" in question
    is_granted = answer in ("this session", "always")
    assert permission.startswith("granted, " if is_granted else "not granted")
    assert again.startswith("exit status 0" if is_granted else "exit status 125")
    assert ("chroot: allow" in policy.read_text()) == (answer == "always")
    assert ("# why: it is a test (" in policy.read_text()) == (answer == "always")


def test_nothing_is_granted_beyond_the_baseline(policy: Path) -> None:
    texts: list[str] = []
    base = policy.with_name("base.policy")
    base.write_text(POLICY)

    async def work(session: ClientSession) -> None:
        await said(session, "run", command=CHROOT)
        texts.append(await said(session, "request_permission", number=1, reason=""))
        texts.append(await said(session, "request_permission", number=2, reason=""))
        texts.append(await said(session, "explain_denial", number=-1))

    served(policy, work, "--within", str(base), answer="always")
    assert texts == [
        "not granted: the policy of --within does not grant all that this line would: chroot: allow",
        "not granted: no denial has the number 2; the session has 1",
        "no denial has the number -1; the session has 1",
    ]
    assert policy.read_text() == POLICY


@pytest.mark.long
def test_a_command_that_takes_too_long_or_does_not_exist(policy: Path) -> None:
    texts: list[str] = []

    async def slow(session: ClientSession) -> None:
        texts.append(await said(session, "run", command=["sleep", "100"]))

    async def work(session: ClientSession) -> None:
        texts.append(await said(session, "run", command=["no-such-program"]))
        texts.append(await said(session, "run", command=["true"], folder="/no/folder"))

    policy.write_text(POLICY + "clock_nanosleep: allow\n")
    served(policy, slow, "--timeout", "1")
    served(policy, work)
    assert texts[0] == "killed: it took longer than 1 s"
    assert texts[1].startswith("exit status 127\n")
    assert texts[2].startswith("exit status 125\n")
    assert "--chdir /no/folder: No such file or directory" in texts[2]


def test_the_folder_that_an_agent_names_is_not_that_of_the_policy(tmp_path: Path) -> None:
    """`.` would otherwise grant any folder that it names."""
    project, home = tmp_path / "project", tmp_path / "home"
    (project / "src").mkdir(parents=True)
    home.mkdir()
    policy = project / "it.policy"
    paths = "path /usr: read, execute\npath /etc: read\npath /lib64: read, execute\npath .: read, write, create\n"
    policy.write_text(POLICY.replace("implied 1\n", f"implied 1\n\n{paths}") + "chdir: allow\n")
    texts: list[str] = []

    async def work(session: ClientSession) -> None:
        texts.append(await said(session, "run", command=["sh", "-c", "echo no > made"], folder=str(home)))
        texts.append(await said(session, "run", command=["sh", "-c", "echo yes > made && echo yes > ../made"], folder="src"))

    served(policy, work)
    assert "made: Permission denied" in texts[0]
    assert not (home / "made").exists()
    assert texts[1] == "exit status 0"
    assert [(project / name).read_text() for name in ("made", "src/made")] == ["yes\n", "yes\n"]


def test_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "callfence", "mcp", "none.policy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("callfence mcp: ")
    assert "none.policy: No such file or directory" in done.stderr


def test_no_command_changes_the_policy_of_the_next_one(tmp_path: Path) -> None:
    """Not by its file, nor by the open one."""
    policy = tmp_path / "it.policy"
    policy.write_text(for_this_machine("default allow\nmkdir: errno EPERM\n"))
    is_policy = "case $(readlink $file) in *memfd:policy*) echo default allow > $file;; esac"
    replace = f"for file in /proc/{os.getpid()}/fd/*; do {is_policy}; done"
    with Session(policy, folder=tmp_path) as session:
        done = session.run(["sh", "-c", f"{replace}; ls ${{TMPDIR:-/tmp}}; mkdir made"])
        assert b"callfence-session" not in done.output
        assert b"Operation not permitted" in done.errors
        assert session.run(["mkdir", "made"]).status == 1
    assert not (tmp_path / "made").exists()


def test_what_a_command_writes_does_not_run_when_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A harness for a project in Python may have the project's folder in its PYTHONPATH."""
    policy = tmp_path / "it.policy"
    policy.write_text(for_this_machine("default allow\nmkdir: errno EPERM\n"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Session(policy, folder=tmp_path) as session:
        assert session.run(["sh", "-c", "echo \"import os; os.mkdir('made')\" > sitecustomize.py"]).status == 0
        assert session.run(["printenv", "PYTHONPATH"]).output == f"{tmp_path}\n".encode()
    callfence.run(["true"], policy, lambda _: "no", cwd=tmp_path, check=True)
    assert not (tmp_path / "made").exists()


def test_a_session_keeps_files_that_were_granted_for_the_next_command(tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    (tmp_path / "key").write_text("text")
    paths = "path /usr: read, execute\npath /etc: read\npath /lib64: read, execute\n"
    policy.write_text(POLICY.replace("implied 1\n", f"implied 1\n\n{paths}"))
    (tmp_path / "below").mkdir()
    with Session(policy, folder=tmp_path) as session:
        done = session.run(["cat", "key"])
        assert (done.status, done.output) == (1, b"")
        numbers = [denial.number for denial in done.denials if "path ./key: read" in denial.lines]
        assert session.grant(numbers[0], "", "me") == ("path ./key: read",)
        assert session.run(["cat", "../key"], folder="below").output == b"text"
        with pytest.raises(UserError, match="no denial has the number 99"):
            session.grant(99, "", "me")
    assert "./key" not in policy.read_text()


@pytest.mark.long
def test_a_command_that_leaves_a_process_behind_holds_nothing_up(tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    policy.write_text("default allow\n")
    begun = time.monotonic()
    with Session(policy, folder=tmp_path) as session:
        done = session.run(["sh", "-c", "echo begun; sleep 60 & echo $! > pid"], timeout=50)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (done.status, done.output) == (0, b"begun\n")
    assert time.monotonic() < begun + 45


def test_what_a_command_prints_takes_no_memory_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callfence.asking.session._MAX_KEPT", 1 << 20)
    policy = tmp_path / "it.policy"
    policy.write_text("default allow\n")
    with Session(policy, folder=tmp_path) as session:
        done = session.run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 5 /dev/zero >&2"])
    assert (done.status, len(done.output), len(done.errors)) == (0, 1 << 20, 5)


@pytest.mark.long
def test_many_denials_take_neither_the_answer_nor_the_memory(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each differs from the others, so each has a report."""
    texts: list[str] = []
    kinds = ("fsopen", "fspick", "io_", "key", "mount", "mq_", "msg", "pkey_", "quota", "sem", "setx", "shm", "swap", "timer")
    denied = [number for number, call in table(NATIVE).by_number.items() if call.name.startswith(kinds)]
    script = f"import ctypes\nfor each in range(20):\n for number in {denied}: ctypes.CDLL(None).syscall(number, *[each] * 6)"
    command = [sys.executable, "-c", script]

    async def work(session: ClientSession) -> None:
        texts.append(await said(session, "run", command=command))
        texts.append(await said(session, "explain_denial", number=300))
        texts.append(await said(session, "run", command=["a\0b"]))

    served(policy, work)
    assert len(texts[0]) < 110_000
    assert texts[0].splitlines()[-1].endswith(": explain_denial has the details")
    assert texts[1].startswith(f"denied {300}: ")
    assert texts[2] == "not run: embedded null byte"
    monkeypatch.setattr("callfence.asking.session._REMEMBERED", 3)
    with Session(policy) as session:
        numbers = [denial.number for denial in session.run(command).denials]
        assert numbers == list(range(1, len(numbers) + 1))
        with pytest.raises(UserError, match=f"denial {len(numbers) - 3} is forgotten"):
            session.denial(len(numbers) - 3)
        assert session.denial(len(numbers) - 2).number == len(numbers) - 2


@pytest.mark.long
def test_what_is_left_behind_takes_no_memory(policy: Path) -> None:
    policy.write_text(for_this_machine("default allow\nchroot: errno EPERM\n"))
    with Session(policy) as session:
        done = session.run(["sh", "-c", "(while :; do echo left behind; done) & echo $!; sleep 0.3"])
        readers = [thread for thread in threading.enumerate() if hasattr(thread, "taken")]
        time.sleep(0.1)
        os.kill(int(done.output.split()[0]), signal.SIGKILL)
        assert readers and all(len(reader.taken()) <= 1 << 16 for reader in readers)


@pytest.mark.long
def test_a_command_has_no_terminal_and_is_killed_with_what_it_started(policy: Path) -> None:
    policy.write_text(f"callfence 1\ndefault allow\narch {NATIVE}\nchroot: deny\n")
    code = "import os\npid = os.fork()\nopen('pid', 'a').write(f'{os.getpid()} ' * (not pid))\nimport time\ntime.sleep(60)"
    with Session(policy, folder=policy.parent) as session:
        done = session.run([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"])
        with pytest.raises(subprocess.TimeoutExpired):
            session.run([sys.executable, "-c", code], timeout=3)
    assert done.output == b"True\n", done.errors
    child = int((policy.parent / "pid").read_text())
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)
