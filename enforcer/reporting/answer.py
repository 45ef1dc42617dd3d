"""Answers to calls that the filter did not allow: each is reported, then fails or ends its process.

Whatever goes wrong here (no memory, a policy that cannot be parsed again) the call is not run, and the process is killed,
which is the strictest answer that a policy can give.
"""

from __future__ import annotations

import errno
import gc

from enforcer import kernel
from enforcer.caller.process import owner
from enforcer.errors import FAILED
from enforcer.reporting import end
from enforcer.shield import EXITS
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enforcer.kernel import Notification
    from enforcer.reporting.instead import Instead
    from enforcer.reporting.report import Reports
    from enforcer.reporting.reporter import Reporter
    from policygen.model import Action

_LISTEN = ((linux.AUDIT_ARCH_X86_64, 50), (linux.AUDIT_ARCH_I386, 363))  # asm/unistd_64.h, asm/unistd_32.h
_REPLACED = "the helper process was killed and has been replaced; how often calls were denied before is not known"


class Answers:
    """Takes calls from listeners, one after the other, into `asked`."""

    def __init__(self, asked: Notification, reporter: Reporter, program: int, devices: tuple[int, int]) -> None:
        """`program` is the id of the process whose exit status is that of `enforce`.

        `devices`: descriptors of /dev/null and /dev/full, or -1."""
        gc.enable()  # it is off during the start
        self._listener = -1
        """That of the call that is being answered."""
        self._asked = asked
        self._reporter = reporter
        self._devices = devices
        self._program = program
        self._has_lost = False
        """Whether a violation may have gone without a report."""
        self._reports: Reports | None = None
        self._instead: dict[int, Instead] = {}
        """By listener."""

    def next(self, listener: int, phase: str) -> None:
        """Answer the call that waits longest, of a process in that phase ("": there are none)."""
        self._listener = listener
        try:
            kernel.receive(listener, self._asked)
        except OSError:  # ENOENT: it was interrupted, or its task has died
            return
        self._answer(self._asked, phase)

    def take_over(self, listeners: Mapping[int, str]) -> None:
        """Continue where another helper was killed, which may have received a call and not answered it."""
        self._has_lost = True
        _try(lambda: self._loaded().say(_REPLACED))
        for listener, phase in listeners.items():
            if self._asked.id and kernel.is_waiting(listener, self._asked.id):
                self._listener = listener
                self._answer(self._asked, phase)

    def program_ended(self) -> None:
        """The program's own process has ended; others may still be confined."""
        self.summarise()
        self._reporter.give_back()

    def pause(self) -> float | None:
        """Seconds without a call after which `quiet` has something to tell; None if it has not."""
        return self._reports.pause() if self._reports else None

    def quiet(self) -> None:
        """Tell how often violations were met, after a burst."""
        if self._reports:
            _try(self._reports.quiet)

    def summarise(self) -> None:
        """Report what has not been reported."""
        if self._reports:
            _try(self._reports.summarise)

    def _loaded(self) -> Reports:
        if self._reports is None:
            from enforcer.reporting.report import Reports

            self._reports = Reports(self._reporter, self._is_waiting, self._program)
        return self._reports

    def judged(self, asked: Notification, phase: str) -> Action | None:
        """What a call meets, which has been reported; None, which kills, if that cannot be found out.

        The call waits for an answer of a listener, or (without an id) its task is stopped."""
        try:
            return self._loaded().judge(asked, phase)
        except Exception as error:
            self._has_lost = True
            self._reporter.complain(f"a call could not be judged, so its process is killed: {type(error).__name__}: {error}")
            return None

    def stopped(self, asked: Notification, phase: str) -> Action | None:
        """What a call meets whose task is stopped: an errno, without a report, if what it asks for may be unavailable; else as
        `judged`."""
        try:
            if self._may_be_answered(asked, phase):
                from enforcer.reporting.report import event_of
                from policygen.implied.tables import unavailable
                from policygen.model import Action, ActionKind

                if number := unavailable(event_of(asked)):
                    return Action(ActionKind.ERRNO, number)
        except Exception as error:
            self._reporter.complain(f"a denied call is answered like any other: {type(error).__name__}: {error}")
        return self.judged(asked, phase)

    def listened(self, asked: Notification, phase: str) -> int | None:
        """Make a listen(2) for its task: 0 or an errno, reported if the port is denied; None for another call, or one that the
        policies deny, or that may run as it is."""
        if not self._reporter.listens or (asked.arch, asked.number) not in _LISTEN:
            return None
        reports = self._loaded()
        if not reports.lets_run(asked, phase):
            return None
        from enforcer.files.listening import listen

        try:
            descriptor, backlog = (argument & 0xFFFFFFFF for argument in asked.arguments[:2])
            result = listen(asked.task, descriptor, backlog, lambda: self._is_waiting(asked))
        except (OSError, KeyError):
            result = errno.EACCES if self._is_waiting(asked) else errno.ESRCH
        if result == errno.EACCES:
            reports.deny_port(asked, phase)
        return result

    def _answer(self, asked: Notification, phase: str) -> None:
        try:
            if self._is_listen(asked, phase) or self._is_answered_otherwise(asked, phase):
                asked.id = 0
                return
        except FileNotFoundError:  # ENOENT: it has died meanwhile, or been interrupted
            if not self._is_waiting(asked):
                asked.id = 0
                return
        except Exception as error:
            self._reporter.complain(f"a denied call is answered like any other: {type(error).__name__}: {error}")
        action = self.judged(asked, phase)
        try:
            self._apply(asked, action)
        except FileNotFoundError:  # ENOENT: it has died meanwhile
            pass
        except Exception as error:
            self._reporter.complain(f"process {asked.task} could not be killed, so its call waits for ever: {error}")
        asked.id = 0

    def _is_listen(self, asked: Notification, phase: str) -> bool:
        """Answer a listen(2) that the policies allow."""
        if self._reporter.audit or not self._reporter.listens or (asked.arch, asked.number) not in _LISTEN:
            return False
        result = self.listened(asked, phase)
        if result is None:
            if not self._loaded().lets_run(asked, phase):
                return False
            kernel.let_run(self._listener, asked.id)
        elif result:
            kernel.fail(self._listener, asked.id, result)
        else:
            kernel.succeed(self._listener, asked.id)
        return True

    def _is_answered_otherwise(self, asked: Notification, phase: str) -> bool:
        """Answer the call without denying it, if it gives nothing beyond the policies."""
        if not self._may_be_answered(asked, phase):
            return False
        if self._listener not in self._instead:
            from enforcer.reporting.instead import Instead

            keeps_signals = self._reporter.keeps_signals
            self._instead[self._listener] = Instead(self._listener, self._devices, keeps_signals=keeps_signals)
        return self._instead[self._listener].answered(asked)

    def _may_be_answered(self, asked: Notification, phase: str) -> bool:
        """Whether the policies say by `implied` that calls which give nothing beyond them need not be denied."""
        if self._reporter.audit or not self._loaded().may_be_answered(asked, phase):
            return False
        # With --explain, one that they allow is asked about for the files or ports that it is about.
        return not (self._reporter.reach and self._loaded().lets_run(asked, phase))

    def _is_waiting(self, asked: Notification) -> bool:
        return not asked.id or kernel.is_waiting(self._listener, asked.id)

    def _apply(self, asked: Notification, action: Action | None) -> None:
        kind = action.kind if action else "kill"
        if self._reporter.audit:
            if self._hides_a_loss(asked):
                end.exit_with(FAILED, self._listener, asked)
            else:
                kernel.let_run(self._listener, asked.id)
        elif action and action.lets_run and self._reporter.reach:  # as its registers say; Landlock judges what they point to
            kernel.let_run(self._listener, asked.id)
        elif action and kind == "errno":
            kernel.fail(self._listener, asked.id, action.errno)
        elif kind == "notify":  # as the kernel does without a listener
            kernel.fail(self._listener, asked.id, errno.ENOSYS)
        elif kind == "trap":
            end.trap(self._listener, asked)
            kernel.fail(self._listener, asked.id, errno.ENOSYS)
        else:
            end.end(self._listener, asked)

    def _hides_a_loss(self, asked: Notification) -> bool:
        """Whether the program is about to exit, as if all were well, and a report of it was lost."""
        if asked.number not in EXITS.get(asked.arch, ()) or asked.arguments[0] & 0xFF == FAILED:
            return False
        if owner(asked.task) != self._program:
            return False
        self.summarise()
        return self._has_lost or bool(self._reports and self._reports.has_lost)


def _try(tell: Callable[[], None]) -> None:
    """Tell something, and go on answering calls if that fails."""
    try:
        tell()
    except Exception:
        return
