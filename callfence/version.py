"""The version, in a file that imports nothing: the cache's key has it, and so must not need the package's public names."""

__version__ = "0.1.0"
