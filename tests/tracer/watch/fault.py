"""Runs a program with one fault: fault.py PROGRAM CALL NTH EFFECT, EFFECT being an expression of tracer.watch.faults."""

import os
import sys

from tracer import session
from tracer.abi import Arch, table
from tracer.starting.launch import Program
from tracer.watch import faults
from tracer.watch.faults import Exhaust, Fail, Send, Shorten  # noqa: F401


class Recorder:
    generation = 0

    def hot_mask(self, arch, number):
        return 0

    def counter(self, executable, event, site):
        return [0]

    def look(self, counter, event, caller):
        return False

    def executed(self, before, after):
        pass

    def gap(self, what):
        pass


program, call, nth, effect = sys.argv[1:]
arch = Arch.X86_64
number = table(arch).by_name[call].number
fault = faults.Fault(arch.audit, number, os.path.realpath(program), lambda event: True, int(nth), eval(effect))
injector = faults.Injector(fault)
outcome = session.trace(Program(os.fsencode(program), (b"program",), ()), Recorder(), injector=injector)
print("injected" if injector.fired else "not injected", os.waitstatus_to_exitcode(outcome.status))
