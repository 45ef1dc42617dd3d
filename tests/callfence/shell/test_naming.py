"""Names of policies, by what npm, make, git and others put into the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from callfence.enforcer.errors import EnforceError
from callfence.shell.naming import name_of, place_of

NPM = {"npm_lifecycle_event": "install", "npm_package_name": "app"}
NAMES = (
    ({}, "/srv/app", "default"),
    ({"CALLFENCE_NAME": "mine", **NPM}, "/srv/app", "mine"),
    ({"CALLFENCE_NAME": "../../etc/passwd"}, "/srv/app", "%2E.%2F..%2Fetc%2Fpasswd"),
    (NPM, "/srv/app", "npm-app"),
    (NPM | {"npm_lifecycle_event": "test"}, "/srv/app", "npm-app+test"),
    (NPM | {"npm_lifecycle_event": "build:all/x"}, "/srv/app", "npm-app+build%3Aall%2Fx"),
    (NPM, "/srv/app/node_modules/left", "npm-left"),
    (NPM, "/srv/app/node_modules/@a/b", "npm-@a%2Fb"),
    (NPM, "/srv/app/node_modules/left/node_modules/right/lib", "npm-left%2Fright"),
    (NPM, "/srv/app/node_modules/.store/right@1/node_modules/right", "npm-right"),
    (NPM | {"npm_package_json": "/srv/app/node_modules/@a/b/package.json"}, "/srv/app/node_modules/@a/b/sub", "npm-@a%2Fb"),
    (NPM | {"npm_package_json": "/srv/app/node_modules/left/package.json"}, "/srv/app", "npm-app"),
    (NPM | {"npm_package_name": "../x"}, "/srv/app", "npm-%2E.%2Fx"),
    (NPM | {"npm_package_name": ""}, "/srv/app", "npm"),
    (NPM | {"MAKELEVEL": "1"}, "/srv/app", "npm-app"),
    ({"MAKELEVEL": "1", "GITHUB_JOB": "test"}, "/srv/app", "make"),
    ({"GITHUB_JOB": "test", "GITHUB_ACTION": "__run_2"}, "/srv/app", "ci-test+__run_2"),
    ({"CI_JOB_NAME": "build: [a b]"}, "/srv/app", "ci-build%3A%20%5Ba%20b%5D"),
    ({"CARGO_PKG_NAME": "libz-sys"}, "/srv/app", "cargo-libz-sys"),
)


@pytest.mark.parametrize(("environment", "folder", "name"), NAMES)
def test_a_name(environment, folder, name):
    assert name_of(["-c", "true"], environment, folder) == name


REGISTRY = "https://registry.npmjs.org"
CORP = "https://npm.corp.example/api/npm"
SOURCES = (
    ("null", "left", "npm-left"),
    ("null", "left/node_modules/bcrypt", "npm-left%2Fbcrypt"),
    ("null", "@a/b/node_modules/left/node_modules/@c/bcrypt", "npm-@a%2Fb%2Fleft%2F@c%2Fbcrypt"),
    ("", "left/node_modules/bcrypt", "npm-left%2Fbcrypt"),
    (f"{REGISTRY}/bcrypt/-/bcrypt-5.1.0.tgz", "bcrypt", "npm-bcrypt"),
    (f"{REGISTRY}/bcrypt/-/bcrypt-5.1.0.tgz", "left/node_modules/bcrypt", "npm-bcrypt"),
    (f"{REGISTRY}/@a/b/-/b-1.0.0+x.tgz", "left/node_modules/@a/b", "npm-@a%2Fb"),
    (f"{CORP}/bcrypt/-/bcrypt-5.1.0.tgz", "bcrypt", "npm-bcrypt"),
    (f"{CORP}/@a/b/-/@a/b-1.0.0.tgz", "@a/b", "npm-@a%2Fb"),
    (f"{REGISTRY}/evil/-/evil-1.0.0.tgz", "bcrypt", "npm-evil"),
    (f"{REGISTRY}/@evil/bcrypt/-/bcrypt-1.0.0.tgz", "bcrypt", "npm-@evil%2Fbcrypt"),
    ("https://x.example/bcrypt/-/bcrypt-1.0.0.tgz", "bcrypt", "npm-bcrypt@https%3A%2F%2Fx.example%2F"),
    ("https://x.example/1.tgz#2", "left/node_modules/bcrypt", "npm-bcrypt@https%3A%2F%2Fx.example%2F1.tgz"),
    ("git+ssh://git@x.example/a/bcrypt.git#123", "bcrypt", "npm-bcrypt@git%2Bssh%3A%2F%2Fgit@x.example%2Fa%2Fbcrypt.git"),
    ("file:/srv/left-1.0.0.tgz", "left", "npm-left@file%3A%2Fsrv%2Fleft-1.0.0.tgz"),
    ("file:/srv/app/node_modules/evil/1.tgz", "left", "npm-left@file%3A%2Fsrv%2Fapp%2Fnode_modules%2Fevil%2F1.tgz"),
)
"""What npm says of the source of a package, its folder in `node_modules`, and its policy."""
OTHERWISE = (
    f"{REGISTRY}/bcrypt/-/../../evil/-/evil-1.0.0.tgz",
    f"{REGISTRY}/bcrypt/-/%2E%2E/%2E%2E/evil/-/evil-1.0.0.tgz",
    f"{REGISTRY}/bcrypt/-/..\\..\\evil/-/evil-1.0.0.tgz",
    f"{REGISTRY}/evil/../bcrypt/-/bcrypt-1.0.0.tgz",
    f"{REGISTRY}/evil?/bcrypt/-/bcrypt-1.0.0.tgz",
    f"{REGISTRY}/bcrypt",
    f"{REGISTRY}/bcrypt/-/",
    f"{REGISTRY}@x.example/bcrypt/-/bcrypt-1.0.0.tgz",
    f"https://x.example/?{REGISTRY}/bcrypt/-/bcrypt-1.0.0.tgz",
    "bcrypt/-/bcrypt-1.0.0.tgz",
    "/-/",
)
"""Sources that look like bcrypt's in the registry, and are not."""


def under_npm(source: str, agent: str = "npm/11.19.1 node/v20.20.2 linux x64 workspaces/false") -> dict[str, str]:
    return NPM | {"npm_config_user_agent": agent, "npm_config_registry": CORP, "npm_package_resolved": source}


@pytest.mark.parametrize(("source", "place", "name"), SOURCES)
def test_a_package_is_named_by_its_source(source, place, name):
    file = f"/srv/app/node_modules/{place}/package.json"
    assert name_of([], under_npm(source) | {"npm_package_json": file}, f"/srv/app/node_modules/{place}") == name
    assert name_of([], under_npm(source) | {"npm_package_json": file}, "/elsewhere") == name


def test_a_workspace_is_named_by_the_folder_of_its_file():
    environment = under_npm("") | {"npm_package_json": "/srv/one/package.json", "npm_config_local_prefix": "/srv"}
    for folder in ("/srv/one", "/srv/one/below", "/srv"):
        assert name_of([], environment, folder) == "npm-app@file%3Aone"


@pytest.mark.parametrize("source", OTHERWISE)
def test_a_source_that_looks_like_another_has_a_name_of_its_own(source):
    name = name_of([], under_npm(source), "/srv/app/node_modules/bcrypt")
    assert name.startswith("npm-bcrypt@")


@pytest.mark.parametrize("agent", ["", "yarn/1.22.22 npm/? node/v20.20.2 linux x64", "npm/6.14.18 node/v14.21.3 linux x64"])
def test_fields_of_package_json_do_not_name_it(agent):
    """Before npm 7, each field of the package's own file becomes a variable."""
    chosen = {"npm_package_json": "/srv/app/node_modules/bcrypt/package.json"}
    environment = under_npm(f"{REGISTRY}/bcrypt/-/bcrypt-5.1.0.tgz", agent) | chosen
    assert name_of([], environment, "/srv/app/node_modules/evil/node_modules/bcrypt") == "npm-evil%2Fbcrypt"
    assert name_of([], environment, "/srv/app/node_modules/evil") == "npm-evil"


def test_a_file_of_the_projects_own_is_named_by_its_folder(tmp_path):
    """Another dependency may name a file, too, which an earlier script has written."""
    project = tmp_path / "app"
    project.mkdir()
    (project / "package.json").write_text(json.dumps({"dependencies": {"left": "file:../left-1.0.0.tgz", "right": "^1"}}))
    for place, file, name in (
        ("left", "left-1.0.0.tgz", "npm-left"),
        ("left", "tmp/left-1.0.0.tgz", "npm-left@file"),
        ("right", "left-1.0.0.tgz", "npm-right@file"),
        ("up", "left-1.0.0.tgz", "npm-up@file"),
    ):
        environment = under_npm(f"file:{tmp_path}/{file}") | {"npm_config_local_prefix": str(project)}
        found = name_of([], environment, f"{project}/node_modules/{place}")
        assert (found.partition("%")[0], "%" in found) == (name, "@" in name)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("app", "npm-bcrypt"),
        ("app/packages/a", "npm-bcrypt@file%3Apackages%2Fa"),
        ("app/node_modules/left", "npm-left"),
        ("app/node_modules/.cache/x", "npm-%2Ecache"),
        ("cache/x", "npm-bcrypt@file%3A..%2Fcache%2Fx"),
        ("cache/node_modules/bcrypt", "npm-bcrypt@file%3A..%2Fcache"),
        ("app/build/node_modules/bcrypt", "npm-bcrypt@file%3Abuild"),
    ],
)
def test_another_folder_that_a_dependency_names_has_not_the_name_that_it_gives_itself(tmp_path, folder, name):
    project = {"npm_config_local_prefix": str(tmp_path / "app"), "npm_package_name": "bcrypt"}
    file = {"npm_package_json": f"{tmp_path}/{folder}/package.json"}
    assert name_of([], under_npm("null") | project | file, f"{tmp_path}/{folder}") == name


def test_what_npm_builds_in_its_cache_has_a_name_of_its_own():
    for folder in ("git-clone1", "git-clone1/node_modules/bcrypt"):
        environment = under_npm(f"{REGISTRY}/bcrypt/-/bcrypt-5.1.0.tgz") | {"npm_package_name": "bcrypt"}
        assert name_of([], environment, f"/home/a/.npm/_cacache/tmp/{folder}") == "npm-_cacache"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["/r/.git/hooks/pre-push", "a"], "git-pre-push"),
        (["-c", "pre-push"], "default"),
        (["./x.sh"], "default"),
        ([], "default"),
    ],
)
def test_a_hook_is_a_script_with_the_name_of_one(arguments, name):
    assert name_of(arguments, {}, "/r") == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Metadata-Version: 2.1\nName: Foo__Bar.baz\nVersion: 1\n", "pip-foo-bar-baz"),
        ("Version: 1\n", "pip"),
        ("Name: ../x", "pip-%2Fx"),
    ],
)
def test_an_sdist_has_its_name_in_its_metadata(tmp_path, text, name):
    (tmp_path / "PKG-INFO").write_text(text)
    assert name_of(["-c", "true"], {}, str(tmp_path)) == name


@given(st.text(), st.text())
def test_no_name_leaves_the_folder_and_different_ones_stay_different(package, other):
    def name(text: str) -> str:
        return name_of([], {"npm_lifecycle_event": "install", "npm_package_name": text}, "/srv/app")

    found = name(package)
    assert "/" not in found
    assert "\0" not in found
    assert not found.startswith(".")
    assert len(f"{found}.policy.evidence".encode()) <= 255
    assert (found == name(other)) == (package == other)


def test_a_step_is_not_taken_for_a_package():
    def name(package: str, event: str) -> str:
        return name_of([], {"npm_lifecycle_event": event, "npm_package_name": package}, "/srv/app")

    assert len({name("a", "test"), name("a+test", "install"), name("a-test", "install"), name("a.test", "install")}) == 4


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".callfence" / "policies").mkdir(parents=True)
    return tmp_path


def test_the_nearest_project_counts(project):
    inner = project / "packages" / "one"
    (inner / ".callfence" / "policies").mkdir(parents=True)
    (inner / "src").mkdir()
    assert place_of({}, str(inner / "src")).folder == str(inner)
    assert place_of({}, str(project / "packages")).folder == str(project)


@pytest.mark.parametrize(
    "foreign",
    ["node_modules/evil", "node_modules/a/node_modules/evil/sub", "_cacache/tmp/git-clone1", "_cacache/tmp/x/node_modules/a"],
)
def test_a_folder_that_a_package_brings_along_does_not_count(project, foreign):
    folder = project / foreign
    (folder / ".callfence" / "policies").mkdir(parents=True)
    assert place_of({}, str(folder)).folder == str(project)


@pytest.mark.parametrize("below", ["", "src", "inner"])
def test_neither_does_that_of_an_sdist(project, below):
    folder = project / "build" / "evil"
    for place in (folder, folder / below):
        (place / ".callfence" / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "PKG-INFO").write_text("Name: evil\n")
    (folder / "inner").mkdir(exist_ok=True)
    (folder / "inner" / "PKG-INFO").write_text("Name: evil\n")
    assert place_of({}, str(folder / below)).folder == str(project)


def test_neither_does_that_of_a_folder_that_a_dependency_names(project, tmp_path_factory):
    """`npm` runs its script there, and whoever may write there has chosen the policies."""
    under_npm = {"npm_lifecycle_event": "install", "npm_config_local_prefix": str(project)}
    for folder in (tmp_path_factory.mktemp("cache") / "x", project / "build" / "x"):
        (folder / ".callfence" / "policies").mkdir(parents=True)
        assert place_of(under_npm, str(folder)).folder == str(project)


def test_named_policies_count_whatever_the_folder(project, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    named = {"CALLFENCE_POLICIES": str(project / ".callfence" / "policies")}
    assert place_of(named, str(other)).folder == str(other)
    assert place_of(named, str(project / "x")).folder == str(project)
    assert place_of(named | {"npm_config_local_prefix": str(other)}, str(other / "node_modules" / "a")).folder == str(other)
    with pytest.raises(EnforceError, match="absolute"):
        place_of({"CALLFENCE_POLICIES": "policies"}, str(project))
    with pytest.raises(EnforceError, match="is not a folder"):
        place_of({"CALLFENCE_POLICIES": str(other / "none")}, str(other))


def test_there_may_be_none(tmp_path):
    with pytest.raises(EnforceError, match="mkdir -p"):
        place_of({}, str(tmp_path))
