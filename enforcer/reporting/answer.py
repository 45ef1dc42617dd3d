"""Answer calls that the filter did not allow: report each, then make it fail or kill its process.

If anything goes wrong here (no memory, a policy that cannot be parsed again), the call does not run, and the process is
killed, which is the strictest answer that a policy can give.
"""

from __future__ import annotations

import errno
import gc

from callfence.enforcer import kernel
from callfence.enforcer.bpf import EXITS
from callfence.enforcer.errors import FAILED
from callfence.enforcer.listener import (
    Notification,
    Request,
    StoppedRequest,
    Waiting,
    clear,
    end_process,
    exit_with,
    received,
    trap,
)
from callfence.enforcer.reporting.loaded import Loaded, attempt
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from callfence.enforcer.reporting.audit import Denial
    from callfence.enforcer.reporting.peers import Peers
    from callfence.enforcer.reporting.settings import Reporting
    from callfence.enforcer.reporting.verdict import Verdict
    from callfence.policygen.model import Action

_LISTEN = MACHINE.calls("listen")
_REPLACED = "the helper process was killed and has been replaced; counts of denied calls before that are lost"


class Answers:
    """Takes calls from listeners, one after the other, into `notification`."""

    def __init__(
        self,
        notification: Notification,
        waiting: Waiting,
        reporting: Reporting,
        program: int,
        pidfd: int,
        devices: tuple[int, int],
    ) -> None:
        """`waiting` has the calls that are answered later.  `program` is the id of the process whose exit status is that of
        `enforce`, and `pidfd` a descriptor of it.  `devices`: descriptors of /dev/null and /dev/full, or -1."""
        gc.enable()  # it is off during the start
        self._notification = notification
        self._waiting = waiting
        self._reporting = reporting
        self._source = reporting.records
        self._devices = devices
        self._program = program
        self._pidfd = pidfd
        self._status: int | None = None
        """The wait status of the program's first process; None until it has ended, or if it is not known."""
        self._loaded = Loaded(reporting, waiting, program)
        self._peers: Peers | None = None
        """What takes calls to other hosts, if the policies are about hosts."""
        if reporting.hosts is not None:
            from callfence.enforcer.reporting.peers import Peers

            self._peers = Peers(self._loaded)

    def next(self, listener: int, phase: str) -> None:
        """Receive and answer the next call of a listener, from a process in `phase` ("" where there are no phases)."""
        try:
            request = received(listener, self._notification, phase)
        except OSError:  # ENOENT: it was interrupted, or its task has died
            return
        self._answer(request)
        clear(self._notification)

    def take_over(self, listeners: Mapping[int, str]) -> None:
        """Take over from a helper that was killed: answer a call that it may have received and not answered."""
        self._loaded.lose()
        self._loaded.is_whole = False
        attempt(lambda: self._loaded.reports.say(_REPLACED))
        waiting = self._waiting.take_over()
        for listener, phase in listeners.items():
            request = Request(self._notification, listener, phase)
            if request.call.id and request.call.id not in waiting and request.is_waiting():
                self._answer(request)
            for id_ in waiting:
                _interrupt(Request(Notification(id_), listener, phase))
        clear(self._notification)

    def program_ended(self) -> None:
        """Write the reports that are due when the program's first process has ended; others may still be confined."""
        self._status = kernel.wait_status(self._pidfd, self._program)
        self._begin_log()
        self.summarise()
        self._reporting.give_back()

    def get_ready(self) -> None:
        """Load what the program's calls will need, while none waits."""
        if self._peers:
            attempt(self._peers.load)

    def pause(self) -> float | None:
        """Return how many seconds without a call have to pass before `quiet` has something to do; None for never."""
        if self._reporting.log and not self._loaded.has_begun:
            return 0
        of_source = self._source.pause() if self._source else None
        pauses = self._loaded.pauses() if of_source is None else [of_source, *self._loaded.pauses()]
        return min(pauses, default=None)

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
        elif self._reporting.log and self._status is not None and not has_said:
            log, status = self._reporting.log, self._status >> 8 & 0xFF
            attempt(lambda: log.write([log.refusal("the client of `callfence spawn` has not executed the program", status)]))

    def finish(self) -> None:
        """Report everything that has not been reported, after the last process has ended."""
        self._begin_log()  # its listeners are told of the end of a process before its pidfd
        if self._source:
            self.program_ended()  # no reader of its standard error, nor its parent, waits for the last records
            self._report_records(self._source.rest())
            if lost := self._source.lost():
                attempt(lambda: self._loaded.reports.say(lost, "note"))
        self.summarise()
        if self._reporting.log:
            attempt(self._write_end)

    def _write_end(self) -> None:
        """Write the record of the end of the last process."""
        from callfence.enforcer.reporting.events import status_fields
        from callfence.policygen.recording.log_records import END

        if (log := self._reporting.log) is None:
            return
        if self._status is None:
            self._status = kernel.wait_status(self._pidfd, self._program)
        denied = reports.denied if (reports := self._loaded.reports_if_any) else 0
        counts = {"denied": denied, "lost": self._loaded.output.lost, "complete": self._loaded.is_whole}
        self._loaded.output.write(log.record(END, {**status_fields(self._status), **counts}))
        self._loaded.output.flush(last=True)

    def _report_records(self, denials: Iterator[Denial]) -> None:
        for index, fields in denials:
            if fields.get("opid") == str(linux.KTHREADD):  # the first denial (`enforcer.files.landlock`)
                continue
            try:
                self._loaded.reports.recorded(index, fields)
            except Exception as error:
                self._reporting.complain(f"a denied file or port could not be reported: {type(error).__name__}: {error}")

    def quiet(self) -> None:
        """Write reports that still wait, and report the counts of repeated violations that are due; go on with calls that are
        being made for the program.  To be called after as many seconds without a call as `pause` returns."""
        self.go_on()
        if self._loaded.has_written or (self._reporting.log and not self._loaded.has_begun):
            attempt(lambda: self._loaded.output.flush())
        if self._source and (absence := self._source.absence()):
            attempt(lambda: self._loaded.reports.say(absence, "note"))
        if reports := self._loaded.reports_if_any:
            attempt(reports.quiet)

    # Calls that are made for the program

    @property
    def hub(self) -> int:
        """The descriptor that is readable when `go_on` has something to do; -1 until the first call is made."""
        return self._loaded.pending_if_any.hub.descriptor if self._loaded.pending_if_any else -1

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that calls need which are answered later."""
        hub = self._loaded.pending_if_any.hub.descriptors() if self._loaded.pending_if_any else ()
        return (*hub, *(self._peers.descriptors() if self._peers else ()))

    def go_on(self) -> None:
        """Go on with the calls that are answered later."""
        if self._loaded.pending_if_any:
            self._loaded.pending_if_any.hub.run()

    def make_call(self, call: Notification, phase: str) -> StoppedRequest | None:
        """Make the call of a stopped task that reaches another host, now or later, and return the request that has or will have
        its result; None for another call."""
        return self._peers.make_call(call, phase) if self._peers else None

    def summarise(self) -> None:
        """Report all counts that have not been reported yet."""
        if self._peers:
            self._peers.summarise()
        if self._loaded.reports_if_any or self._loaded.has_unjudged or self._loaded.has_unwritten:
            attempt(lambda: self._loaded.reports.summarise())

    def _begin_log(self) -> None:
        """Write the records of the start, if there is a log and they have not been written."""
        if self._reporting.log:
            attempt(lambda: self._loaded.output.flush())

    # Calls that are asked about

    def _asks(self, request: Request, verdict: Verdict) -> bool:
        """Ask about a call that the policies deny, if a line would allow it; return whether it is answered, now or later."""
        if not verdict.denying or not (asker := self._loaded.asker):
            return False
        from callfence.enforcer.reporting.verdict import rule_of

        if not (rule := rule_of(verdict)):
            return False
        request = request.kept()
        reports = self._loaded.reports
        asker.ask(
            request, rule, lambda: reports.fields(request, verdict), lambda answer: self._answered(request, verdict, answer)
        )
        return True

    def _answered(self, request: Request, verdict: Verdict, answer: str) -> None:
        """Answer a call that waited for an answer to its question."""
        from callfence.enforcer.reporting.asker import GRANTING, KILL
        from callfence.policygen.model import KILL as KILLED

        try:
            if answer in GRANTING:
                self._run(request)
                return
            verdict = verdict._replace(action=KILLED) if answer == KILL else verdict
            self._apply(request, self._loaded.report(request, verdict))
        except FileNotFoundError:  # ENOENT: it has died meanwhile
            return
        except Exception as error:
            self._reporting.complain(f"task {request.call.task}, whose call was asked about, waits for ever: {error}")

    # Calls of a task that is stopped

    def judge_and_report(self, call: Notification, phase: str) -> int | None:
        """Return what the call of a stopped task is to return, 0 or a negative errno, or None for a kill: without a report, if
        it may fail or do nothing in place of being denied (`Instead`); else what the policies say, after a report."""
        request = StoppedRequest(call, phase)
        if (verdict := self._loaded.verdict(request)) is None:
            return None
        try:
            if self._may_be_answered(verdict):
                from callfence.enforcer.reporting.instead.call import Instead

                instead = Instead(request, verdict, (-1, -1), keeps_signals=False)
                if instead.answer() and request.result is not None:  # the filters let no denied call run
                    if instead.error:
                        self._loaded.reports.failed(verdict.event, instead.error)
                    return request.result
        except Exception as error:
            self._complain(error)
        action = self._loaded.report(request, verdict)
        return -action.errno if action and action.kind == "errno" else None

    def make_listen(self, call: Notification, phase: str) -> int | None:
        """Make a listen(2) for a stopped task, and return 0 or an errno; None for another call, for one that the policies deny,
        and for one that the task can make itself."""
        if not self._is_listen(call):
            return None
        request = StoppedRequest(call, phase)
        return self._listen(request, self._loaded.verdicts.of(request.event(), phase))

    # Calls that wait for an answer

    def _answer(self, request: Request) -> None:
        self._settle(request)
        request.call.id = 0

    def _settle(self, request: Request) -> None:
        """Answer a call by the first of these that can, each of which returns whether it has answered, or will: what makes the
        program's calls to other hosts; the policies' filters, if they allow it, and files and ports are granted; then, by the
        policies themselves: a listen(2) that they allow is made, a call that `implied` permits is answered without a denial,
        somebody is asked.  If none can, the call is reported, and the policies' action is carried out."""
        if self._peers and self._peers.take(request):
            return
        if self._let_run(request):
            return
        action = None
        if verdict := self._loaded.verdict(request):
            try:
                if self._answer_listen(request, verdict) or self._answer_otherwise(request, verdict):
                    return
                if self._asks(request, verdict):
                    return
            except (FileNotFoundError, KeyError):  # ENOENT, no status: it has died meanwhile, or been interrupted
                if not request.is_waiting():
                    return
            except Exception as error:
                self._complain(error)
            action = self._loaded.report(request, verdict)
        try:
            self._apply(request, action)
        except FileNotFoundError:  # ENOENT: it has died meanwhile
            pass
        except Exception as error:
            task = request.call.task
            self._reporting.complain(f"task {task} could not be killed, so its denied call waits for ever: {error}")

    def _let_run(self, request: Request) -> bool:
        """Let a call run if the policies' filters allow it, so that only its files or ports are judged, and these are granted;
        return whether it was answered.

        The filters say the same as the policies, which take 30 ms to parse.  Any other call, and any failure, is left to what
        judges by the policies."""
        reach = self._reporting.reach
        if reach is None or self._reporting.audit or request.phase or self._is_listen(request.call):
            return False
        try:
            if not reach.allows(request.call) or ((judge := self._loaded.judge) and judge.ungranted(request.event())):
                return False
            request.let_run()
        except Exception:
            return False
        return True

    def _complain(self, error: Exception) -> None:
        what = f"{type(error).__name__}: {error}"
        self._reporting.complain(f"looking into a denied call failed, so it meets the policy's action: {what}")

    def _is_listen(self, call: Notification) -> bool:
        """Return whether a call is a listen(2) that the helper has to judge."""
        return self._reporting.listens and (call.arch, call.number) in _LISTEN

    def _answer_listen(self, request: Request, verdict: Verdict) -> bool:
        """Answer a listen(2) that the policies allow; return whether the call was one."""
        if self._reporting.audit or not self._is_listen(request.call) or verdict.denying:
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
        from callfence.enforcer.files.listening import listen
        from callfence.enforcer.hosts import identity

        def acting(task: int, work: Callable[[], int]) -> int:
            return identity.acting(identity.of(task), work)

        is_hidden = False
        try:
            result = listen(request, lambda port: _may_bind(verdict, port), acting)
        except (OSError, KeyError) as error:
            is_hidden = isinstance(error, PermissionError)  # not dumpable, or another user's
            if is_hidden and not self._may_have_tcp():
                return None
            result = errno.EACCES if request.is_waiting() else errno.ESRCH
        if result == errno.EACCES:
            self._loaded.reports.report_port(request, verdict, is_hidden=is_hidden)
        return result

    def _may_have_tcp(self) -> bool:
        """Return whether the program may have a TCP socket, if no process outside has given it one since its start."""
        from callfence.policygen.files.ruleset import makes_tcp

        may_be_granted = self._reporting.asking >= 0
        return self._reporting.has_tcp or may_be_granted or all(map(makes_tcp, self._loaded.verdicts.policies))

    def _answer_otherwise(self, request: Request, verdict: Verdict) -> bool:
        """Answer the call without denying it, if that grants nothing beyond the policies; return whether it was answered."""
        if not self._may_be_answered(verdict):
            return False
        from callfence.enforcer.reporting.instead.call import Instead

        instead = Instead(request, verdict, self._devices, keeps_signals=self._reporting.keeps_signals)
        is_answered = instead.answer()
        if instead.error:
            self._loaded.reports.failed(verdict.event, instead.error)
        return is_answered

    def _may_be_answered(self, verdict: Verdict) -> bool:
        """Return whether the policies permit, by `implied`, to answer the call if that grants nothing beyond them."""
        # With --explain, the helper is notified of allowed calls, too, for the files or ports that they name.
        return verdict.is_free and not self._reporting.audit and not (self._reporting.reach and not verdict.denying)

    def _apply(self, request: Request, action: Action | None) -> None:
        """Carry out an action; None, and an action that nothing here can carry out, end the process.  Under --audit, the call
        runs."""
        kind = action.kind if action else "kill"
        if self._reporting.audit:
            if self.hides_a_loss(request.call):
                exit_with(FAILED, request)
            else:
                request.let_run()
        elif action and action.allows and (self._reporting.reach or self._loaded.asker):
            self._run(request)
        elif action and kind == "errno":
            request.fail(action.errno)
        elif kind == "notify":  # as the kernel does without a listener
            request.fail(errno.ENOSYS)
        elif kind == "trap":
            trap(request)
            request.fail(errno.ENOSYS)
        else:
            end_process(request)

    def _run(self, request: Request) -> None:
        """Let a call run that the policies allow, or somebody who was asked: as its registers say, for Landlock judges what
        they point to; hosts and sockets are judged here."""
        if not (self._peers and self._peers.take(request, is_granted=True)):
            request.let_run()

    def hides_a_loss(self, call: Notification) -> bool:
        """Return whether the program is about to exit with a status that hides that a report was lost."""
        if call.number not in EXITS.get(call.arch, ()) or call.arguments[0] & 0xFF == FAILED:
            return False
        if owner(call.task) != self._program:
            return False
        self.summarise()
        return self._loaded.may_lack_reports


def _interrupt(request: Request) -> None:
    """Have a call fail as if a signal had come."""
    attempt(lambda: request.fail(errno.EINTR))


def _may_bind(verdict: Verdict, port: int) -> bool:
    """Return whether all policies let the program bind a TCP port."""
    each = [policy.files.bind for _, policy in verdict.policies]
    return all(any(first <= port <= last for first, last in ports) for ports in each if ports is not None)
