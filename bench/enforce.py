"""What enforce adds to a program's start, and to the calls that it allows."""

from __future__ import annotations

from harness import BIN, ENFORCE, LEARN, Figure, Section, Spread, alternate, require, run, scratch, table, timed

TITLE = "enforce"
STARTS = 20
ROUNDS = 5
COPY = ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=500000")
"""A million calls."""
BEFORE, HARDENING = 8.2, 3
"""Milliseconds: what a start took beyond a bare interpreter's before the helper was hardened, and what that may add."""
FIREJAIL = ("firejail", "--quiet", "--noprofile", "--seccomp", "true")


def section() -> Section:
    """The measurements."""
    require("firejail")
    with scratch() as folder, scratch() as home:
        run([LEARN, "-q", "-o", "true.policy", "--", "true"], folder, home)
        run([LEARN, "-q", "-o", "dd.policy", "--", *COPY], folder, home)
        starts = alternate(
            {
                "the program alone": timed(["true"], folder, home),
                "a bare interpreter (python3 -I -S -c pass)": timed([BIN / "python3", "-I", "-S", "-c", "pass"], folder, home),
                "enforce": timed([ENFORCE, "-p", "true.policy", "--", "true"], folder, home),
                "enforce --quiet-kernel": timed([ENFORCE, "--quiet-kernel", "-p", "true.policy", "--", "true"], folder, home),
                "firejail, its filter alone": timed(FIREJAIL, folder, home),
            },
            STARTS,
        )
        calls = alternate(
            {
                "the program alone": timed(COPY, folder, home),
                "enforce": timed([ENFORCE, "-p", "dd.policy", "--", *COPY], folder, home),
            },
            ROUNDS,
        )
    text = (
        f"Starting `true`: median of {STARTS} (least-most), the compiled filter in the cache.\n\n"
        f"{table(('', 'ms'), rows(starts))}\n"
        f"A million allowed calls: median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows(calls))}"
    )
    _, bare, ours, alone, firejail = (one.median for one in starts.values())
    return Section(
        text,
        (
            Figure("enforce's start beyond a bare interpreter's", BEFORE + HARDENING, (ours - bare) * 1000, " ms"),
            Figure("the helper's part in it", 3, (ours - alone) * 1000, " ms"),
            Figure("enforce's start / firejail's", 0.9, ours / firejail),
        ),
    )


def rows(spreads: dict[str, Spread]) -> list[tuple[str, str]]:
    return [(name, spread.milliseconds()) for name, spread in spreads.items()]


if __name__ == "__main__":
    print(section().text)
