"""What `learn --rehearse` does after the plain run: it rehearses, adds what that brings, and says what it did."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from callfence.learning import store
from callfence.learning.learned import call_name
from callfence.learning.rehearsal.plan import Choice, plan
from callfence.learning.rehearsal.run import Budget, Rehearsing, Setting
from callfence.learning.rehearsal.surroundings import Input, Scratch
from callfence.learning.summary import news
from callfence.learning.watch import where
from callfence.shared.text import command_line, plural, printable
from policygen.review.risk import needs_a_person
from tracer.faults import Witness

if TYPE_CHECKING:
    from callfence.learning.learned import Learned
    from callfence.learning.options import LearnOptions
    from callfence.learning.prepare import Prepared
    from callfence.learning.rehearsal.run import Ended, News, Progress
    from tracer.running.launch import Program


class Plain:
    """The plain run, as far as it decides how it is repeated; made just before it begins."""

    def __init__(self, program: Program, options: LearnOptions) -> None:
        """Raises UserError if what is to be rehearsed does not exist."""
        self.program = program
        self.choice = Choice.parse(options.rehearse_only)
        self.input = Input()
        self.witness = Witness()
        self._began = time.monotonic()

    def ended(self) -> float:
        """How many seconds it took, asked at its end."""
        return time.monotonic() - self._began


def rehearse_after(plain: Plain, seconds: float, learned: Learned, prepared: Prepared, options: LearnOptions) -> None:
    """`seconds`: how long the plain run took.  Raises UserError, OSError, and what `store.rehearsed` does."""
    if plain.witness.reads_input and plain.input.is_terminal:
        _say("not rehearsed: the program reads the terminal, and nobody would answer it again; give its input as a file")
        return
    planned = plan(learned.recording, plain.witness.caught, plain.choice, is_root=os.geteuid() == 0)
    scratch = Scratch() if options.scratch else None
    setting = Setting(
        plain.program,
        options.command,
        plain.input,
        seconds,
        scratch,
        options.allow_opaque,
        from_entry=options.arm == "entry",
        names=options.names,
        where=where(plain.program, options, scratch.copied if scratch else ""),
    )
    telling = _Telling(learned, options, sys.stderr is not None and sys.stderr.isatty())
    telling.begin(len(planned), scratch, plain)
    try:
        rehearsing = Rehearsing(
            setting,
            learned.recording,
            lambda: telling.learned.generated.document.policy,
            telling.draw,
            lambda brought: telling.add(brought, store.rehearsed(prepared, brought.run, brought.observations, options)),
        )
        ended = rehearsing.make(planned, Budget(options.rehearse_runs, options.rehearse_seconds))
    finally:
        if scratch:
            scratch.remove()
    telling.end(ended)


class _Telling:
    """What is said of a rehearsal."""

    def __init__(self, learned: Learned, options: LearnOptions, is_terminal: bool) -> None:
        self.learned = learned
        """The policy and recording by now."""
        self._options = options
        self._is_quiet = options.quiet or sys.stderr is None
        self._draws = is_terminal and not self._is_quiet
        self._lines: list[str] = []
        self._held: list[str] = []

    def begin(self, planned: int, scratch: Scratch | None, plain: Plain) -> None:
        if self._is_quiet:
            return
        options = self._options
        runs = plural(min(planned, options.rehearse_runs), "run")
        where = f", each in {scratch.way}" if scratch else ", each of which repeats what the program does to files and peers"
        _say(f"rehearsing: at most {runs} of {planned:,}, {options.rehearse_seconds:.0f} seconds{where}; ^C ends it")
        if plain.witness.reads_input and not plain.input.is_repeatable:
            _say("rehearsing: the program reads a pipe, which is empty in these runs; give its input as a file")

    def draw(self, progress: Progress) -> None:
        if self._draws:
            text = printable(f"rehearsing {progress.number}/{progress.of}: {progress.rehearsal.says}; {progress.news} new")
            width = (os.get_terminal_size(2).columns or 80) - 1
            self._write(f"\r\x1b[K{text[:width]}")

    def add(self, brought: News, learned: Learned) -> None:
        self.learned = learned
        if learned.generated.new:
            self._lines += [f"{brought.rehearsal.says}:", *(f"  {line}" for line in news(learned))]
        dangerous = [one for one in brought.observations if needs_a_person(one, self._options.allow_opaque)]
        names = dict.fromkeys(call_name(one.arch, one.number) for one in dangerous)
        self._held += [name for name in names if name not in self._held]

    def end(self, ended: Ended) -> None:
        if self._draws:
            self._write("\r\x1b[K")
        if self._is_quiet:
            return
        _say(f"rehearsed: {plural(ended.runs, 'run')} in {ended.seconds:.0f} s{'; ' if ended.reason else ''}{ended.reason}")
        for line in self._lines or ["nothing new"]:
            _say(f"  {line}", "")
        for line in ended.failed:
            _say(f"  could not be run: {printable(line)}", "")
        if self._held:
            review = command_line(["callfence", "review", str(self.learned.policy)])
            _say(f"  not added, since it would be dangerous; `{review}` lists it: {', '.join(self._held)}", "")

    def _write(self, text: str) -> None:
        with suppress(OSError):
            os.write(2, text.encode())


def _say(line: str, who: str = "learn: ") -> None:
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"{who}{line}", file=sys.stderr, flush=True)
