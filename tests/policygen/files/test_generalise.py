"""Rules that make grants of what runs did with files, each alone; and what all of them keep."""

from __future__ import annotations

import time

import pytest
from calls import parse
from hypothesis import given, strategies as st

from callfence.policygen.files.algebra import differences, granted, united
from callfence.policygen.files.configuration import PUBLIC, SOUGHT, configures, few, may_be_sought
from callfence.policygen.files.generalise import added, begun, learned, rights_of, stores, trees
from callfence.policygen.files.made import MADE, fewest, movable
from callfence.policygen.grants import NOT_CONFINED, Files, Right, single


def run(*lines):
    """A run that did what these lines grant, `PATH: RIGHTS`."""
    return tuple(sorted((*line.split(": "), "/bin/it") for line in lines))


def grants(*runs):
    lines = learned(runs).files.lines()
    return {line.removeprefix("path "): rights for line, rights in lines.items() if line.startswith("path")}


RULES = (
    # what the runs did, and what is granted
    ("exactly what one run did", [run("./a: read", "./b: write")], {"./a": "read", "./b": "write"}),
    ("libraries by their tree", [run("/usr/lib/x/libz.so: read")], {"/usr/lib": "read"}),
    (
        "what is executed there, by itself",
        [run("/usr/lib/ld.so: read, execute")],
        {"/usr/lib": "read", "/usr/lib/ld.so": "execute"},
    ),
    ("a tree only for reading", [run("/usr/share/a: write")], {"/usr/share/a": "write"}),
    (
        "modules of a Python environment, wherever it is, only for reading",
        [run("./.venv/lib/python3.13/site-packages/a/b.py: read", "./.venv/lib/python3.13/site-packages/a/c: write")],
        {"./.venv/lib/python3.13/site-packages": "read", "./.venv/lib/python3.13/site-packages/a/c": "write"},
    ),
    (
        "the caches of fonts, also where the user's are written",
        [run("/var/cache/fontconfig/0d-le64.cache-9: read", "$HOME/.cache/fontconfig/0d-le64.cache-9: read, write")],
        {"/var/cache/fontconfig": "read", "$HOME/.cache/fontconfig": "read, write"},
    ),
    (
        "the sources of Python's modules, of which bytecode was read",
        [run("./lib/__pycache__/m.cpython-313.pyc: read"), run("./lib/__pycache__/n.cpython-313.opt-1.pyc: write")],
        {
            "./lib/__pycache__/m.cpython-313.pyc": "read",
            "./lib/__pycache__/n.cpython-313.opt-1.pyc": "write",
            "./lib/m.py": "read",
        },
    ),
    ("not a folder whose name only ends so", [run("./my-site-packages/a: read")], {"./my-site-packages/a": "read"}),
    ("any terminal", [run("/dev/pts/3: read, write")], {"/dev/pts": "read, write"}),
    ("any thread", [run("/proc/self/task/3/stat: read")], {"/proc/self/task": "read"}),
    ("no thread's memory", [run("/proc/self/task/3/mem: read, write")], {"/proc/self/task/3/mem": "read, write"}),
    ("names that vary", [run("./in/a: read"), run("./in/b: read")], {"./in": "read"}),
    ("names that vary, in any order", [run("./in/b: read"), run("./in/a: read")], {"./in": "read"}),
    ("a name that one run lacks does not vary", [run("./in/a: read"), run("./c: write")], {"./in/a": "read", "./c": "write"}),
    ("other rights are another use", [run("./a: read"), run("./b: write")], {"./a": "read", "./b": "write"}),
    ("names in all runs stay", [run("./a: read", "./b: read")] * 2, {"./a": "read", "./b": "read"}),
    ("not in /etc", [run("/etc/a: read"), run("/etc/b: read")], {"/etc/a": "read", "/etc/b": "read"}),
    ("not in a home", [run("$HOME/a: write"), run("$HOME/b: write")], {"$HOME/a": "write", "$HOME/b": "write"}),
    (
        "nothing that is executed",
        [run("./a: read, execute"), run("./b: read, execute")],
        dict.fromkeys(["./a", "./b"], "read, execute"),
    ),
    ("many that are read", [run(*(f"./m/{name}: read" for name in "abcdefgh"))], {"./m": "read"}),
    ("few that are read", [run(*(f"./m/{name}: read" for name in "ab"))], {"./m/a": "read", "./m/b": "read"}),
    (
        "folders between which files move, alike",
        [run("./a: read, create, move", "./b: remove, move, write")],
        dict.fromkeys(["./a", "./b"], "read, write, create, remove, move"),
    ),
    ("a folder that is listed, without its files", [run(".: list", "./in/a: read")], {".": "list", "./in/a": "read"}),
    (
        "folders that vary, with what is read in them",
        [run("./in/a: list", "./in/a/x: read"), run("./in/b: list", "./in/b/y: read, write")],
        {"./in": "read", "./in/b/y": "write"},
    ),
    ("many folders that are listed", [run(*(f"./m/{name}: list" for name in "abcdefgh"))], {"./m": "list"}),
    (
        "a store by its root, when a hash names the file",
        [run("./store/v2/ab/cd/0123456789abcdef0123: read", "./store/v2/ef: create, write", "./store/index: read")],
        {"./store/v2": "read, write, create", "./store/index": "read"},
    ),
    (
        "a store by its root, when folders are named by digits of hashes",
        [run("./s/0a: create", "./s/10: create", "./s/ff: create"), run("./n/10: create", "./n/11: create", "./n/12: create")],
        {"./s": "create", **dict.fromkeys(["./n/10", "./n/11", "./n/12"], "create")},
    ),
    (
        "a store that is known by its name",
        [run("$HOME/.npm/_cacache/tmp: write, create", "$HOME/.npm/_cacache/index: list", "./.git/objects/pack: list")],
        {"$HOME/.npm/_cacache": "list, write, create", "./.git/objects": "list"},
    ),
    (
        "a store of packages, and not what is beside it",
        [run("$HOME/.m2/repository/x/1.0/x.jar: read", "$HOME/.m2/settings.xml: read", "$HOME/go/pkg/mod/m@v1/m: read")],
        {"$HOME/.m2/repository": "read", "$HOME/.m2/settings.xml": "read", "$HOME/go/pkg/mod": "read"},
    ),
    (
        "nothing that is executed in a store",
        [run("./s/ab/0123456789abcdef: read, execute")],
        {"./s/ab/0123456789abcdef": "read, execute"},
    ),
    (
        "no store by words below a folder such as db",
        [run("./app/db/productiondatabase: read, write", "./app/db/config2024production.yml: write")],
        {"./app/db/productiondatabase": "read, write", "./app/db/config2024production.yml": "write"},
    ),
    ("no store in a home", [run("$HOME/ab/0123456789abcdef: read")], {"$HOME/ab/0123456789abcdef": "read"}),
    ("once what a folder has", [run(".: read", "./a: read, write")], {".": "read", "./a": "write"}),
)


@pytest.mark.parametrize(("runs", "granted_"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_a_rule(runs, granted_):
    assert grants(*runs) == granted_


def test_each_grant_that_is_more_than_was_used_has_a_reason():
    runs = [run("./in/a: read", "/usr/lib/a: read", "/dev/pts/1: read"), run("./in/b: read", "/usr/lib/b: read")]
    found = learned(runs)
    used = {path for one in runs for path, *_ in one}
    assert {path for path in found.files.grants if path not in used} == set(found.why)


PORTS = (
    # what the runs did, and which ports are granted
    ("none", [run("tcp connect: none", "tcp bind: none")], "none", "none"),
    ("exactly those that were used", [run("tcp connect: 443", "tcp bind: 8080"), run("tcp connect: 80")], "80, 443", "8080"),
    ("a server's port that was free", [run("tcp bind: 40001")], "none", "32768-65535"),
    ("a server that asked for any port", [run("tcp connect: 40123")], "32768-65535", "none"),
    ("a port that the kernel chose", [run("tcp bind: 0")], "none", "0"),
    ("a port that was free, bound again", [run("tcp bind: 0", "tcp bind: 40001")], "none", "0, 32768-65535"),
    ("two ports that vary", [run("tcp connect: 8001"), run("tcp connect: 8002")], "8001-8002", "none"),
    ("more that vary", [run(f"tcp connect: {port}") for port in (8001, 8002, 8003)], "1024-65535", "none"),
    ("only one run's", [run(*(f"tcp bind: {port}" for port in (1, 9092, 9093))), run("tcp bind: 1")], "none", "1, 9092-9093"),
    ("privileged ports are never a range", [run(f"tcp connect: {port}") for port in (25, 80, 443)], "25, 80, 443", "none"),
    ("many in one run", [run(*(f"tcp connect: {port}" for port in range(2000, 2016, 2)))], "1024-65535", "none"),
    ("a name server that is asked by UDP", [run("udp connect: 53", "tcp connect: 443")], "53, 443", "none"),
)


@pytest.mark.parametrize(("runs", "connect", "bind"), [row[1:] for row in PORTS], ids=[row[0] for row in PORTS])
def test_ports(runs, connect, bind):
    lines = learned(runs).files.lines()
    assert (lines["tcp connect"], lines["tcp bind"]) == (connect, bind)
    used = [{port for use, port, _ in each if port.isdigit()} for each in runs]
    exact = learned(runs, exact=True)
    assert single(exact.files.connect) | single(exact.files.bind) == {int(port) for ports in used for port in ports}
    assert not exact.why


def test_a_port_is_added_with_its_range_alone():
    runs = [run("tcp connect: 443"), run("tcp connect: 40000", "tcp connect: 22")]
    had = Files(None, ((22, 22),), None)
    assert added(had, runs, runs[1]).lines() == {"tcp connect": "22, 32768-65535"}
    assert added(had, runs, runs[0]).lines() == {"tcp connect": "22, 443"}
    assert added(Files(None, ((0, 65535),), None), runs, runs[1]).lines() == {"tcp connect": "any"}


@pytest.mark.parametrize(
    ("runs", "files"),
    [
        ([], NOT_CONFINED),
        ([run("tcp connect: none", "tcp bind: 1")], Files(None, (), ())),
        ([run("./a: read", "tcp connect: none", "tcp bind: 1"), run("tcp connect: 2", "tcp bind: 1")], Files(None, (), ())),
        ([run("./a: read"), run("./a: read", "tcp bind: none")], Files({})),
        ([run("./a: read"), ()], NOT_CONFINED),
    ],
)
def test_what_all_runs_recorded_is_confined(runs, files):
    assert begun(runs) == files


USES = st.lists(
    st.tuples(
        st.sampled_from(["./a", "./b", "./in/a", "./in/b", "/usr/lib/x", "/etc/a", "$HOME/x", "$TMPDIR", "/dev/pts/1", "."]),
        st.sampled_from(["read", "write", "read, execute", "create, remove", "create, move", "read, write"]),
        st.just("/bin/it"),
    ),
    max_size=5,
)


@given(st.lists(USES, min_size=1, max_size=4))
def test_whatever_runs_did_is_granted_in_any_order(runs):
    files = learned(runs).files
    assert learned(runs[::-1]).files == files == learned([*runs, runs[0]]).files
    for one in runs:
        for path, rights, _ in one:
            assert rights_of(rights) in granted(files.grants, path)
    assert Right.READ not in files.grants.get("/", Right.WRITE), "never the root"


@given(st.lists(USES, min_size=2, max_size=4))
def test_adding_a_run_keeps_what_was_granted_and_grants_what_it_did(runs):
    old = parse("path ./kept: read, write\ntcp connect: 80").policy.files
    made = added(old, runs, runs[-1])
    assert not differences(made, united(made, old)), "nothing is taken away"
    for path, rights, _ in runs[-1]:
        assert rights_of(rights) in granted(made.grants, path)
    again = added(made, runs, runs[-1])
    assert not differences(made, again), "the same run again changes nothing"


def test_what_was_taken_out_does_not_come_back_with_other_uses():
    runs = [run("./a: read", "./secret: read"), run("./b: write")]
    old = Files({"./a": Right.READ})
    assert added(old, runs, runs[-1]).lines() == {"path ./a": "read", "path ./b": "write"}


def making(*names, rights="write, create"):
    """A run that made these files in a folder which was there before."""
    folder = names[0].rpartition("/")[0]
    return (*((MADE, name, "") for name in names), (folder, rights, "/bin/it"))


@pytest.mark.parametrize(
    ("runs", "rights"),
    [
        ([making("./logs/2026-11-01-0.log"), making("./logs/2026-11-02-0.log")], "write, create, remove"),
        ([making("./logs/1.log", "./logs/2.log")], "write, create, remove"),
        ([making("./logs/20261128.log")], "write, create, remove"),
        ([making("./logs/app-1764338400.log")], "write, create, remove"),
        ([making("./logs/20269928.log")], "write, create"),
        ([making("./logs/1.log"), making("./logs/1.log")], "write, create"),
        ([making("./logs/a.log"), making("./logs/b.log")], "write, create"),
        ([making("./logs/1.log"), making("./logs/2.txt")], "write, create"),
    ],
)
def test_what_makes_numbered_or_dated_files_may_remove_some(runs, rights):
    assert grants(*runs) == {"./logs": rights}
    assert learned(runs).removes == ({"./logs"} if "remove" in rights else set())
    assert "remove" not in learned(runs, exact=True).files.lines()["path ./logs"]


@pytest.mark.parametrize("folder", [".", "$HOME", "$TMPDIR", "$XDG_RUNTIME_DIR", "/tmp", "/etc"])
def test_the_right_to_remove_is_not_guessed_in_a_folder_that_holds_other_files(folder):
    assert grants(making(f"{folder}/1.log", f"{folder}/2.log")) == {folder: "write, create"}


def test_the_right_to_remove_is_added_by_the_run_whose_name_differs_and_only_by_that():
    runs = [making(f"./logs/{day}.log") for day in (1, 2, 3)]
    old = Files({"./logs": Right.WRITE | Right.CREATE})
    assert added(old, runs[:1], runs[0]) == old
    assert added(old, runs[:2], runs[1]).lines() == {"path ./logs": "write, create, remove"}
    assert added(old, runs, runs[2]) == old, "it was taken out of the policy"


@pytest.mark.parametrize(
    ("used", "granted_"),
    [
        ("./logs/log.1: read", {"./logs": "read, write, create, remove"}),
        ("./logs/log.1/a/b: read, write", {"./logs": "read, write, create, remove"}),
        ("./logs/log.1: read, execute", {"./logs": "write, create, remove", "./logs/log.1": "read, execute"}),
        ("./logs/other.1: read", {"./logs": "write, create, remove", "./logs/other.1": "read"}),
        ("./log.1: read", {"./logs": "write, create, remove", "./log.1": "read"}),
    ],
)
def test_who_uses_one_of_its_numbered_files_uses_the_others(used, granted_):
    runs = [making("./logs/log.1"), (*making("./logs/log.2"), *run(used))]
    assert grants(*runs) == granted_
    assert learned(runs, exact=True).files.lines()["path ./logs"] == "write, create"
    assert added(learned(runs[:1]).files, runs, runs[1]).lines() == learned(runs).files.lines()


@pytest.mark.parametrize("folder", [".", "$HOME", "$TMPDIR", "/tmp", "/etc"])
def test_a_folder_that_holds_other_files_is_not_granted_for_numbered_ones(folder):
    runs = [making(f"{folder}/log.1"), (*making(f"{folder}/log.2"), *run(f"{folder}/log.1: read"))]
    assert grants(*runs) == {folder: "write, create", f"{folder}/log.1": "read"}


def test_few_names_of_a_run_say_what_differs():
    assert fewest(["./a1", "./a2", "./a3", "./b", "./d/a4"]) == ["./a1", "./a2", "./b", "./d/a4"]
    assert len(fewest(f"./{letter}" for letter in "abcdefghijklmnop")) == 8


def test_what_is_made_in_a_folder_that_holds_more_can_be_moved():
    files = parse("path .: write, create\npath ./logs: write, create\npath /etc: read").policy.files
    assert movable(files, ["./app.pid", "./app.log", "./out/", "./logs/a", "/etc/a"]) == {".": ["app.log", "app.pid", "out/"]}
    assert not movable(Files({".": Right.READ}), ["./app.pid"])
    assert not movable(NOT_CONFINED, ["./app.pid"])


def test_what_is_not_confined_stays_so():
    assert added(NOT_CONFINED, [run("./a: read")], run("./a: read")) == NOT_CONFINED


def test_each_store_is_the_end_of_a_path_with_a_reason():
    for path, reason in stores().items():
        assert parse(f"path /{path}: read").policy.files.paths == {f"/{path}": Right.READ}
        assert reason


def test_each_tree_is_a_path_with_a_reason():
    for path, reason in trees().items():
        path = path.replace("*", "/srv", 1)
        assert parse(f"path {path}: read").policy.files.paths == {path: Right.READ}
        assert reason


def reading(*names, public=("/etc/app",)):
    """A run that read these files, and found these folders public."""
    return (*run(*(f"{name}: read" for name in names)), *((PUBLIC, folder, "") for folder in public))


@pytest.mark.parametrize(
    ("runs", "granted_"),
    [
        ([reading("/etc/app/app.conf", "/etc/host.conf")], {"/etc/app": "read", "/etc/host.conf": "read"}),
        ([reading("/etc/app/conf.d/x/y")], {"/etc/app": "read"}),
        ([reading("/etc/app/a"), reading("/etc/app/a")], {"/etc/app": "read"}),
        ([reading("/etc/app/a"), reading("/etc/app/a", public=())], {"/etc/app/a": "read"}),
        ([reading("/etc/app/a"), reading("./b", public=())], {"/etc/app": "read", "./b": "read"}),
        ([reading("/etc/app/a", "/etc/app/d/x", public=("/etc/app/d",))], {"/etc/app/a": "read", "/etc/app/d": "read"}),
        ([reading("/etc/app/d/x"), reading("/etc/app/d/x", public=("/etc/app/d",))], {"/etc/app/d": "read"}),
        ([reading("/etc/app/d/x", public=("/etc/app/d",)), reading("/etc/app/e/x", public=("/etc/app/e",))], {
            "/etc/app/d": "read", "/etc/app/e": "read"
        }),
        ([reading(*(f"/etc/app/{name}/x" for name in "abcdefgh"), public=[f"/etc/app/{name}" for name in "abcdefgh"])], {
            f"/etc/app/{name}": "read" for name in "abcdefgh"
        }),
        ([reading("/etc/other/a")], {"/etc/other/a": "read"}),
        ([reading("/etc/application/a")], {"/etc/application/a": "read"}),
        ([(*run("/etc/app/a: read, write", "/etc/app/run: read, execute"), (PUBLIC, "/etc/app", ""))], {
            "/etc/app": "read", "/etc/app/a": "write", "/etc/app/run": "execute"
        }),
        ([(*run("/etc/app/conf.d: list"), (PUBLIC, "/etc/app", ""))], {"/etc/app/conf.d": "list"}),
    ],
)  # fmt: skip
def test_configuration_that_every_user_may_read_is_granted_by_its_folder(runs, granted_):
    assert grants(*runs) == granted_
    used = {path for one in runs for path, *_ in one}
    assert {path for path in granted_ if path not in used} == set(learned(runs).why)
    lines = learned(runs, exact=True).files.lines()
    assert "path /etc/app" not in lines


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/etc/app/x", ["/etc/app"]),
        ("/etc/app/ssl/x", ["/etc/app", "/etc/app/ssl"]),
        ("/etc/cron.d/x", ["/etc/cron.d"]),
        ("/usr/local/etc/app/x", ["/usr/local/etc/app"]),
        *((path, []) for path in ("/etc/app", "/etc", "/etc/ssh/x", "/etc/ppp/x", "/etc/pam.d/x", "./etc/app/x")),
    ],
)
def test_which_folders_are_configuration_of_one_program(path, found):
    assert configures(path) == found


def seeking(*names, read=()):
    """A run that read some files, and looked for others that were not there."""
    return (*run(*(f"{name}: read" for name in read)), *((SOUGHT, name, "") for name in names))


def test_configuration_that_was_looked_for_is_granted_by_its_name():
    names = ["$HOME/.apprc", "$HOME/.config/app/one", "$HOME/.config/app/two"]
    first, second = seeking(*names[:2], read=["./a"]), seeking(names[2], read=["./a"])
    found = learned([first, second])
    assert found.files.grants == {**dict.fromkeys(names, Right.READ), "./a": Right.READ}
    assert found.absent == {*names}
    assert learned([first], exact=True).files.grants == {"./a": Right.READ}
    assert not learned([seeking("$HOME/.apprc", read=["$HOME/.apprc"])]).absent


def test_configuration_that_was_looked_for_is_added_once():
    first = seeking("$HOME/.apprc", read=["./a"])
    assert added(begun([first]), [first], first).grants == {"$HOME/.apprc": Right.READ, "./a": Right.READ}
    without = Files({"./a": Right.READ}, None, None)
    assert added(without, [first, first], first).grants == {"./a": Right.READ}
    second = seeking("./.apprc", read=["./a"])
    assert added(without, [first, second], second).grants == {"./.apprc": Right.READ, "./a": Right.READ}
    both = added(without, [first, second], [*first, *second], latest=2).grants
    assert both == {"$HOME/.apprc": Right.READ, "./.apprc": Right.READ, "./a": Right.READ}


def test_the_source_of_a_module_is_added_once():
    runs = [run("./lib/__pycache__/m.cpython-313.pyc: read"), run("./lib/__pycache__/m.cpython-314.pyc: read")]
    first = added(begun(runs), runs[:1], runs[0])
    assert first.grants == {"./lib/__pycache__/m.cpython-313.pyc": Right.READ, "./lib/m.py": Right.READ}
    without = Files({path: Right.READ for path in first.grants if path != "./lib/m.py"}, None, None)
    assert "./lib/m.py" not in added(without, runs, runs[1]).grants
    assert "./lib/m.py" not in added(begun(runs), runs[:1], runs[0], exact=True).grants


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        *((path, True) for path in ("$HOME/.apprc", "./.apprc", "/etc/apprc", "$HOME/.config/app", "$HOME/.config/app/x")),
        *((path, False) for path in ("$HOME/apprc", "./a", "./a/.rc", "/etc/app/x", "$HOME/.ssh/config", "$HOME/.cache/x")),
        ("/etc/ld.so.preload", False),
    ],
)
def test_what_may_be_configuration_that_is_made_later(path, is_one):
    assert may_be_sought(path) is is_one


def test_many_names_in_one_folder_are_a_search():
    searched = [f"$HOME/.config/app/{number}" for number in range(17)]
    assert few(["./.a", *searched]) == ["./.a"]
    assert few(searched[:16]) == searched[:16]


def test_folders_between_which_files_move_have_the_same_rights_with_those_above():
    moves = run("./a: create, remove, move", "$HOME/b: create, remove, move", "./a/x: write", ".: list")
    assert learned([moves]).files.lines()["path $HOME/b"] == "list, create, remove, move"


def test_so_have_they_after_a_later_run():
    """But for what was taken out of the policy."""
    moves = run("./a: create, remove, move", "./b: create, remove, move")
    makes = run("./a: read, write, create")
    old = added(begun([moves]), [moves], moves)
    both = {"path ./a": "read, write, create, remove, move", "path ./b": "read, write, create, remove, move"}
    assert added(old, [moves, makes], makes).lines() == both
    narrowed = Files({"./a": rights_of("write, create, remove, move"), "./b": rights_of("create, remove, move")})
    reads = run("./a: read")
    assert added(narrowed, [moves, makes, reads], reads).paths["./b"] == rights_of("read, create, remove, move")
    assert added(narrowed, [moves, makes, moves], moves) == narrowed


@pytest.mark.long
def test_thousands_of_paths_are_added_in_time():
    """As of a log of denials, which the program has made."""
    uses = [(f"/srv/{number}/x/{number}", "read", "app") for number in range(10_000)]
    begin = time.process_time()
    assert len(added(begun([uses]), [uses], uses, exact=True).grants) == len(uses)
    assert time.process_time() - begin < 15
