"""The commands and the public Python API: the only package that uses tracer, policygen and enforcer together."""

from callfence.start import __version__

__all__ = ["Listener", "Question", "Spawner", "__version__", "apply", "confine", "enter", "run"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from callfence.api import apply, confine, enter
    from callfence.asking.listener import Listener, Question, run
    from callfence.spawner import Spawner

_ASKING = ("Listener", "Question", "run")


def __getattr__(name: str) -> object:
    """Import the API at its first use, so that commands start without it (PEP 562)."""
    if name in _ASKING:
        from callfence.asking import listener

        return getattr(listener, name)
    if name == "Spawner":
        from callfence.spawner import Spawner

        return Spawner
    if name in __all__:
        from callfence import api

        return getattr(api, name)
    raise AttributeError(f"module 'callfence' has no attribute {name!r}")
