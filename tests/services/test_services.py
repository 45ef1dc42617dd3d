"""`callfence service` under a real systemd, with Debian's units of nginx and redis, and units that are made to be difficult."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from needed import needs, needs_root

from tests.formats.outputs import check_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [needs_root, needs("systemd")]

NGINX = """
request() { python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8081/').status)"; }
mkdir -p /var/log/nginx /var/lib/nginx /srv/www
echo hello > /srv/www/index.html
cat > /etc/nginx/nginx.conf <<'END'
user www-data;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {}
http { access_log /var/log/nginx/access.log; server { listen 127.0.0.1:8081; root /srv/www; } }
END
systemctl start nginx
callfence service learn --settle 0.5 nginx
request; systemctl reload nginx; request
callfence service audit --settle 0.5 nginx
request; systemctl reload nginx; request
callfence service status --format json nginx > /mnt/audited
callfence service enforce --settle 0.5 nginx
request; systemctl reload nginx; request
callfence service status --format json > /mnt/enforced
systemctl show -p Description,ActiveState,Type,MainPID nginx > /mnt/shown
cat /proc/$(cat /run/nginx.pid)/status > /mnt/confined
callfence service remove --settle 0.5 nginx
request
test ! -e /etc/systemd/system/nginx.service.d/callfence.conf
systemctl is-active nginx
"""


@pytest.mark.long
@needs("nginx")
def test_nginx_from_its_unit_to_an_enforced_one(system: Callable[..., str], tmp_path: Path) -> None:
    """A unit of Type=forking, with a reload in each mode."""
    printed = system(NGINX)
    assert printed.split().count("200") == 7
    (audited,) = check_output("status", (tmp_path / "audited").read_text())["units"]
    assert (audited["mode"], audited["denied"], audited["active"]) == ("audit", 0, "active")
    (enforced,) = check_output("status", (tmp_path / "enforced").read_text())["units"]
    assert (enforced["mode"], enforced["denied"]) == ("enforce", 0)
    assert enforced["runs_policy"] == enforced["digest"] is not None
    assert "(enforced by callfence)" in (tmp_path / "shown").read_text()
    assert "Type=forking" in (tmp_path / "shown").read_text()
    assert "Seccomp:\t2\n" in (tmp_path / "confined").read_text()


PROTECTED = """
cat > /etc/systemd/system/it.service <<'END'
[Service]
ExecStart=/bin/sh -c 'touch /opt/callfence/written 2>/dev/null; touch /srv/ready; exec sleep 1000'
ProtectSystem=strict
ReadWritePaths=/srv
NoExecPaths=/
ExecPaths=/usr/bin /usr/lib /usr/lib64
END
mkdir -p /etc/callfence
echo 'default allow' > /etc/callfence/it.policy
systemctl daemon-reload
callfence service enforce it >&2
systemctl start it
for _ in $(seq 50); do test -e /srv/ready && break; sleep 0.1; done
test -e /srv/ready
ls /opt/callfence
"""


@pytest.mark.long
def test_a_unit_that_may_write_nothing_does_not_write_to_the_installation(system: Callable[..., str]) -> None:
    """systemd makes a mount of each path in ExecPaths=, to which ProtectSystem= does not extend."""
    assert "written" not in system(PROTECTED).split()


REDIS = """
cli() { redis-cli -p 6399 "$@"; }
mkdir -p /var/lib/redis /var/log/redis
chown redis /var/lib/redis /var/log/redis
printf 'port 6399\\nbind 127.0.0.1\\ndir /var/lib/redis\\nsupervised systemd\\nsave ""\\n' > /etc/redis/redis.conf
chmod 644 /etc/redis/redis.conf
systemctl start redis-server
callfence service learn --settle 0.5 redis-server
cli set a 1; cli save
systemctl restart redis-server
callfence service audit --settle 0.5 redis-server
cli bgsave; sleep 0.5
callfence service enforce redis-server && exit 9     # the log has what nobody has decided about
callfence service review --settle 0.5 redis-server -- --accept-all
callfence service enforce --settle 0.5 redis-server
cli bgsave; sleep 0.5; cli lastsave; cli get a
callfence service status --format json > /mnt/enforced
"""


@pytest.mark.long
@needs("redis-server", "redis-tools")
def test_redis_whose_unit_is_hardened(system: Callable[..., str], tmp_path: Path) -> None:
    """Another user, no executables but its own, a list of calls, Type=notify; a violation becomes a line."""
    printed = system(REDIS)
    assert "+ clone" in printed
    (status,) = check_output("status", (tmp_path / "enforced").read_text())["units"]
    assert (status["unit"], status["mode"], status["calls"]) == ("redis-server.service", "enforce", [])


FAILING = """
cat > /etc/systemd/system/it.service <<'END'
[Service]
Type=notify
NotifyAccess=all
DynamicUser=yes
ProtectHome=yes
ExecStart=/bin/sh -c 'python3 -c "import socket; socket.socket()" && systemd-notify --ready && sleep 1000'
END
mkdir -p /etc/callfence
echo 'default errno EPERM\nimplied 1\nmmap: allow\nopenat: allow\nexecve: allow\nclone: allow' > /etc/callfence/it.policy
systemctl daemon-reload
systemctl start it
callfence service enforce it > /mnt/out 2> /mnt/err && exit 9
systemctl is-active it
test ! -e /etc/systemd/system/it.service.d/callfence.conf
ln -sf /etc/shadow /var/log/callfence/it/enforce.log
callfence service status it > /mnt/link 2>&1 && exit 8
rm /var/log/callfence/it/enforce.log
mkfifo /var/log/callfence/it/enforce.log
callfence service status it > /mnt/fifo 2>&1 && exit 5
callfence service learn none 2> /mnt/none && exit 7
setpriv --reuid nobody --clear-groups callfence service remove it 2> /mnt/nobody && exit 6
true
"""


@pytest.mark.long
def test_a_service_that_does_not_start_so_runs_as_before(system: Callable[..., str], tmp_path: Path) -> None:
    assert system(FAILING).split()[-1] == "active"
    said = (tmp_path / "err").read_text()
    assert "callfence service: it did not start: " in said
    assert "  denied: socket(family=AF_INET, type=SOCK_STREAM|SOCK_CLOEXEC, protocol=IPPROTO_IP)\n" in said
    assert said.endswith("it runs as before: active\n")
    assert "enforce.log is a link" in (tmp_path / "link").read_text()
    assert "enforce.log is not a regular file" in (tmp_path / "fifo").read_text()
    assert "none: systemd has no such service (not-found)" in (tmp_path / "none").read_text()
    assert "run it as root" in (tmp_path / "nobody").read_text()


SOCKET = """
cat > /etc/systemd/system/it.socket <<'END'
[Socket]
ListenStream=127.0.0.1:8082
END
cat > /etc/systemd/system/it.service <<'END'
[Service]
ExecStart=/usr/bin/python3 -I /srv/serve.py
User=nobody
END
cat > /srv/serve.py <<'END'
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ
server = socket.socket(fileno=3)
while True:
    client = server.accept()[0]
    client.sendall(b"hello\\n")
    client.close()
END
ask() { python3 -c "import socket; print(socket.create_connection(('127.0.0.1', 8082)).recv(99).decode())"; }
systemctl daemon-reload
systemctl start it.socket
ask
callfence service learn --settle 0.5 it; ask
callfence service audit --settle 0.5 it; ask
callfence service enforce --settle 0.5 it; ask
callfence service status
"""


@pytest.mark.long
def test_a_unit_that_a_socket_starts(system: Callable[..., str]) -> None:
    printed = system(SOCKET)
    assert printed.split().count("hello") == 4
    assert "it.service: enforce, active" in printed
    assert ": 0 calls denied, of 0 kinds" in printed


NAMED = """
cat > /etc/systemd/system/it.service <<'END'
[Service]
Type=notify
KillMode=mixed
KillSignal=SIGINT
ExecStart=/usr/bin/python3 -I /srv/serve.py
END
cat > /srv/serve.py <<'END'
import os, signal, socket
signal.signal(signal.SIGINT, lambda *_: os.write(os.open("/srv/ended", os.O_WRONLY | os.O_CREAT), b"in order") and os._exit(0))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect(os.environ["NOTIFY_SOCKET"])
    notify.send(f"READY=1\\nMAINPID={os.getpid()}\\n".encode())
while True:
    signal.pause()
END
systemctl daemon-reload
systemctl start it
callfence service learn --settle 0.5 it
callfence service audit --settle 0.5 it
cat /srv/ended
grep -c '^path /srv' /etc/callfence/it.policy
callfence service enforce --settle 0.5 it
callfence service status
"""


@pytest.mark.long
def test_a_program_that_tells_systemd_its_own_pid(system: Callable[..., str]) -> None:
    """systemd knows `learn` no more, and would kill it before it has written what it learned."""
    printed = system(NAMED)
    assert "in order" in printed
    assert ": 0 calls denied, of 0 kinds" in printed
