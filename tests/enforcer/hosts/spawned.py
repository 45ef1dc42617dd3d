"""Run a command by a spawner of its own: spawned.py CALLFENCE CLIENT SOCKET WORD ..."""

import subprocess
import sys

CALLFENCE, CLIENT, SOCKET, *WORDS = sys.argv[1:]
with subprocess.Popen([sys.executable, CALLFENCE, "spawn", "--socket", SOCKET], stderr=subprocess.PIPE) as spawner:
    try:
        assert b"ready" in spawner.stderr.readline()
        status = subprocess.run([CLIENT, "-s", SOCKET, *WORDS], check=False).returncode
    finally:
        spawner.terminate()
sys.exit(status)
