"""What is learned in the benchmarks: work of many kinds, each of some tenths of a second."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from harness import HERE


@dataclass(frozen=True, slots=True)
class Workload:
    """A command, run in an empty folder of its own."""

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    """A command that is run once before."""


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


REPOSITORY = """
git init -q big && cd big && git config user.name me && git config user.email me@localhost
for d in $(seq 60); do mkdir $d; for f in $(seq 60); do echo "$d $f" >$d/$f; done; done
git add . && git commit -q -m 1 && for d in $(seq 60); do echo more >>$d/1; done && git commit -q -a -m 2
"""
PROJECT = f"""
mkdir -p src && cp {HERE.parent}/tests/kernel/programs/*.[ch] src
{{ echo 'all: '$(ls src/*.c | sed s/c$/o/); echo '%.o: %.c; $(CC) -O1 -c -o $@ $<'; }} >Makefile
"""
LOCKS = """
import threading as t
a = [t.Semaphore(0) for _ in range(8)]
def turn(n):
    for _ in range(1500): a[n].acquire(); a[(n + 1) % 8].release()
x = [t.Thread(target=turn, args=(n,)) for n in range(8)]
[i.start() for i in x]; a[0].release(); [i.join() for i in x]
"""

WORKLOADS = (
    Workload("small reads and writes (dd)", ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=50000")),
    Workload("a tree of files (find, stat)", ("find", "/usr", "-xdev", "-size", "+100M")),
    Workload("a tree of documents (tar)", ("tar", "cf", "/dev/null", "/usr/share/doc")),
    Workload("two processes and a pipe (tar, cat)", shell("tar cf - /usr/share/doc | cat")),
    Workload("400 short processes (sh)", shell("i=0; while [ $i -lt 400 ]; do /bin/true; i=$((i+1)); done")),
    Workload(
        "1,500 transactions (sqlite3)",
        shell(
            "rm -f b.db; { echo 'PRAGMA synchronous=OFF; CREATE TABLE t (x);'; i=0; while [ $i -lt 1500 ]; do "
            "echo \"INSERT INTO t VALUES ($i);\"; i=$((i+1)); done; } | sqlite3 b.db"
        ),
        ("sqlite3",),
    ),
    Workload(
        "60 commits (git)",
        shell(
            "rm -rf r; git init -q r; cd r; git config user.name me; git config user.email me@localhost; i=0; "
            "while [ $i -lt 60 ]; do echo $i >f; git add f; git commit -q -m $i; i=$((i+1)); done"
        ),
        ("git",),
    ),
    Workload(
        "a repository of 3,600 files (git)",
        shell("cd big; for i in 1 2 3; do git status; git log --stat; git diff HEAD~1; touch */*; done"),
        ("git",),
        shell(REPOSITORY),
    ),
    Workload("8 threads that hand over a lock (python3)", ("python3", "-c", LOCKS)),
    Workload(
        "a pool of 4 threads (xz)",
        ("xz", "-T4", "--block-size=64KiB", "-0", "-k", "-c", "input"),
        ("xz",),
        shell("head -c 20000000 /dev/zero | openssl enc -aes-128-ctr -k x -nosalt 2>/dev/null >input"),
    ),
    Workload("a build (make -j2)", shell("rm -f src/*.o; make -s -j2"), ("make", "cc"), shell(PROJECT)),
    Workload(
        "60 compilations (cc)",
        shell("i=0; while [ $i -lt 60 ]; do echo 'int f;' | cc -c -x c - -o o.o; i=$((i+1)); done"),
        ("cc",),
    ),
    Workload("a test run (python -m unittest)", (sys.executable, "-m", "unittest", "-q", "suite"), prepare=shell(
        f"cp {HERE}/programs/suite.py ."
    )),
)
