"""Try what no start policy lets a program do, and print the error of each try as JSON, null if there was none.

Arguments: the pid of another process, and a TCP port and a unix socket on which the test listens.  The home has
the files that are read."""

import ctypes
import errno
import json
import os
import socket
import sys
from pathlib import Path

HOME = Path(os.environ["HOME"])
OTHER, PORT, SOCKET = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
SECRETS = (".ssh/id_ed25519", ".aws/credentials", ".config/gh/hosts.yml", ".netrc", ".npmrc", ".git-credentials",
           ".cargo/credentials.toml", ".mozilla/firefox/logins.json", ".bash_history")  # fmt: skip
CHANGED = (".bashrc", ".profile", ".gitconfig", ".config/autostart/x.desktop", ".local/bin/git", ".ssh/authorized_keys", "new")
LIBC = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int) -> None:
    if LIBC.syscall(number, *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("192.0.2.1", 53))


def connect(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sender:
        sender.settimeout(0.2 if address[0] == "192.0.2.1" else 5)
        sender.connect(address)


REAL = {
    **{f"read {name}": lambda name=name: (HOME / name).read_bytes() for name in SECRETS},
    **{f"change {name}": lambda name=name: open(HOME / name, "ab").close() for name in CHANGED},
    "list the home": lambda: os.listdir(HOME),
    "connect to this machine": lambda: connect(socket.AF_INET, ("127.0.0.1", PORT)),
    "connect to a unix socket": lambda: connect(socket.AF_UNIX, SOCKET),
    "signal another process": lambda: os.kill(OTHER, 0),
    "signal another process by its descriptor": lambda: call(424, os.pidfd_open(OTHER), 0, 0, 0),
    "read another's environment": lambda: Path(f"/proc/{OTHER}/environ").read_bytes(),
    "trace another process": lambda: call(101, 0x4206, OTHER, 0, 0),  # PTRACE_SEIZE
}
"""What succeeds without a policy."""
OTHERS = {
    "connect to another host": lambda: connect(socket.AF_INET, ("192.0.2.1", 443)),
    "send to another host": send,
    "load a program into the kernel": lambda: call(321, 0, 0, 0),
    "mount": lambda: call(165, 0, 0, 0, 0, 0),
    "make a user namespace": lambda: call(272, 0x10000000),
    "enter namespaces": lambda: call(308, os.open("/proc/self", os.O_RDONLY), 0),
    "open a ring": lambda: call(425, 1, 0),
    "measure": lambda: call(298, 0, 0, -1, -1, 0),
    "use keyrings": lambda: call(250, 0, -1, 0),
    "read memory of another process": lambda: call(310, OTHER, 0, 0, 0, 0, 0),
    "type into the terminal": lambda: call(16, 0, 0x5412, 0),
    "change the machine's configuration": lambda: open("/etc/hosts", "ab").close(),
    "read the passwords": lambda: open("/etc/shadow", "rb").close(),
    "replace a program": lambda: open("/usr/bin/git", "ab").close(),
}
results = {}
for name, action in (REAL if sys.argv[4:] == ["real"] else {**REAL, **OTHERS}).items():
    try:
        action()
    except OSError as error:
        results[name] = errno.errorcode.get(error.errno or 0, str(error))
    else:
        results[name] = None
print(json.dumps(results))
