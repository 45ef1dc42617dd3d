"""`callfence export`, `import`, `diff` and `lint` on container profiles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.policygen.language.document import parse
from tests.formats.outputs import check_output

ROOT = Path(__file__).parents[3]
HELLO = ROOT / "samples" / "hello.policy"
DOCKER = ROOT / "tests" / "data" / "profiles" / "docker.json"


def callfence(*words: str | Path, status: int = 0, stdin: str = "", folder: Path = ROOT) -> tuple[str, str]:
    """What it prints on standard output and on standard error."""
    command = [Path(sys.executable).parent / "callfence", *words]
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd=folder)
    assert ran.returncode == status, ran.stderr
    return ran.stdout, ran.stderr


def test_export_tells_its_losses_in_words_and_as_json(tmp_path: Path) -> None:
    profile, losses = tmp_path / "hello.json", tmp_path / "losses.json"
    out, err = callfence("export", "--to", "oci", "--runtime", "crun", "--losses", losses, "-o", profile, HELLO)
    assert out == ""
    assert "callfence export: differs: calls newer than Linux 6.18 get kill with crun, not errno ENOSYS\n" in err
    assert "callfence export: added: execve: crun 1.21 itself, before the program: executes the program\n" in err
    assert f"to use it: podman run --security-opt seccomp={profile} ...\n" in err
    assert json.loads(profile.read_text())["defaultAction"] == "SCMP_ACT_KILL_PROCESS"
    told = check_output("losses", losses.read_text())
    assert (told["format"], told["policy"]) == ("oci", str(HELLO))
    newer = "calls newer than Linux 6.18 get kill with crun, not errno ENOSYS"
    assert {"direction": "other", "what": newer, "calls": []} in told["losses"]
    assert {"call": "execve", "why": "crun 1.21 itself, before the program: executes the program"} in told["added"]


def test_export_writes_no_second_file_over_another(tmp_path: Path) -> None:
    policy = tmp_path / "it.cfg"
    policy.write_text("callfence 1\narch x86_64\npath /usr: read\n")
    for output, reason in (("it.kafel", "would be lost"), ("other.cfg", "other.cfg is the name of a second file")):
        _, err = callfence("export", "--to", "kafel", "-o", tmp_path / output, policy, status=2)
        assert reason in err
    assert [file.name for file in tmp_path.iterdir()] == ["it.cfg"]
    assert "path /usr" in policy.read_text()


def test_the_drop_in_of_a_template_is_for_that(tmp_path: Path) -> None:
    """`app-.service.d` would be that of all units whose names begin with `app-` (systemd.unit(5))."""
    unit = tmp_path / "app@.service"
    unit.write_text("[Service]\nExecStart=/bin/app %i\n")
    out, err = callfence("export", "--to", "systemd-enforce", "--unit", unit, HELLO)
    assert "LogsDirectory=callfence/app@\n" in out
    assert "save as /etc/systemd/system/app@.service.d/callfence.conf; " in err
    assert "systemctl restart app@INSTANCE" in err


def test_export_writes_the_same_bytes_to_standard_output(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    callfence("export", "--to", "oci", "-o", profile, HELLO)
    out, _ = callfence("export", "--to", "oci", "-", stdin=HELLO.read_text())
    assert out == profile.read_text()


def test_strict_refuses_what_is_wider(tmp_path: Path) -> None:
    """runc lets through what is newer than the table if the default is to allow."""
    profile, losses = tmp_path / "p.json", tmp_path / "l.json"
    text = "default allow\nptrace: errno EPERM\n"
    command = ("export", "--to", "oci", "--runtime", "runc", "--losses", losses, "-o", profile, "-")
    out, err = callfence(*command, "--strict", stdin=text, status=1)
    assert out == ""
    assert "wider than -: calls newer than Linux 6.18 get allow with runc, not errno ENOSYS" in err
    assert "the result was not written, because it" in err
    assert not profile.exists()
    assert "wider" in [loss["direction"] for loss in json.loads(losses.read_text())["losses"]]
    callfence(*command, stdin=text)
    assert profile.exists()
    callfence("export", "--to", "oci", "--strict", "-o", profile, HELLO)


def test_the_second_file_goes_beside_the_first(tmp_path: Path) -> None:
    callfence("export", "--to", "k8s", "--name", "web", "-o", tmp_path / "p.json", HELLO)
    snippet = (tmp_path / "p.pod.yaml").read_text()
    assert snippet.startswith("spec:\n") and "localhostProfile: profiles/web.json" in snippet
    assert snippet in callfence("export", "--to", "k8s", "--name", "web", HELLO)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "--to", "oci", "--runtime", "youki", HELLO), "no runtime youki is known: there are crun, runc"),
        (("export", "--to", "oci", "--name", "a b", HELLO), "--name a b: the name must begin with a letter or digit"),
        (("export", "--to", "no", HELLO), "invalid choice: 'no'"),
        (("export", "--to", "oci", "missing.policy"), "missing.policy: No such file"),
        (("export", "--to", "oci", "-o", "/no/such/folder/p", HELLO), "/no/such/folder: No such file"),
        (("import", "--from", "oci", HELLO), "not JSON"),
        (("import", "--from", "oci", "--kernel", "new", DOCKER), "is not a kernel version such as 6.1"),
        (("import", "--from", "oci", "--cap", "sys_admin", DOCKER), "is not a capability's name such as CAP_SYS_ADMIN"),
        (("diff", DOCKER, ROOT / "samples" / "httpd.py"), "httpd.py:2:"),
    ],
)
def test_bad_input(words: tuple[str | Path, ...], message: str) -> None:
    assert message in callfence(*words, status=2)[1]


def test_what_a_file_says_does_not_drive_the_terminal(tmp_path: Path) -> None:
    name = tmp_path / "a\x1b[2J"
    name.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], "x\\u001b[2J": 1}')
    _, err = callfence("import", "--from", "oci", name, status=2)
    assert "a\\x1b[2J: x\\x1b[2J: is unknown" in err
    name.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["no such"], "action": "SCMP_ACT_ERRNO"}]}')
    out, err = callfence("import", "--from", "oci", name)
    assert "wider than the file: names that no architecture known here has" in out
    assert "\x1b" not in out + err


def test_the_line_that_says_how_to_use_it_can_be_pasted(tmp_path: Path) -> None:
    _, err = callfence("export", "--to", "bwrap", "-o", tmp_path / "a b;c", HELLO)
    assert f"9<'{tmp_path}/a b;c'\n" in err


def test_import_prints_a_policy_with_what_it_does_not_say() -> None:
    out, err = callfence("import", "--from", "oci", DOCKER)
    policy = parse(out).policy
    assert len(policy.entries) == 2
    assert "# not said: wider than the file: personality with something in the bits" in out
    assert f"wider than {DOCKER}: personality with something in the bits" in err
    callfence("import", "--from", "oci", "--strict", DOCKER, status=1)


def test_import_for_a_container_with_capabilities(tmp_path: Path) -> None:
    policy = tmp_path / "docker.policy"
    callfence("import", "--from", "oci", "--cap", "CAP_SYS_CHROOT", "--kernel", "4.7", "-o", policy, DOCKER)
    names = {line.partition(":")[0] for line in policy.read_text().splitlines()}
    assert "chroot" in names, "it comes with the capability"
    assert "ptrace" not in names, "it comes with Linux 4.8"


@pytest.mark.long
def test_a_profile_is_compared_with_a_policy_in_one_command(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("read: allow\nwrite: fd == 1\n")
    out, err = callfence("diff", DOCKER, tmp_path / "it.policy")
    assert out.startswith("narrower: note: default errno EPERM -> kill: calls that no entry names end the process")
    assert f"callfence: {DOCKER} is read as a container profile" in err
    assert callfence("diff", DOCKER, DOCKER)[0].startswith("equal")


def test_standard_input_is_linted() -> None:
    out, _ = callfence("lint", "-", stdin="ptrace: allow\n", status=1)
    assert out.startswith("-: danger: ptrace: ")


def test_a_profile_is_linted() -> None:
    out, _ = callfence("lint", DOCKER, status=1)
    assert "danger: ioctl: it types into its terminal [tiocsti]" in out
