"""Print the modules that those which `callfence spawn` loads import within functions, and that are not loaded."""

import sys

import callfence.commands.spawn  # noqa: F401
from callfence.enforcer.importer import Loaded

Loaded()
PACKAGES = ("callfence.enforcer", "callfence.policygen", "callfence.tracer")
loaded = dict(sys.modules)

import ast  # noqa: E402 -- these import others
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402


def imports(node):
    """Yield the modules that a tree imports, but for types."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module
            yield from (f"{child.module}.{name.name}" for name in child.names)
        else:
            yield from imports(child)


missing = {}
for name, module in sorted(loaded.items()):
    file = getattr(module, "__file__", None) or ""
    if file.endswith(".py") and ".".join(name.split(".")[:2]) in PACKAGES:
        for one in imports(ast.parse(Path(file).read_text())):
            try:
                is_module = find_spec(one) is not None
            except (ImportError, ValueError):
                is_module = False
            if is_module and one not in loaded:
                missing.setdefault(one, set()).add(name)
for one, users in sorted(missing.items()):
    print(one, *sorted(users))
