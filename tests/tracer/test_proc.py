"""What is read of /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GROUPS = """
import os
os.setgroups(range(4_000_000_000, 4_000_065_536))
from callfence.tracer.proc import fields_of
fields = fields_of(os.getpid())
print(len(fields["Groups"].split()), "SigIgn" in fields, "Seccomp" in fields)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="setting groups takes root")
def test_no_number_of_groups_hides_a_field() -> None:
    """What comes after them in `status` is what filters, signals and namespaces a task has."""
    done = subprocess.run([sys.executable, "-c", GROUPS], capture_output=True, text=True, check=False)
    assert done.stdout == "65536 True True\n", done.stderr
