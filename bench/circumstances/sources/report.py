"""Counts the words of a file, or of standard input; keeps the result in a file; SIGUSR1 shows where it is."""

import collections
import json
import os
import signal
import sys
import tempfile


def show(number: int, frame: object) -> None:
    print("lines so far:", lines, file=sys.stderr)


def end(number: int, frame: object) -> None:
    sys.exit(f"ended by {signal.Signals(number).name} after {lines} lines")


lines = 0
signal.signal(signal.SIGUSR1, show)
signal.signal(signal.SIGTERM, end)
words: collections.Counter[str] = collections.Counter()
with sys.stdin if sys.argv[1] == "-" else open(sys.argv[1], errors="replace") as source:
    for line in source:
        lines += 1
        words.update(line.split())
with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as made:
    json.dump(words.most_common(10), made)
os.replace(made.name, "report.json")
for word, count in words.most_common(3):
    print(count, word)
