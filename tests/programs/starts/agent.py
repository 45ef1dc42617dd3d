"""What an agent of a language model does in a project folder: it reads and writes files, starts programs, and posts to one
host, whose port on this machine is its argument."""

import concurrent.futures
import http.client
import json
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

logging.basicConfig(filename="agent.log", level=logging.INFO)


def run(*words: str, timeout: float = 60, **options) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)
    logging.info("%s: %s", words, done.returncode)
    return done.stdout + done.stderr


def ask(port: int, text: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = json.dumps({"id": str(uuid.uuid4()), "text": text})
    connection.request("POST", "/v1/messages", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["text"]


ssl.create_default_context()
src = Path("src")
src.mkdir(exist_ok=True)
(src / "app.py").write_text("def add(a, b):\n    return a - b\n")
(src / "test_app.py").write_text("from app import add\n\ndef test_add():\n    assert add(1, 2) == 3\n")
for path in sorted(Path(".").rglob("*.py")):
    print(path, len(path.read_text().splitlines()), path.stat().st_mode & 0o777)
print(run("git", "init", "-q", "."), run("git", "add", "."))
print(run("git", "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-q", "-m", "first"))
if len(sys.argv) > 1:
    print(ask(int(sys.argv[1]), (src / "app.py").read_text()))
with tempfile.NamedTemporaryFile("w", dir="src", delete=False) as new:
    new.write(re.sub(" - ", " + ", (src / "app.py").read_text()))
os.replace(new.name, src / "app.py")
(src / "run.sh").write_text("#!/bin/sh\necho from a script\n")
(src / "run.sh").chmod(0o755)
print(run("src/run.sh"), run("sh", "-c", "grep -rn add src | sort | head -n 3; find . -name '*.py' | xargs wc -l"))
print(run("sh", "-c", "ls -la > listing; sed -i s/a/b/ listing"))
print(run(sys.executable, "-m", "pytest", "-q", "src"))
print(run("git", "diff", "--stat"), run("git", "status", "--short"), run("git", "log", "--oneline"))
try:
    run("sleep", "30", timeout=0.05)
except subprocess.TimeoutExpired:
    print("timed out")
with subprocess.Popen(["sh", "-c", "sleep 30 & wait"], start_new_session=True) as long:
    os.killpg(long.pid, 15)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda n: n * n, range(10))))
with tempfile.TemporaryDirectory() as scratch:
    shutil.copytree("src", Path(scratch) / "copy")
    print(len(os.listdir(scratch)))
shutil.rmtree("src")
print("agent: done")
