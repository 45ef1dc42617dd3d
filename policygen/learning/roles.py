"""When calls were made, as phases take it: a process that is started again has the role of the first, and threads are started
at any time.

Processes have the same role if they run the same executable and were forked as often since it was executed: a master, its
workers.  A worker that replaces another one begins with the waits that the master has begun meanwhile, and so in a phase that
the first workers had yet to enter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from callfence.policygen.recording.model import Observation, Recording
from callfence.tracer import linux
from callfence.tracer.abi.waits import FORK, forked


def by_role(observations: Sequence[Observation], recording: Recording) -> list[Observation]:
    """Return the observations as if each process had begun with all the waits with which processes of its role in the recording
    began; `after` has no forks.  Starting a thread gets no time, so that it ends with no phase: which thread waits before which
    is started is chance, a server starts more of them later, and a thread may do no more than who starts it."""
    inherited: dict[tuple[str, int], int] = defaultdict(int)
    for executable, forks, waits in _begun(recording):
        inherited[executable, forks] |= waits

    def after(observation: Observation) -> Iterator[int]:
        for waits in observation.after:
            yield waits % FORK | inherited.get((observation.executable, waits // FORK), 0)

    return [
        observation._replace(after=() if _starts_thread(observation) else tuple(sorted({*after(observation)})))
        for observation in observations
    ]


def _starts_thread(observation: Observation) -> bool:
    return observation.name == "clone" and bool(observation.example[0] & linux.CLONE_THREAD)


def _begun(recording: Recording) -> Iterator[tuple[str, int, int]]:
    """Yield (executable, forks, waits) of new processes: their roles, and the waits with which they began."""
    executed = {pair for run in recording.runs for pair in run.executed}
    for observation in recording.observations:
        name, starter = observation.name, observation.executable
        if name in ("fork", "vfork", "clone3", "clone") and not _starts_thread(observation):
            for waits in observation.after:
                yield starter, forked(waits) // FORK, waits % FORK
        elif name in ("execve", "execveat"):
            yield from ((path, 0, waits % FORK) for by, path in executed if by == starter for waits in observation.after)
