"""Adds the files, ports, hosts and unix sockets that runs used to the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.learning.progress import say
from callfence.policygen.files.algebra import differences, intersected
from callfence.policygen.files.generalise import Use, added, beside_hosts, is_path, kind_of, lacking
from callfence.policygen.files.generalise_hosts import connects_by_host, looked_up, recorded
from callfence.policygen.files.places import needs_no_line
from callfence.policygen.files.ruleset import access
from callfence.policygen.grants import KINDS, NOT_CONFINED, QUERY, Files, Right, rights_of
from callfence.policygen.paths import encoded
from callfence.policygen.values import replace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from callfence.policygen.language.document import Document
    from callfence.policygen.learning.generate import Generated
    from callfence.policygen.model import Policy
    from callfence.policygen.recording.model import Recording


def watched(recording: Recording, but: Collection[str] = ()) -> list[tuple[Use, ...]]:
    """Return the uses of files and ports of each plain run in which they were recorded, without the runs with the ids `but`."""
    return [run.files for run in recording.runs if run.files and not run.rehearsed and run.id not in but]


def needing_lines(uses: Iterable[Use]) -> tuple[Use, ...]:
    """Return the uses without those of files for which `enforce` needs no line."""
    return tuple(use for use in uses if not (is_path(use[0]) and needs_no_line(encoded(use[0]), access(rights_of(use[1])))))


def dangerous(files: Files, uses: Iterable[Use]) -> list[str]:
    """Return the paths that uses need and `files` does not grant, if they are to be executed, or lint warns of them."""
    from callfence.policygen.lint.catalogue import Level
    from callfence.policygen.lint.files import risks_of

    def is_dangerous(path: str, rights: Right) -> bool:
        risks = risks_of(Files({path: rights}, None, None))
        return Right.EXECUTE in rights or any(risk.level != Level.NOTE for _, risk in risks)

    return [path for path, rights in lacking(files, uses).items() if is_dangerous(path, rights)]


def with_files(
    generated: Generated,
    runs: Sequence[tuple[Use, ...]],
    newest: Sequence[Use],
    existing: Document | None,
    base: Policy | None,
    *,
    latest: int = 1,
    begins: Files = NOT_CONFINED,
    exact: bool = False,
    hosts: bool = False,
) -> Generated:
    """Return `generated` with the files and ports that the newest runs use; with those of all `runs`, for a kind that the
    policy did not confine.  `newest` and `latest` are those of `generalise.added`.

    `begins` has no grants, and confines the kinds (`grants.KINDS`) that the policy is to confine from now on.  Rights that the
    upper bound `base` does not grant are printed and left out.  `exact`: no folder replaces several files, no range several
    ports, and no network or `*.NAME` several hosts.  `hosts`: ports of any host become those of the hosts to which runs
    connected, if these were recorded in all `runs`."""
    policy = generated.document.policy
    had = existing.policy.files if existing is not None else NOT_CONFINED
    kinds = {kind: value for kind in KINDS if getattr(had, kind) is None and (value := getattr(begins, kind)) is not None}
    before = replace(had, **kinds)
    if before == NOT_CONFINED:
        return generated
    if hosts and had.connect and not had.connect_to and all(map(recorded, runs)):
        before, kinds = replace(before, connect=()), {**kinds, "connect": ()}
    uses_of = beside_hosts if connects_by_host(before) else list
    uses = [*uses_of(newest), *(use for run in runs for use in uses_of(run) if kind_of(use) in kinds)]
    if "query" in kinds:  # lines about ports of any host name no host, so the names that were used need lines, too
        uses += [(f"{QUERY} {name}", "", "") for run in runs for name in looked_up(run)]
    files = added(before, runs, uses, latest=latest, exact=exact)
    if base is not None:
        permitted = intersected(files, base.files)
        for line, more, _ in differences(permitted, files):
            say(f"{line}: {more} was not added to the policy, because the upper bound (--within) does not grant it")
        files = permitted
    news = tuple(difference for difference in differences(before, files) if difference.more)
    if not kinds and not news:
        return generated
    document = generated.document.with_policy(replace(policy, files=files))
    return generated._replace(document=document, files=news)
