"""fetch_urllib.py COUNT URL...: urllib.request."""

import sys
import urllib.request

for number in range(int(sys.argv[1])):
    try:
        with urllib.request.urlopen(sys.argv[2 + number % (len(sys.argv) - 2)], timeout=20) as answer:
            print("got", answer.read().decode().strip())
    except OSError as error:
        print("failed", error)
