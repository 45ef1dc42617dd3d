"""The commands and the public Python API: the only place that composes tracer, policygen and enforcer."""

__version__ = "0.1.0"
