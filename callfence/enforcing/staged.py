"""The filters of a program with phases: several policies as one, for each phase.  Loaded only where a policy has phases."""

from __future__ import annotations

from enforcer.arming.stage import traced
from enforcer.chain import chain
from enforcer.errors import EnforceError
from enforcer.shield import asking_on_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcing.sealed import Compiled
    from enforcer.arming.stage import Stage


def stages(
    compiled: Sequence[Compiled], followed: Sequence[Compiled], more: Sequence[bytes], *, is_quiet: bool, is_audit: bool
) -> list[Stage]:
    """The phases, each with the filter of all policies: `compiled` for the last one, `followed` for those before; and `more`.

    Raises EnforceError if more than one policy has phases, or if a filter is too large."""
    places = [place for place, one in enumerate(compiled) if one.stages]
    if len(places) > 1:
        raise EnforceError("several policies have phases: a program enters those of one, so take them out of the others")
    found = []
    last = compiled[places[0]].stages[-1]
    for stage in compiled[places[0]].stages:
        filters = [one.filter for one in (compiled if stage is last else followed)]
        filters[places[0]] = stage.filter
        try:
            whole = chain([*filters, *more], reports=not is_quiet)
        except ValueError as error:
            raise EnforceError(f"{stage.name}: {error}") from error
        if stage is last and is_audit:
            whole = asking_on_exit(whole)
        found.append(stage.with_filter(whole if stage is last else traced(whole)))
    return found
