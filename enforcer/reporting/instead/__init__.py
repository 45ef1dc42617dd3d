"""Answer calls that the policy's default denies without denying them, if the answer grants the program nothing.

call.py has the order, and what runs or is given; failing.py what fails; signals.py signals.  docs/implied.md says why each is
harmless.
"""

from __future__ import annotations

ANSWERED, DENIED, RUNS, DONE = -3, -2, -1, 0
"""What becomes of a call, beside a positive number, the errno with which it fails: it has been answered, it stays denied, it
runs, or it succeeds without running."""
