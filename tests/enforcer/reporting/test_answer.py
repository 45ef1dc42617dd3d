"""How a call is answered by its action, also where something fails on the way, and the log of a program that never ran."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from calls import event, parse

from callfence.enforcer import alarms
from callfence.enforcer.files import listening
from callfence.enforcer.listener import Notification
from callfence.enforcer.reporting import answer
from callfence.enforcer.reporting.answer import Answers
from callfence.enforcer.reporting.destination import TEXT, Destination
from callfence.enforcer.reporting.events import Log
from callfence.enforcer.reporting.opening import opened
from callfence.enforcer.reporting.settings import Reporting
from callfence.policygen.model import ALLOW, KILL, Action, ActionKind
from callfence.tracer.abi import NATIVE
from tests.enforcer.reporting.test_events import parsed

if TYPE_CHECKING:
    from pathlib import Path

EPERM, NOTIFY, TRAP = Action(ActionKind.ERRNO, 1), Action(ActionKind.NOTIFY), Action(ActionKind.TRAP)


class Case:
    """What answers calls, one call, and what became of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.done: list[object] = []
        note = self.done.append
        monkeypatch.setattr(answer, "end_process", lambda _request: note("killed"))
        monkeypatch.setattr(answer, "trap", lambda _request: note("trapped"))
        reporting = Reporting(Destination(-1, TEXT), list, **{"audit": False, **settings})
        monkeypatch.setattr(Reporting, "complain", lambda _self, text: note(text.partition(":")[0]))
        self.answers = Answers(Notification(), SimpleNamespace(), reporting, 1, -1, (-1, -1))
        self.request: Any = SimpleNamespace(call=Notification(task=7), phase="", fail=note, is_waiting=lambda: True)
        self.request.let_run = lambda: note("runs")
        self.request.finish = lambda result: note(("finished", result))


@pytest.mark.parametrize(
    ("action", "settings", "done"),
    [
        (EPERM, {}, [errno.EPERM]),
        (NOTIFY, {}, [errno.ENOSYS]),
        (TRAP, {}, ["trapped", errno.ENOSYS]),
        (KILL, {}, ["killed"]),
        (None, {}, ["killed"]),
        (ALLOW, {}, ["killed"]),
        (ALLOW, {"reach": SimpleNamespace()}, ["runs"]),
        (KILL, {"reach": SimpleNamespace()}, ["killed"]),
        (KILL, {"audit": True}, ["runs"]),
        (None, {"audit": True}, ["runs"]),
    ],
)
def test_each_action(
    monkeypatch: pytest.MonkeyPatch, action: Action | None, settings: dict[str, Any], done: list[object]
) -> None:
    case = Case(monkeypatch, **settings)
    case.answers._apply(case.request, action)
    assert case.done == done


@pytest.mark.parametrize(
    ("call", "status", "task", "has_lost", "done"),
    [
        ("exit_group", 0, 1, True, [("exits", 125)]),
        ("exit", 1 << 8, 1, True, [("exits", 125)]),
        ("exit_group", 0, 1, False, ["runs"]),
        ("exit_group", 125, 1, True, ["runs"]),
        ("exit_group", 0, 1 << 22, True, ["runs"]),  # not the program's first process
        ("getpid", 0, 1, True, ["runs"]),
    ],
)
def test_under_audit_a_lost_report_is_not_hidden_by_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, call: str, status: int, task: int, has_lost: bool, done: list[object]
) -> None:
    case = Case(monkeypatch, audit=True)
    monkeypatch.setattr(answer, "exit_with", lambda status, _request: case.done.append(("exits", status)))
    monkeypatch.setattr(answer.Loaded, "may_lack_reports", has_lost)
    one = event(call, status, arch=NATIVE)
    case.request.call = Notification(task=task, arch=one.arch, number=one.number, arguments=one.arguments)
    case.answers._apply(case.request, None)
    assert case.done == done


@pytest.mark.parametrize(("result", "done"), [(None, ["runs"]), (errno.EACCES, [errno.EACCES]), (0, [("finished", 0)])])
def test_a_listen_that_the_policies_allow_is_answered_once(
    monkeypatch: pytest.MonkeyPatch, result: int | None, done: list[object]
) -> None:
    case = Case(monkeypatch, listens=True)
    one = event("listen", arch=NATIVE)
    case.request.call = Notification(task=7, arch=one.arch, number=one.number)
    monkeypatch.setattr(Answers, "_let_run", lambda *_: False)
    monkeypatch.setattr(Answers, "_listen", lambda *_: result)
    monkeypatch.setattr(answer.Loaded, "verdict", lambda *_: SimpleNamespace(denying=()))
    case.answers._settle(case.request)
    assert case.done == done


LOOKING_FAILED = "looking into a denied call failed, so it meets the policy's action"


@pytest.mark.parametrize(
    ("otherwise", "apply", "is_waiting", "done"),
    [
        (None, None, True, ["reported", "applied"]),
        (FileNotFoundError(), None, True, ["reported", "applied"]),
        (FileNotFoundError(), None, False, []),
        (KeyError("Uid"), None, False, []),
        (RuntimeError("why"), None, True, [LOOKING_FAILED, "reported", "applied"]),
        (None, FileNotFoundError(), False, ["reported", "applied"]),
        (
            None, OSError("why"), True,
            ["reported", "applied", "task 7 could not be killed, so its denied call waits for ever"],
        ),
    ],
)  # fmt: skip
def test_a_failure_on_the_way_lets_nothing_run(
    monkeypatch: pytest.MonkeyPatch,
    otherwise: Exception | None,
    apply: Exception | None,
    is_waiting: bool,
    done: list[object],
) -> None:
    case = Case(monkeypatch)

    def fail(error: Exception | None, said: str = "") -> bool:
        if said:
            case.done.append(said)
        if error:
            raise error
        return False

    loaded = SimpleNamespace(verdict=lambda _: SimpleNamespace(denying=()), asker=None)
    loaded.report = lambda *_: case.done.append("reported") or KILL
    monkeypatch.setattr(case.answers, "_loaded", loaded)
    monkeypatch.setattr(Answers, "_answer_otherwise", lambda *_: fail(otherwise))
    monkeypatch.setattr(Answers, "_apply", lambda *_: fail(apply, "applied"))
    case.request.is_waiting = lambda: is_waiting
    case.answers._settle(case.request)
    assert case.done == done


@pytest.mark.parametrize(
    ("error", "may_have_tcp", "is_waiting", "result", "done"),
    [
        (PermissionError(errno.EPERM, "why"), False, True, None, []),
        (PermissionError(errno.EPERM, "why"), True, True, errno.EACCES, [True]),
        (OSError(errno.EBADF, "why"), False, True, errno.EACCES, [False]),
        (KeyError("why"), False, False, errno.ESRCH, []),
    ],
)
def test_a_socket_that_cannot_be_looked_at_listens_only_without_tcp(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    may_have_tcp: bool,
    is_waiting: bool,
    result: int | None,
    done: list[bool],
) -> None:
    def fails(*_: object) -> int:
        raise error

    case = Case(monkeypatch, has_tcp=may_have_tcp)
    monkeypatch.setattr(listening, "listen", fails)
    report = SimpleNamespace(report_port=lambda *_, is_hidden: case.done.append(is_hidden))
    policy = parse("default errno EPERM\nread: allow\n").policy
    loaded = SimpleNamespace(reports=report, verdicts=SimpleNamespace(policies=[policy]))
    monkeypatch.setattr(case.answers, "_loaded", loaded)
    case.request.is_waiting = lambda: is_waiting
    assert case.answers._listen(case.request, SimpleNamespace(denying=(), policies=())) == result
    assert case.done == done


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        (["tcp bind: 80-82, 90"], [80, 81, 82, 90]),
        (["tcp bind: 80-82, 90", "tcp bind: 82, 90-91", "default allow"], [82, 90]),
        (["tcp bind: none"], []),
        (["default allow"], [79, 80, 81, 82, 83, 89, 90, 91]),
    ],
)
def test_a_port_that_all_policies_grant(lines: list[str], ports: list[int]) -> None:
    verdict: Any = SimpleNamespace(policies=[("a", parse(f"{line}\n").policy) for line in lines])
    assert [port for port in (79, 80, 81, 82, 83, 89, 90, 91) if answer._may_bind(verdict, port)] == ports


@pytest.mark.parametrize(
    ("status", "has_said", "records"),
    [
        (0x0700, False, [("refused", 7)]),
        (0x0700, True, []),
        (9, False, [("start", None), ("end", None)]),
        (9, True, [("start", None), ("end", None)]),
        (None, False, []),
    ],
)
def test_the_log_of_a_program_that_never_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, has_said: bool, records: list[tuple[str, int | None]]
) -> None:
    monkeypatch.setattr(answer.kernel, "wait_status", lambda *_: status)
    log = Log(opened(str(tmp_path / "log")), [])
    log.start = {"command": ["app"]}
    reporting = Reporting(log.destination, list, audit=False, log=log)
    Answers(Notification(), SimpleNamespace(), reporting, 7, -1, (-1, -1)).never_ran(has_said=has_said)
    alarms.limit_calls(0)
    written = parsed((tmp_path / "log").read_text())
    assert [(record["event"], record.get("status")) for record in written] == records
    assert [record["signal"] for record in written[1:]] == ["SIGKILL"] * (len(records) - 1 if records else 0)


def test_a_lost_start_is_told_though_the_end_comes_without_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Reporting, "complain", lambda _self, text: said.append(text))
    log = Log(opened("/dev/full"), [])
    log.start = {"command": ["app"]}
    reporting = Reporting(log.destination, list, audit=False, log=log)
    Answers(Notification(), SimpleNamespace(), reporting, 7, -1, (-1, -1)).finish()
    alarms.limit_calls(0)
    assert said == ["1 record of the log could not be written"]
