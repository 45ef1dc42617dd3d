"""The tools: how each learns a program, and how it runs it confined.  Whoever knows a tool better can mend its profile here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from programs import WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from programs import Program

HERE = Path(__file__).parent
MNT = Path("/mnt")
"""The folder that run.py prepares: venv/ has callfence, sandlock and nono_py, minijail/ a built checkout; shh is a program."""
PROFILES = Path("/home/user/profiles")
PYTHON = str(MNT / "venv/bin/python")
Command = list[str]
PASSED = "{environment}"
"""Stands for options `-E` with the environment."""


class Tool(NamedTuple):
    name: str
    confined: Callable[[Program], Command]
    """The command that runs the program confined, as the user; as root, if it has the word `PASSED`, and becomes the user
    itself."""
    learnt: Callable[[Program], list[Command]] = lambda _: []
    """The commands that make the program's profile, in turn, each in a work folder laid out anew."""
    version: str = ""
    """The shell command that prints it."""
    loading: Sequence[str] = ()
    """Loads the tool's Python library, and does nothing: a part of the cost that the tool's own command would not have."""


def profile(tool: str, program: Program) -> str:
    return str(PROFILES / f"{program.name}.{tool}")


def ports(program: Program) -> Command:
    return [",".join(map(str, some)) for some in (program.connects, program.binds)]


FIREJAIL = ("env", "container=lxc", "firejail")
"""Where it does not see the kernel's own processes, it runs programs without a sandbox, but for containers that it knows."""
SHH_VERSION = f"{MNT}/shh --version"
NARROW = ["--mode", "aggressive", "--network-firewalling", "--filesystem-whitelisting"]
"""All of shh's options that harden more."""
FIREJAIL_VERSION = "firejail --version | head -n 1"


def bubblewrap(program: Program) -> Command:
    """The system read-only, one folder writable, all namespaces but a needed network, as in bubblewrap's demos."""
    links = [word for name in ("lib", "lib64", "bin", "sbin") for word in ("--symlink", f"usr/{name}", f"/{name}")]
    system = ["--ro-bind", "/usr", "/usr", *links, "--ro-bind", "/etc", "/etc"]
    own = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", str(WORK), str(WORK), "--chdir", str(WORK)]
    network = ["--share-net"] if program.connects or program.binds else []
    ends = ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    namespaces = ["--unshare-all", "--unshare-user", "--disable-userns", *network]
    return ["bwrap", *system, *own, *namespaces, *ends, *program.command]


HARDENING = [
    "ProtectSystem=strict",
    "ProtectHome=tmpfs",
    "BindPaths=/home/user/work",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectProc=invisible",
    "PrivateUsers=yes",
    "PrivatePIDs=yes",
    "PrivateIPC=yes",
    "NoExecPaths=/",
    "NoExecPaths=/home/user/work",
    "ExecPaths=/usr",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RemoveIPC=yes",
    "UMask=0077",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@resources",
    "SystemCallErrorNumber=EPERM",
]
"""What `systemd-analyze security` asks for, of what each of the five programs works with, and programs executed only from /usr;
the network is in `systemd`."""


def systemd(program: Program) -> Command:
    network = ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX"]
    if program.connects or program.binds:
        network = ["IPAddressDeny=any", "IPAddressAllow=localhost", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"]
        network += [f"SocketBindAllow=tcp:{port}" for port in program.binds] + ["SocketBindDeny=any"]
    return in_unit(program, [*HARDENING, *network])


def in_unit(program: Program, properties: Sequence[str]) -> Command:
    """A unit of systemd that runs the program as the user."""
    options = [word for one in (*properties, f"WorkingDirectory={WORK}", "User=user") for word in ("-p", one)]
    return ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", *options, PASSED, *program.command]


def shh_learnt(options: Command, name: str) -> Callable[[Program], list[Command]]:
    """Two runs, as of callfence, and the systemd options that fit both."""

    def commands(program: Program) -> list[Command]:
        shh, runs = str(MNT / "shh"), [f"{profile(name, program)}.{number}" for number in (1, 2)]
        learnt = [[shh, "run", *options, "-p", run, "--", *program.command] for run in runs]
        merged = shlex.join([shh, "merge-profile-data", *options, *runs]) + f" >{shlex.quote(profile(name, program))}"
        return [*learnt, ["sh", "-c", merged]]

    return commands


def in_unit_of_shh(name: str) -> Callable[[Program], Command]:
    """A unit with a drop-in of the options that shh wrote: systemd-run itself cannot parse all of them."""

    def confined(program: Program) -> Command:
        unit = f"{name}-{program.name}"
        drop_in = Path(f"/run/systemd/system/{unit}.service.d/shh.conf")
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        options = Path(profile(name, program)).read_text().splitlines()
        drop_in.write_text("\n".join(["[Service]", *(line for line in options if "=" in line), ""]))
        run, *words = in_unit(program, [])
        return [run, f"--unit={unit}", *words]

    return confined


def strace(program: Program) -> list[Command]:
    """As minijail's tools/README.md has it."""
    trace, policy = profile("trace", program), profile("minijail", program)
    generator = str(MNT / "minijail/tools/generate_seccomp_policy.py")
    return [
        ["strace", "-f", "-e", "raw=all", "-o", trace, "--", *program.command],
        ["sh", "-c", shlex.join(["python3", generator, trace]) + f" >{shlex.quote(policy)}"],
    ]


def minijail(program: Program) -> Command:
    folder = MNT / "minijail"
    preload = f"--preload-library={folder / 'libminijailpreload.so'}"
    return [str(folder / "minijail0"), preload, "-n", "-S", profile("minijail", program), "--", *program.command]


def callfence(options: Command, name: str) -> Tool:
    def learnt(program: Program) -> list[Command]:
        return [[str(MNT / "venv/bin/learn"), "-q", *options, "-o", profile(name, program), "--", *program.command]] * 2

    def confined(program: Program) -> Command:
        return [str(MNT / "venv/bin/enforce"), "-p", profile(name, program), "--", *program.command]

    title = "callfence " + " ".join(options) if options else "callfence"
    return Tool(title, confined, learnt, version=f"{PYTHON} -m callfence --version")


TOOLS = (
    Tool("firejail", lambda program: [*FIREJAIL, *program.command], version=FIREJAIL_VERSION),
    Tool(
        "firejail --build",
        lambda program: [*FIREJAIL, f"--profile={profile('firejail', program)}", *program.command],
        lambda program: [[*FIREJAIL, f"--build={profile('firejail', program)}", *program.command]],
        version=FIREJAIL_VERSION,
    ),
    Tool("bubblewrap", bubblewrap, version="bwrap --version"),
    Tool("strace + minijail", minijail, strace, version=f"git -C {MNT}/minijail log -1 --format='minijail %h, %as'"),
    Tool("systemd", systemd, version="systemd-run --version | head -n 1"),
    Tool("shh", in_unit_of_shh("shh"), shh_learnt([], "shh"), version=SHH_VERSION),
    Tool("shh -m aggressive -f -w", in_unit_of_shh("narrow"), shh_learnt(NARROW, "narrow"), version=SHH_VERSION),
    Tool(
        "sandlock",
        lambda program: [PYTHON, str(HERE / "in_sandlock.py"), str(WORK), *ports(program), *program.command],
        version=f"{PYTHON} -m pip show sandlock | sed -n 's/^Version:/sandlock (Python)/p'",
        loading=[PYTHON, "-c", "import sandlock"],
    ),
    Tool(
        "nono",
        lambda program: [PYTHON, str(HERE / "in_nono.py"), str(WORK), *ports(program), *program.command],
        version=f"{PYTHON} -m pip show nono-py | sed -n 's/^Version:/nono-py/p'",
        loading=[PYTHON, "-c", "import nono_py"],
    ),
    callfence([], "plain"),
    callfence(["--files", "--hosts"], "files"),
)
