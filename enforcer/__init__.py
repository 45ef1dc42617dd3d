"""A filter -> a running, confined process; violations -> reports.

    launch    becoming the program
    helper    the process beside it
    arm       the filter in, the listener out, at the right moment (`early`: before the execve)
    inject    one system call in a stopped process
    answer    what becomes of a call that the filter does not allow
    report    what is said about it
    kernel    system calls without a Python name

Start-up is on every user's path, so what is imported before a violation is ctypes and little else: values here are
plain classes, and `TYPE_CHECKING` is spelt out, because dataclasses and typing cost more than all the rest together.
"""
