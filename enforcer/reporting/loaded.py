"""What judges and reports calls, each part loaded when it is first needed: most programs are never denied anything."""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcer.files.ungranted import Judge
    from callfence.enforcer.listener import Request, Waiting
    from callfence.enforcer.pending import Pending, Rule
    from callfence.enforcer.reporting.asker import Asker
    from callfence.enforcer.reporting.output import Output
    from callfence.enforcer.reporting.report import Reports
    from callfence.enforcer.reporting.settings import Reporting
    from callfence.enforcer.reporting.verdict import Verdict, Verdicts
    from callfence.policygen.model import Action

_NOBODY_ANSWERS = "nobody answers any more, so denied calls are no longer asked about"


class Loaded:
    """The parts, and whether the reports are all that there was to report."""

    def __init__(self, reporting: Reporting, waiting: Waiting, program: int) -> None:
        """`waiting` has the calls that are answered later, `program` is the id of the program's first process."""
        self.reporting = reporting
        self._waiting = waiting
        self._program = program
        self.is_whole = True
        """Whether no other helper has answered before."""
        self.has_begun = False
        """Whether the records of the start were to be written."""
        self._has_lost = False
        self._output: Output | None = None
        self._judging: tuple[Verdicts, Reports] | None = None
        self._judge: Judge | None = None
        self.pending_if_any: Pending | None = None
        """`pending`, if there has been such a call."""
        self._asker: Asker | None = None

    @property
    def output(self) -> Output:
        """What writes reports; the first use writes the records of the start."""
        if self._output is None:
            self.has_begun = True
            from callfence.enforcer.reporting.output import Output

            self._output = Output(self.reporting, begins=self.is_whole)
        return self._output

    @property
    def has_written(self) -> bool:
        """Whether anything was written, if only the records of the start."""
        return self._output is not None

    @property
    def has_unwritten(self) -> bool:
        """Whether any report could not be written."""
        return bool(self._output and self._output.lost)

    @property
    def verdicts(self) -> Verdicts:
        """What judges calls."""
        return self._load()[0]

    @property
    def reports(self) -> Reports:
        """What reports calls."""
        return self._load()[1]

    @property
    def reports_if_any(self) -> Reports | None:
        """`reports`, if there have been any."""
        return self._judging[1] if self._judging else None

    @property
    def judge(self) -> Judge | None:
        """What judges files and ports; None if they are not judged."""
        if self._judge is None and self.reporting.reach:
            from callfence.enforcer.files.ungranted import Judge

            self._judge = Judge(self.reporting.reach, self._program)
        return self._judge

    @property
    def has_unjudged(self) -> bool:
        """Whether there were calls whose files and ports could not be judged."""
        return bool(self._judge and self._judge.unjudged)

    @property
    def pending(self) -> Pending:
        """The calls that are answered later."""
        if self.pending_if_any is None:
            from callfence.enforcer.pending import Pending

            self.pending_if_any = Pending(self._waiting)
        return self.pending_if_any

    @property
    def asker(self) -> Asker | None:
        """What asks about denied calls; None if nothing does."""
        if self._asker is None and self.reporting.asking >= 0:
            from callfence.enforcer.reporting.asker import Asker

            def ended() -> None:
                attempt(lambda: self.reports.say(_NOBODY_ANSWERS))

            self._asker = Asker(self.reporting.asking, self.pending, self._decided, ended)
        return self._asker

    @property
    def may_lack_reports(self) -> bool:
        """Whether a violation may have gone without a report."""
        return self._has_lost or bool(self._judging and self.has_unwritten)

    def pauses(self) -> list[float]:
        """Return after how many seconds without a call each part has something to do."""
        parts = self._output, self.reports_if_any, self.pending_if_any and self.pending_if_any.hub
        return [pause for part in parts if part and (pause := part.pause()) is not None]

    def verdict(self, request: Request) -> Verdict | None:
        """Return the policies' verdict on a call; None, for a kill, if judging it fails."""
        try:
            return self.verdicts.of(request.event(), request.phase)
        except Exception as error:
            self.lose(error)
            return None

    def report(self, request: Request, verdict: Verdict) -> Action | None:
        """Report a denied call, and return its action; None, for a kill, if reporting it fails."""
        try:
            self.reports.report(request, verdict)
        except Exception as error:
            self.lose(error)
            return None
        return verdict.action

    def lose(self, error: Exception | None = None) -> None:
        """Note that a violation may go without a report, and say so if judging it failed."""
        self._has_lost = True
        if error:
            self.reporting.complain(f"a call could not be judged, so its process is killed: {type(error).__name__}: {error}")

    def _load(self) -> tuple[Verdicts, Reports]:
        if self._judging is None:
            from callfence.enforcer.reporting.report import Reports
            from callfence.enforcer.reporting.verdict import Verdicts

            reports = Reports(self.reporting, self.output, self._program, self.judge)
            self._judging = Verdicts(self.reporting.policies()), reports
            reports.asker = self.asker
        return self._judging

    def _decided(self, rule: Rule, answer: str, who: str, calls: int) -> None:
        """Have an answer take effect for further calls, and write its record."""
        from callfence.enforcer.reporting.asker import LASTING

        try:
            if answer in LASTING:
                self.verdicts.grant(rule)
                for file, line in rule:
                    if self.reporting.hosts:
                        self.reporting.hosts.grant(file, line)
            self.reports.decided(rule, answer, who, calls)
        except Exception as error:
            self.reporting.complain(f"an answer may be without effect: {type(error).__name__}: {error}")


def attempt(report: Callable[[], None]) -> None:
    """Do a report, and ignore its failure, so that calls are still answered."""
    try:
        report()
    except Exception:
        return
