"""The commands and the public Python API: the only place that composes tracer, policygen and enforcer."""

__version__ = "0.1.0"

__all__ = ["apply"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from callfence.api import apply


def __getattr__(name: str) -> object:
    """`callfence.apply`, loaded when it is asked for: the commands start without it (PEP 562)."""
    if name == "apply":
        from callfence.api import apply

        return apply
    raise AttributeError(f"module 'callfence' has no attribute {name!r}")
