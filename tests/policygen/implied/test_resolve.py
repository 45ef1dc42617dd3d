"""What a policy with an implied set means: the reference semantics, computed row by row; what wins over the set; the filter."""

from __future__ import annotations

import pytest
from calls import event, parse
from hypothesis import HealthCheck, given, settings, strategies as st
from strategies import EXAMPLES, actions, entries, events

from callfence.policygen.comparing.compare import compare
from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.verify import verify
from callfence.policygen.holds import holds
from callfence.policygen.implied.resolve import granted, resolved, tidy
from callfence.policygen.implied.tables import capabilities, rows
from callfence.policygen.language.document import PolicyError
from callfence.policygen.language.naming import format_action
from callfence.policygen.model import ALLOW, ENOSYS, KILL, Action, ActionKind, Always, Entry, Policy
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Event, table

CALLS = {arch: sorted({one.number for one in (*rows(1, arch), *capabilities(arch))}) for arch in (Arch.X86_64, Arch.I386)}
EPERM = Action(ActionKind.ERRNO, 1)
FAILS = Entry(Always(True), EPERM)
GETPRIORITY = 140  # of x86_64; another call of i386


@st.composite
def implied_policies(draw: st.DrawFn, defaults: st.SearchStrategy[Action] | None = None) -> Policy:
    """Policies with the set, with entries for calls that rows and capabilities are about; many only allow."""
    made = {}
    for arch in draw(st.sampled_from([(Arch.X86_64,), (Arch.I386,), (Arch.X86_64, Arch.I386)])):
        section = {}
        for number in draw(st.lists(st.sampled_from(CALLS[arch]), max_size=5, unique=True)):
            ways = [one.entry for one in capabilities(arch) if one.number == number]
            plain = entries(arch, number).map(lambda entry: Entry(entry.expression))
            choices = [entries(arch, number), plain, st.sampled_from([Entry(Always(True)), Entry(Always(False)), *ways])]
            section[number] = draw(st.one_of(choices))
        made[arch] = section
    version = draw(st.sampled_from([(6, 18), (6, 1)]))
    made = {
        arch: {number: entry for number, entry in section.items() if number <= table(arch).newest(version)}
        for arch, section in made.items()
    }
    default = draw(defaults or st.sampled_from([KILL, EPERM, Action(ActionKind.NOTIFY), ALLOW, Action(ActionKind.LOG)]))
    return Policy(made, version, default=default, unknown=draw(actions()), implied=1)


def naive(policy: Policy, call: Event) -> Action:
    """The answer of the policy's own text, or of the first row that may change it."""
    own = evaluate(replace(policy, implied=0), call)
    arch = Arch.from_audit(call.arch)
    if arch not in policy.entries or call.number not in table(arch).by_number or policy.default.allows:
        return own
    entry = policy.entries[arch].get(call.number)
    denies = entry is not None and (entry.action != ALLOW or entry.otherwise is not None or entry.expression == Always(False))
    if denies or own == ALLOW or call.number > table(arch).newest(policy.table):
        return own
    arguments, names = table(arch).by_number[call.number].arguments, granted(policy)
    for row in rows(policy.implied, arch):
        given = row.number == call.number and row.given <= names and (row.entry.action == ALLOW or entry is None)
        if given and holds(row.entry.expression, arguments, call.arguments):
            return row.entry.action
    return own


@pytest.mark.long
@settings(max_examples=4 * EXAMPLES, suppress_health_check=list(HealthCheck))
@given(implied_policies(), st.data())
def test_the_set_adds_its_rows_and_nothing_else(policy: Policy, data: st.DataObject) -> None:
    whole = resolved(policy).written()
    assert not whole.implied
    for call in data.draw(st.lists(events(whole), min_size=5, max_size=10)):
        assert evaluate(policy, call) == naive(policy, call)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(implied_policies())
def test_a_tidy_expansion_means_the_same(policy: Policy) -> None:
    assert not compare(policy, tidy(resolved(policy).written())).differences


FILTERED = (
    "implied 1\n",
    "implied 1\nread: fd == 0 else errno EPERM\numask: deny\nlseek: log if whence == SEEK_SET\nopenat: flags == O_RDONLY\n",
    "default errno EPERM\nimplied 1\nopenat: allow\nmmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE\nsocket: allow\n",
    "default notify\nimplied 1\nclone: clone_flags == SIGCHLD\nkill: sig == SIGTERM\nioctl: cmd == TCSETS\n",
    "default log\nimplied 1\numask: kill\n",
    "table 6.1\nimplied 1\nunknown kill\nopenat: flags == O_WRONLY\n",
    "arch i386\nimplied 1\nopenat: flags == O_RDONLY\nsocketcall: allow\n",
    "implied 1\narch x86_64\nopenat: flags == O_RDONLY\ngetpid: deny\narch i386\naccept4: flags == 0\ngettid: errno EPERM\n",
)


@pytest.mark.long
@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("text", FILTERED)
def test_the_filter_is_proved(text: str, report: bool) -> None:
    """Against the policy, and against another text of it: its expansion."""
    policy = parse(text).policy
    program = compile_policy(policy, report=report)
    assert verify(program, policy, report=report) is None
    assert verify(program, tidy(resolved(policy).written()), report=report) is None
    other = replace(policy, entries={arch: {**section, GETPRIORITY: FAILS} for arch, section in policy.entries.items()})
    assert verify(program, other, report=report) is not None


@pytest.mark.parametrize(
    ("own", "call", "answer"),
    [
        ("", "umask 0", "allow"),
        ("umask: deny", "umask 0", "kill"),
        ("default errno EACCES\numask: deny", "umask 0", "errno EACCES"),
        ("umask: errno EPERM", "umask 0", "errno EPERM"),
        ("umask: kill", "umask 0", "kill"),
        ("umask: trap", "umask 0", "trap"),
        ("umask: notify", "umask 0", "notify"),
        ("umask: log", "umask 0", "log"),
        ("read: fd == 0", "read 1", "allow"),
        ("read: fd == 0 else kill", "read 1", "kill"),
        ("read: fd == 0 else errno EBADF", "read 1", "errno EBADF"),
        ("read: fd == 0 else log", "read 1", "log"),
        ("read: kill if fd == 0 else allow", "read 0", "kill"),
        ("read: errno EIO if fd == 0", "read 1", "kill"),
        ("read: log if fd == 0", "read 1", "kill"),
        ("default allow", "umask 0", "allow"),
        ("default log", "umask 0", "log"),
        ("default notify", "umask 0", "allow"),
        ("default notify", "execve 0", "notify"),
        # options of sockets
        ("socket: family == AF_INET && type == SOCK_STREAM && protocol == 0", "setsockopt 3 SOL_IPV6 IPV6_V6ONLY", "allow"),
        ("socket: family == AF_INET6 && type == SOCK_DGRAM && protocol == 0", "setsockopt 3 SOL_IPV6 IPV6_V6ONLY", "allow"),
        ("socket: family == AF_INET && type == SOCK_STREAM && protocol == 0", "setsockopt 3 SOL_IPV6 IPV6_MTU", "kill"),
        ("socket: family == AF_INET && type == SOCK_DGRAM && protocol == 0", "setsockopt 3 SOL_IPV6 IPV6_MTU", "allow"),
        ("setsockopt: level == SOL_IP && optname == IP_MTU_DISCOVER", "setsockopt 3 SOL_IPV6 IPV6_MTU_DISCOVER", "allow"),
        ("setsockopt: level == SOL_IP && optname == IP_MTU_DISCOVER", "setsockopt 3 SOL_IPV6 IPV6_DONTFRAG", "allow"),
        ("setsockopt: level == SOL_IPV6 && optname == IPV6_TCLASS", "setsockopt 3 SOL_IP IP_TOS", "allow"),
        ("setsockopt: level == SOL_IP && optname == IP_TTL", "setsockopt 3 SOL_IPV6 IPV6_UNICAST_HOPS", "allow"),
        ("setsockopt: level == SOL_IP && optname == IP_TOS", "setsockopt 3 SOL_IPV6 IPV6_UNICAST_HOPS", "kill"),
        ("socket: family == AF_UNIX && type == SOCK_STREAM && protocol == 0", "setsockopt 3 SOL_IPV6 IPV6_V6ONLY", "kill"),
        # what fails by the set
        ("", "clone3 0 88", "errno ENOSYS"),
        ("clone3: allow", "clone3 0 88", "allow"),
        ("clone3: size == 64", "clone3 0 88", "kill"),
        ("default log", "clone3 0 88", "log"),
        ("", "sendfile 1 0", "errno EINVAL"),
        ("sendfile: out_fd == 1", "sendfile 2 0", "kill"),
        # what is newer than the table is unknown
        ("table 6.1\nunknown errno EPERM", "mseal 0 0 0", "errno EPERM"),
        ("table 6.18", "mseal 0 0 0", "allow"),
        # other architectures
        ("", "i386 umask 0", "kill"),
        ("arch x86_64\narch i386", "i386 umask 0", "allow"),
    ],
)
def test_what_a_policy_says_itself_comes_first(own: str, call: str, answer: str) -> None:
    policy = parse(f"implied 1\n{own}\n").policy
    assert format_action(evaluate(policy, event(call))) == answer


def test_an_x32_call_is_killed() -> None:
    assert evaluate(parse("implied 1\n").policy, event(0x40000000 + 95)) == KILL


def test_what_the_set_fails_is_no_denial_of_the_policy() -> None:
    assert evaluate(parse("implied 1\n").policy, event("openat2")) == ENOSYS


@pytest.mark.parametrize(("outer", "inner"), [("", "implied 1"), ("default errno EPERM", "implied 1")])
def test_a_set_in_an_included_file_alone_is_an_error(outer: str, inner: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(f"{outer}\ninclude more\n", "main", read={"more": f"\n{inner}\nread: allow\n"}.__getitem__)
    assert str(caught.value).startswith("more:2:1: this setting differs from that of the including file\n")


@pytest.mark.parametrize("inner", ["implied 1\nopenat: flags == O_RDONLY\n", "openat: flags == O_RDONLY\n"])
def test_entries_of_an_included_file_grant(inner: str) -> None:
    policy = parse("implied 1\ninclude more\n", "main", read={"more": inner}.__getitem__).policy
    assert policy.implied == 1
    assert granted(policy) == {"reads files", "lists folders"}


@pytest.mark.parametrize("text", FILTERED)
def test_printing_round_trips(text: str) -> None:
    document = parse(text)
    printed = document.text()
    assert parse(printed).policy == document.policy
    assert parse(printed).text() == printed
    assert printed.count("implied 1") == 1


def test_the_line_can_be_added_and_taken_out() -> None:
    plain = parse("# mine\nread: allow # why: input\n")
    given = plain.with_policy(replace(plain.policy, implied=1))
    assert "implied 1" in given.text()
    assert parse(given.text()).policy.implied == 1
    assert given.with_policy(plain.policy).text() == plain.text()
