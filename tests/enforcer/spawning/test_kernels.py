"""`callfence spawn` on kernels that may lack what it needs (docs/kernels.md)."""

from __future__ import annotations

from callfence.diagnosing import kernels


def test_commands_are_started_or_refused_with_the_reason(spawner):
    (feature,) = (row for row in kernels.FEATURES if row.name == "spawn")
    done = spawner.run("true")
    if kernels.is_there(feature):
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, "spawning needs SO_PEERPIDFD (Linux 6.5)" in done.stderr) == (125, True), done.stderr
