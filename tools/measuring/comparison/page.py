"""What was measured -> the tables of docs/comparison.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attacks import ATTACKS

Results = dict[str, Any]
RESULTS = Path(__file__).parent / "results.json"
"""What the page was made from: `abridged`."""
PAGE = Path(__file__).resolve().parents[3] / "docs/comparison.md"
MARKED = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- measured until here -->\n)", re.DOTALL)
EXAMPLES = {"read-key": "a file (`~/.ssh/id_ed25519`)", "ptrace": "a call (`ptrace`)"}
"""The attacks whose denials are shown, done by python3."""
WIDTH = 330


def abridged(results: Results) -> Results:
    """Without outputs: of each attack, `through`, the error that the program got, or `ended` if it could print none."""
    tools = {}
    for name, tool in results["tools"].items():
        programs = {}
        for program, one in tool["programs"].items():
            attacks = {attack: _came_to(attack, attempt) for attack, attempt in one["attacks"].items()}
            programs[program] = {"works": one["works"], "others": one["others"], "attacks": attacks}
        says = said(tool["programs"]["python3"]["attacks"])
        tools[name] = {"version": tool["version"], "programs": programs, "says": says, "cost": tool["cost"]}
    return {**results, "tools": tools}


def _came_to(attack: str, attempt: Results) -> str:
    if not attempt["tried"]:
        raise ValueError(f"{attack} was not tried: {attempt['output']}")
    if attempt["through"]:
        return "through"
    error = re.search(rf"attack {attack}: (?!tried)(.*)", attempt["output"])
    return error[1] if error else "ended"


def said(attempts: Results) -> dict[str, str]:
    """What was printed in the examples, and not in most of the other attacks: the program and the tool always print that."""
    outputs = {attack: [line.strip() for line in attempt["output"].splitlines()] for attack, attempt in attempts.items()}
    usual = [{_unnumbered(line) for line in lines} for lines in outputs.values()]

    def is_own(line: str) -> bool:
        often = sum(_unnumbered(line) in lines for lines in usual)
        return bool(line) and not line.startswith("attack ") and often <= len(usual) / 2

    return {attack: " ".join(filter(is_own, outputs[attack])) for attack in EXAMPLES if attack in outputs}


def _unnumbered(line: str) -> str:
    return re.sub(r"[\d.]+", "N", line)


def written(page: str, results: Results) -> str:
    """The page with the tables of the results between its marks."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]](results) + found[3], page)


def table(rows: list[list[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([head, "|---" * len(rows[0]) + "|\n", *rest])


def programs(results: Results) -> str:
    names = list(results["tools"]["plain"]["programs"])
    rows = [["tool", "version", *names]]
    for name, tool in _tools(results):
        rows.append([name, tool["version"], *(_works(tool["programs"][one]) for one in names)])
    return table(rows)


def _works(program: Results) -> str:
    if not program["works"]:
        return "**broken**"
    return "both" if program["others"] else "other work **broken**"


def attacks(results: Results) -> str:
    rows = [["attack", *(name for name, _ in _tools(results))]]
    rows += [[aim, *(_cell(tool, attack) for _, tool in _tools(results))] for attack, aim in ATTACKS.items()]
    sums = []
    for _, tool in _tools(results):
        ends = [end for one in tool["programs"].values() for end in one["attacks"].values()]
        sums.append(f"{ends.count('through')} of {len(ends)}")
    return table([*rows, ["**got through**", *sums]])


def _cell(tool: Results, attack: str) -> str:
    ends = {program: one["attacks"][attack] for program, one in tool["programs"].items() if one["works"]}
    through = [program for program, end in ends.items() if end == "through"]
    if len(through) == len(ends):
        return "**through**"
    return f"**through** in {', '.join(through)}" if through else "stopped"


def denials(results: Results) -> str:
    rows = [["tool", *EXAMPLES.values()]]
    for name, tool in _tools(results):
        rows.append([name, *(_denial(tool, attack) for attack in EXAMPLES)])
    return table(rows)


def _denial(tool: Results, attack: str) -> str:
    end, says = tool["programs"]["python3"]["attacks"][attack], tool["says"][attack]
    if end == "through":
        return "(got through)"
    what = "the program is ended" if end == "ended" else f"{end}"
    shown = says.replace("`", "'").replace("|", "\\|")
    return f"{what}; `{shown[:WIDTH] + '...' * (len(shown) > WIDTH)}`" if shown else f"{what}; prints nothing"


def costs(results: Results) -> str:
    rows = [["tool", "more, median", "more, shortest run", "loading its Python library"]]
    for name, tool in _tools(results):
        if cost := tool["cost"]:
            loading = f"{cost['loading']:.0f}" if "loading" in cost else ""
            rows.append([name, f"{cost['more']:.0f}", f"{cost['least']:.0f}", loading])
    return table(rows)


def conditions(results: Results) -> str:
    plain = [tool["cost"]["plain"] for _, tool in _tools(results) if tool["cost"]]
    return (
        f"Linux {results['kernel']}, {results['pairs']} runs of each. A plain run takes {min(plain):.0f} to {max(plain):.0f} ms"
        f" (medians). The load of the machine, which has 2 processors, was {results['load']:.1f} when the measurement began.\n"
    )


def _tools(results: Results) -> list[tuple[str, Results]]:
    return [(name, tool) for name, tool in results["tools"].items() if name != "plain"]


TABLES = {"programs": programs, "attacks": attacks, "denials": denials, "costs": costs, "conditions": conditions}
