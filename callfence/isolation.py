"""Running without what the environment and the user's home add to Python: PYTHON* variables are meant for the program."""

from __future__ import annotations

import os
import sys

_HARMLESS = frozenset(
    f"PYTHON{name}"
    for name in ("COERCECLOCALE", "DONTWRITEBYTECODE", "FAULTHANDLER", "HASHSEED", "IOENCODING", "UNBUFFERED", "UTF8")
)
"""Variables that neither add code nor change what ours means.  Container images of Python set some of them."""


def isolate() -> None:
    """Start the script again with `python -I` if this interpreter has used a PYTHON* variable, or a folder in the user's home.

    The program's environment stays as it was given to us, byte for byte.  pip does not keep options in a script's first
    line, so the interpreter has to be started twice, which takes 20 ms; but only where there is something to leave out.
    Raises OSError.
    """
    user_folder = getattr(sys.modules.get("site"), "USER_SITE", None) or "?"
    lives_there = __file__.startswith(user_folder)  # `pip install --user`: without that folder we would not be found
    variables = {name for name in os.environ if name.startswith("PYTHON")} - _HARMLESS
    if sys.flags.ignore_environment or not (variables or (user_folder in sys.path and not lives_there)):
        return
    import ctypes  # of ours nothing is imported yet: PYTHONPATH may have packages of those names

    with open("/proc/self/environ", "rb") as file:
        environment = file.read().split(b"\0")[:-1]
    options = ["-E", "-P"] if lives_there else ["-I"]
    argv = [os.fsencode(word) for word in (sys.executable, *options, *sys.argv)]
    arrays = [(ctypes.c_char_p * (len(words) + 1))(*words, None) for words in (argv, environment)]
    ctypes.CDLL(None).execve(argv[0], *arrays)
    raise OSError(f"{sys.executable} cannot be executed")
