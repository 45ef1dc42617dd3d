"""Calls that reach other hosts: the helper makes them, fails them, or asks about them."""

from __future__ import annotations

import errno

from callfence.enforcer.listener import Notification, Request, StoppedRequest, end_process, trap
from callfence.enforcer.reporting.loaded import Loaded, attempt
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from callfence.enforcer.hosts.mediator import Mediator
    from callfence.enforcer.hosts.targets import Refusal
    from callfence.enforcer.reporting.verdict import Verdict


class Peers:
    """Takes the calls by which a program reaches other hosts."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._reporting = loaded.reporting
        self._mediator: Mediator | None = None
        """What makes the calls; None until the first one."""

    @staticmethod
    def load() -> None:
        """Import what makes the calls, before the first one waits for that."""
        import callfence.enforcer.hosts.mediator  # noqa: F401

    def take(self, request: Request, *, is_granted: bool = False) -> bool:
        """Make or fail the call if it may reach another host; return whether it may.  `is_granted`: the policies deny it, and
        somebody who was asked does not."""
        try:
            if self._refuse(request):
                return True
            if mediator := self._making(request, is_granted=is_granted):
                mediator.make(request.kept())
        except Exception as error:
            self._complain(error)
            attempt(lambda: request.fail(errno.EACCES))
            return True
        return mediator is not None

    def make_call(self, call: Notification, phase: str) -> StoppedRequest | None:
        """Make the call of a stopped task that reaches another host, now or later, and return the request that has or will have
        its result; None for another call."""
        request = StoppedRequest(call, phase)
        try:
            mediator = self._making(request)
        except Exception as error:
            self._complain(error)
            request.finish(-errno.EACCES)
            return request
        if mediator is None:
            return None
        request = request.kept()
        mediator.make(request)
        return request

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that the calls need."""
        return self._mediator.descriptors() if self._mediator else ()

    def summarise(self) -> None:
        """Say what calls may have done that are not seen."""
        if self._mediator and (text := self._mediator.unsaid()):
            attempt(lambda: self._loaded.reports.say(text, "note"))

    def _refuse(self, request: Request) -> bool:
        """Fail a call that would make a socket about which there are no lines, after a report if the policies' filters allow
        it; return False for another call, and for one that the policies deny and that is reported like any other."""
        hosts = self._reporting.hosts
        if hosts is None or hosts.is_audit or not (number := hosts.refused(request.call)):
            return False
        call = request.call
        answer = hosts.filters[request.phase].answer(call.arch, call.number, call.ip, call.arguments)
        action = answer & linux.SECCOMP_RET_ACTION_FULL
        if action == linux.SECCOMP_RET_ERRNO:
            number = answer & linux.SECCOMP_RET_DATA
        elif action == linux.SECCOMP_RET_TRAP:
            trap(request)
            number = errno.ENOSYS
        elif action not in (linux.SECCOMP_RET_ALLOW, linux.SECCOMP_RET_LOG):
            return False
        else:
            from callfence.enforcer.hosts.targets import refusal_of

            if refusal := refusal_of(hosts, call):
                self._deny(request, refusal)
        attempt(lambda: request.fail(number))
        return True

    def _making(self, request: Request, *, is_granted: bool = False) -> Mediator | None:
        """Return what makes a call, if it may reach another host and the policies' filters allow it, or `is_granted`; else
        None.  Raises OSError and others if what makes calls cannot be loaded."""
        hosts = self._reporting.hosts
        if hosts is None or not hosts.are_judged(request, is_granted=is_granted):
            return None
        if self._mediator is None:
            from callfence.enforcer.hosts.mediator import Mediator

            asks = self._reporting.asking >= 0
            self._mediator = Mediator(hosts, self._loaded.pending, self._deny, self._reporting.complain, asks=asks)
        return self._mediator

    def _deny(self, request: Request, refusal: Refusal) -> bool:
        """Report a call or look-up that the mediator denied; or ask about it, if a line would allow it, and return True."""
        try:
            verdict = self._loaded.verdict(request)
            if verdict is None:
                return False
            rule, is_lookup = refusal.rule, refusal.error != "EACCES"
            if (asker := self._loaded.asker) and all(line for _, line in rule):
                from callfence.enforcer.reporting.report import ungranted_of

                def fields() -> dict[str, object]:
                    return self._loaded.reports.fields(request, verdict, ungranted_of(refusal))

                if not is_lookup:
                    asker.ask(request, rule, fields, lambda answer: self._answered(request, verdict, refusal, answer))
                    return True
                if asker.remembered(rule) is None:  # the program asks its name server again
                    asker.suggest(rule, fields, is_lookup=True)
                    return True
            self._loaded.reports.report_peer(request, verdict, refusal)
        except Exception as error:
            self._loaded.lose(error)
        return False

    def _answered(self, request: Request, verdict: Verdict, refusal: Refusal, answer: str) -> None:
        """Make, or fail, a call that waited for an answer to its question."""
        from callfence.enforcer.hosts.targets import Refusal
        from callfence.enforcer.reporting.asker import GRANTING, KILL
        from callfence.policygen.model import KILL as KILLED

        if self._mediator is None:
            return
        if answer in GRANTING:
            self._mediator.make_again(request, refusal.rule)
            return
        if answer == KILL:
            verdict, refusal = verdict._replace(action=KILLED), Refusal(refusal.lacking, refusal.why, error="")
        attempt(lambda: self._loaded.reports.report_peer(request, verdict, refusal))
        if answer == KILL:
            attempt(lambda: end_process(request))
        else:
            self._mediator.refuse(request, errno.EACCES)

    def _complain(self, error: Exception) -> None:
        self._loaded.lose()
        self._reporting.complain(f"a call to another host could not be judged, so it fails: {type(error).__name__}: {error}")
