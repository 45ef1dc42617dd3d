"""fetch_requests.py COUNT URL...: requests, without a session."""

import sys

import requests

for number in range(int(sys.argv[1])):
    try:
        answer = requests.get(sys.argv[2 + number % (len(sys.argv) - 2)], timeout=20)
        print("got", answer.text.strip())
    except (OSError, requests.RequestException) as error:
        print("failed", error)
