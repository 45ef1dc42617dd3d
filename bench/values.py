"""What learn costs where a program passes ever new values, the first time and later."""

from __future__ import annotations

from harness import LEARN, Figure, Section, compiled, run, scratch, table

TITLE = "ever new values"
GOAL = 5
"""Seconds for each learn."""
COUNT = "10000"
SOURCES = "../tests/enforcer/attacks/learn"
KINDS = {"ioctl": "1", "socket": "2", "numbers that are no call": "3", "fcntl": "4", "keyctl": "5"}
FLAGS = ("--every-call", "--exact", "--phases")


def section() -> Section:
    """The measurements."""
    rows, longest = [], 0.0
    with scratch() as folder:
        one, distinct = (compiled(f"{SOURCES}/{name}.c", folder) for name in ("one", "distinct"))
        commands = {name: [one, COUNT, kind] for name, kind in KINDS.items()} | {"all at once": [distinct, COUNT]}
        for name, command in commands.items():
            for flag in FLAGS:
                learn = [LEARN, "-o", f"{name}{flag}.policy", flag, *command]
                spent = [run(learn, folder) for _ in range(3)]
                longest = max(longest, *(one.seconds for one in spent))
                rows.append([name, f"`{flag}`", *(f"{one.seconds:.1f}" for one in spent), f"{spent[0].peak_kib / 1024:.0f}"])
    text = table(("10,000 calls", "option", "first s", "second s", "third s", "peak MiB"), rows)
    return Section(text, (Figure("learn of 10,000 calls with ever new values", GOAL, longest, " s"),))


if __name__ == "__main__":
    print(section().text)
