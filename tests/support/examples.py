"""How much is tried at random."""

import os

EXAMPLES = int(os.environ.get("CALLFENCE_EXAMPLES", "20"))
"""How many random policies and programs a test takes.  `CALLFENCE_EXAMPLES=2000` is the long run."""
