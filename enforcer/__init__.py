"""A filter and a command line come in; a running, confined process and reports of violations go out.

    launch      becoming the program
    helper      the process beside it
    arming/     install the filter at the right moment and take out the listener
    reporting/  answer denied calls, and describe them
    kernel      system calls that Python has no name for

Every start of a program imports these, so until a violation little of Python's library is imported: values here are plain
classes, and `TYPE_CHECKING` is that of `tracer`, because dataclasses and typing cost more than everything else together.
"""
