"""Container profiles, read as runtimes read them, and the losses."""

from __future__ import annotations

import json
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from calls import format_options
from container_profiles import (
    ALLOWED,
    CAPABILITIES,
    EPERM,
    EQUAL,
    MASKED,
    NUMBER,
    PUBLISHED,
    assert_is_what_libseccomp_makes,
    compiled,
    profile,
    read,
)

from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter import bpf
from callfence.policygen.formats import Direction, ImportFormatError
from callfence.policygen.formats.containers import profile as profiles
from callfence.policygen.formats.containers.files import read_oci, read_spo
from callfence.policygen.formats.containers.meaning import SCMP, policy_of
from callfence.policygen.formats.containers.profile import Profile
from callfence.policygen.model import ALLOW, KILL, Action, ActionKind
from callfence.tracer.abi import Arch, Event


@pytest.mark.parametrize("sections", [[Arch.X86_64], [Arch.X86_64, Arch.I386]], ids=["x86_64", "with i386"])
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_profile_means_what_libseccomp_makes_of_it(path: Path, sections: list[Arch]) -> None:
    found = profiles.read(profiles.load(path.read_bytes(), path.name), path.name)
    chosen = Profile(
        found.default,
        tuple(rule for rule in found.rules if not rule.includes.caps and not rule.includes.arches),
        found.architectures,
        found.errno,
    )
    assert_is_what_libseccomp_makes(chosen, sections)


VERDICTS = [
    # comparisons of dup2's arguments, the arguments, whether it is allowed
    ([(0, "SCMP_CMP_EQ", 3, 0)], (3, 9), True),
    ([(0, "SCMP_CMP_EQ", 3, 0)], (4, 9), False),
    ([(0, "SCMP_CMP_NE", 3, 0)], (3, 9), False),
    ([(0, "SCMP_CMP_NE", 3, 0)], (4, 9), True),
    ([(0, "SCMP_CMP_LT", 3, 0)], (2, 0), True),
    ([(0, "SCMP_CMP_LT", 3, 0)], (3, 0), False),
    ([(0, "SCMP_CMP_LE", 3, 0)], (3, 0), True),
    ([(0, "SCMP_CMP_LE", 3, 0)], (4, 0), False),
    ([(0, "SCMP_CMP_GT", 3, 0)], (4, 0), True),
    ([(0, "SCMP_CMP_GT", 3, 0)], (3, 0), False),
    ([(0, "SCMP_CMP_GE", 3, 0)], (3, 0), True),
    ([(0, "SCMP_CMP_GE", 3, 0)], (2, 0), False),
    ([(0, MASKED, 0xF0, 0x10)], (0x1F, 0), True),
    ([(0, MASKED, 0xF0, 0x10)], (0x2F, 0), False),
    ([(0, EQUAL, 3, 0), (1, EQUAL, 4, 0)], (3, 4), True),
    ([(0, EQUAL, 3, 0), (1, EQUAL, 4, 0)], (3, 5), False),
    # one argument twice: runc and crun take either
    ([(0, EQUAL, 3, 0), (0, EQUAL, 4, 0)], (4, 0), True),
    ([(0, "SCMP_CMP_GE", 3, 0), (0, "SCMP_CMP_LE", 5, 0), (1, EQUAL, 1, 0)], (9, 9), True),
]


@pytest.mark.parametrize(("comparisons", "arguments", "allowed"), VERDICTS)
def test_operators(comparisons: list[tuple[int, str, int, int]], arguments: tuple[int, int], allowed: bool) -> None:
    args = [{"index": i, "op": op, "value": a, "valueTwo": b} for i, op, a, b in comparisons]
    rule = {"names": ["dup2"], **ALLOWED, "args": args}
    event = Event(Arch.X86_64.audit, NUMBER["dup2"], (*arguments, 0, 0, 0, 0))
    assert evaluate(read(profile(rule)).policy, event) == (ALLOW if allowed else EPERM)
    parsed = profiles.read(profile(rule), "p.json")
    verdict = bpf.run(compiled(parsed, [Arch.X86_64]), event)
    assert verdict == bpf.ret(ALLOW if allowed else EPERM)


def test_a_rule_without_comparisons_takes_precedence_and_the_first_of_several_counts() -> None:
    with_args = {"names": ["dup"], **ALLOWED, "args": [{"index": 0, "op": EQUAL, "value": 1}]}
    never = {"names": ["dup"], "action": "SCMP_ACT_KILL_PROCESS"}
    event = Event(Arch.X86_64.audit, NUMBER["dup"], (1, 0, 0, 0, 0, 0))
    for rules, action in (((with_args, never), KILL), ((never, {"names": ["dup"], **ALLOWED}), KILL)):
        assert evaluate(read(profile(*rules)).policy, event) == action
        assert bpf.run(compiled(profiles.read(profile(*rules), "p"), [Arch.X86_64]), event) == bpf.ret(action)


@pytest.mark.parametrize(
    ("fields", "errno"),
    [({}, 1), ({"errnoRet": 5}, 5), ({"errno": "EACCES"}, 13), ({"errno": "EACCES", "errnoRet": 5}, 13)],
)
def test_the_name_of_an_error_takes_precedence_over_its_number(fields: dict[str, Any], errno: int) -> None:
    """Podman's profiles have both (containers/common, pkg/seccomp)."""
    found = read(profile({"names": ["dup"], "action": "SCMP_ACT_ERRNO", **fields}, defaultAction="SCMP_ACT_ALLOW")).policy
    event = Event(Arch.X86_64.audit, NUMBER["dup"], (1, 0, 0, 0, 0, 0))
    assert evaluate(found, event) == Action(ActionKind.ERRNO, errno)
    named = {f"default{name[0].upper()}{name[1:]}": value for name, value in fields.items()}
    found = read(profile({"names": ["dup"], **ALLOWED}, defaultAction="SCMP_ACT_ERRNO", **named)).policy
    assert found.default == Action(ActionKind.ERRNO, errno)


KILLED = {"action": "SCMP_ACT_KILL_PROCESS"}


def of_dup2(action: dict[str, Any], *values: int) -> dict[str, Any]:
    """A rule about dup2 whose first arguments have these values."""
    return {"names": ["dup2"], **action, "args": [{"index": i, "op": EQUAL, "value": value} for i, value in enumerate(values)]}


@pytest.mark.parametrize(
    ("rules", "is_said"),
    [
        ((of_dup2(ALLOWED, 1), of_dup2(KILLED, 1, 2)), True),
        ((of_dup2(KILLED, 1, 2), of_dup2(ALLOWED, 1), of_dup2(ALLOWED, 9)), True),
        ((of_dup2(ALLOWED, 1), of_dup2(KILLED, 2)), False),
        ((of_dup2(ALLOWED, 1), of_dup2(ALLOWED, 1, 2)), False),
        ((of_dup2(ALLOWED, 1), of_dup2(KILLED)), False),
        ((of_dup2(ALLOWED), of_dup2(KILLED, 1)), False),
        ((of_dup2(ALLOWED, 1), of_dup2({"action": "SCMP_ACT_ERRNO"}, 1)), False),
    ],
)
def test_rules_with_different_actions_that_hold_at_once(rules: tuple[dict[str, Any], ...], is_said: bool) -> None:
    said = [loss for loss in read(profile(*rules)).losses if "hold at once" in loss.what]
    assert [(loss.direction, loss.calls) for loss in said] == [(Direction.OTHER, ("dup2",))] * is_said


STRICTEST_FIRST = (
    KILLED,
    {"action": "SCMP_ACT_TRAP"},
    {"action": "SCMP_ACT_ERRNO", "errnoRet": 5},
    {"action": "SCMP_ACT_LOG"},
    ALLOWED,
)


@pytest.mark.parametrize(("one", "other"), list(permutations(range(5), 2)))
def test_of_rules_that_hold_at_once_the_strictest_counts(one: int, other: int) -> None:
    first, second = STRICTEST_FIRST[one], STRICTEST_FIRST[other]
    both = profile(of_dup2(first, 1), of_dup2(second, 2), of_dup2(second, 1, 2))
    alone = profile(of_dup2(STRICTEST_FIRST[min(one, other)], 1))
    event = Event(Arch.X86_64.audit, NUMBER["dup2"], (1, 2, 0, 0, 0, 0))
    assert evaluate(read(both).policy, event) == evaluate(read(alone).policy, event) != EPERM


# Which rules are meant


@pytest.mark.parametrize(
    ("condition", "options", "meant"),
    [
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, {}, False),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, {"capabilities": CAPABILITIES}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, {"capabilities": CAPABILITIES}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, {}, True),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, {"capabilities": CAPABILITIES}, False),
        ({"includes": {"arches": ["arm64"]}}, {}, False),
        ({"includes": {"arches": ["amd64", "arm64"]}}, {}, True),
        ({"excludes": {"arches": ["amd64"]}}, {}, False),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (4, 8)}, True),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (4, 7)}, False),
        ({"includes": {"minKernel": "4.8"}}, {}, True),
        ({"excludes": {"minKernel": "4.8"}}, {"kernel": (4, 7)}, True),
    ],
)
def test_rules_for_some_containers(condition: dict[str, Any], options: dict[str, Any], meant: bool) -> None:
    imported = read(profile({"names": ["dup"], **ALLOWED, **condition}), **options)
    entry = imported.policy.entries[Arch.X86_64].get(NUMBER["dup"])
    assert (entry is not None) == meant
    missing = "caps" in str(condition) and not options.get("capabilities")
    assert any("--cap" in loss.what for loss in imported.losses) >= missing


@pytest.mark.parametrize(
    ("condition", "kernel", "direction"),
    [
        ({"includes": {"minKernel": "6.10"}}, None, Direction.WIDER),
        ({"excludes": {"minKernel": "6.10"}}, None, Direction.NARROWER),
        ({"includes": {"minKernel": "6.10"}}, (6, 10), None),
        ({"includes": {"minKernel": "4.8"}}, None, None),
    ],
)
def test_what_holds_on_new_kernels_only_is_a_loss(condition: Any, kernel: Any, direction: Direction | None) -> None:
    imported = read(profile({"names": ["dup"], **ALLOWED, **condition}), kernel=kernel)
    found = [loss for loss in imported.losses if "--kernel" in loss.what]
    assert [(loss.direction, loss.calls) for loss in found] == ([(direction, ("dup",))] if direction else [])


def test_the_machine_chooses_the_architectures() -> None:
    arch_map = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ]
    found = read(profile(archMap=arch_map))
    assert set(found.policy.entries) == {Arch.X86_64, Arch.I386}
    assert any("SCMP_ARCH_X32" in loss.what and loss.direction is Direction.NARROWER for loss in found.losses)
    assert set(read(profile(archMap=arch_map), arch=Arch.AARCH64).policy.entries) == {Arch.AARCH64, Arch.ARM}
    assert set(read(profile()).policy.entries) == {Arch.X86_64}
    assert set(SCMP.values()) == set(Arch)


LOSSES = [
    (profile({"names": ["no_such_call"], **ALLOWED}), Direction.NARROWER, ("no_such_call",), "skipped"),
    (
        profile({"names": ["no_such_call"], "action": "SCMP_ACT_KILL"}, default="SCMP_ACT_ALLOW"),
        Direction.WIDER,
        ("no_such_call",),
        "skipped",
    ),
    (profile(default="SCMP_ACT_KILL"), Direction.OTHER, (), "killing the thread"),
    (profile({"names": ["dup"], "action": "SCMP_ACT_TRACE"}), Direction.OTHER, (), "stops for a tracer"),
    (profile(flags=["SECCOMP_FILTER_FLAG_LOG"]), Direction.OTHER, (), "SECCOMP_FILTER_FLAG_LOG"),
    (
        profile({"names": ["dup"], **ALLOWED, "args": [{"index": 0, "op": EQUAL, "value": 1}]}),
        Direction.WIDER,
        ("dup",),
        "kernel ignores",
    ),
    (
        profile({"names": ["socket"], **ALLOWED}, architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        Direction.NARROWER,
        ("socket",),
        "socketcall",
    ),
    (
        profile(
            {"names": ["connect"], "action": "SCMP_ACT_ERRNO"},
            defaultAction="SCMP_ACT_ALLOW",
            architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        ),
        Direction.WIDER,
        ("connect",),
        "socketcall",
    ),
    (
        profile(
            {"names": ["dup2"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 0, "op": EQUAL, "value": 1}]},
            {"names": ["dup2"], **ALLOWED, "args": [{"index": 1, "op": EQUAL, "value": 1}]},
        ),
        Direction.OTHER,
        ("dup2",),
        "no specification says",
    ),
]


@pytest.mark.parametrize(("found", "direction", "calls", "words"), LOSSES, ids=[row[3] for row in LOSSES])
def test_losses_of_reading_are_reported(
    found: dict[str, Any], direction: Direction, calls: tuple[str, ...], words: str
) -> None:
    assert any(
        loss.direction is direction and loss.calls == calls and words in loss.what for loss in read(found).losses
    ), read(found).losses


def test_a_rule_left_out_for_a_capability_has_a_direction() -> None:
    """A rule that denies makes the policy wider where it is missing."""
    for act, default, direction in [
        ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", Direction.NARROWER),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", Direction.WIDER),
    ]:
        found = profile({"names": ["chroot"], "action": act, "includes": {"caps": ["CAP_SYS_CHROOT"]}})
        losses = read({**found, "defaultAction": default}).losses
        assert [loss.direction for loss in losses if loss.calls == ("chroot",)] == [direction]


# Bad input

BAD = [
    (b"{", "p.json:1:2: not JSON: Expecting property name"),
    (b"\xff", "p.json: not UTF-8 text, at byte 1"),
    (b"[]", "p.json: the profile: must be an object"),
    (b"[" * 100_000, "p.json: nested too deeply"),
    (b"{}", "p.json: defaultAction: must be a string"),
    (b'{"defaultAction": "ALLOW"}', "p.json: defaultAction: ALLOW is none of SCMP_ACT_ALLOW"),
    (b'{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}', "p.json: sycalls: is unknown"),
    (json.dumps(profile({"names": ["dup"]})).encode(), "p.json: syscalls[0].action: must be a string"),
    (json.dumps(profile({**ALLOWED})).encode(), "p.json: syscalls[0].name: must be a string"),
    (
        json.dumps(profile({"names": ["dup"], **ALLOWED, "args": [{"index": 6, "op": EQUAL}]})).encode(),
        "p.json: syscalls[0].args[0].index: must be an integer from 0 to 5",
    ),
    (
        json.dumps(profile({"names": ["dup"], **ALLOWED, "args": [{"index": 0, "op": "EQ"}]})).encode(),
        "p.json: syscalls[0].args[0].op: EQ is none of",
    ),
    (
        json.dumps(profile({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9999})).encode(),
        "p.json: syscalls[0].errnoRet: must be an integer from 0 to 4095",
    ),
    (
        json.dumps(profile({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errno": "ENOPE"})).encode(),
        "p.json: syscalls[0].errno: ENOPE is no error's name",
    ),
    (
        json.dumps(profile({"names": ["dup"], **ALLOWED, "includes": {"minKernel": "new"}})).encode(),
        "p.json: syscalls[0].includes.minKernel: a kernel version is X.Y",
    ),
    (
        json.dumps(profile(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "a", "subArchitectures": []}])).encode(),
        "p.json: archMap: `architectures` is given too",
    ),
    (
        b'{"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}',
        "p.json: not a profile: the field 'defaultAction' is given twice",
    ),
    (  # Go takes the last, whatever its case
        b'{"defaultAction": "SCMP_ACT_ERRNO", "DefaultAction": "SCMP_ACT_ALLOW"}',
        "p.json: not a profile: the field 'DefaultAction' is given twice",
    ),
    (  # read in time
        b"{" + b", ".join(b'"%d": 0' % number for number in (*range(100_000), 99_999)) + b"}",
        "p.json: not a profile: the field '99999' is given twice",
    ),
    (
        b'{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": ' + b"1" * 5000 + b"}",
        "p.json: not a profile: Exceeds the limit",
    ),
    (
        json.dumps(profile({"names": ["dup"], "name": "read", **ALLOWED})).encode(),
        "p.json: syscalls[0].name: `names` is given too",
    ),
    (
        json.dumps(profile(architectures=["SCMP_ARCH_X86_64", "a\x1b[2J"])).encode(),
        r"p.json: architectures[1]: has invisible characters: 'a\x1b[2J'",
    ),
    (
        json.dumps(profile({"names": ["dup"], **ALLOWED, "includes": {"minKernel": "1" * 5000 + ".1"}})).encode(),
        "p.json: syscalls[0].includes.minKernel: a kernel version is X.Y",
    ),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[row[1][8:40] for row in BAD])
def test_bad_profiles(data: bytes, message: str) -> None:
    with pytest.raises(ImportFormatError) as raised:
        read_oci(data, "p.json", format_options())
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: [", "p: not YAML: while parsing"),
        (b"kind: Pod\n", "p: has 0 resources of kind SeccompProfile"),
        (b"kind: SeccompProfile\n---\nkind: SeccompProfile\n", "p: has 2 resources"),
        (b"kind: SeccompProfile\nspec: 1\n", "p: spec: must be an object"),
        (b"kind: SeccompProfile\nspec: {defaultActio: a}\n", "p: spec.defaultActio: is unknown"),
        (b"kind: SeccompProfile\nspec: {defaultAction: a}\n", "p: defaultAction: a is none of"),
        (b"a: 2001-99-99", "p: not YAML: month must be in 1..12"),
        (b"a: !!bool foo", "p: not YAML: 'foo'"),
        (b"a: !!timestamp foo", "p: not YAML: 'NoneType' object"),
        (b"a: " + b"[" * 20_000, "p: nested too deeply for a profile"),
        (b"kind: Pod\na: " + b"[" * 60 + b"]" * 60, "p: has 0 resources of kind SeccompProfile"),
        (b"a: &a [b]\nc: [*a, *a]\n", "p: has aliases (*NAME): write out"),
        (b"kind: SeccompProfile\nspec: {flags: a, 'flags': b}\n", "p: not YAML: the field 'flags' is given twice"),
        (b"kind: SeccompProfile\nspec: {syscalls: [{names: [a], <<: {names: [b]}}]}\n", "p: not YAML: has a merge (<<)"),
        (
            b'{"kind": "SeccompProfile", "spec": {"baseProfileName": "a\\n", "defaultAction": "SCMP_ACT_LOG"}}',
            "p: spec.baseProfileName: must be a name",
        ),
    ],
)
def test_bad_resources(data: bytes, message: str) -> None:
    with pytest.raises(ImportFormatError) as raised:
        read_spo(data, "p", format_options())
    assert str(raised.value).startswith(message)


def test_reading_yaml_without_pyyaml_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportFormatError, match=r"pip install 'callfence\[yaml\]'"):
        read_spo(b"kind: SeccompProfile\n", "p", format_options())


def test_policy_of_is_what_decisions_say() -> None:
    """The importer's own proof: lifting checks that the policy is the function but for the remarks."""
    found = profiles.read(profile({"names": ["getpid"], **ALLOWED}), "p")
    assert policy_of(found, format_options(runtime="runc"), "p").policy.unknown == Action(ActionKind.ERRNO, 38)
