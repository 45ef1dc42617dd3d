#!/bin/sh
# The 30-second tour: sh samples/demo.sh FOLDER-OF-THE-COMMANDS SCRATCH-FOLDER.  Needs no compiler.
set -eu

bin=$1 scratch=$2
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$scratch"
mkdir -p "$scratch"
cp "$here/notes.py" "$scratch"
cd "$scratch"
PATH=$bin:$PATH
export PATH PYTHONDONTWRITEBYTECODE=1

step() { # the command as it would be typed
    printf '\n\033[1m$ %s\033[0m\n' "$*"
}

step learn -o notes.policy python notes.py
learn -o notes.policy python notes.py

step callfence show notes.policy
callfence show notes.policy

step enforce -p notes.policy python notes.py
enforce -p notes.policy python notes.py

step enforce -p notes.policy python notes.py --share 9
status=0
enforce -p notes.policy python notes.py --share 9 || status=$?
if [ "$status" -eq 0 ]; then
    echo 'demo: the call that was never learned was not stopped' >&2
    exit 1
fi
printf '\nStopped with status %s: the learned run never opened a socket.\n' "$status"
