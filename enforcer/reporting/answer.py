"""Answer calls that the filter did not allow: report each, then make it fail or kill its process.

If anything goes wrong here (no memory, a policy that cannot be parsed again), the call does not run, and the process is
killed, which is the strictest answer that a policy can give.
"""

from __future__ import annotations

import errno
import gc
from functools import partial

from enforcer import kernel
from enforcer.bpf import EXITS
from enforcer.errors import FAILED
from enforcer.listener import Notification, Request, end_process, exit_with, received, stopped, trap
from tracer import TYPE_CHECKING, linux
from tracer.machine import MACHINE
from tracer.proc import owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enforcer.files.unreachable import Judge
    from enforcer.hosts.mediator import Mediator
    from enforcer.hosts.targets import Refusal
    from enforcer.listener import Waiting
    from enforcer.pending import Pending, Rule
    from enforcer.reporting.asker import Asker
    from enforcer.reporting.audit import Denial
    from enforcer.reporting.output import Output
    from enforcer.reporting.report import Reports
    from enforcer.reporting.reporter import Reporter
    from enforcer.reporting.verdict import Verdict, Verdicts
    from policygen.model import Action

_LISTEN = MACHINE.calls("listen")
_REPLACED = "the helper process was killed and has been replaced; counts of denied calls before that are lost"

_NOBODY_ANSWERS = "nobody answers any more, so denied calls are no longer asked about"


class Answers:
    """Takes calls from listeners, one after the other, into `notification`."""

    def __init__(
        self,
        notification: Notification,
        waiting: Waiting,
        reporter: Reporter,
        program: int,
        pidfd: int,
        devices: tuple[int, int],
    ) -> None:
        """`waiting` has the calls that are answered later.  `program` is the id of the process whose exit status is that of
        `enforce`, and `pidfd` a descriptor of it.

        `devices`: descriptors of /dev/null and /dev/full, or -1."""
        gc.enable()  # it is off during the start
        self._notification = notification
        self._waiting = waiting
        self._reporter = reporter
        self._source = reporter.records
        self._devices = devices
        self._program = program
        self._pidfd = pidfd
        self._status: int | None = None
        """The wait status of the program's first process; None until it has ended, or if it is not known."""
        self._is_whole = True
        """Whether no other helper has answered before."""
        self._written: Output | None = None
        """What writes reports; None until something is written."""
        self._has_begun = False
        """Whether the records of the start were to be written."""
        self._has_lost = False
        """Whether a violation may have gone without a report."""
        self._loaded: tuple[Verdicts, Reports] | None = None
        """What judges and what reports calls; None until the first call that they need."""
        self._files: Judge | None = None
        """What judges files and ports; None until it is needed."""
        self._pending: Pending | None = None
        """The calls that are answered later; None until there may be one."""
        self._mediator: Mediator | None = None
        """What makes the program's calls to other hosts; None until the first one."""
        self._asker: Asker | None = None
        """What asks about denied calls; None until the first one, and if they are not asked about."""

    def next(self, listener: int, phase: str) -> None:
        """Receive and answer the next call of a listener, from a process in `phase` ("" where there are no phases)."""
        try:
            request = received(listener, self._notification, phase)
        except OSError:  # ENOENT: it was interrupted, or its task has died
            return
        self._answer(request)

    def take_over(self, listeners: Mapping[int, str]) -> None:
        """Take over from a helper that was killed: answer a call that it may have received and not answered."""
        self._has_lost = True
        self._is_whole = False
        _try(lambda: self._reports.say(_REPLACED))
        waiting = self._waiting.take_over()
        for listener, phase in listeners.items():
            request = Request(self._notification, listener, phase)
            if request.call.id and request.is_waiting():
                self._answer(request)
            for id_ in waiting:  # as if a signal had come
                _try(partial(Request(Notification(id_), listener, phase).fail, errno.EINTR))

    def program_ended(self) -> None:
        """Write the reports that are due when the program's first process has ended; others may still be confined."""
        self._status = kernel.wait_status(self._pidfd, self._program)
        self.summarise()
        self._reporter.give_back()

    def pause(self) -> float | None:
        """Return how many seconds without a call have to pass before `quiet` has something to do; None for never."""
        sources = self._source, self._written, self._loaded and self._loaded[1], self._pending and self._pending.hub
        pauses = [source.pause() for source in sources if source]
        if self._reporter.log and not self._has_begun:
            return 0
        return min((pause for pause in pauses if pause is not None), default=None)

    def read_records(self) -> None:
        """Report what the kernel's audit records say that it denied, as far as they have arrived."""
        if self._source:
            self._report_records(self._source.read())

    def never_ran(self, *, has_said: bool) -> None:
        """Write the records of a start and an end if a signal ended the process before it became the program; else it has said
        itself why it did not, or without `has_said` nobody has written that to the log."""
        self._status = kernel.wait_status(self._pidfd, self._program)
        if self._status is not None and self._status & 0x7F:
            self.finish()
        elif self._reporter.log and self._status is not None and not has_said:
            log, status = self._reporter.log, self._status >> 8 & 0xFF
            _try(lambda: log.write([log.refusal("the client of `callfence spawn` has not executed the program", status)]))

    def finish(self) -> None:
        """Report everything that has not been reported, after the last process has ended."""
        if self._source:
            self.program_ended()  # no reader of its standard error, nor its parent, waits for the last records
            self._report_records(self._source.rest())
            if lost := self._source.lost():
                _try(lambda: self._reports.say(lost, "note"))
        self.summarise()
        if self._reporter.log:
            _try(self._write_end)

    def _write_end(self) -> None:
        """Write the record of the end of the last process."""
        from enforcer.reporting.events import status_fields
        from policygen.recording.log_records import END

        if (log := self._reporter.log) is None:
            return
        if self._status is None:
            self._status = kernel.wait_status(self._pidfd, self._program)
        denied = self._loaded[1].denied if self._loaded else 0
        counts = {"denied": denied, "lost": self._output.lost, "complete": self._is_whole}
        self._output.write(log.record(END, {**status_fields(self._status), **counts}))
        self._output.flush(last=True)

    def _report_records(self, denials: Iterator[Denial]) -> None:
        for index, fields in denials:
            if fields.get("opid") == str(linux.KTHREADD):  # the first denial (`enforcer.files.landlock`)
                continue
            try:
                self._reports.recorded(index, fields)
            except Exception as error:
                self._reporter.complain(f"a denied file or port could not be reported: {type(error).__name__}: {error}")

    def quiet(self) -> None:
        """Write reports that still wait, and report the counts of repeated violations that are due; go on with calls that are
        being made for the program.  To be called after as many seconds without a call as `pause` returns."""
        self.go_on()
        if self._written or (self._reporter.log and not self._has_begun):
            self._has_begun = True
            _try(lambda: self._output.flush())
        if self._source and (absence := self._source.absence()):
            _try(lambda: self._reports.say(absence, "note"))
        if self._loaded:
            _try(self._loaded[1].quiet)

    # Calls that are made for the program

    @property
    def hub(self) -> int:
        """The descriptor that is readable when `go_on` has something to do; -1 until the first call is made."""
        return self._pending.hub.descriptor if self._pending else -1

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that calls need which are answered later."""
        hub = self._pending.hub.descriptors() if self._pending else ()
        return (*hub, *(self._mediator.descriptors() if self._mediator else ()))

    def go_on(self) -> None:
        """Go on with the calls that are answered later."""
        if self._pending:
            self._pending.hub.run()

    def _later(self) -> Pending:
        """Return the calls that are answered later."""
        if self._pending is None:
            from enforcer.pending import Pending

            self._pending = Pending(self._waiting)
        return self._pending

    def _making(self, call: Notification) -> Mediator | None:
        """Return what makes a call, if it may reach another host and the policies' filters allow it; else None.  Raises OSError
        and others if what makes calls cannot be loaded."""
        hosts = self._reporter.hosts
        if hosts is None:
            return None
        if not hosts.are_judged(call):
            return None
        if self._mediator is None:
            from enforcer.hosts.mediator import Mediator

            asks = self._reporter.asking >= 0
            self._mediator = Mediator(hosts, self._later(), self._deny, self._reporter.complain, asks=asks)
        return self._mediator

    def _deny(self, request: Request, refusal: Refusal) -> bool:
        """Report a call or a look-up that the mediator has denied; or ask about it, if a line would allow it, and return
        True."""
        try:
            verdict = self._verdict(request)
            if verdict is None:
                return False
            rule, is_lookup = refusal.rule, refusal.error != "EACCES"
            if (asker := self._asking()) and all(line for _, line in rule):
                from enforcer.reporting.report import ungranted_of

                fields = partial(self._reports.fields, request, verdict, ungranted_of(refusal))
                if not is_lookup:
                    asker.ask(request, rule, fields, partial(self._answered_peer, request, verdict, refusal))
                    return True
                if asker.remembered(rule) is None:  # the program asks its name server again
                    asker.suggest(rule, fields)
                    return True
            self._reports.report_peer(request, verdict, refusal)
        except Exception as error:
            self._lose(error)
        return False

    # Calls that are asked about

    def _asking(self) -> Asker | None:
        """Return what asks about denied calls; None if nothing does."""
        if self._asker is None and self._reporter.asking >= 0:
            from enforcer.reporting.asker import Asker

            ended = partial(_try, lambda: self._reports.say(_NOBODY_ANSWERS))
            self._asker = Asker(self._reporter.asking, self._later(), self._decided, ended)
        return self._asker

    def _decided(self, rule: Rule, answer: str, who: str, calls: int) -> None:
        """Have an answer take effect for further calls, and write its record."""
        from enforcer.reporting.asker import LASTING

        try:
            if answer in LASTING:
                self._load()[0].grant(rule)
                for file, line in rule:
                    if self._reporter.hosts:
                        self._reporter.hosts.grant(file, line)
            self._reports.decided(rule, answer, who, calls)
        except Exception as error:
            self._reporter.complain(f"an answer may be without effect: {type(error).__name__}: {error}")

    def _asks(self, request: Request, verdict: Verdict) -> bool:
        """Ask about a call that the policies deny, if a line would allow it; return whether it is answered, now or later."""
        if not verdict.denying or not (asker := self._asking()):
            return False
        from enforcer.reporting.verdict import rule_of

        if not (rule := rule_of(verdict)):
            return False
        request = request.kept()
        fields = partial(self._reports.fields, request, verdict)
        asker.ask(request, rule, fields, partial(self._answered, request, verdict))
        return True

    def _answered(self, request: Request, verdict: Verdict, answer: str) -> None:
        """Answer a call that waited for an answer to its question."""
        from enforcer.reporting.asker import GRANTING

        try:
            if answer in GRANTING:
                request.let_run()
                return
            action = self._report(request, verdict)
            self._apply(request, None if answer == "kill" else action)
        except FileNotFoundError:  # ENOENT: it has died meanwhile
            return
        except Exception as error:
            self._reporter.complain(f"task {request.call.task}, whose call was asked about, waits for ever: {error}")

    def _answered_peer(self, request: Request, verdict: Verdict, refusal: Refusal, answer: str) -> None:
        """Make, or fail, a call to another host that waited for an answer to its question."""
        from enforcer.reporting.asker import GRANTING

        if self._mediator is None:
            return
        if answer in GRANTING:
            self._mediator.make_again(request, refusal.rule)
            return
        _try(lambda: self._reports.report_peer(request, verdict, refusal))
        if answer == "kill":
            _try(partial(end_process, request))
        else:
            self._mediator.refuse(request, errno.EACCES)

    def made(self, call: Notification, phase: str) -> int | None:
        """Make the call of a stopped task that reaches another host, wait for it, and return its result or a negative errno;
        None for another call."""
        try:
            mediator = self._making(call)
        except Exception as error:
            self._complain_about_making(error)
            return -errno.EACCES
        return mediator.make_stopped(stopped(call, phase)) if mediator else None

    def _complain_about_making(self, error: Exception) -> None:
        self._has_lost = True
        self._reporter.complain(f"a call to another host could not be judged, so it fails: {type(error).__name__}: {error}")

    def summarise(self) -> None:
        """Report all counts that have not been reported yet."""
        if self._loaded:
            _try(self._loaded[1].summarise)

    def _load(self) -> tuple[Verdicts, Reports]:
        if self._loaded is None:
            from enforcer.reporting.report import Reports
            from enforcer.reporting.verdict import Verdicts

            reports = Reports(self._reporter, self._output, self._program, self._judge)
            self._loaded = Verdicts(self._reporter.policies()), reports
            self._loaded[1].asker = self._asking()
        return self._loaded

    @property
    def _judge(self) -> Judge | None:
        """What judges files and ports; None if they are not judged."""
        if self._files is None and self._reporter.reach:
            from enforcer.files.unreachable import Judge

            self._files = Judge(self._reporter.reach, self._program)
        return self._files

    @property
    def _output(self) -> Output:
        """What writes reports; the first use writes the records of the start."""
        if self._written is None:
            from enforcer.reporting.output import Output

            self._has_begun = True
            self._written = Output(self._reporter, begins=self._is_whole)
        return self._written

    @property
    def _reports(self) -> Reports:
        return self._load()[1]

    def _verdict(self, request: Request) -> Verdict | None:
        """Return the policies' verdict on a call; None, for a kill, if judging it fails."""
        try:
            return self._load()[0].of(request.event(), request.phase)
        except Exception as error:
            self._lose(error)
            return None

    def _report(self, request: Request, verdict: Verdict) -> Action | None:
        """Report a denied call, and return its action; None, for a kill, if reporting it fails."""
        try:
            self._reports.report(request, verdict)
        except Exception as error:
            self._lose(error)
            return None
        return verdict.action

    def _lose(self, error: Exception) -> None:
        self._has_lost = True
        self._reporter.complain(f"a call could not be judged, so its process is killed: {type(error).__name__}: {error}")

    # Calls of a task that is stopped

    def stopped(self, call: Notification, phase: str) -> Action | None:
        """Return the action for the call of a stopped task: an errno, without a report, if some kernels or machines lack what
        the call needs; else the policies' action, after a report; None, for a kill, if judging the call fails."""
        request = stopped(call, phase)
        if (verdict := self._verdict(request)) is None:
            return None
        try:
            if self._may_be_answered(verdict):
                from policygen.implied.tables import unavailable
                from policygen.model import Action, ActionKind

                if number := unavailable(verdict.event):
                    self._reports.failed(verdict.event, number)
                    return Action(ActionKind.ERRNO, number)
        except Exception as error:
            self._complain(error)
        return self._report(request, verdict)

    def listened(self, call: Notification, phase: str) -> int | None:
        """Make a listen(2) for a stopped task, and return 0 or an errno; None for another call, for one that the policies deny,
        and for one that the task can make itself."""
        if not self._is_listen(call):
            return None
        request = stopped(call, phase)
        return self._listen(request, self._load()[0].of(request.event(), phase))

    # Calls that wait for an answer

    def _answer(self, request: Request) -> None:
        self._settle(request)
        request.call.id = 0

    def _settle(self, request: Request) -> None:
        try:
            if mediator := self._making(request.call):
                mediator.make(request)
                return
        except Exception as error:
            self._complain_about_making(error)
            _try(partial(request.fail, errno.EACCES))
            return
        if self._let_run(request):
            return
        action = None
        if verdict := self._verdict(request):
            try:
                if self._answer_listen(request, verdict) or self._answer_otherwise(request, verdict):
                    return
                if self._asks(request, verdict):
                    return
            except FileNotFoundError:  # ENOENT: it has died meanwhile, or been interrupted
                if not request.is_waiting():
                    return
            except Exception as error:
                self._complain(error)
            action = self._report(request, verdict)
        try:
            self._apply(request, action)
        except FileNotFoundError:  # ENOENT: it has died meanwhile
            pass
        except Exception as error:
            self._reporter.complain(f"task {request.call.task} could not be killed, so its denied call waits for ever: {error}")

    def _let_run(self, request: Request) -> bool:
        """Let a call run if the policies' filters allow it, so that only its files or ports are judged, and these are granted;
        return whether it was answered.

        The filters say the same as the policies, which take 30 ms to parse.  Any other call, and any failure, is left to what
        judges by the policies."""
        reach = self._reporter.reach
        if reach is None or self._reporter.audit or request.phase or self._is_listen(request.call):
            return False
        try:
            if not reach.allows(request.call) or (self._judge and self._judge.ungranted(request.event())):
                return False
            request.let_run()
        except Exception:
            return False
        return True

    def _complain(self, error: Exception) -> None:
        self._reporter.complain(f"a denied call is answered like any other: {type(error).__name__}: {error}")

    def _is_listen(self, call: Notification) -> bool:
        """Return whether a call is a listen(2) that the helper has to judge."""
        return self._reporter.listens and (call.arch, call.number) in _LISTEN

    def _answer_listen(self, request: Request, verdict: Verdict) -> bool:
        """Answer a listen(2) that the policies allow; return whether the call was one."""
        if self._reporter.audit or not self._is_listen(request.call) or verdict.denying:
            return False
        result = self._listen(request, verdict)
        if result is None:
            request.let_run()
        elif result:
            request.fail(result)
        else:
            request.finish(0)
        return True

    def _listen(self, request: Request, verdict: Verdict) -> int | None:
        """Make a listen(2) for its task, report it if its port is denied, and return 0 or an errno; None for one that the
        policies deny, or that the task can make itself."""
        if verdict.denying:
            return None
        from enforcer.files.listening import listen

        try:
            result = listen(request)
        except (OSError, KeyError):
            result = errno.EACCES if request.is_waiting() else errno.ESRCH
        if result == errno.EACCES:
            self._reports.report_port(request, verdict)
        return result

    def _answer_otherwise(self, request: Request, verdict: Verdict) -> bool:
        """Answer the call without denying it, if that grants nothing beyond the policies; return whether it was answered."""
        if not self._may_be_answered(verdict):
            return False
        from enforcer.reporting.instead import Instead

        instead = Instead(request, verdict, self._devices, keeps_signals=self._reporter.keeps_signals)
        is_answered = instead.answer()
        if instead.error:
            self._reports.failed(verdict.event, instead.error)
        return is_answered

    def _may_be_answered(self, verdict: Verdict) -> bool:
        """Return whether the policies permit, by `implied`, to answer the call if that grants nothing beyond them."""
        # With --explain, the helper is notified of allowed calls, too, for the files or ports that they name.
        return verdict.is_free and not self._reporter.audit and not (self._reporter.reach and not verdict.denying)

    def _apply(self, request: Request, action: Action | None) -> None:
        kind = action.kind if action else "kill"
        if self._reporter.audit:
            if self._hides_a_loss(request.call):
                exit_with(FAILED, request)
            else:
                request.let_run()
        elif action and action.allows and (self._reporter.reach or self._asker):
            request.let_run()  # as its registers say; Landlock judges what they point to
        elif action and kind == "errno":
            request.fail(action.errno)
        elif kind == "notify":  # as the kernel does without a listener
            request.fail(errno.ENOSYS)
        elif kind == "trap":
            trap(request)
            request.fail(errno.ENOSYS)
        else:
            end_process(request)

    def _hides_a_loss(self, call: Notification) -> bool:
        """Return whether the program is about to exit with a status that hides that a report was lost."""
        if call.number not in EXITS.get(call.arch, ()) or call.arguments[0] & 0xFF == FAILED:
            return False
        if owner(call.task) != self._program:
            return False
        self.summarise()
        return self._has_lost or bool(self._loaded and self._loaded[1].has_lost)


def _try(report: Callable[[], None]) -> None:
    """Do a report, and ignore its failure, so that calls are still answered."""
    try:
        report()
    except Exception:
        return
