"""What proving and comparing cost, on the largest policy of the samples and on a policy with every call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import LEARN, Figure, Section, Spread, Words, alternate, run, scratch, table

from callfence.policygen.language.document import new_document, parse_file
from callfence.policygen.model import Always, Entry, Policy
from callfence.tracer.abi import Arch, table as calls

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "proofs"
ROUNDS = 10
CALLFENCE = LEARN.parent / "callfence"
SAMPLES = Path(__file__).parent.parent / "samples"
COMMANDS = {
    "callfence verify": ("verify", "{}"),
    "callfence diff, with itself less one call": ("diff", "{}", "less.policy"),
    "callfence import --from bpf": ("import", "--from", "bpf", "filter.bpf"),
}


def section() -> Section:
    """The measurements."""
    from callfence.policygen.filter.compile import compile_policy

    sample = max(SAMPLES.glob("*.policy"), key=lambda path: len(parse_file(path).text()))
    known = calls(Arch.X86_64)
    every = Policy({Arch.X86_64: {number: Entry(Always(True)) for number in known.by_number}}, known.versions()[-1])
    columns: list[dict[str, Spread]] = []
    for policy in (parse_file(sample).policy, every):
        with scratch() as folder, scratch() as home:
            _, *rest = policy.entries[Arch.X86_64].items()
            less = Policy({**policy.entries, Arch.X86_64: dict(rest)}, policy.table, policy.arm, policy.default, policy.unknown)
            (folder / "it.policy").write_text(new_document(policy, "it").text())
            (folder / "less.policy").write_text(new_document(less, "it").text())
            (folder / "filter.bpf").write_bytes(compile_policy(policy))

            def timed(words: tuple[str, ...], folder: Path = folder, home: Path = home) -> Callable[[], float]:
                command: Words = [CALLFENCE, *(word.replace("{}", "it.policy") for word in words)]
                return lambda: run(command, folder, home).seconds

            columns.append(alternate({name: timed(words) for name, words in COMMANDS.items()}, ROUNDS))
    rows = [(name, *(column[name].milliseconds() for column in columns)) for name in COMMANDS]
    header = ("ms, the command's start included", f"samples/{sample.name}", "every call allowed")
    verify, diff, _ = (columns[0][name].median for name in COMMANDS)
    return Section(
        f"Median of {ROUNDS} (least-most).\n\n{table(header, rows)}",
        (
            Figure(f"callfence verify, {sample.name}", 1, verify, " s"),
            Figure(f"callfence diff, {sample.name}", 0.5, diff, " s"),
        ),
    )


if __name__ == "__main__":
    print(section().text)
