"""Which policy a command runs under: the folder of the policies, and the name of one, by the environment that npm, make, git
and others give a command.

A package must not choose its policy.  So its place in the project counts, not the name that it gives itself, and policies in
its own folder are not looked for.
"""

from __future__ import annotations

import os

from callfence.enforcer.errors import EnforceError
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

POLICIES = ".callfence/policies"
"""The folder of the policies, below the project's."""
DEFAULT = "default"
"""The policy of commands that belong to no package or step."""
_INSTALLING = frozenset(
    ("preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare", "dependencies")
)
"""The npm scripts that run because a package is installed (npm's `scripts` manual page): they share the package's policy."""
_HOOKS = frozenset(
    (
        "applypatch-msg", "commit-msg", "fsmonitor-watchman", "post-applypatch", "post-checkout", "post-commit",
        "post-index-change", "post-merge", "post-receive", "post-rewrite", "post-update", "pre-applypatch", "pre-auto-gc",
        "pre-commit", "pre-merge-commit", "pre-push", "pre-rebase", "pre-receive", "prepare-commit-msg", "proc-receive",
        "push-to-checkout", "reference-transaction", "sendemail-validate", "update",
    )
)
"""The names of hooks: githooks(5)."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-")
_MOST = 180
"""The most bytes of a name, which leaves room for the endings of files beside the policy (NAME_MAX is 255)."""
_MODULES = "node_modules"
_METADATA = "PKG-INFO"


class Place(NamedTuple):
    """Where a command finds its policy."""

    policies: str
    """The folder of the policies."""
    folder: str
    """The folder that `.` means in them."""


def name_of(arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> str:
    """Return the name of the policy of a command: a file name without `.policy`, in which no character leaves the folder.

    `arguments` are the shell's; `folder` is the working folder, an absolute path."""
    kind, package, step = _identity(arguments, environment, folder)
    name = "-".join(_safe(word) for word in (kind, package) if word) + (f"+{_safe(step)}" if step else "")
    if len(name) > _MOST:
        import hashlib

        name = f"{name[:_MOST - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return name


def place_of(environment: Mapping[str, str], folder: str) -> Place:
    """Return where the policies of a command are that is run in `folder`: the folder that CALLFENCE_POLICIES names, or
    `.callfence/policies` of the nearest folder above, outside of foreign packages.  Raises EnforceError if there is none, or
    another user could have made it."""
    if named := environment.get("CALLFENCE_POLICIES"):
        policies = named.rstrip("/")
        if not os.path.isabs(named):  # the working folder may be a package's
            raise EnforceError(f"CALLFENCE_POLICIES is {named}: it must be an absolute path")
        if not os.path.isdir(policies):
            raise EnforceError(f"CALLFENCE_POLICIES: {named} is not a folder")
        root = policies.removesuffix(f"/{POLICIES}") if policies.endswith(f"/{POLICIES}") else ""
        roots = [os.path.realpath(path) for path in (root, environment.get("npm_config_local_prefix", "")) if path]
        return Place(policies, next((path for path in roots if _is_below(folder, path)), folder))
    for root in _above(_outside(folder)):
        policies = os.path.join(root, POLICIES)
        if not os.path.isdir(policies):
            continue
        owner = os.stat(policies).st_uid
        if owner not in (0, os.geteuid()):
            raise EnforceError(f"{policies} belongs to user {owner}; to use it, name it in CALLFENCE_POLICIES")
        return Place(policies, root)
    what = f"there is no folder {POLICIES} in {folder} or above"
    raise EnforceError(f"{what}: make it in the project's folder (mkdir -p {POLICIES}), or name another in CALLFENCE_POLICIES")


def _identity(arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> tuple[str, str, str]:
    """Return the kind of a command, its package and its step; '' for a package or step that it has not."""
    get = environment.get
    if own := get("CALLFENCE_NAME"):
        return own, "", ""
    script = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if os.path.basename(script) in _HOOKS:
        return "git", os.path.basename(script), ""
    if event := get("npm_lifecycle_event"):
        package = _installed(get("npm_package_json", "")) or _installed(f"{folder}/") or get("npm_package_name") or ""
        return "npm", package, "" if event in _INSTALLING else event
    if os.path.isfile(os.path.join(folder, _METADATA)):
        return "pip", _python_name(os.path.join(folder, _METADATA)), ""
    if crate := get("CARGO_PKG_NAME"):
        return "cargo", crate, ""
    if get("MAKELEVEL"):
        return "make", "", ""
    if get("GITHUB_JOB"):
        return "ci", get("GITHUB_JOB", ""), get("GITHUB_ACTION", "")
    if get("CI_JOB_NAME"):
        return "ci", get("CI_JOB_NAME", ""), ""
    return DEFAULT, "", ""


def _installed(path: str) -> str:
    """Return the name under which the package that has this file is installed, `NAME` or `@SCOPE/NAME`, by the last folder
    `node_modules` above it; '' if there is none.  The project chooses that, with its lock file; the package does not."""
    names = os.path.dirname(path).split("/")
    if _MODULES not in names:
        return ""
    inner = names[len(names) - names[::-1].index(_MODULES) :]
    return "/".join(inner[: 2 if inner and inner[0].startswith("@") else 1])


def _python_name(path: str) -> str:
    """Return the normalised name in a PKG-INFO file (PEP 503), '' if it has none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            line = next((line for line in file.read(1 << 16).splitlines() if line.startswith("Name:")), "")
    except OSError:
        return ""
    words = line.removeprefix("Name:").strip().lower().replace("_", "-").replace(".", "-").split("-")
    return "-".join(word for word in words if word)


def _outside(folder: str) -> str:
    """Return the nearest folder above `folder` that is in no foreign package: an npm package in `node_modules`, an sdist.  Such
    a package could bring a policy along."""
    names = folder.split("/")
    if _MODULES in names:
        return "/".join(names[: names.index(_MODULES)]) or "/"
    return os.path.dirname(folder) if os.path.isfile(os.path.join(folder, _METADATA)) else folder


def _above(folder: str) -> Iterator[str]:
    """Yield a folder, and each that contains it, up to `/`."""
    while True:
        yield folder
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)


def _is_below(folder: str, root: str) -> bool:
    """Return whether `folder` is `root` or below it; both are absolute paths."""
    return f"{folder}/".startswith(f"{root.rstrip('/')}/")


def _safe(text: str) -> str:
    """Return a text as a part of a file's name: other characters than a few are `%XX`, and so is a dot at the start.  Different
    texts stay different."""
    name = "".join(
        letter if letter in _PLAIN else "".join(f"%{byte:02X}" for byte in letter.encode(errors="surrogateescape"))
        for letter in text
    )
    return f"%2E{name[1:]}" if name.startswith(".") else name
