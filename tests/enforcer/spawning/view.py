"""Print what this process sees of itself."""

import json
import os
import resource
import sys


def read(name):
    with open(f"/proc/self/{name}", "rb") as file:
        return file.read().decode("latin-1")


STATUS = ("Umask", "SigBlk", "SigIgn", "SigPnd", "Uid", "Gid", "Groups", "CapEff", "CapAmb", "PPid", "Cpus_allowed")
fields = dict(line.split(":", 1) for line in read("status").splitlines() if ":" in line)
found = {
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
    "status": {name: fields[name].strip() for name in STATUS},
    "folder": os.getcwd(),
    "session": os.getsid(0),
    "group": os.getpgid(0),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "argv": sys.argv,
    "nice": os.nice(0),
    **{name: read(name) for name in ("environ", "personality", "oom_score_adj", "comm", "cgroup", "loginuid")},
}
json.dump(found, sys.stdout, indent=1)
