"""Exports are read back, texts by tests/support/exported_languages.py: each is the same policy, or differs as reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import strategies
from announced import check
from calls import format_options, parse, parse_file
from exported_languages import read_kafel, read_minijail
from hypothesis import HealthCheck, given, settings
from installed import PROBE_POLICY
from strategies import EXAMPLES

from callfence.policygen import formats
from callfence.policygen.comparing.compare import compare
from callfence.policygen.filter.compile import CompileError, compile_policy
from callfence.policygen.formats import Direction, ExportError
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import ActionKind, Arm, Policy
from callfence.policygen.values import replace
from callfence.tracer.abi import NATIVE, Arch, table

ROOT = Path(__file__).parent.parent.parent
OPTIONS = format_options(name="it")
READERS = {"minijail": read_minijail, "kafel": read_kafel}
SAMPLES = {path.stem: resolved(parse_file(path).policy).written() for path in sorted((ROOT / "samples").glob("*.policy"))}
POLICIES = {
    "probe": parse(PROBE_POLICY).policy,
    "denies a few": parse(
        "default allow\nunknown errno ENOSYS\nptrace: kill\nbpf: errno EPERM\nioctl: kill if cmd == TIOCSTI else allow\n"
    ).policy,
    "old table": parse("table 6.1\ndefault errno EPERM\nunknown errno ENOSYS\nread: allow\n").policy,
    "logs": parse("default log\nwrite: fd == 1 || fd == 2\nmemfd_create: trap\nsetuid: notify\n").policy,
    "negative": parse("openat: dfd == AT_FDCWD\nsetpriority: niceval < -3 || niceval > 99\nchmod: mode != 0777\n").policy,
    "two architectures": parse("arch x86_64\nread: allow\narch i386\nread: allow\n").policy,
    "everything opaque": parse("clone3: errno ENOSYS\nopenat2: errno ENOSYS\nclone: allow\n").policy,
}


def read_back(name: str, policy: Policy) -> None:
    exported = formats.exporter(name)(policy, OPTIONS)
    check(policy, exported, READERS[name](exported.data.decode()))


@pytest.mark.long
@pytest.mark.parametrize("name", ["minijail", "kafel"])
@pytest.mark.parametrize("policy", (SAMPLES | POLICIES).values(), ids=SAMPLES | POLICIES)
def test_a_policy_read_back_differs_as_reported(policy: Policy, name: str) -> None:
    read_back(name, policy)


@pytest.mark.parametrize("name", ["bpf", "bwrap"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_filters_differ_as_reported(policy: Policy, name: str) -> None:
    """Those of the samples come back word for word: tests/policygen/filter/test_lift.py."""
    exported = formats.exporter(name)(policy, OPTIONS)
    check(policy, exported, formats.reader("bpf")(exported.data, "it", OPTIONS).policy)


@pytest.mark.parametrize("name", ["minijail", "kafel"])
@settings(max_examples=EXAMPLES // 3, suppress_health_check=list(HealthCheck))
@given(policy=strategies.policies((Arch.X86_64,), max_entries=3))
def test_any_policy_is_read_back(policy: Policy, name: str) -> None:
    try:
        compile_policy(policy)
        read_back(name, policy)
    except CompileError:
        return  # too large for any filter
    except ExportError as error:
        assert "limit" in str(error)


@pytest.mark.parametrize("default", ["allow", "log", "kill", "errno EPERM", "trap"])
@pytest.mark.parametrize("name", ["systemd", "firejail", "minijail", "kafel"])
def test_denied_calls_stay_denied(name: str, default: str) -> None:
    """The target may lack actions; it may differ only by missing conditions and names, and by its own calls."""
    text = f"default {default}\nptrace: trap\nsetns: notify\nbpf: errno EPERM\nsocket: kill\nlistxattrat: trap\n"
    exported = formats.exporter(name)(parse(text).policy, OPTIONS)
    more = {call for loss in formats.wider(exported.losses) for call in loss.calls}
    assert more <= {"execve", "write", "execveat", "prctl"}


def test_bpf_is_the_filter_itself() -> None:
    policy = SAMPLES["httpd"]
    exported = formats.exporter("bpf")(policy, OPTIONS)
    assert exported.data == compile_policy(policy)
    assert not compare(policy, formats.reader("bpf")(exported.data, "it", OPTIONS).policy).differences
    assert not formats.wider(exported.losses)


@pytest.mark.parametrize("name", ["systemd", "minijail", "kafel", "firejail", "bwrap", "c"])
def test_a_policy_for_32_bit_programs_alone_is_refused(name: str) -> None:
    for arch in (Arch.I386, Arch.ARM):
        with pytest.raises(ExportError, match=f"{NATIVE}|{Arch.X86_64}"):
            formats.exporter(name)(Policy({arch: {}}), OPTIONS)


@pytest.mark.parametrize("name", ["systemd", "minijail", "kafel", "firejail"])
def test_a_format_of_one_architecture_is_written_for_the_machines(name: str) -> None:
    """By `arch` of the options, else for the one that the policy has; what it leaves out is reported."""
    both = parse("arch x86_64\nread: allow\narch aarch64\nwrite: allow\n").policy
    alone = {arch: resolved(Policy({arch: both.entries[arch]})) for arch in both.entries}
    for arch, other in ((Arch.X86_64, Arch.AARCH64), (Arch.AARCH64, Arch.X86_64)):
        exported = formats.exporter(name)(resolved(both), replace(OPTIONS, arch=arch))
        assert exported.data == formats.exporter(name)(alone[arch], replace(OPTIONS, arch=other)).data
        assert any(f"filters only calls of {arch}; calls of {other} kill" in loss.what for loss in exported.losses)


def test_a_filter_of_several_machines_has_the_loaders_calls_for_each() -> None:
    policy = parse("arch x86_64\nread: allow\narch aarch64\nread: allow\narch arm\nread: allow\n").policy
    source = formats.exporter("c")(resolved(policy), OPTIONS).data.decode()
    assert "#if !defined(__x86_64__) && !defined(__aarch64__)\n" in source
    assert '#error "the filter is for programs of x86_64 and aarch64"\n' in source
    exported = formats.exporter("bwrap")(resolved(policy), OPTIONS)
    read_back = formats.reader("bpf")(exported.data, "it", OPTIONS).policy
    names = {arch: {table(arch).by_number[number].name for number in section} for arch, section in read_back.entries.items()}
    assert names[Arch.X86_64] == names[Arch.AARCH64] == {"read", "execve", "exit_group", "wait4", "write"}
    assert names[Arch.ARM] == {"read"}


@pytest.mark.parametrize("name", ["systemd", "kafel", "firejail", "bwrap", "c"])
def test_a_later_arm_is_reported(name: str) -> None:
    policy = replace(SAMPLES["hello"], arm=Arm.ENTRY)
    losses = formats.exporter(name)(policy, OPTIONS).losses
    assert any(loss.direction is Direction.NARROWER and "dynamic loader" in loss.what for loss in losses)


@pytest.mark.parametrize("name", ["bpf", "bwrap", "c", "kafel", "minijail", "systemd", "firejail"])
def test_a_missing_listener_is_reported(name: str) -> None:
    policy = parse("read: notify\nwrite: allow\n").policy
    assert any(entry.action.kind is ActionKind.NOTIFY for entry in policy.entries[Arch.X86_64].values())
    told = formats.exporter(name)(policy, OPTIONS).losses
    assert any("read" in loss.calls or "ENOSYS" in loss.what for loss in told)


def test_x32_calls_that_nsjail_lets_run_are_reported() -> None:
    """A policy kills them whatever its default; Kafel has the default for every number that has no rule."""
    for default, direction in (("allow", Direction.WIDER), ("errno EPERM", Direction.OTHER), ("kill", None)):
        losses = formats.exporter("kafel")(parse(f"default {default}\n").policy, OPTIONS).losses
        assert [loss.direction for loss in losses if "x32" in loss.what] == ([direction] if direction else [])
    arm = formats.exporter("kafel")(parse("arch aarch64\ndefault allow\n").policy, replace(OPTIONS, arch=Arch.AARCH64))
    assert not any("x32" in loss.what for loss in arm.losses)
