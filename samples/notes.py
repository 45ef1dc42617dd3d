#!/usr/bin/env python3
"""Notes in an SQLite file.  `--share PORT` sends them over the network: what a learned run without it never needs."""

import pathlib
import socket
import sqlite3
import sys
import tempfile


def main(arguments):
    with tempfile.TemporaryDirectory() as folder:
        notes = sqlite3.connect(pathlib.Path(folder, "notes.db"))
        with notes:
            notes.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
            notes.executemany("INSERT INTO note (text) VALUES (?)", [("buy milk",), ("call mum",)])
        for number, text in notes.execute("SELECT id, text FROM note ORDER BY id"):
            print(number, text)
        notes.close()
    if arguments[:1] == ["--share"]:
        socket.create_connection(("127.0.0.1", int(arguments[1])), timeout=1).sendall(b"buy milk, call mum\n")
        print("shared")
    print("learn must find: openat: flags == O_RDWR")
    print("learn must find: unlink: allow")
    print("learn must refuse: socket(family=AF_INET, type=SOCK_STREAM|SOCK_CLOEXEC)")
    print("learn must refuse: openat(flags=O_RDWR|O_CREAT, mode=S_ISUID)")
    print("learn must refuse: execve()")


if __name__ == "__main__":
    main(sys.argv[1:])
