"""What a reviewer is told of files and ports: risks.tsv against policies, and each command that reads policies."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.comparing.reducing import reduce
from callfence.policygen.files.algebra import extended, with_lines
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.files import judged, risks, risks_of
from callfence.policygen.lint.findings import lint
from callfence.policygen.merging import merge_documents, unite
from callfence.policygen.review.changes import changes
from callfence.policygen.review.decisions import Answer, Decision, resolve
from callfence.policygen.review.judgement import judge
from callfence.policygen.sets.join import JoinError

TABLE = (
    ("path /: read", {"root"}),
    ("path $HOME/.ssh/config: read", {"ssh-keys"}),
    ("path $HOME: read", {"ssh-keys", "credentials", "whole-home"}),
    ("path $HOME/.bashrc: write", {"start-up-file"}),
    ("path $HOME/.bashrc: read", set()),
    ("path $HOME/.zshenv: write", {"start-up-file"}),
    ("path $HOME/.local/share/dbus-1/services: create", {"start-up-file"}),
    ("path $HOME/.gitconfig: write", {"user-tools"}),
    ("path $HOME/.config/git/hooks: create", {"user-tools"}),
    ("path $HOME/.gitconfig: read", set()),
    ("path $HOME/.cargo/bin: create", {"programs"}),
    ("path $HOME/.config/gh: read", {"credentials"}),
    ("path $HOME/.pgpass: read", {"credentials"}),
    ("path $HOME/.npmrc: read", {"credentials"}),
    ("path ./.npmrc: read", set()),
    ("path $HOME/.config/rclone: read", {"credentials"}),
    ("path $HOME/.config/environment.d/x.conf: create", {"start-up-file"}),
    ("path $HOME/.local/lib/python3: write", {"programs"}),
    ("path /var/spool/cron: create", {"scheduled"}),
    ("path /run/user: write", {"control-sockets"}),
    ("path $XDG_RUNTIME_DIR: write", {"control-sockets"}),
    ("path /dev/nvme1n1: read", {"disks"}),
    ("path /etc: read", {"ssh-keys", "accounts", "machine-credentials", "private-keys"}),
    ("path /etc/ssl: read", set()),
    ("path /etc/app: write", {"system-configuration"}),
    ("path /usr/lib: read, execute", set()),
    ("path /usr/local/bin: create", {"programs"}),
    ("path ./bin: write, execute", {"write-execute"}),
    ("path ./bin: write\npath ./bin/x: execute", {"write-execute"}),
    ("path ./dev: device", {"devices"}),
    ("path /dev/null: read, write", set()),
    ("path /dev: write", {"all-devices", "disks", "input-devices", "network-devices", "kernel-devices", "shared-folder"}),
    ("path /dev/kvm: read, write", {"kernel-devices"}),
    ("path /dev/dri: read", set()),
    ("path /dev/snd: read", {"media-devices"}),
    ("path /etc/letsencrypt/live/here/privkey.pem: read", {"private-keys"}),
    ("path /var/backups: read", {"machine-credentials"}),
    ("path /var/mail: read", {"mail"}),
    ("tcp connect 127.0.0.1: 2375", {"root-ports"}),
    ("tcp connect localhost: 2370-2380\nudp send: none", {"root-ports"}),
    ("tcp connect 127.0.0.1: 80", set()),
    ("path /dev/sdz9: write", {"disks"}),
    ("path /dev/xvda: read", {"disks"}),
    ("path /dev/loop0: write", {"disks"}),
    ("path /dev/disk: list", set()),
    ("path /dev/input/event0: read", {"input-devices"}),
    ("path /dev/hidraw0: read", {"input-devices"}),
    ("path /dev/net/tun: read, write", {"network-devices"}),
    ("path /dev/tty: read, write", set()),
    ("path /root/.bashrc: write", {"start-up-file"}),
    ("path /home/other/.bashrc: write", {"start-up-file"}),
    ("path /home/other/.ssh: read", {"ssh-keys"}),
    ("path /home/other: read", {"ssh-keys", "credentials", "whole-home"}),
    ("path /root: read", {"ssh-keys", "credentials", "whole-home"}),
    ("path /rooted/.ssh: read", set()),
    ("path /home: read", {"homes", "ssh-keys", "credentials", "whole-home"}),
    ("path /boot: write", {"programs"}),
    ("path /var/lib/docker: create", {"programs"}),
    ("path /var/lib/dpkg/info: write", {"scheduled"}),
    ("path /run/udev/rules.d: create", {"scheduled"}),
    ("path /etc/shadow-: read", {"accounts"}),
    ("path /var/run/secrets/kubernetes.io/serviceaccount: read", {"machine-credentials"}),
    ("path /etc/kubernetes/admin.conf: read", {"machine-credentials"}),
    ("path /run/docker.sock: write", {"control-sockets"}),
    ("path /proc/sys/kernel/core_pattern: write", {"kernel-settings"}),
    ("path /proc: read", {"processes"}),
    ("path /proc/self: write", {"own-code"}),
    ("path /proc/self/task: write", {"own-code"}),
    ("path /proc/self/oom_score_adj: write", set()),
    ("path .: create, write", {"working-folder"}),
    ("tcp connect: any", {"connect-anywhere"}),
    ("tcp connect: 443\ntcp bind: any", {"bind-anywhere"}),
    ("path /: any", {"root"}),
    ("path /: write", {"root"}),
    ("path /: none", set()),
    ("path /: list", set()),
    ("path $HOME/.ssh: list", set()),
    ("path /proc: list", set()),
    ("path /proc/self/root: read", {"root"}),
    ("path /proc/1/root/etc: read", {"ssh-keys", "accounts", "machine-credentials", "private-keys"}),
    ("path /proc/self/cwd: write", {"working-folder"}),
    ("path /proc/self/root/proc/self/root: read", {"root"}),
    ("path /proc/1/root/proc/self/task/7/cwd: write", {"working-folder"}),
    ("path /var/run/podman: write", {"control-sockets"}),
    ("tcp connect: 1-65534", {"connect-anywhere"}),
    ("tcp connect: 1024-2047", set()),
    ("udp send: any", {"send-anywhere"}),
    ("tcp connect 10.0.0.0/8: any", set()),
    ("tcp connect 169.254.169.254: 80", {"metadata", "link-local"}),
    ("tcp connect 169.254.169.254: 53", {"link-local"}),
    ("tcp connect fd00:ec2::/32: 80-90", {"metadata"}),
    ("tcp connect fe80::1: 443", {"link-local"}),
    ("tcp connect 0.0.0.0/0: 443", {"large-network"}),
    ("tcp connect 168.0.0.0/6: 80", {"large-network", "metadata"}),
    ("tcp connect 2000::/3: 443", {"large-network"}),
    ("udp send 128.0.0.0/1: 53", {"large-network"}),
    ("tcp connect 64:ff9b::a9fe:a9fe: 80", {"metadata", "link-local"}),  # which gateways take for IPv4
    ("tcp connect 64:ff9b::a9fe:0/112: 443", {"link-local"}),
    ("tcp connect 64:ff9b::/96: 443", {"large-network"}),
    ("tcp connect 64:ff9b::/32: 80", {"large-network", "metadata"}),
    ("tcp connect 64:ff9b:1::/64: 443", {"large-network"}),
    ("tcp connect 64:ff9b::a00:0/104: 80", set()),
    ("tcp connect 2002:a9fe:a9fe::/48: 80", {"metadata", "link-local"}),
    ("udp send 2002::/16: 1", {"large-network"}),
    ("tcp connect ::1: 80", set()),
    ("tcp connect *.com: 443\nudp send: none", {"public-suffix"}),
    ("tcp connect *.github.io: 443\nudp send: none", {"public-suffix"}),
    ("tcp connect *.me.github.io: 443\nudp send: none", set()),
    ("tcp connect *.org.uk: 443\nudp send: none", {"public-suffix"}),
    ("tcp connect *.ngrok.io: 443\nudp send: none", {"public-suffix"}),
    ("dns query *.com.cn\ntcp connect: none\nudp send: none", {"public-suffix"}),
    ("tcp connect *.s3.amazonaws.com: 443\nudp send: none", {"public-suffix"}),
    ("tcp connect 169.254.170.2: 80", {"metadata", "link-local"}),
    ("tcp connect api.example.org: 443\nudp send 192.0.2.1: 53", set()),
    ("tcp connect api.example.org: 443", {"look-ups"}),
    ("unix connect: any", {"connect-every-socket"}),
    ("unix connect: none", set()),
    ("unix connect /run/docker.sock", {"root-sockets"}),
    ("unix connect /var/run/docker.sock", {"root-sockets"}),
    ("unix connect /run", {"root-sockets", "user-sockets"}),
    ("unix connect /proc/self/root/var/run/user", {"user-sockets"}),
    ("unix connect /run/postgresql/.s.PGSQL.5432", set()),
    ("unix connect /run/k3s/containerd/containerd.sock", {"root-sockets"}),
    ("unix connect /home/other/.docker/run/docker.sock", {"user-sockets"}),
    ("unix connect /run/user/1000/bus", {"user-sockets"}),
    ("unix connect $XDG_RUNTIME_DIR/bus", {"user-sockets"}),
    ("unix connect @/tmp/.X11-unix/X0", {"user-sockets"}),
    ("unix connect @*", {"user-sockets", "root-sockets"}),
    ("unix connect @app", set()),
    ("path /: symlink", {"root"}),
    ("path /etc/app: symlink", {"system-configuration"}),
    ("path /usr/local/bin: symlink", {"programs"}),
    ("path $HOME/.config/systemd/user: symlink", {"start-up-file"}),
    ("path $HOME/.ssh: symlink", {"ssh-keys"}),
    ("path ./out: symlink", set()),
    ("path $HOME/.gradle: read, write", {"user-tools", "credentials"}),
    ("path $HOME/snap: read", {"credentials"}),
    ("path $HOME/snap/app: read, write, create", set()),
    ("path /dev/sg0: write", {"disks"}),
    ("path /dev/sg4: read", {"disks"}),
    ("path /dev/sgx_enclave: write", set()),
    ("path /dev/cpu/0/msr: write", {"disks"}),
    ("path /var/lib/cloud/scripts/per-boot: create", {"scheduled"}),
    ("tcp connect 127.1.2.3: 2375", {"root-ports"}),
    ("tcp connect 127.0.0.0/8: 10250", {"root-ports"}),
    ("tcp connect 0.0.0.0: 2375", {"root-ports"}),
    ("tcp connect [::]: 2375", {"root-ports"}),
    ("tcp connect fe80::a9fe:a9fe: 80", {"metadata", "link-local"}),
    ("unix connect /tmp/tmux-1000/default", {"user-sockets"}),
    ("unix connect /tmp/app", set()),
    ("unix connect /tmp", {"user-sockets"}),
    ("unix connect @/tmp/dbus-abc", {"user-sockets"}),
    ("unix connect /run/docker/containerd/containerd.sock", {"root-sockets"}),
)


@pytest.mark.parametrize(("lines", "ids"), TABLE, ids=[row[0] for row in TABLE])
def test_the_risks_of_a_grant(lines, ids):
    policy = parse(lines).policy
    names = {risk.id for _, risk in risks_of(policy.files)}
    assert ids == names
    assert names == {finding.rule for finding in lint(parse(lines))}


def line_of(what):
    kind, _, place = what.partition(" ")
    if kind == "host":
        return f"tcp connect {place.partition(' ')[0]}: 1"
    return f"unix connect {place}" if kind == "socket" else f"{what}: any" if place else f"path {what}: read"


def test_each_row_is_well_made():
    assert len({risk.id for risk in risks()}) == len(risks())
    for risk in risks():
        assert Level(risk.level)
        assert all((risk.grants, risk.why, risk.safer, risk.source))
        for what in risk.what:
            assert what in ("*", "host networks", "host *.TLD", "names") or parse(line_of(what.replace("/...", "")))


def test_a_reason_accepts_a_finding():
    (finding,) = lint(parse("path $HOME/.ssh/config: read  # why: it is an SSH client"))
    assert finding.accepted == "it is an SSH client"


def test_a_difference_is_told_with_its_risk():
    old, new = parse("path ./data: read"), parse("path ./data: read, write\npath $HOME/.bashrc: write")
    lines = {one.name: (one.level, one.rule, one.subject) for one in judged(old.policy, new.policy)}
    assert lines == {
        "path ./data": ("note", "path-more", "path ./data: + write"),
        "path $HOME/.bashrc": ("danger", "start-up-file", "path $HOME/.bashrc: + write"),
    }
    judgement = judge(old, new)
    assert judgement.comparison.verdict is Verdict.WIDER
    assert [one.rule for one in judgement.headlines] == ["start-up-file", "path-more"]


SAID = (
    # old lines, new lines, the id, the subject, what the change lets the program do
    ("path ./a: read", "path ./a: read, write", "path-more", "path ./a: + write", "may also write there"),
    ("path ./a: read, write", "path ./a: read", "path-less", "path ./a: - write", "may no longer write there"),
    ("path ./a: read", "path ./a: write", "path-more", "path ./a: + write - read",
     "may also write there and may no longer read there"),
    ("path ./a: read", "path ./a: read, create, remove", "path-more", "path ./a: + create, remove",
     "may also create, remove there"),
    ("path ./a: any", "path ./a: none", "path-less", "path ./a: - any", "may no longer do anything there"),
    ("tcp connect: 80", "tcp connect: 80, 443", "tcp-more", "tcp connect: + 443", "may connect to more ports"),
    ("tcp connect: 80, 443", "tcp connect: 80", "tcp-less", "tcp connect: - 443", "may connect to fewer ports"),
    ("tcp connect: 80", "tcp connect: 443", "tcp-more", "tcp connect: + 443 - 80",
     "may connect to other ports"),
    ("tcp bind: 80", "tcp bind: 80, 443", "tcp-more", "tcp bind: + 443", "may serve on more ports"),
    ("udp send: 53", "udp send: 53, 123", "udp-more", "udp send: + 123", "may send to more UDP ports"),
    ("udp send: 53, 123", "udp send: 53", "udp-less", "udp send: - 123", "may send to fewer UDP ports"),
    ("tcp connect 10.0.0.1: 80", "tcp connect 10.0.0.1: 80-81", "tcp-more", "tcp connect 10.0.0.1: + 81",
     "may connect to more ports there"),
    ("udp send 10.0.0.1: 53, 80", "udp send 10.0.0.1: 53", "udp-less", "udp send 10.0.0.1: - 80",
     "may send to fewer UDP ports there"),
    ("unix connect @a", "unix connect @a\nunix connect @b", "unix-more", "+ unix connect @b", "may also connect to it"),
    ("unix connect @a\nunix connect @b", "unix connect @a", "unix-less", "- unix connect @b", "may no longer connect to it"),
    ("unix connect: any", "unix connect @a", "unix-less", "unix connect: - any", "may no longer connect to every unix socket"),
    ("dns query a.org", "dns query a.org\ndns query b.org", "dns-more", "+ dns query b.org", "may also look it up"),
    ("dns query: any", "dns query a.org", "dns-less", "dns query: - any", "may no longer look every name up"),
)  # fmt: skip


@pytest.mark.parametrize(("old", "new", "rule", "subject", "says"), SAID, ids=[row[3] for row in SAID])
def test_what_a_change_lets_the_program_do(old, new, rule, subject, says):
    found = {row.subject: (row.level, row.rule, row.says) for row in judged(parse(old).policy, parse(new).policy)}
    assert found == {subject: ("note", rule, f"it {says}")}


def test_a_risk_of_a_line_below_is_told_of_the_line_that_brings_it():
    old, new = parse("path ./a: read, write"), parse("path .: execute\npath ./a: read, write\npath ./b: read")
    told = {(one.name, one.rule) for one in judged(old.policy, new.policy)}
    assert told == {("path .", "write-execute"), ("path ./b", "path-more")}
    by_itself = parse("path .: execute\npath ./a: read, write, execute")
    assert {(one.name, one.rule) for one in judged(old.policy, by_itself.policy)} == {("path .", "write-execute")}


NO_PATH, NO_CONNECT, NO_BIND = "path /", "tcp connect", "tcp bind"
UNCONFINED = (
    # a policy, and the names and ids of what lint finds about lines that it has not
    ("read: allow", []),
    ("openat: allow", [(NO_PATH, "root")]),
    ("openat: errno EPERM", []),
    ("tcp connect: none\ntcp bind: none\nio_uring_setup: allow", [(NO_PATH, "root")]),
    ("path ./a: read\nopenat: allow", []),
    ("connect: allow", [(NO_CONNECT, "connect-anywhere")]),
    ("tcp connect: none\nconnect: allow\nlisten: allow", [(NO_BIND, "bind-anywhere")]),
    ("tcp connect: none\ntcp bind: 80\nconnect: allow\nbind: allow", []),
    ("tcp connect 10.0.0.1: 80\nconnect: allow", [("udp send", "send-anywhere")]),
    ("tcp connect 10.0.0.1: 80\nread: allow", []),
    ("tcp connect 10.0.0.1: 80\nudp send: none\nconnect: allow", []),
)


@pytest.mark.parametrize(("text", "risky"), UNCONFINED)
def test_a_line_that_a_policy_has_not_is_judged_as_what_that_permits(text, risky):
    found = [finding for finding in lint(parse(text)) if finding.name in (NO_PATH, NO_CONNECT, NO_BIND, "udp send")]
    assert [(finding.name, finding.rule) for finding in found] == risky
    assert all(f"has no `{finding.name.replace(NO_PATH, 'path')}` line, so it " in finding.grants for finding in found)


@pytest.mark.parametrize(
    ("line", "name", "level", "rule"),
    [
        ("path ./data: read", "path /", "danger", "root"),
        ("tcp connect: none", "tcp connect", "warning", "connect-anywhere"),
        ("tcp bind: 80", "tcp bind", "warning", "bind-anywhere"),
        ("tcp connect 10.0.0.1: 80", "tcp connect", "warning", "connect-anywhere"),
        ("udp send 10.0.0.1: 80", "udp send", "warning", "send-anywhere"),
        ("unix connect ./s", "unix connect", "warning", "connect-every-socket"),
    ],
)
def test_a_line_that_is_removed_is_judged_as_one_that_permits_all(line, name, level, rule):
    calls = "openat: allow\nconnect: allow\nbind: allow"
    old = parse(f"{line}\n{calls}").policy
    for new in (calls, f"{name}: any\n{calls}"):
        (row,) = [row for row in judged(old, parse(new).policy) if row.name == name]
        assert (row.level, row.rule) == (level, rule)
    (less,) = [row for row in judged(parse(calls).policy, old) if row.name == name]
    assert less.level == "note"


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("", "path ./a: read", Verdict.NARROWER),
        ("path ./a: read", "", Verdict.WIDER),
        ("path ./a: read", "path ./a: write", Verdict.INCOMPARABLE),
        ("path .: read", "path .: read\npath ./a: read", Verdict.EQUAL),
        ("tcp connect: 1-9", "tcp connect: 1-5, 6-9", Verdict.EQUAL),
        ("tcp connect: any", "", Verdict.EQUAL),
        ("path /: any", "", Verdict.EQUAL),
        ("tcp connect: 80", "tcp connect: 80, 443", Verdict.WIDER),
        ("tcp connect: 80", "tcp connect 10.0.0.1: 80", Verdict.NARROWER),
        ("tcp connect 10.0.0.0/8: 80", "tcp connect 10.0.0.1: 80, 81", Verdict.INCOMPARABLE),
        ("tcp connect a.example: 80", "tcp connect *.example: 80", Verdict.WIDER),
        ("tcp connect a.example: 80", "tcp connect *.example: 80\ntcp connect a.example: 80", Verdict.WIDER),
        ("udp send: any", "", Verdict.EQUAL),
        ("unix connect: any", "", Verdict.EQUAL),
        ("unix connect /run", "unix connect /run/x\nunix connect /run", Verdict.EQUAL),
        ("unix connect: none", "unix connect @a", Verdict.WIDER),
    ],
)
def test_the_verdict_counts_files_and_ports(old, new, verdict):
    assert compare(parse(old).policy, parse(new).policy).verdict is verdict


def test_reducing_leaves_what_both_grant():
    a, b = parse("path .: read, write\ntcp connect: 1-9").policy, parse("path ./a: read\npath ./b: write").policy
    reduced = reduce(a, b)
    assert reduced.files.lines() == {"path ./a": "read", "path ./b": "write", "tcp connect": "1-9"}
    assert compare(a, reduced).verdict is Verdict.NARROWER


def test_a_union_grants_what_either_does():
    a, b = (parse(f"{lines}\nread: allow") for lines in ("path .: read  # mine", "path ./a: read, write"))
    assert unite(a, b).policy.files.lines() == {"path .": "read", "path ./a": "write"}
    assert "path .: read                   # mine\n" in unite(a, b).text()
    with pytest.raises(JoinError, match="one policy confines files and the other does not"):
        unite(a, parse("read: allow"))
    a, b = (parse(f"{lines}\nread: allow") for lines in ("tcp connect 10.0.0.0/8: 80", "tcp connect 10.0.0.1: 80, 443"))
    assert unite(a, b).policy.files.lines() == {"tcp connect 10.0.0.0/8": "80", "tcp connect 10.0.0.1": "443"}
    assert reduce(b.policy, a.policy).files.lines() == {"tcp connect 10.0.0.1": "80"}
    with pytest.raises(JoinError, match="one policy confines the unix sockets that it connects to and the other does not"):
        unite(parse("unix connect @a"), parse("read: allow"))


def test_a_three_way_merge_takes_each_sides_changes():
    base, ours, theirs = (
        parse(f"path ./a: {a}\npath ./b: {b}\ntcp connect: {c}\n")
        for a, b, c in (("read", "read", "1"), ("read, write", "read", "1, 2"), ("read", "none", "3"))
    )
    merged, conflicts = merge_documents(base, ours, theirs)
    assert not conflicts
    assert merged.policy.files.lines() == {"path ./a": "read, write", "tcp connect": "2-3"}
    base, ours, theirs = (parse(f"path {path}: read\n") for path in ("/a/b", "/a", "/c"))
    merged, conflicts = merge_documents(base, ours, theirs)
    assert [(one.name, one.base, one.ours, one.theirs) for one in conflicts] == [("path /a/b", "path /a/b: read", "", "")]


def test_changes_are_judged_line_by_line():
    old = parse("path ./a: read\ntcp connect: 80\n")
    new = parse("path ./a: read, write\npath ./b: read\ntcp connect: 80, 443\n")
    found_ = changes(old.policy, new.policy)
    assert [(one.word, one.before, one.after) for one in found_] == [
        ("path ./a", "read", "read, write"),
        ("path ./b", "", "read"),
        ("tcp connect", "80", "80, 443"),
    ]
    first, second, third = found_
    decisions = {first: Decision(Answer.REJECT), second: Decision(Answer.ACCEPT, why="data"), third: Decision(Answer.REJECT)}
    after = resolve(old, new, decisions)
    assert after.policy.files.lines() == {"path ./a": "read", "path ./b": "read", "tcp connect": "80"}
    assert "path ./b: read                 # why: data\n" in after.text()
    assert resolve(old, new, dict.fromkeys(found_, Decision(Answer.REJECT))).policy.files == old.policy.files


def test_changes_of_hosts_and_sockets_are_judged_line_by_line():
    old = parse("tcp connect a.example: 443\ntcp connect b.example: 443\nunix connect @a\n")
    new = parse("tcp connect *.example: 443\nudp send: none\nunix connect @a\nunix connect @b\n")
    found_ = {one.word: one for one in changes(old.policy, new.policy)}
    assert {word: (one.before, one.after) for word, one in found_.items()} == {
        "tcp connect *.example": ("", "443"), "unix connect @b": ("", "any"),
    }  # fmt: skip
    rejected = resolve(old, new, dict.fromkeys(found_.values(), Decision(Answer.REJECT)))
    lines = {"tcp connect a.example": "443", "tcp connect b.example": "443", "udp send": "none", "unix connect @a": ""}
    assert rejected.policy.files.lines() == lines, "what the rejected line replaced is back"
    accepted = resolve(old, new, {found_["unix connect @b"]: Decision(Answer.ACCEPT, why="the display")})
    assert "unix connect @b                # why: the display\n" in accepted.text()
    gone = parse("read: allow\n")
    (change,) = [one for one in changes(old.policy, gone.policy) if getattr(one, "word", "") == "unix connect"]
    assert change.after == "not confined"
    assert "unix connect: any              # why: so" in resolve(old, gone, {change: Decision(Answer.ACCEPT, why="so")}).text()
    assert resolve(old, gone, {change: Decision(Answer.REJECT)}).policy.files.unix == ("@a",)


def test_look_ups_stay_as_they_are_decided_beside_names_of_hosts():
    old, new = parse("tcp connect a.example: 443\nudp send: none\n"), parse("udp send: none\n")
    found_ = {one.word: one for one in changes(old.policy, new.policy)}
    assert [*found_] == ["tcp connect", "dns query"]
    rejected = {found_["tcp connect"]: Decision(Answer.REJECT)}
    assert resolve(old, new, rejected).policy.files.query == ("any",), "only the hosts are rejected"
    assert resolve(old, new, {**rejected, found_["dns query"]: Decision(Answer.REJECT)}).policy.files == old.policy.files
    ports = parse("tcp connect: 443\n").policy.files
    more = extended(ports, parse("tcp connect a.example: 80\n").policy.files)
    assert with_lines(ports, ["tcp connect a.example"], more) == more


def test_files_that_are_no_longer_confined_are_a_change():
    old, new = parse("path ./a: read\n"), parse("read: allow\n")
    (change,) = [one for one in changes(old.policy, new.policy) if getattr(one, "word", "").startswith("path")]
    assert (change.word, change.after) == ("path /", "not confined")
    assert resolve(old, new, {change: Decision(Answer.REJECT)}).policy.files == old.policy.files


def test_what_learn_files_confines_is_said_to_be_so() -> None:
    policy = "read: allow\nsocket: allow\nconnect: allow\nsendto: allow\nopenat: allow\ntcp connect x.example: 80\n"
    found = [one for text in (policy, "default allow\n") for one in lint(parse(text))]
    of_files = [one for one in found if one.name.startswith(("path ", "tcp ", "udp ", "unix ")) and "x.example" not in one.name]
    lines = {one.name: "(`learn --files` does)" in one.safer for one in of_files}
    assert lines == {line: line.startswith(("path ", "tcp ")) for line in lines}
    assert {line.partition(" ")[0] for line in lines} >= {"path", "udp"}
