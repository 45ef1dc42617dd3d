"""Container profiles for the tests: what libseccomp makes of them, and whether a loss was reported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyseccomp
from calls import format_options, parse

from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.filter import bpf, symbolic
from callfence.policygen.formats import Direction, Loss
from callfence.policygen.formats.containers.files import read_oci
from callfence.policygen.formats.containers.meaning import decisions, multiplexed, return_value
from callfence.policygen.formats.containers.profile import Act, Profile
from callfence.policygen.model import Action, ActionKind
from callfence.policygen.sets import region
from callfence.tracer.abi import NATIVE, Arch, table

if TYPE_CHECKING:
    from callfence.policygen.comparing.compare import Difference
    from callfence.policygen.formats import Exported, Imported
    from callfence.policygen.model import Policy

ROOT = Path(__file__).parent.parent.parent
SAMPLES = sorted((ROOT / "samples").glob("*.policy"))
PUBLISHED = sorted((ROOT / "tests" / "data" / "profiles").glob("*.json"))
CAPABILITIES = frozenset(("CAP_SYS_CHROOT", "CAP_AUDIT_WRITE", "CAP_SYS_ADMIN"))
RUNTIMES = ("", "crun", "runc")
SAID = {Change.MORE: Direction.WIDER, Change.LESS: Direction.NARROWER, Change.OTHER: Direction.OTHER}


def policy(text: str) -> Policy:
    return parse(text).policy


def read(data: object, **options: Any) -> Imported:
    text = json.dumps(data) if not isinstance(data, bytes) else data.decode()
    return read_oci(text.encode(), "p.json", format_options(**options))


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def is_said(difference: Difference, losses: tuple[Loss, ...]) -> bool:
    """Whether a loss in that direction is about the calls of the difference."""
    if any(loss.what.startswith(f"calls of {difference.arch},") for loss in losses):
        return difference.change is not Change.MORE
    name = table(difference.arch).by_number[difference.number].name if difference.number is not None else None
    directed = [loss for loss in losses if loss.direction is SAID[difference.change]]
    if any(loss.what.startswith("calls that get the default") for loss in directed):
        return True
    return any(name in loss.calls if name else not loss.calls for loss in directed)


def assert_all_is_said(meant: Policy, exported: Exported, runtime: str) -> tuple[Difference, ...]:
    """Return the differences, all of which the losses are about.  It was exported on a machine of x86_64."""
    machine = min((arch for arch in meant.entries if arch.compat), key=lambda arch: arch is not Arch.X86_64)
    back = read_oci(exported.data, "p.json", format_options(runtime=runtime, arch=machine))
    differences = compare(meant, back.policy).differences
    assert [one for one in differences if not is_said(one, exported.losses)] == []
    return differences


SCMP_ARCH = {
    Arch.X86_64: pyseccomp.Arch.X86_64,
    Arch.I386: pyseccomp.Arch.X86,
    Arch.AARCH64: pyseccomp.Arch.AARCH64,
    Arch.ARM: pyseccomp.Arch.ARM,
}


def compiled(chosen: Profile, sections: list[Arch]) -> bytes:
    """The filter that runc and crun have libseccomp make (without runc's addition), from the same calls to it."""
    actions = {
        Act.ALLOW: pyseccomp.ALLOW,
        Act.LOG: pyseccomp.LOG,
        Act.TRAP: pyseccomp.TRAP,
        Act.KILL: pyseccomp.KILL,
        Act.KILL_THREAD: pyseccomp.KILL,
        Act.KILL_PROCESS: pyseccomp.KILL_PROCESS,
    }

    def action(act: Act, errno: int | None) -> Any:
        number = 1 if errno is None else errno
        return pyseccomp.ERRNO(number) if act is Act.ERRNO else actions[act]

    default = return_value(chosen.default, chosen.errno)
    made = pyseccomp.SyscallFilter(action(chosen.default, chosen.errno))
    for arch in sections:
        if arch is not NATIVE:
            made.add_arch(SCMP_ARCH[arch])
    for rule in chosen.rules:
        for name in rule.names:
            try:
                number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
            except ValueError:
                continue
            if return_value(rule.act, rule.errno) == default or number == -1:
                continue
            arguments = [
                pyseccomp.Arg(one.index, getattr(pyseccomp, one.op.removeprefix("SCMP_CMP_")), one.value, one.value_two)
                for one in rule.comparisons
            ]
            repeated = len({one.index for one in rule.comparisons}) < len(arguments)
            for chunk in [[one] for one in arguments] if repeated else [arguments]:
                made.add_rule(action(rule.act, rule.errno), number, *chunk)
    with os.fdopen(os.memfd_create("filter"), "w+b", buffering=0) as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def assert_is_what_libseccomp_makes(found: Profile, sections: list[Arch]) -> None:
    """For every call that libseccomp knows by name; other numbers get the default in both."""
    space = region.space()
    filter_ = symbolic.function(space, compiled(found, sections))
    meant = decisions(space, found, sections)
    skipped = multiplexed(found)
    for arch in sections:
        for number, call in table(arch).by_number.items():
            here = (bpf.WORD << 480 | bpf.WORD << 448, arch.audit << 480 | number << 448)
            is_multiplexed = arch is Arch.I386 and (call.name in skipped or call.name in ("socketcall", "ipc"))
            if number in range(467, 1024) or is_multiplexed:
                continue  # newer than libseccomp 2.6.0; told as a loss
            assert space.fixed(filter_, here) == space.fixed(meant, here), f"{arch} {call.name}"


EQUAL, MASKED = "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"
ALLOWED = {"action": "SCMP_ACT_ALLOW"}
NUMBER = {call.name: call.number for call in table(Arch.X86_64).by_number.values()}
EPERM = Action(ActionKind.ERRNO, 1)
