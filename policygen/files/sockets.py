"""The unix sockets that matter to lines about hosts."""

from __future__ import annotations

NAME = "@"
"""The beginning of an abstract socket in a policy, for the NUL of its name (unix(7))."""
HIDING = (b"/var/run/nscd/socket", b"/run/nscd/socket", b"/run/systemd/resolve/io.systemd.Resolve")
"""The sockets of services that look names up for C libraries: connecting to them fails, and C libraries then ask name servers
themselves (nscd(8), systemd-resolved.service(8)), whose answers can be seen."""
