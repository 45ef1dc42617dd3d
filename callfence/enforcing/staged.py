"""What a program with phases is followed through: several policies as one, for each phase.  Loaded only for such a policy."""

from __future__ import annotations

from enforcer.arming.plan import Plan
from enforcer.bpf import chain
from enforcer.errors import EnforceError
from enforcer.shield import asking_on_exit, without_listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcing.sealed import Compiled
    from enforcer.arming.plan import Stage


def plan(
    compiled: Sequence[Compiled],
    silent: Sequence[Compiled],
    asking: list[bytes],
    *,
    is_quiet: bool,
    is_audit: bool,
    asked: frozenset[tuple[int, int]],
) -> Plan:
    """The plan of all policies: `compiled`, and `silent`, the same without a helper.

    `asking` are filters that the last phase has besides.  Raises EnforceError if more than one policy has phases, or if a
    filter is too large."""
    places = [place for place, made in enumerate(compiled) if made.stages]
    if len(places) > 1:
        raise EnforceError("several policies have phases: a program enters those of one, so take them out of the others")
    place = places[0]
    may_listen = all(made.may_listen for made in compiled)
    # The program's own listener would be asked where a filter of ours, which has none, gives the same answer.
    has_own_filters = any(made.own_filters for made in compiled)
    reports = not is_quiet
    stages: list[Stage] = []
    try:
        start = chain([made.filter for made in compiled], reports=reports)
        alone = chain([made.filter for made in silent]) if has_own_filters else b""
    except ValueError as error:
        raise EnforceError(str(error)) from error
    for stage, other in zip(compiled[place].stages, silent[place].stages, strict=True):
        is_last = stage is compiled[place].stages[-1]
        try:
            without = chain(_with(silent, place, other.filter)) if is_last or has_own_filters else b""
            whole = chain([*_with(compiled, place, stage.filter), *asking * is_last], reports=reports)
        except ValueError as error:
            raise EnforceError(f"{stage.name}: {error}") from error
        if is_last and is_audit:
            whole = asking_on_exit(whole)
        elif not (may_listen or is_audit):
            whole, without = without_listener(whole), without and without_listener(without)
        stages.append(stage.with_filters(whole, without))
    return Plan(
        start,
        alone,
        stages,
        is_quiet=is_quiet,
        is_audit=is_audit,
        is_optional=compiled[place].phases_optional,
        has_own_filters=has_own_filters,
        asked=asked,
    )


def _with(compiled: Sequence[Compiled], place: int, filter_: bytes) -> list[bytes]:
    """The filters of all policies, that of one of them replaced."""
    return [filter_ if number == place else made.filter for number, made in enumerate(compiled)]
