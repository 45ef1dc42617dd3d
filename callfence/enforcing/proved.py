"""Whether a filter that is kept is that of its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.enforcing import cache, filters
from policygen.evaluate import evaluate
from policygen.filter import bpf
from policygen.filter.listener import expects_listener, may_install_filters, names_listener
from policygen.filter.verify import meaning, verify
from policygen.language.naming import format_action, format_call
from tracer.errors import CallfenceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callfence.enforcing.sealed import Compiled


def misfit(made: Compiled) -> str:
    """What a filter does that its policy does not say; '' if they are proved to be equal."""
    try:
        document = filters.document(made)
        policy = document.policy
        if made.variant == "warm":
            same = filters.compiled_from(document, made.sources, "warm")
            return "" if (same.filter, same.is_settled) == (made.filter, made.is_settled) else "it is not what is compiled now"
        facts = (str(policy.arm), expects_listener(policy), names_listener(policy), may_install_filters(policy))
        if (made.arm, made.expects_listener, made.may_listen, made.own_filters) != facts:
            return "it takes effect at another moment, or its listener differs from the policy"
        if made.phases_optional != policy.phases_optional:
            return "it treats a process that cannot enter its phase differently"
        if made.scope != (policy.scope if made.variant in ("report", "silent") else ""):
            return "it lets signals go elsewhere"
        if made.files != filters.files_of(policy):
            return "it grants other files or ports"
        report, audit = made.variant in ("report", "audit"), made.variant == "audit"
        phases = filters.stages(policy, report=report, audit=audit)
        if [phase.facts for phase in made.stages] != [phase.facts for phase in phases]:
            return "its phases are not what is compiled now"
        wrong = verify(made.filter, policy, report=report, audit=audit)
    except (CallfenceError, KeyError) as error:
        return f"nothing is proved: {error}"
    if wrong is None:
        return ""
    expected = evaluate(meaning(policy, report, audit=audit)[0], wrong)
    answers = f"{bpf.action_text(bpf.run(made.filter, wrong))}, and the policy {format_action(expected)}"
    return f"to {format_call(wrong)} it answers {answers}"


def kept() -> Iterator[tuple[str, str, str]]:
    """Each filter in the caches: its file, its policy's, and what is wrong with it or ''."""
    for file, found in cache.kept():
        if isinstance(found, ValueError):
            yield file, "?", f"not used: {found}"
        else:
            yield file, found.sources[0][0], misfit(found)
