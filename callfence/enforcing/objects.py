"""Find out what policies confine besides calls, and what of it is reported: files, ports, hosts, unix sockets and signals.

Each start of `enforce` imports this module.
"""

from __future__ import annotations

from callfence.enforcer import confinement, kernel
from callfence.enforcer.bpf import notifying_filter
from callfence.enforcer.errors import EnforceError
from callfence.enforcing.options import last
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from callfence.enforcer.files.granted import Reach
    from callfence.enforcer.files.landlock import Confinement
    from callfence.enforcer.hosts.granted import Hosts
    from callfence.enforcer.reporting.audit import Source
    from callfence.enforcing.sealed import Compiled

_LISTEN = MACHINE.calls("listen")
_PORTS_SINCE = 4
"""The version of Landlock's ABI that has TCP ports (Linux 6.7)."""


class Objects:
    """What a program's policies confine besides calls."""

    def __init__(
        self,
        policies: Sequence[Compiled],
        options: Mapping[str, Sequence[str]],
        environment: Sequence[bytes],
        arm: str,
        *,
        is_quiet: bool,
        is_audit: bool,
        process: int,
        say: Callable[[str], None],
    ) -> None:
        """`options`: those of `enforce`.  `environment`: the program's.  `arm`: when the filters take effect.  `is_quiet`:
        nothing is reported, so there may be no helper.  `process`: the id of the process that becomes the program; 0: this one.
        `say` prints a message.  Raises EnforceError if something cannot be confined here."""
        self._policies = policies
        self._options = options
        self._environment = environment
        self._arm = arm
        self._is_quiet = is_quiet
        self._is_audit = is_audit
        self._process = process
        self._say = say
        self.scope = self._scope()
        """What stays among the program's own processes, in words of `confinement.SCOPES`; "" for nothing."""
        self.hosts = self._hosts()
        """Whom the program may reach; None if the helper makes no calls for it."""
        self.files = self._files()
        """The Landlock rules to enforce; None if files and ports are not confined."""
        self.reach, self.records = self._reporting()
        """What the policies grant of files and ports, by which denied ones are reported, or the kernel's audit records, from
        which they are; None for what they are not reported by."""
        self.refusals = self._refusals() if self.files else b""
        """The instructions that fail calls because Landlock confines files and ports."""
        self.listens = self.files is not None and not is_quiet and self.files.confines_listen
        """Whether the helper makes listen(2)."""
        if self.hosts:
            self.hosts.is_scoped = confinement.ABSTRACT in self.scope
        judged = {
            *(self.reach.calls() if self.reach else ()),
            *(_LISTEN if self.listens else ()),
            *(self.hosts.calls() if self.hosts else ()),
        }
        self.notified = sorted(judged)
        """The calls that the helper judges, by architecture and number."""
        self.with_address = [call for call in self.hosts.calls_with_address() if call not in judged] if self.hosts else []
        """Those that it judges if they have an address."""
        self.notifying = [notifying_filter(self.notified, self.with_address)] if judged else []
        """The filter that notifies it of these."""

    def _scope(self) -> str:
        """Return what --scope, or else the policies, confine to the program's own processes; "" if this kernel cannot.  Raises
        EnforceError if --scope needs a newer kernel."""
        if option := last(self._options, "--scope"):
            words = {"none": "", "sockets": "abstract sockets", "both": "signals, abstract sockets"}.get(option, option)
        else:
            each = {word for policy in self._policies for word in policy.scope.split(", ") if word}
            words = ", ".join(sorted(each, reverse=True))
        if not words or kernel.landlock_abi() >= confinement.SINCE:
            return words
        if option:
            needed = f"--scope needs version {confinement.SINCE} of Landlock (Linux 6.12)"
            raise EnforceError(f"{needed}, and this kernel has version {kernel.landlock_abi()}; leave out --scope")
        if words != "signals":
            self._say(f"the policy's `scope {words}` is not enforced, because that needs Linux 6.12")
        return ""

    def _hosts(self) -> Hosts | None:
        """Return the hosts and unix sockets that the policies grant; None if they confine none, or only ports, and Landlock
        does.  Raises EnforceError if the helper cannot make the program's calls."""
        if not any(policy.makes_calls for policy in self._policies) and not self._lacks_ports():
            return None
        if self._is_quiet:
            remedy = ": leave out --quiet-kernel" if "--quiet-kernel" in self._options else ", and there can be none here"
            raise EnforceError(f"the policy confines hosts or unix sockets, which needs the helper process{remedy}")
        from callfence.enforcing import files

        is_filtered = self._arm != "entry" and "--ask" not in self._options
        hosts = files.hosts(self._policies, self._environment, is_audit=self._is_audit, is_filtered=is_filtered)
        for remark in hosts.remarks:
            self._say(remark)
        return hosts

    def _lacks_ports(self) -> bool:
        """Return whether the helper judges the ports to which the program connects, since Landlock does not know them here, or
        somebody is to be asked about them."""
        judges = kernel.landlock_abi() < _PORTS_SINCE or "--ask" in self._options
        return judges and not self._is_quiet and any(policy.hosts for policy in self._policies)

    def _files(self) -> Confinement | None:
        """Return the Landlock rules to enforce; None if files and ports are not confined.  Raises EnforceError for a line that
        no rule can express and, without --best-effort, for what this kernel cannot enforce."""
        granted = [lines for policy in self._policies if (lines := policy.files_at(self._arm))]
        if self._is_audit or not granted:
            return None
        from callfence.enforcer.files.landlock import Confinement

        try:
            rules = Confinement(
                granted,
                self._environment,
                best_effort="--best-effort" in self._options,
                scope=confinement.bits(self.scope),
                makes_calls=self.hosts is not None,
                makes_sends=self.hosts is not None and self.hosts.sends,
                process=self._process,
            )
        except EnforceError as error:
            from callfence.enforcing import files

            raise files.with_place(error, self._policies) from error
        for remark in rules.remarks:
            self._say(remark)
        return rules

    def _reporting(self) -> tuple[Reach | None, Source | None]:
        """Return by what denied files and ports are reported."""
        is_wanted, asks = "--explain" in self._options, "--ask" in self._options
        confines = any(policy.files_at("entry" if self._is_audit else self._arm) for policy in self._policies)
        is_reported = is_wanted or (confines and (self._is_audit or "--log" in self._options or asks))
        if not is_reported or "--no-explain" in self._options:
            return None, None
        from callfence.enforcing import files

        rules = self.files if self.files and self.files.is_whole else None
        why = "--quiet-kernel" if self._is_quiet else "" if self._is_audit or rules else "Landlock is not enforcing them"
        if not confines:
            why = "the policy has no lines about files, and those about ports, if any, are enforced by its filter alone"
        if why:
            if is_wanted:
                self._say(f"--explain cannot report files or ports: {why}")
            return None, None
        has_phases = any(policy.stages for policy in self._policies)  # the helper traces it, and reads no records meanwhile
        may_read = "--log" in self._options and not (is_wanted or asks or has_phases)
        records = files.records(self._policies, self._arm, rules, self._environment) if rules and may_read else None
        if records:
            return None, records
        return files.reach(self._policies, self._environment, is_audit=self._is_audit, process=self._process), None

    def _refusals(self) -> bytes:
        """Return the instructions that fail calls of policies whose files and ports Landlock confines."""
        if "--ask" not in self._options:
            return b"".join(policy.refusals for policy in self._policies)
        from callfence.enforcer.files.past_landlock import refusals
        from callfence.policygen.files.landlock import decode

        # A call about which somebody is asked may run.
        return b"".join(refusals(policy.filter, decode(policy.files), reports=False) for policy in self._policies)
