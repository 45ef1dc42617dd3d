"""What /proc says about the processes of this pid namespace.

The helper's working folder is /proc (`enforcer.helper.leave`), and names here are relative to it: a program that mounts another
file system there later does not change what the helper reads.
"""

from __future__ import annotations

import os


def is_own() -> bool:
    """Whether /proc is that of this process's pid namespace; in another one's, the same number is another process."""
    try:
        return os.readlink("self") == str(os.getpid())
    except OSError:
        return False


def status(task: int) -> dict[str, str]:
    """The fields of /proc/TASK/status (proc(5)); none if they cannot be read."""
    if not is_own():
        return {}
    try:
        descriptor = os.open(f"{task}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        text = os.read(descriptor, 1 << 16).decode(errors="replace")  # a process may have any bytes for a name
    except OSError:  # ESRCH: it has ended
        return {}
    finally:
        os.close(descriptor)
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def owner(task: int) -> int:
    """The process that a task belongs to; the task itself if that is not known."""
    return int(status(task).get("Tgid", task))


def executable(process: int) -> str:
    """The path of the file that a process executes."""
    try:
        if is_own():
            return os.readlink(f"{process}/exe")
    except OSError:
        pass
    return "an unknown program"
