"""Runs a program under a filter made of nothing but denied numbers:

    driver.py ARM NUMBER,... [NAME=VALUE ...] PROGRAM [ARGUMENT ...]

The kernel fails those calls with EPERM, whatever the architecture.  Without policies, so that the mechanism is tested
alone.
"""

import os
import struct
import sys

from callfence.enforcer.errors import FAILED, EnforceError
from callfence.enforcer.execution import initial_environment
from callfence.enforcer.launch import Launch, run
from callfence.tracer.errors import CallfenceError


def program(numbers):
    """struct sock_filter[]: load the number, compare with each, return SECCOMP_RET_ERRNO|EPERM or SECCOMP_RET_ALLOW."""
    made = struct.pack("=HBBI", 0x20, 0, 0, 0)
    for number in numbers:
        made += struct.pack("=HBBI", 0x15, 0, 1, number) + struct.pack("=HBBI", 0x06, 0, 0, 0x00050001)
    return made + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


if __name__ == "__main__":
    arm, numbers, *argv = sys.argv[1:]
    environment = initial_environment()
    while "=" in argv[0]:
        environment.append(os.fsencode(argv.pop(0)))
    denied = [int(number) for number in numbers.split(",") if number]
    try:
        run(Launch([os.fsencode(one) for one in argv], environment, [program(denied)], arm, None, may_listen=True))
    except CallfenceError as error:
        print(f"enforce: {error}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, EnforceError) else FAILED)
