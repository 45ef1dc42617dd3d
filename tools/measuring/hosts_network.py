"""The network in which hosts.py measures: namespaces, addresses, a name server that is told what to do, and servers."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVER, OTHER_SERVER, SERVER6, FAR_SERVER = "127.0.0.53", "10.77.5.53", "fd00:77::53", "203.0.113.53"
"""Name servers: the last is in a network to which there is no way."""
ROTATING = [f"10.77.1.{number}" for number in range(1, 21)]
ROTATING6 = [f"fd00:77::{number:x}" for number in range(1, 21)]
FIXED, FIXED6, STRANGER, MOVED, CLOSED, SILENT = "10.77.2.1", "fd00:77::201", "10.77.3.1", "10.77.4.1", "10.77.6.1", "10.99.0.1"
"""Of databases and sshd; of a name that no policy has; where a server moves to; where nobody listens; where nothing answers."""
PROXY = "10.77.7.1"
WEB = [*ROTATING, *ROTATING6, STRANGER, MOVED]
OTHERS = [FIXED, FIXED6, STRANGER, MOVED]
"""Where databases and sshd listen."""
OWN = [*WEB, FIXED, FIXED6, CLOSED, PROXY, OTHER_SERVER, SERVER6]
RESOLV = f"nameserver {SERVER}\noptions timeout:1 attempts:3\n"
HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
A, CNAME, SOA, AAAA, SRV = 1, 5, 6, 28, 33
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18  # linux/mount.h


def mount(source: str, target: str, kind: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def enter(folder: Path) -> None:
    """Make this process' network and mount namespaces, which must be its own, the network; /etc is a copy in `folder`."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    subprocess.run(["cp", "-a", "/etc", folder / "etc"], check=True)
    for name, text in (("resolv.conf", RESOLV), ("hosts", HOSTS)):
        (folder / "etc" / name).unlink(missing_ok=True)
        (folder / "etc" / name).write_text(text)
    mount(str(folder / "etc"), "/etc", "", MS_BIND)
    mount("none", "/run", "tmpfs", 0)
    for name, mode in (("sshd", 0o755), ("postgresql", 0o1777), ("lock", 0o1777)):
        Path("/run", name).mkdir()
        Path("/run", name).chmod(mode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "route", "add", "10.99.0.0/24", "dev", "lo"], check=True)
    give_addresses()


def give_addresses() -> None:
    """Give the loopback device those of its addresses that it does not have."""
    for address in OWN:
        size = "128" if ":" in address else "32"
        subprocess.run(["ip", "addr", "replace", f"{address}/{size}", "dev", "lo", *["nodad"] * (":" in address)], check=True)


def configure(name: str, text: str) -> None:
    """Replace a file of /etc, as programs that manage the network do."""
    path = Path("/etc", name)
    new = path.with_name(f"{name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)


def labels(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


@dataclass
class NameServer:
    """What the name server answers.  Mutable: circumstances change it."""

    names: dict[str, list[str]] = field(default_factory=dict)
    """Name -> its addresses; `*.` a parent for all names below.  One of each family is answered, in turn."""
    chains: dict[str, str] = field(default_factory=dict)
    """Name -> the name to which its CNAME leads."""
    services: dict[str, str] = field(default_factory=dict)
    """Name of a service, as `_http._tcp.deb.example.org` -> the name to which its SRV record leads, at port 80."""
    mute: set[str] = field(default_factory=set)
    """Addresses of name servers that do not answer."""
    slow: float = 0.0
    """Seconds until an answer of `slow.`."""
    late: float = 0.0
    """Seconds until any answer."""
    families: tuple[int, ...] = (4, 6)
    _turn: int = 0

    def addresses(self, name: str) -> list[str] | None:
        parent = "*." + name.partition(".")[2]
        return self.names.get(name, self.names.get(parent))

    def answer(self, query: bytes, *, by_tcp: bool) -> bytes:
        parts, at = [], 12
        while query[at]:
            parts.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        asked, kind = ".".join(parts), int.from_bytes(query[at + 1 : at + 3], "big")
        question, records, target = query[12 : at + 5], [], asked.lower()
        owner = labels(asked)
        for _ in range(8):
            if target not in self.chains:
                break
            target = self.chains[target]
            records.append(owner + struct.pack("!HHIH", CNAME, 1, 1, len(labels(target))) + labels(target))
            owner = labels(target)
        known = self.addresses(target)
        self._turn += 1
        for family, wanted in ((4, A), (6, AAAA)):
            mine = [one for one in known or () if ipaddress.ip_address(one).version == family and family in self.families]
            if kind == wanted and mine:
                packed = ipaddress.ip_address(mine[self._turn % len(mine)]).packed
                records.append(owner + struct.pack("!HHIH", kind, 1, 1, len(packed)) + packed)
        if kind == SRV and target in self.services:
            data = struct.pack("!HHH", 0, 0, 80) + labels(self.services[target])
            records.append(owner + struct.pack("!HHIH", SRV, 1, 1, len(data)) + data)
            known = []
        flags, answers, authorities = 0x8580 if known is not None else 0x8583, len(records), []
        if asked.startswith("big.") and not by_tcp:
            flags, answers, records = flags | 0x200, 0, []
        elif answers == 0:
            soa = labels("ns.example.org") * 2 + struct.pack("!IIIII", 1, 60, 60, 60, 1)
            authorities = [labels("example.org") + struct.pack("!HHIH", SOA, 1, 1, len(soa)) + soa]
        if pause := self.late or (self.slow if asked.startswith("slow.") else 0):
            time.sleep(pause)
        head = query[:2] + struct.pack("!HHHHH", flags, 1, answers, len(authorities), 0)
        return head + question + b"".join(records) + b"".join(authorities)

    # Serving

    def serve(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        datagrams, stream = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family)
        for one in (datagrams, stream):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, 53))
        stream.listen(128)
        started(self._datagrams, datagrams, address)
        started(self._streams, stream, address)

    def _datagrams(self, server: socket.socket, address: str) -> None:
        def reply(query: bytes, client: Any) -> None:
            with contextlib.suppress(OSError):
                server.sendto(self.answer(query, by_tcp=False), client)

        while True:
            query, client = server.recvfrom(4096)
            if address in self.mute:
                continue
            if self.late or (b"\4slow" in query and self.slow):
                started(reply, query, client)
            else:
                reply(query, client)

    def _streams(self, server: socket.socket, address: str) -> None:
        while True:
            client, _ = server.accept()
            started(self._stream, client, address)

    def _stream(self, client: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError), client, client.makefile("rb") as stream:
            while head := stream.read(2):
                query = stream.read(int.from_bytes(head, "big"))
                if address in self.mute:
                    return
                whole = self.answer(query, by_tcp=True)
                client.sendall(len(whole).to_bytes(2, "big") + whole)


def started(function: Any, *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def proxy() -> None:
    """Serve as an HTTP proxy at PROXY: GET of whole addresses, and CONNECT."""
    server = socket.create_server((PROXY, 3128), backlog=128)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def reply(client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(65536)
                if not part:
                    return
                head += part
            method, url, rest = head.split(b" ", 2)
            if method == b"CONNECT":
                host, _, port = url.decode().rpartition(":")
            else:
                host, _, port = url.decode().split("/")[2].partition(":")
            with socket.create_connection((host, int(port or 80))) as server:
                if method == b"CONNECT":
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    path = b"/" + url.split(b"/", 3)[3]
                    rest = rest.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                    server.sendall(method + b" " + path + b" " + rest)
                started(pump, client, server)
                pump(server, client)

    def serve() -> None:
        while True:
            started(reply, server.accept()[0])

    started(serve)


def reached(address: str, port: int) -> None:
    """Wait until a server listens."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            socket.create_connection((address, port)).close()
            return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens at {address}, port {port}")


NGINX = """\
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; types {{ text/html html; application/json json; }} default_type text/plain; keepalive_requests 100000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  server {{
    {listen}
    ssl_certificate {folder}/tls/server.pem; ssl_certificate_key {folder}/tls/server.key;
    root {folder}/web;
    location /simple/ {{ index index.html; default_type text/html; }}
    location /npm/ {{ types {{ }} default_type application/json; }}
    location /npm/tarballs/ {{ types {{ }} default_type application/octet-stream; }}
  }}
}}
"""


def certificates(folder: Path, names: list[str]) -> None:
    """Make a certificate authority and the servers' certificate, and have this network's programs trust it."""
    folder.mkdir()
    (folder / "names").write_text(f"subjectAltName={','.join(f'DNS:{name}' for name in names)},IP:{STRANGER}\n")
    ca = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    for command in (
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "9",
         "-subj", "/CN=ca", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server"],
        ["x509", "-req", "-in", "server.csr", *ca, "-out", "server.pem", "-days", "9", "-extfile", "names"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    with Path("/etc/ssl/certs/ca-certificates.crt").open("a") as bundle:  # /etc is this network's own
        bundle.write((folder / "ca.pem").read_text())


class Servers:
    """Starts what programs talk to, as processes of this namespace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str | Path, user: str | None = None) -> None:
        with (self._folder / "servers.log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=user))

    def web(self) -> None:
        ports = [(80, ""), (81, ""), (443, " ssl"), (444, " ssl")]
        hosts = [f"[{one}]" if ":" in one else one for one in WEB]
        listen = "\n".join(f"listen {host}:{port}{kind};" for host in hosts for port, kind in ports)
        configuration = self._folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=self._folder, listen=listen))
        self.start("nginx", "-e", self._folder / "nginx.log", "-c", configuration)
        reached(STRANGER, 80)

    def databases(self) -> None:
        for port in ("6379", "6380"):
            self.start("redis-server", "--bind", *OTHERS, "--port", port, "--save", "", "--protected-mode", "no")
        data, binaries = self._folder / "postgres", max(Path("/usr/lib/postgresql").glob("*/bin"))
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
        init = [binaries / "initdb", "-A", "trust", "-N", "-D", data]
        subprocess.run(init, user="postgres", check=True, capture_output=True)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.0.0.0/8 trust\nhost all all fd00::/8 trust\n")
        settings = [f"listen_addresses={','.join(OTHERS)}", "fsync=off", "max_connections=200", "unix_socket_directories="]
        self.start(binaries / "postgres", "-D", data, *(word for one in settings for word in ("-c", one)), user="postgres")

    def sshd(self) -> None:
        """With the key `id` of the folder `ssh`, that logs root in."""
        folder = self._folder / "ssh"
        folder.mkdir()
        for name in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "keys").write_text((folder / "id.pub").read_text())
        settings = {"HostKey": folder / "host", "AuthorizedKeysFile": folder / "keys", "PidFile": "none", "UsePAM": "no",
                    "StrictModes": "no", "MaxStartups": 500, "PermitRootLogin": "yes",
                    "ForceCommand": "echo hello"}  # fmt: skip
        hosts = [f"[{one}]" if ":" in one else one for one in OTHERS]
        listen = [f"ListenAddress {host}:{port}" for host in hosts for port in (22, 23)]
        (folder / "config").write_text("\n".join([*listen, *(f"{key} {value}" for key, value in settings.items())]) + "\n")
        self.start("/usr/sbin/sshd", "-D", "-e", "-f", folder / "config")
