"""The commands and the public Python API: the only place that composes tracer, policygen and enforcer."""

from callfence.start import __version__

__all__ = ["__version__", "apply", "confine", "enter"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from callfence.api import apply, confine, enter


def __getattr__(name: str) -> object:
    """`apply`, `confine` and `enter` are loaded when asked for: the commands start without them (PEP 562)."""
    if name in __all__:
        from callfence import api

        return getattr(api, name)
    raise AttributeError(f"module 'callfence' has no attribute {name!r}")
