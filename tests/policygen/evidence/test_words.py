"""What looks like a key, a token or a password is not repeated by evidence; ordinary names are."""

from __future__ import annotations

import base64
import random
import re
import string
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from callfence.policygen.evidence.facts import Places, Varying, facts, text, without_secrets
from callfence.policygen.evidence.pointed import Value
from callfence.policygen.evidence.words import SECRET, escaped, masked, steady
from callfence.policygen.recording.model import Observation
from callfence.policygen.review import companion
from callfence.tracer.abi import Arch, Event

RANDOM = random.Random(3)
BASE62 = string.ascii_letters + string.digits


def some(count: int, letters: str = BASE62) -> str:
    return "".join(RANDOM.choices(letters, k=count))


# Put together here, so that no scanner takes this file for a leak.
FORMATS = {
    "aws": "AKIA" + some(16, string.ascii_uppercase + string.digits),
    "aws temporary": "ASIA" + some(16, string.ascii_uppercase + string.digits),
    "github": "ghp_" + some(36), "github oauth": "gho_" + some(36), "github app": "ghs_" + some(36),
    "github fine": "github_pat_" + some(22) + "_" + some(59),
    "gitlab": "glpat-" + some(20), "gitlab trigger": "glptt-" + some(40, "0123456789abcdef"),
    "slack": f"xoxb-{some(12, string.digits)}-{some(12, string.digits)}-{some(24)}", "slack user": "xoxp-" + some(40),
    "openai": "sk-" + some(48), "openai project": "sk-proj-" + some(20) + "_" + some(24),
    "anthropic": "sk-ant-api03-" + some(40) + "-" + some(20),
    "stripe": "sk_live_" + some(24), "npm": "npm_" + some(36), "pypi": "pypi-AgEIcHlwaS5vcmc" + some(60),
    "docker": "dckr_pat_" + some(27), "hugging face": "hf_" + some(34), "google": "AIza" + some(35),
    "google oauth": "ya29.a0" + some(60), "sendgrid": "SG." + some(22) + "." + some(43), "vault": "hvs." + some(24),
    "age": "AGE-SECRET-KEY-1" + some(58, string.ascii_uppercase + string.digits),
    "jwt": "eyJ" + some(33) + ".eyJ" + some(60) + "." + some(43), "telegram": some(9, "123456789") + ":" + some(35),
    "base64": "Zq3K" + base64.b64encode(bytes(RANDOM.randrange(256) for _ in range(33))).decode().replace("/", "x"),
    "base64url": base64.urlsafe_b64encode(bytes(RANDOM.randrange(256) for _ in range(48))).decode(),
    "capital hexadecimal": "9F" + some(38, "0123456789ABCDEF"),
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\nQAAA\n-----END OPENSSH PRIVATE KEY-----",
}  # fmt: skip


@pytest.mark.parametrize("secret", FORMATS.values(), ids=list(FORMATS))
@pytest.mark.parametrize("frame", ["{}", "backup-{}.json", "x.{}", "{}.pem", "ab,{}"])
def test_real_formats(secret: str, frame: str) -> None:
    name = masked(frame.format(secret))
    assert SECRET in name
    assert not any(part in name for part in (secret[:12], secret[-10:], secret[len(secret) // 2 :][:12]))
    assert masked(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("password=hunter2", f"password={SECRET}"), ("DB_PASSWORD=x;y=1", f"DB_PASSWORD={SECRET};y=1"),
        ("a?token=abc&b=c", f"a?token={SECRET}&b=c"), ("api_key=1", f"api_key={SECRET}"),
        ("--client-secret=q", f"--client-secret={SECRET}"),
        ("https://me:pw@e.org/x", f"https://{SECRET}@e.org/x"),
        ("postgres://u:p%40@10.0.0.1:5432/db", f"postgres://{SECRET}@10.0.0.1:5432/db"),
        ("me:pw@e.org", f"{SECRET}@e.org"),
        (f"{'x' * 300}:geheim@host", f"{'x' * 44}<secret>@host"),
    ],
)  # fmt: skip
def test_passwords_by_their_names_and_in_addresses(name: str, shown: str) -> None:
    assert masked(name) == shown
    assert masked(shown) == shown


ORDINARY = (
    "libQt5XcbQpa.so.5.15.8", "x86_64-linux-gnu", "python3.13", "_pydecimal.cpython-313-x86_64-linux-gnu.so",
    "HttpServletRequestWrapperFactoryBean2Test.class", "AbstractSingletonProxyFactoryBeanDefinitionParser3Impl.java",
    "git@github.com:o/r.git", "nginx:1.25@sha256:0123", "getty@tty1.service", "user@1000.service", "a=b", "key=value",
    "compass=north",
    "monkey=see", "systemd-private-*-colord.service-*", "en_US.UTF-8", "ISO-8859-1", "DejaVuSansMono-BoldOblique.ttf",
    "com.google.Chrome.Foo-Bar_Baz.desktop", "My Documents and Settings 2024 (copy).docx", "IMG_20240101_120000_HDR.jpg",
    "0c5jwrzk1wmk3bm5b8mfkz0q5z3fkj6a-glibc-2.38", "sk-learn-data-sets-and-models", "pypi-simple-index-packages",
    "npm_config_cache",
    "CMakeFiles", "TestSomethingWithAVeryLongNameThatHas2Numbers3.test", "setuptools-68.1.2-py3-none-any.whl",
    "org.freedesktop.DBus.Error.ServiceUnknown", "gh_hosts.yml", "glpat.conf", "AKIAKI.txt", "eyJson.py", "author=me",
    "<secret>",
    "linux-image-6.18.0-rc1-amd64-unsigned_6.18~rc1-1~exp1_amd64.deb", "/proc/self/fd/3", "@/tmp/.X11-unix/X0",
    "127.0.0.1:6379",
    "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE9_M_appendEPKcm",
)  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_stay(name: str) -> None:
    assert masked(name) == name


def test_nothing_of_this_machine_and_of_this_repository_is_taken_for_a_secret() -> None:
    """The names of its files, of an installed system's, and what the samples and docs have of evidence."""
    root = Path(__file__).resolve().parents[3]
    tops = (root, Path("/usr/lib"), Path("/etc"), Path("/usr/share"))
    names = {part for top in tops for path in _below(top) for part in path}
    assert len(names) > 500
    shown = re.findall(r'"([^"\n]+)"', "\n".join(file.read_text() for file in (root / "docs").glob("*.md")))
    changed = [name for name in sorted(names | {*shown}) if masked(name) != name]
    assert [name for name in changed if "secret" not in name and "Bearer" not in name] == []


def _below(top: Path) -> list[tuple[str, ...]]:
    """Names below a folder, two levels of them."""
    skipped = (".venv", ".git")
    return [path.relative_to(top).parts for level in ("*", "*/*") for path in top.glob(level) if path.parts[-1] not in skipped]


def test_evidence_does_not_repeat_them_wherever_it_comes_from() -> None:
    token = FORMATS["github"]
    event, where = Event(Arch.X86_64.audit, 257, (3, 1, 0, 0, 0, 0)), Places()
    (fact,) = facts(event, {1: Value("path", (f"/srv/{token}/x",))}, where, Varying())
    assert text(fact) == f'filename="/srv/{SECRET}/x"'
    assert text(facts(event, {1: Value("text", (FORMATS["private key"],))}, where, Varying())[0]) == f'filename=text:"{SECRET}"'
    assert str(Value("path", (f"/srv/{token}",))) == f'"/srv/{SECRET}"'
    assert str(Value("words", ("curl", f"token={token}"))) == f'["curl", "token={SECRET}"]'
    assert without_secrets(f'argv=["x", "password={token}"]') == f'argv=["x", "password={SECRET}"]'
    registers, known = (3, 0, 0, 0, 0, 0), (f'filename="/a/{token}"',)
    old = Observation(Arch.X86_64.audit, 257, (None, None, 0, 0), "/bin/x", (1,), "?", registers, known)
    kept = companion.reduced(old, "/bin/x", "libc.so.6/openat64")
    assert kept is not None
    written = companion.text([kept], "app.policy")
    assert token not in written and f'"/a/{SECRET}"' in written
    assert written.splitlines()[2].startswith(f"# {SECRET} replaces")
    assert companion.read(written, "app.evidence").unread == ()
    plain = companion.text([kept._replace(evidence=())], "app.policy")
    assert SECRET not in plain


@given(st.text(max_size=80))
def test_masking_is_steady(name: str) -> None:
    once = masked(name)
    assert masked(once) == once
    assert once == name or SECRET in once


def test_random_bytes_are_hardly_ever_missed() -> None:
    """As base64 of what is no text: about three in a thousand look like words."""
    source = random.Random(0)
    names = (base64.urlsafe_b64encode(source.randbytes(source.randint(36, 60))).decode() for _ in range(10_000))
    assert sum(SECRET not in steady(name, ()) for name in names) < 100


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain name", "plain name"),
        (b'a"b', r"a\x22b"),
        (b"a*b", r"a\*b"),
        (b"a\\b", r"a\\b"),
        (b"a\nb", r"a\x0ab"),
        (b'"*\\', r"\x22\*\\"),
        ("caf\u00e9".encode(), "caf\u00e9"),
        (b"\xff", r"\xff"),
    ],
)
def test_what_could_end_a_text_or_control_a_terminal_is_escaped(data: bytes, expected: str) -> None:
    assert escaped(data) == expected


@pytest.mark.parametrize("start", ["", "/", "-".join(["sk"] * 455) + "-", "-eyJ" * 300, "a:" * 700, "-pypi-" * 200])
def test_a_long_name_takes_little_time(start: str) -> None:
    """The helper of `enforce` looks for secrets in each path of a denied call, while other calls wait."""
    begin = time.process_time()
    masked(start.ljust(4090, "a"))
    assert time.process_time() - begin < 4  # about 0.05 s on an idle machine; 18 s if each part is read from each place


@pytest.mark.parametrize("name", ["a\u3164", "\U000e0100x"])
def test_what_shows_nothing_is_escaped(name: str) -> None:
    """A file of evidence is read by people, to whom such a name looks like another one."""
    assert escaped(name) != name
    assert escaped(name).isascii()
