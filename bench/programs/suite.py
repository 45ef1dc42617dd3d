"""A typical test suite, with files, processes, sockets and a database: a workload, no test of callfence."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import tempfile
import unittest
from pathlib import Path


class Files(unittest.TestCase):
    def test_round_trips(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(300):
                path = Path(folder) / str(number)
                path.write_text(json.dumps({"number": number}))
                assert json.loads(path.read_text())["number"] == number


class Processes(unittest.TestCase):
    def test_output(self) -> None:
        for word in "abcdefghij":
            assert subprocess.check_output(["echo", word], text=True) == f"{word}\n"


class Sockets(unittest.TestCase):
    def test_pairs(self) -> None:
        for _ in range(300):
            one, other = socket.socketpair()
            with one, other:
                one.sendall(b"hello")
                assert other.recv(5) == b"hello"


class Database(unittest.TestCase):
    def test_rows(self) -> None:
        with tempfile.TemporaryDirectory() as folder, sqlite3.connect(f"{folder}/db") as database:
            database.execute("CREATE TABLE t (x)")
            database.executemany("INSERT INTO t VALUES (?)", ((number,) for number in range(2000)))
            assert database.execute("SELECT count(*) FROM t").fetchone() == (2000,)
