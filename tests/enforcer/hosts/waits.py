"""Connect to a unix socket whose queue is full, in the start of a program with phases, while something else happens, which the
first word names; a child process prints, and calls sched_yield(2), which begins the phase."""

import os
import signal
import socket
import sys
import threading
import time

what = sys.argv[1]
full = socket.socket(socket.AF_UNIX)
full.bind("full")
full.listen(0)
sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
sockets[0].connect("full")


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def goes_on() -> None:
    """What the child does once the other process waits."""
    time.sleep(0.5)
    if what == "serving":
        os.sched_yield()
    with socket.socket(socket.AF_UNIX) as other:
        other.setblocking(False)
        say("child: full" if other.connect_ex("full") else "child: connected")
    if what == "stopped":
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(os.getppid(), signal.SIGCONT)
        time.sleep(0.2)
    if what == "killed":
        os.kill(os.getppid(), signal.SIGKILL)
    elif what in ("serving", "interrupted"):
        os.kill(os.getppid(), signal.SIGALRM)
    elif what != "executes":
        full.accept()


def interrupt(*_: object) -> None:
    raise InterruptedError


signal.signal(signal.SIGALRM, interrupt)
if not (child := os.fork()):
    goes_on()
    os._exit(0)
if what in ("enters", "executes"):
    words = [sys.executable, "-c", "print('executed')"]
    later = {"enters": os.sched_yield, "executes": lambda: os.execv(words[0], words)}[what]
    threading.Timer(0.2 if what == "enters" else 1, later).start()
try:
    sockets[1].connect("full")
    say("connected")
except InterruptedError:
    say("interrupted")
os.waitpid(child, 0)
try:
    os.mkdir("made")
except PermissionError:
    say("denied")
