"""Which policy a command runs under: the folder of the policies, and the name of one, by the environment that npm, make, git
and others give a command.

A package must not choose its policy.  So it counts from where it was installed, and its place in the project, not the name
that it gives itself; and policies in its own folder are not looked for.
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
_MAX_NAME = 180
"""The most bytes of a name, which leaves room for the endings of files beside the policy (NAME_MAX is 255)."""
_MODULES = "node_modules"
_DEPENDENCIES = ("dependencies", "devDependencies", "optionalDependencies")
"""The fields of a package.json that say where a package is from."""
_CACHE = "_cacache"
"""The folder of npm's cache, in which it also builds dependencies from git: none of their names is the project's choice."""
_REGISTRY = "https://registry.npmjs.org/"
"""How npm begins the source of a package of the default registry, even where another takes its place."""
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
    if len(name) > _MAX_NAME:
        import hashlib

        name = f"{name[:_MAX_NAME - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
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
        return Place(policies, next((path for path in roots if is_below(folder, path)), folder))
    # A dependency may name any folder (`file:../x`), in which an earlier script has written: npm's project counts then.
    project = environment.get("npm_config_local_prefix", "") if environment.get("npm_lifecycle_event") else ""
    for root in _above(_outside(project if os.path.isabs(project) else folder)):
        policies = os.path.join(root, POLICIES)
        if not os.path.isdir(policies):
            continue
        owner = os.stat(policies).st_uid
        if owner not in (0, os.geteuid()):
            raise EnforceError(f"{policies} belongs to user {owner}; to use it, name it in CALLFENCE_POLICIES")
        return Place(policies, root)
    what = f"there is no folder {POLICIES} in {project or folder} or above"
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
        return "npm", _npm_package(environment, folder), "" if event in _INSTALLING else event
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


def _npm_package(environment: Mapping[str, str], folder: str) -> str:
    """Return the name of the package whose script npm runs: `NAME` or `@SCOPE/NAME` in the registry; `NAME@SOURCE` for one from
    elsewhere; where no source is known, the names on the way from the project to it, which `/` separates.  What a package
    bundles has no source, so its name begins with that of the package.  A workspace, or another folder that a dependency names,
    is `NAME@file:PATH`, since NAME is its own choice."""
    if _CACHE in folder.split("/"):
        return _CACHE
    is_npm = _sets_source(environment.get("npm_config_user_agent", ""))
    file = environment.get("npm_package_json", "") if is_npm else ""
    project = environment.get("npm_config_local_prefix", "") if is_npm else ""
    package = next(filter(_places, (os.path.dirname(file), folder)), os.path.dirname(file) or folder)
    apart, places = _apart(project, package), _places(package)
    if not places:
        return environment.get("npm_package_name", "") + apart
    source = environment.get("npm_package_resolved", "").partition("#")[0] if is_npm else ""
    if source in ("", "null"):
        return "/".join(places) + apart
    if _is_named(places[-1], source, project):
        return places[-1]
    registry, name = _registered(source)
    if not name:
        return f"{places[-1]}@{source}"
    own = environment.get("npm_config_registry", "").rstrip("/") + "/"
    return name if registry in (_REGISTRY, own) else f"{name}@{registry}"


def _apart(project: str, package: str) -> str:
    """Return `@file:PATH` for a package, PATH being its folder, or the one whose `node_modules` it is in, relative to the
    project's; '' if that is the project's, or is not known."""
    folder = package.partition(f"/{_MODULES}/")[0] or "/"
    path = os.path.relpath(os.path.realpath(folder), os.path.realpath(project)) if project else "."
    return "" if path == "." else f"@file:{path}"


def _is_named(name: str, source: str, project: str) -> bool:
    """Return whether the project's package.json has a dependency from this file; another's could name what a script wrote."""
    if not source.startswith("file:") or not project or _MODULES in f"{project}/{source}".split("/"):
        return False
    import json

    try:
        with open(os.path.join(project, "package.json"), "rb") as file:
            content = json.load(file)
        given = [content[kind][name] for kind in _DEPENDENCIES if name in content.get(kind, ())]
        files = [os.path.join(project, each.removeprefix("file:")) for each in given]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False
    return os.path.realpath(source.removeprefix("file:")) in map(os.path.realpath, files)


def _sets_source(agent: str) -> bool:
    """Return whether the tool that calls itself so is npm 7 or later, which says where a package is from.  Before, and in
    yarn 1, `npm_package_resolved` and `npm_package_json` are fields of the package's own package.json."""
    tool, _, version = agent.partition("/")
    major = version.partition(".")[0]
    return tool == "npm" and major.isdecimal() and int(major) >= 7


def _places(folder: str) -> list[str]:
    """Return the names of the packages in which a folder is, the outermost first, by the folders `node_modules` above it; but
    none of those that begin with a dot, in which packages are stored that links lead to, unless there is no other."""
    names = [*folder.split("/"), _MODULES]
    places: list[str] = []
    while _MODULES in names:
        end = names.index(_MODULES)
        places.append("/".join(names[: 2 if names[0].startswith("@") else 1]))
        names = names[end + 1 :]
    return [place for place in places[1:] if not place.startswith(".")] or places[1:]


def _registered(source: str) -> tuple[str, str]:
    """Return the registry and the name in the address of a package's file, `REGISTRY/NAME/-/FILE`; '' for the name if it is
    another address, or one that could be read otherwise."""
    package, _, file = source.partition("/-/")
    parts = package.split("/")
    names = parts[-2 if parts[-2:-1] and parts[-2].startswith("@") else -1 :]
    path = [*names, *file.replace("+", "").split("/")]
    is_plain = all(name and not name.startswith(".") and _PLAIN.issuperset(name) for name in path)
    return "/".join((*parts[: -len(names)], "")), "/".join(names) if is_plain else ""


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
    """Return the nearest folder above `folder` that is in no foreign package: an npm package in `node_modules` or in npm's
    cache, an sdist.  Such a package could bring a policy along."""
    names = folder.split("/")
    if foreign := [names.index(name) for name in (_MODULES, _CACHE) if name in names]:
        return "/".join(names[: min(foreign)]) or "/"
    unpacked = [place for place in _above(folder) if os.path.isfile(os.path.join(place, _METADATA))]
    return os.path.dirname(unpacked[-1]) if unpacked else folder


def _above(folder: str) -> Iterator[str]:
    """Yield a folder, and each that contains it, up to `/`."""
    while True:
        yield folder
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)


def is_below(folder: str, root: str) -> bool:
    """Return whether `folder` is `root` or below it; both are absolute paths."""
    return f"{folder}/".startswith(f"{root.rstrip('/')}/")


def _safe(text: str) -> str:
    """Return a text as a part of a file's name, reversibly: a dot at the start, and characters other than a few, are `%XX`."""
    name = "".join(
        letter if letter in _PLAIN else "".join(f"%{byte:02X}" for byte in letter.encode(errors="surrogateescape"))
        for letter in text
    )
    return f"%2E{name[1:]}" if name.startswith(".") else name
