"""in_sandlock.py WORK CONNECTS BINDS COMMAND ...: the command in sandlock's sandbox, with the readable folders of the first
example of its documentation, a work folder, and TCP ports of 127.0.0.1 (joined by commas; empty: none)."""

import sys

from sandlock import Sandbox

work, connects, binds, *command = sys.argv[1:]
sandbox = Sandbox(
    fs_readable=["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"],
    fs_writable=[work, "/dev/null"],  # git opens /dev/null for writing
    net_allow=[f"127.0.0.1:{port}" for port in connects.split(",") if port],
    net_allow_bind=[int(port) for port in binds.split(",") if port],
    cwd=work,
)
sys.exit(sandbox.run_interactive(command))
