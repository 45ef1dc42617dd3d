"""Makes calls that reach other sockets, and prints what each returned: run plainly and under `enforce`, the lines are equal.

`python compared FOLDER`: FOLDER is empty, for unix sockets.  The network is that of tests/support/networks/network.py, with
the addresses 192.0.2.3 and 2001:db8::3.  Each module adds its checks to `CHECKS` when it is imported.
"""

from __future__ import annotations

import importlib

from common import CHECKS


def main() -> None:
    for kind in ("streams", "datagrams", "local"):
        importlib.import_module(kind)
    for function in CHECKS:
        try:
            result = function()
        except OSError as error:
            result = f"{type(error).__name__} {error}"
        print(f"{function.__name__}: {result}", flush=True)


if __name__ == "__main__":
    main()
