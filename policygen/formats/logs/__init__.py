"""Logs of what programs did (strace, the kernel's audit records, what enforce denied) -> recordings."""
