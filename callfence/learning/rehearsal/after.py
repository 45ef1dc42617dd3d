"""Makes the runs of `learn --rehearse` after the plain run, adds what is new in them to the policy, and prints it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from callfence.learning import store
from callfence.learning.granted import dangerous
from callfence.learning.progress import say
from callfence.learning.rehearsal.plan import Place, Rehearsal, parse_choice, plan
from callfence.learning.rehearsal.run import Setting, free_space, run
from callfence.learning.rehearsal.surroundings import Input, Scratch
from callfence.learning.summary import call_name, news
from callfence.learning.watch import places_of
from callfence.policygen.completeness import needed_by
from callfence.policygen.evaluate import evaluate
from callfence.policygen.files.generalise import lacking
from callfence.policygen.review.risk import needs_a_person
from callfence.shared.text import command_line, plural, printable
from callfence.tracer.errors import CallfenceError
from callfence.tracer.faults import Witness

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from callfence.learning.options import LearnOptions
    from callfence.learning.prepare import Prepared
    from callfence.learning.store import Learned
    from callfence.policygen.recording.model import Observation, Run
    from callfence.tracer.running.launch import Program

QUIET_RUNS: Final = 40
"""After this many runs in a row with a failing call and nothing new, no further calls are failed."""
_INTERRUPTED: Final = "interrupted by the user"
_FULL: Final = "a run filled half of the free disk space; --scratch discards the files that a run writes"


class PlainRun:
    """The facts about the plain run that decide how it can be repeated; created just before the run begins."""

    def __init__(self, program: Program, options: LearnOptions) -> None:
        """Raises UserError for an unknown name in --rehearse-only."""
        self.program = program
        self.choice = parse_choice(options.rehearse_only)
        self.input = Input()
        self.witness = Witness()
        self.seconds = 0.0
        """How long the run took; 0 before its end."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Note that the run has ended."""
        self.seconds = time.monotonic() - self._began


def rehearse_after(plain: PlainRun, learned: Learned, prepared: Prepared) -> None:
    """Rehearse the plain run, whose result is `learned`.  Raises UserError, OSError, and what `store.rehearsed` does."""
    if plain.witness.reads_input and plain.input.is_terminal:
        say("learn: not rehearsed: the program reads the terminal, where nobody would type again; give its input as a file")
        return
    scratch = Scratch() if prepared.options.scratch else None
    try:
        rehearsing = _Rehearsing(plain, scratch, learned, prepared)
        rehearsing.make_all(plan(learned.recording, plain.witness.caught, plain.choice, is_root=os.geteuid() == 0))
    finally:
        if scratch:
            scratch.remove()


class _Rehearsing:
    """The state of a rehearsal while its runs are made."""

    def __init__(self, plain: PlainRun, scratch: Scratch | None, learned: Learned, prepared: Prepared) -> None:
        options = prepared.options
        self._plain = plain
        self._prepared = prepared
        self._options = options
        places = places_of(plain.program, options, scratch.copied if scratch else "")
        kinds = prepared.with_files, prepared.with_hosts
        self._setting = Setting(plain.program, plain.input, plain.seconds, scratch, options, places, free_space() // 2, *kinds)
        self._learned = learned
        """The policy and the recording, with the runs until now."""
        self._rules: set[object] = set()
        """The rules (`_rule`) of all observations until now."""
        self._rules.update(map(self._rule, learned.recording.observations))
        self._unreached: set[Place] = set()
        """Places at which no call was made after the program's entry point, so that no fault can happen there."""
        self._runs = self._quiet = self._news = 0
        self._is_silent = options.quiet or sys.stderr is None
        self._draws = not self._is_silent and sys.stderr.isatty()
        self._lines: list[str] = []
        self._failed: list[str] = []
        self._held_back: dict[str, None] = {}
        """Names of the calls that were not added to the policy, because allowing them is dangerous."""
        self._paths_held_back: dict[str, None] = {}
        """The paths for which nothing was added, because they are executed, or lint warns of them."""

    def make_all(self, planned: Sequence[Rehearsal]) -> None:
        """Make the runs and print what is new in them.  Stop when the budget is used up, when QUIET_RUNS runs brought nothing
        new, or when the user ends them.  No process is left running."""
        self._report_begin(len(planned))
        budget, seconds = self._options.rehearse_runs, self._options.rehearse_seconds
        began, reason = time.monotonic(), ""
        try:
            for rehearsal in planned:
                if rehearsal.place in self._unreached or (self._quiet >= QUIET_RUNS and rehearsal.group == "faults"):
                    continue
                remaining = seconds - (time.monotonic() - began)
                if self._runs >= budget or remaining <= 0:
                    reason = f"the budget of {plural(budget, 'run')} and {seconds:.0f} seconds is used up"
                    break
                self._runs += 1
                self._draw(f"rehearsing {self._runs}/{min(len(planned), budget)}: {rehearsal.description}; {self._news} new")
                if reason := self._make(rehearsal, remaining):
                    break
        except KeyboardInterrupt:
            reason = _INTERRUPTED
        if self._quiet >= QUIET_RUNS and not reason:
            reason = f"{self._quiet} runs in a row brought nothing new"
        self._report_end(time.monotonic() - began, reason)

    def _make(self, rehearsal: Rehearsal, seconds: float) -> str:
        """Make one run of at most `seconds`.  Return why no more can be made, or ''."""
        try:
            rehearsed = run(self._setting, rehearsal, seconds)
        except (CallfenceError, OSError) as error:
            self._failed.append(f"{rehearsal.description}: {error}")
            return ""
        if rehearsal.place is not None and rehearsal.is_first and not rehearsed.fired:
            self._unreached.add(rehearsal.place)
        new = tuple(self._new_in(rehearsed.observations))
        files = self._learned.generated.document.policy.files
        paths = dangerous(files, rehearsed.run.files)
        self._paths_held_back |= dict.fromkeys(paths)
        used = tuple(use for use in rehearsed.run.files if use[0] not in paths and use[2] not in paths)
        if new or lacking(files, used):
            self._quiet = 0
            self._add(rehearsal, rehearsed.run._replace(files=used), new)
        else:
            self._quiet += rehearsal.group == "faults"
        return _INTERRUPTED if rehearsed.is_interrupted else _FULL if rehearsed.is_full else ""

    def _rule(self, observation: Observation) -> object | None:
        """Return the rule that a policy needs for an observation, as a key; None if it needs none."""
        rule = needed_by(observation, names_only=self._options.names)
        return None if rule is None else (observation.arch, observation.number, rule)

    def _new_in(self, observations: Iterable[Observation]) -> Iterable[Observation]:
        """Yield the observations that the policy does not allow and that no earlier run had."""
        policy = self._learned.generated.document.policy
        for observation in observations:
            rule = self._rule(observation)
            if rule is not None and rule not in self._rules:
                self._rules.add(rule)
                if not evaluate(policy, observation.event).allows:
                    yield observation

    def _add(self, rehearsal: Rehearsal, run: Run, new: tuple[Observation, ...]) -> None:
        """Add the new observations of a run to the policy and its recording."""
        self._learned = store.rehearsed(self._prepared, run, new)
        self._news += len(new) + len(self._learned.generated.files)
        if self._learned.generated.new or self._learned.generated.files:
            self._lines += [f"{rehearsal.description}:", *(f"  {line}" for line in news(self._learned))]
        held = (observation for observation in new if needs_a_person(observation, self._options.allow_opaque))
        self._held_back |= dict.fromkeys(call_name(observation.arch, observation.number) for observation in held)

    # -- what is printed

    def _report_begin(self, planned: int) -> None:
        if self._is_silent:
            return
        options, scratch = self._options, self._setting.scratch
        runs = plural(min(planned, options.rehearse_runs), "run")
        way = f", each in {scratch.way}" if scratch else "; each run changes files and sends data as the program does"
        say(f"learn: rehearsing: at most {runs} of {planned:,}, {options.rehearse_seconds:.0f} seconds{way}; ^C ends it")
        if self._plain.witness.reads_input and not self._plain.input.is_repeatable:
            remedy = "use a file: learn --rehearse COMMAND < FILE"
            say(f"learn: rehearsing: standard input is a pipe, which is empty in these runs; {remedy}")

    def _draw(self, text: str) -> None:
        """Replace the current line of the terminal; do nothing if there is no terminal or with --quiet."""
        if self._draws:
            width = (os.get_terminal_size(2).columns or 80) - 1
            with suppress(OSError):
                os.write(2, f"\r\x1b[K{printable(text)[:width]}".encode())

    def _report_end(self, seconds: float, reason: str) -> None:
        self._draw("")
        if self._is_silent:
            return
        say(f"learn: rehearsed: {plural(self._runs, 'run')} in {seconds:.0f} s{'; ' if reason else ''}{reason}")
        for line in self._lines or ["nothing new"]:
            say(f"  {line}")
        for line in self._failed:
            say(f"  could not be run: {printable(line)}")
        if self._held_back:
            review = command_line(["callfence", "review", str(self._learned.policy)])
            say(f"  not added, because allowing them is dangerous: {', '.join(self._held_back)}; `{review}` shows them")
        if self._paths_held_back:
            paths = ", ".join(self._paths_held_back)
            say(f"  not added, because it is executed or lint warns of it: path {printable(paths)}; a plain run adds it")
