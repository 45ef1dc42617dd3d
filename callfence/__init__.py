"""The commands and the public Python API: the only package that uses tracer, policygen and enforcer together."""

from callfence.start import __version__

__all__ = ["Spawner", "__version__", "apply", "confine", "enter"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from callfence.api import apply, confine, enter
    from callfence.spawner import Spawner


def __getattr__(name: str) -> object:
    """Import `apply`, `confine`, `enter` and `Spawner` at their first use, so that commands start without them (PEP 562)."""
    if name == "Spawner":
        from callfence.spawner import Spawner

        return Spawner
    if name in __all__:
        from callfence import api

        return getattr(api, name)
    raise AttributeError(f"module 'callfence' has no attribute {name!r}")
