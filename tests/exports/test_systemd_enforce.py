"""Units whose programs run under `enforce`, by drop-ins of `callfence export --to systemd-enforce`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from calls import format_options
from needed import needs, needs_root, require

from callfence.policygen.formats import Direction, ExportError, Service, systemd_enforce
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import Policy

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
APP = """\
#!/bin/sh
printf '%s|' "$@" $$ > wrote
ln -s wrote made || exit 3
rm made
systemd-notify --ready
while [ -e wrote ]; do sleep 0.1; done
"""


def export(unit: str, policy: str = "/etc/callfence/it.policy", *, audit: bool = False, name: str = "it") -> str:
    service = Service(unit, "/usr/bin/enforce", policy, audit)
    made = systemd_enforce.export(resolved(Policy({})), format_options(name=name, service=service))
    return made.data.decode()


def commands(unit: str) -> list[str]:
    before = "/usr/bin/enforce --log %L/callfence/it/enforce.log -p /etc/callfence/it.policy -- "
    lines = [line for line in export(unit).splitlines() if line.startswith("ExecStart=")]
    return [line.removeprefix("ExecStart=").replace(before, "... ") for line in lines]


def test_the_drop_in_word_for_word() -> None:
    assert export("[Service]\nExecStart=/usr/sbin/app -f 'a b' $X %n\n", audit=True) == """\
# it under `enforce`, made by `callfence export --to systemd-enforce`.
[Service]
ExecStart=
ExecStart=/usr/bin/enforce --audit --log %L/callfence/it/enforce.log -p /etc/callfence/it.policy -- /usr/sbin/app -f 'a b' $X %n
LogsDirectory=callfence/it
"""


def test_units_whose_names_are_alike_have_their_own_folders() -> None:
    """systemd reads what follows a colon as the name of a link, and a backslash as the start of an escape."""
    texts = [export("[Service]\nExecStart=app\n", name=name) for name in (r"t@a\x2db", "t@a-x2db", "a:b")]
    folders = [text.splitlines()[-1] for text in texts]
    assert folders == [f"LogsDirectory=callfence/{name}" for name in ("t@a+x2db", "t@a-x2db", "a=b")]
    assert "--log %L/callfence/t@a+x2db/enforce.log " in texts[0]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("ExecStart=app", ["... app"]),
        ("ExecStart=one\nExecStart=\nExecStart = two", ["... two"]),
        ("Type=oneshot\nExecStart=one\nExecStart=two", ["... one", "... two"]),
        ("ExecStart=one ; -+two 'a ; b' \\; \";\" x; ;three ;", ["... one", "-+... two 'a ; b' \\; \";\" x; ;three"]),
        ("ExecStart=app \\\n# a comment\n  -x", ["... app    -x"]),
        ("ExecStart=one \\\\\r\nExecStart=two", ["... one \\\\", "... two"]),
        ("Environment=A=b\x0c[Unit]\nExecStart=app", ["... app"]),
        ("#ExecStart=no\n;ExecStart=no\nExecStart=app\n[Install]\nExecStart=no", ["... app"]),
    ],
)
def test_the_commands_of_a_unit(lines: str, found: list[str]) -> None:
    assert commands(f"[Unit]\nExecStart=no\n[Service]\n{lines}\n") == ["", *found]


def test_prefixes_are_for_all_of_the_command() -> None:
    assert "ExecStart=-+/usr/bin/enforce " in export("[Service]\nExecStart=-+/bin/app x\n")
    assert export("[Service]\nExecStart=-+/bin/app x\n").count(" -- /bin/app x\n") == 1


def test_a_path_that_systemd_would_change() -> None:
    assert ' -p "/etc/a b/50%%$$x.policy" -- app' in export("[Service]\nExecStart=app\n", "/etc/a b/50%$x.policy")
    unchanged = export("[Service]\nExecStart=-:app $y\n", "/etc/a b/50%$x.policy")  # systemd.service(5): no `$$` either
    assert "ExecStart=-:" in unchanged and ' -p "/etc/a b/50%%$x.policy" -- app $y' in unchanged


def test_the_path_of_enforce_has_no_variables() -> None:
    service = Service("[Service]\nExecStart=app\n", "/opt/50%$x/enforce", "p")
    made = systemd_enforce.export(resolved(Policy({})), format_options(service=service))
    assert 'ExecStart="/opt/50%%$x/enforce" --log' in made.data.decode()


@pytest.mark.parametrize("policy", ["/etc/a\nExecStartPre=/bin/x", "/etc/a\r", "/etc/\udcff"])
def test_a_path_that_a_unit_cannot_have(policy: str) -> None:
    with pytest.raises(ExportError, match="control characters"):
        export("[Service]\nExecStart=app\n", policy)


@pytest.mark.parametrize("unit", ["", "[Service]\nType=simple\n", "[Service]\nExecStart=@/bin/app name\n"])
def test_a_unit_that_cannot_be_run_so(unit: str) -> None:
    with pytest.raises(ExportError):
        export(unit)
    with pytest.raises(ExportError, match="--unit"):
        systemd_enforce.export(resolved(Policy({})), format_options())


def test_a_unit_that_confines_enforce_is_said() -> None:
    unit = "[Service]\nExecStart=app\nSystemCallFilter=@system-service\nNoExecPaths=/\n"
    made = systemd_enforce.export(resolved(Policy({})), format_options(service=Service(unit, "enforce", "p", audit=False)))
    (lost,) = made.losses
    assert (lost.direction, "the unit has NoExecPaths, SystemCallFilter, also for enforce" in lost.what) == (
        Direction.NARROWER, True,
    )  # fmt: skip
    cleared = Service(f"{unit}SystemCallFilter=\nNoExecPaths=\n", "enforce", "p", audit=False)
    assert systemd_enforce.export(resolved(Policy({})), format_options(service=cleared)).losses == ()


@needs("systemd")
def test_systemd_accepts_the_drop_in(tmp_path: Path) -> None:
    unit = tmp_path / "it.service"
    unit.write_text("[Service]\nExecStart=-/bin/true 'a b' $X\n")
    dropin = tmp_path / "it.service.d" / "callfence.conf"
    dropin.parent.mkdir()
    dropin.write_text(export(unit.read_text()).replace("/usr/bin/enforce", "/bin/true"))
    command = ["systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", str(unit)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.long
@needs_root
def test_from_an_audited_unit_to_an_enforced_one(tmp_path: Path) -> None:
    """A service that tells its manager when it is ready, in a `systemd --user` of its own: audit, allow, enforce."""
    require("systemd", "dbus-user-session")
    app = tmp_path / "app"
    app.write_text(APP)
    app.chmod(0o755)
    learn = [sys.executable, "-m", "callfence", "learn", "-q", "-o", "it.policy", "sh", "-c"]
    script = "echo > wrote; systemd-notify --ready; sleep 0; rm wrote"
    subprocess.run([*learn, script], cwd=tmp_path, timeout=60, check=False, env={**os.environ, "NOTIFY_SOCKET": "/none"})
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    driver = [sys.executable, HERE / "programs/run_service.py", tmp_path, tmp_path / "results"]
    command = [*namespaces, "sh", HERE / "programs/user_manager.sh", tmp_path, *driver]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "results").read_text())
    assert found["denied"]["ActiveState"] == "failed", found
    for name in ("audited", "enforced"):
        state = found[name]
        assert state["ActiveState"] == "active", found
        words = f"two words|{tmp_path}/home|it.service|{state['ExecMainPID']}|"
        assert state["wrote"] == words, found  # its arguments, and the pid that systemd knows: enforce has become the program
        assert state["Result"] == "success", found
    assert any(call.startswith("symlinkat(") for call in found["logged"]), found
    assert "+ symlinkat: " in found["allowed"], found
    assert "/usr/bin/ln" in found["why"], found
