"""A recorder that records nothing; and fault.py PROGRAM CALL NTH EFFECT, which runs a program with one fault, EFFECT being an
expression of callfence.tracer.faults."""

import os
import sys

from callfence.tracer.abi import NATIVE, table
from callfence.tracer.faults import Exhaust, Fail, Fault, Injector, Send, Shorten  # noqa: F401
from callfence.tracer.running import session
from callfence.tracer.running.launch import Program


class Recorder:
    generation = 0

    def hot_mask(self, arch, number):
        return 0

    def counter(self, executable, event, site):
        return [0]

    def look(self, slot, event, caller):
        return False

    def executed(self, before, after):
        pass

    def gap(self, what):
        pass


def main(program, call, nth, effect):
    number = table(NATIVE).by_name[call].number
    fault = Fault(NATIVE.audit, number, os.path.realpath(program), lambda event: True, int(nth), eval(effect))
    injector = Injector(fault)
    outcome = session.trace(Program(os.fsencode(program), (b"program",), ()), Recorder(), injector=injector)
    print("injected" if injector.fired else "not injected", os.waitstatus_to_exitcode(outcome.status))


if __name__ == "__main__":
    main(*sys.argv[1:])
