"""Attempts to reach a peer without a line: hosts/attack.c, one row an attack, in the network of hosts/network.py.

The program may make every call, of i386 as well.  Each attack runs twice: without `enforce`, where it has to reach a peer that is
forbidden, so that the test can fail, and confined, where no such peer may receive anything from anybody, and where the allowed
peer has to be reached afterwards.  Races, and what needs a module of the kernel, only have to run without.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.enforcer.conftest import Workplace
from tracer.abi import Arch, table

HERE = Path(__file__).parent / "hosts"
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a network of its own takes root")
LINES = """tcp connect 10.77.0.1: 7000
tcp connect 10.77.0.3: 443
tcp connect fd00:77::1: 7000
tcp connect name.example.org: 7000
tcp connect rebind.example.org: 7000
tcp connect extra.example.org: 7000
tcp connect other.example.org: 7000
tcp connect loop.example.org: 7000
tcp connect *.wild.example.org: 7000
udp send 10.77.0.1: 7000
tcp connect 127.0.0.1: 7001
udp send 127.0.0.1: 7001
tcp connect ::1: 7002
udp send ::1: 7002
udp send fd00:77::1: 7000
udp send rebind.example.org: 7000
udp send extra.example.org: 7000
udp send other.example.org: 7000
udp send loop.example.org: 7000
unix connect {0}/allowed/stream
unix connect {0}/allowed/datagram
unix connect @allowed.stream
unix connect $HOME/stream
"""


def policy(lines):
    """Every call but those by which the program would have a listener of its own, and these lines."""
    calls = {arch: {call.name for call in table(arch).by_number.values()} for arch in (Arch.X86_64, Arch.I386)}
    text = "default errno EACCES\n" + lines
    for arch, names in (("x86_64", calls[Arch.X86_64]), ("i386", calls[Arch.I386])):
        text += f"arch {arch}\nprctl: option != PR_SET_SECCOMP\n"
        text += "".join(f"{name}: allow\n" for name in sorted(names - {"seccomp", "prctl"}))
    return text


class Network:
    """A network, and commands in it."""

    def __init__(self, folder, cache, build, program):
        self.place = Workplace(folder, cache, build)
        self.place.environment.pop("HOME", None)  # a line that means no socket
        self.folder = folder
        shutil.copy(program, folder / "attack")
        self.server = subprocess.Popen(
            [sys.executable, HERE / "network.py", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout.readline() == "ready\n"
        self.under = ("nsenter", f"--target={self.server.pid}", "--net", "--mount", f"--wdns={folder}")
        self.place.policy(policy(LINES.format(folder)), "attack.policy")

    def arrivals(self):
        """What has arrived since the last call: by the attack's name, a list of `KIND WHERE`; of words that are no names, too."""
        subprocess.run([*self.under, sys.executable, "-c", END], check=True)
        path = self.folder / "arrivals"
        while "<end>" not in (text := path.read_text()):
            pass
        path.write_text("")
        found = defaultdict(list)
        for line in text.splitlines():
            where, _, word = line.rpartition(" ")
            if word != "<end>":
                found[word.strip("<>")].append(where)
        return found

    def plain(self, *arguments, program="./attack", **options):
        settings = self.place.options({"stdin": subprocess.DEVNULL, "timeout": 100} | options)
        return subprocess.run([*self.under, program, *arguments], check=False, **settings)

    def enforce(self, *arguments, program="./attack", **options):
        return self.place.enforce("-p", "attack.policy", program, *arguments, under=self.under, **({"timeout": 100} | options))

    def end(self):
        self.server.communicate()


END = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'<end>', ('10.77.0.1', 7000))"


@pytest.fixture(scope="module")
def network(tmp_path_factory, compile_c, cache, build):
    made = Network(tmp_path_factory.mktemp("hosts"), cache, build, compile_c(HERE / "attack.c", "-w", "-pthread"))
    yield made
    made.place.wait_for_helpers()
    made.end()


def outcomes(output):
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in output.splitlines())}


def is_forbidden(where):
    return not where.startswith("dns ") and where.split()[1] not in ("10.77.0.1", "fd00:77::1", "allowed")


ATTACKS = re.findall(r"\bA\((\w+)\)", (HERE / "attack.c").read_text().partition("ATTACKS[]")[2])
