"""What runs did with files and ports, added to the policy that is generated of their calls."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from policygen.files.algebra import differences, met
from policygen.files.generalise import Use, added
from policygen.grants import NOT_CONFINED, Files
from policygen.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.language.document import Document
    from policygen.learning.generate import Generated
    from policygen.model import Policy
    from policygen.recording.model import Recording


def watched(recording: Recording) -> list[tuple[Use, ...]]:
    """What the runs of a recording did, of those in which that was watched."""
    return [run.files for run in recording.runs if run.files and not run.rehearsed]


def with_files(
    generated: Generated,
    runs: Sequence[tuple[Use, ...]],
    newest: Sequence[Use],
    existing: Document | None,
    base: Policy | None,
    *,
    exact: bool = False,
) -> Generated:
    """With what the newest run needs of files and ports; of all runs, if the policy did not confine them before.  What a
    baseline does not grant is told, and left out."""
    if not newest:
        return generated
    policy, confined = generated.document.policy, existing is not None and existing.policy.files != NOT_CONFINED
    before = policy.files if confined else Files({}, (), ())
    files = added(before, runs, newest if confined else [use for uses in runs for use in uses], exact=exact).files
    if base is not None:
        permitted = met(files, base.files)
        for line, more, _ in differences(permitted, files):
            if sys.stderr is not None:
                print(f"the baseline forbids {line}: {more}; it is not added to the policy", file=sys.stderr)
        files = permitted
    news = differences(before, files)
    if confined and not news:
        return generated
    document = generated.document.with_policy(replace(policy, files=files))
    return generated._replace(document=document, files=news)
