"""Container profiles, written and read back: equal, or wider or narrower as reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import strategies
from calls import format_options, parse
from container_profiles import (
    ALLOWED,
    CAPABILITIES,
    MASKED,
    NUMBER,
    PUBLISHED,
    RUNTIMES,
    SAMPLES,
    assert_all_is_said,
    assert_is_what_libseccomp_makes,
    compiled,
    is_said,
    policy,
    profile,
    read,
)
from hypothesis import HealthCheck, given, settings, strategies as st
from strategies import EXAMPLES

from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.filter import bpf
from callfence.policygen.filter.libseccomp import LibseccompRule
from callfence.policygen.formats import Direction, Exported, ExportError, Loss
from callfence.policygen.formats.containers import profile as profiles, written
from callfence.policygen.formats.containers.files import export_k8s, export_oci, export_spo, read_oci, read_spo
from callfence.policygen.formats.containers.written import own_calls, with_own_calls
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse_file
from callfence.policygen.model import ALLOW, Policy
from callfence.tracer.abi import Arch, Event, table


@cache
def exported_sample(path: Path, runtime: str) -> Exported:
    return export_oci(resolved(parse_file(path).policy).written(), format_options(runtime=runtime))


# Round trips


@pytest.mark.long
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_read_back_equal_but_for_calls_newer_than_its_table(path: Path, runtime: str) -> None:
    meant = with_own_calls(resolved(parse_file(path).policy).written(), runtime).policy
    exported = exported_sample(path, runtime)
    differences = assert_all_is_said(meant, exported, runtime)
    assert all(one.number is None and one.example.number > table(Arch.X86_64).newest(meant.table) for one in differences)
    assert (runtime == "runc") == (not differences)
    assert not [loss for loss in exported.losses if loss.direction is Direction.WIDER]


@pytest.mark.long
@pytest.mark.parametrize("capabilities", [frozenset(), CAPABILITIES], ids=["plain", "capabilities"])
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_profile_goes_through_the_policy_unchanged(path: Path, capabilities: frozenset[str]) -> None:
    imported = read_oci(path.read_bytes(), path.name, format_options(capabilities=capabilities))
    exported = export_oci(imported.policy, format_options())
    again = read_oci(exported.data, path.name, format_options())
    assert compare(imported.policy, again.policy).differences == ()
    for entry in json.loads(exported.data)["syscalls"]:
        indices = [arg["index"] for arg in entry.get("args", ())]
        assert len(indices) == len(set(indices)), "runc and crun would take either"


@pytest.mark.long
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(strategies.policies(), st.sampled_from(RUNTIMES))
def test_no_loss_is_silent(meant: Policy, runtime: str) -> None:
    try:
        exported = export_oci(meant, format_options(runtime=runtime))
    except ExportError as error:
        assert any(word in str(error) for word in ("only those of ", "instructions", "miscompiles", "too complex"))
        return
    assert_all_is_said(with_own_calls(meant, runtime).policy, exported, runtime)
    assert exported == export_oci(meant, format_options(runtime=runtime))


@pytest.mark.long
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_libseccomps_filter_is_what_the_profile_means(path: Path) -> None:
    written = exported_sample(path, "runc").data
    assert_is_what_libseccomp_makes(profiles.read(json.loads(written), path.name), [Arch.X86_64])



# Writing


def test_a_profile_serves_a_machine_of_each_architecture() -> None:
    """libseccomp makes of it, for all four architectures at once, what is meant on each: private calls of arm too."""
    text = "".join(
        f"arch {arch}\nclose: allow\nread: fd == 1\n{'cacheflush: allow' if arch is Arch.ARM else ''}\n" for arch in Arch
    )
    exported = export_oci(parse(f"default errno EPERM\nunknown errno EPERM\n{text}").policy, format_options())
    data = json.loads(exported.data)
    assert data["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert_is_what_libseccomp_makes(profiles.read(data, "p"), [*Arch])
    for machine in (Arch.X86_64, Arch.AARCH64):
        assert set(read(exported.data, arch=machine).policy.entries) == {*Arch}


def test_the_architecture_of_the_machine_comes_first() -> None:
    """O_DIRECTORY has another value on arm64, so one list of names cannot serve both kinds of machines."""
    meant = policy("arch x86_64\nopenat: flags == O_RDONLY|O_DIRECTORY\narch aarch64\nopenat: flags == O_RDONLY|O_DIRECTORY\n")
    for machine, other in ((Arch.X86_64, Arch.AARCH64), (Arch.AARCH64, Arch.X86_64)):
        exported = export_oci(meant, format_options(arch=machine))
        assert [loss.calls for loss in exported.losses if loss.what.startswith(f"calls of {other},")] == [("openat",)]
        assert compare(meant, read(exported.data, arch=machine).policy).differences
        assert list(read(exported.data, arch=machine).policy.entries) == [machine]


@pytest.mark.parametrize("text", ["arch i386\nread: allow\n", "arch arm\nread: allow\n"])
def test_a_policy_of_32_bit_programs_alone_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="only those of"):
        export_oci(policy(text), format_options())


def test_calls_with_equal_conditions_share_an_entry() -> None:
    exported = export_oci(policy("read: fd == 1 || fd == 2\nwrite: fd == 1\nexit: allow\ndup: allow\n"), format_options())
    entries = [(entry["names"], entry.get("args")) for entry in json.loads(exported.data)["syscalls"]]
    one, two = ([{"index": 0, "value": 0xFFFFFFFF, "valueTwo": fd, "op": MASKED}] for fd in (1, 2))
    assert entries[:3] == [(["dup", "exit"], None), (["read"], two), (["read", "write"], one)]


def test_an_int_is_compared_without_its_upper_half() -> None:
    exported = export_oci(policy("dup: fildes == 3\n"), format_options())
    event = Event(Arch.X86_64.audit, NUMBER["dup"], (3 | 1 << 40, 0, 0, 0, 0, 0))
    assert bpf.run(compiled(profiles.read(json.loads(exported.data), "p"), [Arch.X86_64]), event) == bpf.ret(ALLOW)


def test_two_actions_for_one_call() -> None:
    meant = policy("prlimit64: pid == 0 else errno EPERM\nioctl: kill if cmd == TIOCSTI else allow\n")
    exported = export_oci(meant, format_options(runtime="runc"))
    assert compare(with_own_calls(meant, "runc").policy, read(exported.data, runtime="runc").policy).differences == ()


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        (
            "ioctl: errno EPERM if cmd == TIOCSTI else allow\n",
            Loss(Direction.OTHER, "libseccomp cannot be given two actions for it: kill where it is denied", ("ioctl",)),
        ),
        (
            "ioctl: errno EPERM if cmd == TIOCSTI else trap\n",
            Loss(Direction.OTHER, "libseccomp cannot be given two actions for it: always the strictest", ("ioctl",)),
        ),
    ],
)
def test_two_actions_that_libseccomp_would_miscompile_become_one(
    text: str, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it knows only one action for each call: no policy is known with which it does what callfence prevents so."""
    generate = written.generate

    def wrong(default: int, rules: Sequence[LibseccompRule]) -> list[bpf.Instruction]:
        returned = {rule.number: rule.ret for rule in rules}
        return generate(default, [rule for rule in rules if rule.ret == returned[rule.number]])

    assert "libseccomp cannot" not in str(export_oci(policy(text), format_options()).losses)
    monkeypatch.setattr(written, "generate", wrong)
    assert loss in export_oci(policy(text), format_options()).losses


def test_a_condition_with_too_many_entries_is_denied_and_reported() -> None:
    exported = export_oci(policy("dup2: oldfd != 7 && newfd != 9\n"), format_options())
    assert Loss(Direction.NARROWER, "its condition takes more than 512 alternatives: always kill", ("dup2",)) in exported.losses


def test_many_entries_are_reported_and_the_runtimes_own_calls_take_few() -> None:
    def exported(alternatives: int) -> Exported:
        values = ", ".join(str(3 * value) for value in range(alternatives))
        return export_oci(policy(f"dup: fildes in {{{values}}}\nexit: allow\n"), format_options(runtime="runc"))

    few, many = (exported(number) for number in (90, 180))
    assert len(json.loads(few.data)["syscalls"]) <= 128
    assert not any("entries" in loss.what for loss in few.losses)
    assert any("which runtimes that take no more than 128 refuse" in loss.what for loss in many.losses)
    assert "runc itself, before the program" in {entry.get("comment") for entry in json.loads(few.data)["syscalls"]}
    assert few.additions == many.additions


def test_architectures_that_differ_are_left_out() -> None:
    both = policy("read: allow\narch i386\nread: allow\n")
    assert json.loads(export_oci(both, format_options()).data)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    differing = export_oci(policy("read: allow\narch i386\nwrite: allow\n"), format_options())
    assert json.loads(differing.data)["architectures"] == ["SCMP_ARCH_X86_64"]
    assert any(loss.calls == ("read", "write") and loss.direction is Direction.NARROWER for loss in differing.losses)
    with pytest.raises(ExportError, match="only those of i386"):
        export_oci(policy("arch i386\nread: allow\n"), format_options())


@pytest.mark.parametrize(
    ("text", "runtime", "direction", "words"),
    [
        ("", "crun", Direction.OTHER, "calls newer than Linux 6.18 get kill with crun, not errno ENOSYS"),
        ("unknown allow\n", "crun", Direction.NARROWER, "get kill with crun, not allow"),
        ("unknown kill\n", "runc", Direction.OTHER, "get errno ENOSYS with runc, not kill"),
        ("default allow\n", "runc", Direction.WIDER, "get allow with runc, not errno ENOSYS"),
        ("", "", Direction.NARROWER, "without --runtime"),
        ("arm entry\n", "crun", Direction.NARROWER, "dynamic loader"),
        ("", "crun", Direction.OTHER, "killing the thread"),
        ("default allow\nuprobe: errno EPERM\n", "crun", Direction.WIDER, "libseccomp 2.6 does not know these"),
    ],
)
def test_losses_of_writing_are_reported(text: str, runtime: str, direction: Direction, words: str) -> None:
    exported = export_oci(policy(f"{text}exit: allow\n"), format_options(runtime=runtime))
    assert any(loss.direction is direction and words in loss.what for loss in exported.losses), exported.losses


KILLS = Loss(Direction.OTHER, "calls of other architectures are answered by killing the thread (libseccomp), not the process")
NEWER = Loss(Direction.OTHER, "calls newer than Linux 6.18 get kill with crun, not errno ENOSYS")
ANSWERS = "the container's configuration must name a listenerPath, whose supervisor answers notify; runc takes notify "
ANSWERS += "neither as the default nor for write"


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        ("exit: allow\n", [NEWER, KILLS]),
        ("exit: notify\n", [NEWER, KILLS, Loss(Direction.OTHER, ANSWERS, ("exit",))]),
        ("unknown notify\ndefault notify\nexit: allow\n", [KILLS, Loss(Direction.OTHER, ANSWERS)]),
    ],
)
def test_no_other_losses_are_reported(text: str, losses: list[Loss]) -> None:
    assert [*export_oci(policy(text), format_options(runtime="crun")).losses] == losses


# The runtimes' own calls


@pytest.mark.parametrize("own", own_calls(), ids=lambda own: f"{own.runtime} {own.entry.partition(':')[0]} {own.versions}")
def test_every_row_of_the_runtimes_is_an_entry_with_a_reason(own: Any) -> None:
    (entries,) = parse(own.entry).policy.entries.values()
    assert len(entries) == 1 and own.why and own.versions[0].isdigit() and own.runtime in ("crun", "runc")


def test_own_calls_are_added_visibly_and_only_on_request() -> None:
    meant = policy("exit_group: allow\nprctl: option == PR_SET_NAME\n")
    assert export_oci(meant, format_options()).additions == ()
    exported = export_oci(meant, format_options(runtime="crun", no_new_privileges=True))
    assert [one.call for one in exported.additions] == ["close", "close_range", "execve"]
    comments = {entry["names"][0]: entry["comment"] for entry in json.loads(exported.data)["syscalls"] if "comment" in entry}
    assert comments["execve"] == "crun 1.21 itself, before the program: executes the program"
    gaining = export_oci(meant, format_options(runtime="crun"))
    assert "prctl" in [one.call for one in gaining.additions]
    assert with_own_calls(meant, "").policy is meant
    with pytest.raises(ExportError, match="there are crun, runc"):
        export_oci(meant, format_options(runtime="youki"))


def test_a_runtime_call_with_another_answer_in_the_policy_is_not_added() -> None:
    meant = policy("faccessat2: errno EPERM\nclose: errno EBADF if fd == 1 else errno EPERM\n")
    added = with_own_calls(meant, "runc")
    number = NUMBER["close"]
    assert added.policy.entries[Arch.X86_64][number] == meant.entries[Arch.X86_64][number]
    assert [loss.calls for loss in added.losses] == [("close",)]


# Other files of the same content


def test_the_operators_resource() -> None:
    meant = policy("exit: allow\nmmap: flags in MAP_PRIVATE\n")
    exported = export_spo(meant, format_options(name="My-App", runtime="crun", no_new_privileges=True))
    text = exported.data.decode()
    assert text.startswith(
        "apiVersion: security-profiles-operator.x-k8s.io/v1beta1\nkind: SeccompProfile\nmetadata:\n"
        '  name: "my-app"\nspec:\n  defaultAction: SCMP_ACT_KILL_PROCESS\n'
    )
    assert "    # crun 1.21 itself, before the program: executes the program\n" in text
    cut = [loss for loss in exported.losses if loss.direction is Direction.WIDER]
    assert [loss.calls for loss in cut] == [("mmap",)]
    back = read_spo(exported.data, "p.yaml", format_options())
    differences = compare(with_own_calls(meant, "crun", gaining=False).policy, back.policy).differences
    assert [(one.change, one.number) for one in differences if one.number is not None] == [(Change.MORE, NUMBER["mmap"])]


NO_ERRNO = ": a SeccompProfile cannot set the default's errno"
NOT_COMPARED = "bits is not compared: a SeccompProfile has only numbers of 63 bits"
LEFT_OUT = "64 bits are left out: a SeccompProfile has only numbers of 63 bits"


@pytest.mark.parametrize(
    ("default", "condition", "losses"),
    [
        ("kill", "allow", []),
        ("errno EPERM", "allow", []),
        ("errno ENOSYS", "allow", [(Direction.OTHER, "fail with EPERM instead of ENOSYS" + NO_ERRNO, ())]),
        ("errno 4000", "allow", [(Direction.OTHER, "fail with EPERM instead of 4000" + NO_ERRNO, ())]),
        ("kill", "offset & 0x8000000000000001 == 1", [(Direction.WIDER, NOT_COMPARED, ("lseek",))]),
        ("kill", "offset == 1 || offset == -1", [(Direction.NARROWER, LEFT_OUT, ("lseek",))]),
        ("allow", "errno EPERM if offset == 1 || offset == -1", [(Direction.WIDER, LEFT_OUT, ("lseek",))]),
    ],
)
def test_what_the_operators_resource_cannot_say(
    default: str, condition: str, losses: list[tuple[Direction, str, tuple[str, ...]]]
) -> None:
    exported = export_spo(policy(f"default {default}\nexit: allow\nlseek: {condition}\n"), format_options(runtime="crun"))
    own = [loss for loss in exported.losses if "SeccompProfile" in loss.what]
    assert [(loss.direction, loss.calls) for loss in own] == [(direction, calls) for direction, _, calls in losses]
    assert all(loss.what.endswith(words) for loss, (_, words, _) in zip(own, losses, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("path", [*SAMPLES, *PUBLISHED[-1:]], ids=lambda path: path.stem)
def test_the_resource_is_read_back_as_much_wider_as_it_says(path: Path) -> None:
    published = path.suffix == ".json"
    own = read_oci(path.read_bytes(), path.name, format_options()) if published else parse_file(path)
    meant = resolved(own.policy).written()
    exported = export_spo(meant, format_options())
    back = read_spo(exported.data, "p.yaml", format_options())
    differences = compare(meant, back.policy).differences
    assert [one for one in differences if one.number is not None and not is_said(one, exported.losses)] == []


def test_the_operators_resource_as_json_and_with_a_base() -> None:
    resource = {"kind": "SeccompProfile", "spec": {**profile({"names": ["dup"], **ALLOWED}), "baseProfileName": "runc-v1.4.2"}}
    found = read_spo(json.dumps(resource).encode(), "p.json", format_options())
    assert list(found.policy.entries[Arch.X86_64]) == [NUMBER["dup"]]
    assert any("runc-v1.4.2" in loss.what and loss.direction is Direction.NARROWER for loss in found.losses)


def test_resources_have_names_that_kubernetes_takes() -> None:
    meant = policy("exit: allow\n")
    for name, made in [("1", "1"), ("My_app.v2", "my-app-v2"), ("a-", "a"), ("x" * 70, "x" * 63)]:
        pod = export_k8s(meant, format_options(name=name)).beside
        assert pod is not None and f'    - name: "{made}"\n' in pod[1].decode()
        assert f'  name: "{made}"\n' in export_spo(meant, format_options(name=name)).data.decode()


def test_the_pod_that_uses_a_profile() -> None:
    exported = export_k8s(policy("exit: allow\n"), format_options(name="web", runtime="runc", no_new_privileges=True))
    assert exported.data == export_oci(policy("exit: allow\n"), format_options(runtime="runc", no_new_privileges=True)).data
    assert exported.beside is not None
    assert exported.beside[0] == ".pod.yaml"
    assert exported.beside[1].decode() == (
        "spec:\n  containers:\n    - name: \"web\"\n      securityContext:\n        allowPrivilegeEscalation: false\n"
        "        seccompProfile:\n          type: Localhost\n          localhostProfile: profiles/web.json\n"
    )
    assert "/var/lib/kubelet/seccomp/profiles/web.json" in exported.use
