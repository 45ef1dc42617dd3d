"""Run a command line under filters, and report the calls that these deny.

    launch      turn this process into the program
    helper      the process beside the program
    arming/     install the filter at the right moment and take out the listener
    reporting/  answer denied calls, and describe them
    kernel      system calls that Python has no name for

Every start of a program imports these modules, so they import little of Python's library before the first violation: values
are plain classes, and `TYPE_CHECKING` comes from `tracer`, because importing dataclasses and typing takes longer than all else.
"""
