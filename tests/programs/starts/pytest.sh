# A small suite: temporary folders, processes, sockets on loopback; in an empty folder.
set -eu
mkdir -p tests package && echo 'def double(x): return 2 * x' > package/__init__.py
cat > tests/test_small.py <<'END'
import asyncio, multiprocessing, os, signal, socket, sqlite3, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import pytest
from package import double

@pytest.mark.parametrize("x", [1, 2])
def test_double(x): assert double(x) == 2 * x
def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("x"); (tmp_path / "a").rename(tmp_path / "b"); (tmp_path / "l").symlink_to("b"); os.chmod("b", 0o600); os.utime("b", (1, 1))
    assert (tmp_path / "l").read_text() == "x"
    script = tmp_path / "run"; script.write_text("#!/bin/sh\necho ran\n"); script.chmod(0o755)
    assert subprocess.check_output([script]) == b"ran\n"
def test_processes(capfd):
    subprocess.run([sys.executable, "-c", "print(1)"], check=True); assert capfd.readouterr().out == "1\n"
    p = subprocess.Popen(["sleep", "30"], start_new_session=True); os.killpg(p.pid, signal.SIGTERM); assert p.wait() == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired): subprocess.run(["sleep", "30"], timeout=0.05)
    assert os.system("exit 3") == 3 << 8
def test_pools():
    with ThreadPoolExecutor(4) as pool: assert list(pool.map(double, range(9))) == [2 * x for x in range(9)]
    queue = multiprocessing.get_context("spawn").SimpleQueue() if False else None; assert queue is None
def test_http():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
        def log_message(self, *words): pass
    server = HTTPServer(("127.0.0.1", 0), Handler); threading.Thread(target=server.serve_forever, daemon=True).start()
    assert urlopen(f"http://127.0.0.1:{server.server_port}/").read() == b"ok"; server.shutdown(); server.server_close()
def test_asyncio():
    async def main():
        async def echo(reader, writer): writer.write(await reader.readline()); await writer.drain(); writer.close()
        server = await asyncio.start_server(echo, "127.0.0.1", 0); port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port); writer.write(b"x\n"); assert await reader.readline() == b"x\n"; writer.close(); server.close()
        p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1); assert (await p.communicate(b"y"))[0] == b"y"
    asyncio.run(main())
def test_sockets(tmp_path):
    a, b = socket.socketpair(); a.sendall(b"x"); assert b.recv(1) == b"x"; a.close(); b.close()
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); u.sendto(b"u", u.getsockname()); assert u.recvfrom(9)[0] == b"u"
    assert socket.getaddrinfo("localhost", 80)
def test_database(tmp_path):
    base = sqlite3.connect(tmp_path / "x.db"); base.execute("pragma journal_mode=wal"); base.execute("create table t (a)"); base.commit(); base.close()
def test_signals():
    got = []; signal.signal(signal.SIGALRM, lambda *_: got.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.1); assert got
@pytest.mark.xfail
def test_fails(): assert double(2) == 5
END
PYTHONPATH=. python3 -m pytest -q tests; PYTHONPATH=. python3 -m pytest -q -p no:cacheprovider --junitxml=out.xml -k double --durations=1 tests >/dev/null; ! PYTHONPATH=. python3 -m pytest -q --lf --tb=short absent >/dev/null 2>&1
echo pytest: done
