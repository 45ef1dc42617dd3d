#!/bin/sh
# A shell pipeline: four processes, three pipes, the words of a text by how often they occur.
set -eu

text='the policy never denies what the program really does and the policy allows little else'

printf '%s\n' "$text" | tr ' ' '\n' | sort | uniq -c

cat <<'FACTS'
learn must find: clone: clone_flags == SIGCHLD
learn must find: execve: allow
learn must refuse: openat(flags=O_WRONLY)
learn must refuse: socket(family=AF_INET, type=SOCK_STREAM)
learn must refuse: kill(sig=SIGTERM)
FACTS
