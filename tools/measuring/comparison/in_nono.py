"""in_nono.py WORK CONNECTS BINDS COMMAND ...: the command in nono's sandbox, by its Python library: the system readable, a work
folder, and TCP ports (joined by commas; empty: none)."""

import os
import sys

from nono_py import AccessMode, CapabilitySet, sandboxed_exec

work, connects, binds, *command = sys.argv[1:]
allowed = CapabilitySet()
for folder in ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc"):
    allowed.allow_path(folder, AccessMode.READ)
for folder in ("/dev", work):
    allowed.allow_path(folder, AccessMode.READ_WRITE)
allowed.block_network()
for port in connects.split(","):
    if port:
        allowed.allow_tcp_connect_port(int(port))
for port in binds.split(","):
    if port:
        allowed.allow_bind_port(int(port))
done = sandboxed_exec(allowed, command, cwd=work, env=list(os.environ.items()))
sys.stdout.buffer.write(done.stdout)
sys.stderr.buffer.write(done.stderr)
sys.exit(done.exit_code if done.exit_code >= 0 else 128 - done.exit_code)
