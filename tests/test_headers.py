"""Constants of the kernel that have their names of its headers have their values, too."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("tracer", "policygen", "enforcer", "callfence")
FAMILIES = (
    "AF AT AUDIT BPF CAP CLONE CLOSE E EPOLL F FUTEX IORING IP IPV6 KEYCTL LANDLOCK MAP MFD MNT MS MSG NETLINK NT O P PIDFD PR "
    "PROT PT PTRACE RENAME RESOLVE RLIMIT SCM SECCOMP SFD SHUT SIOC SO SOCK SOL ST TCP UDP"
)
NAME = re.compile(rf"(?:{'|'.join(FAMILIES.split())})_[A-Z0-9_]+")
HEADERS = (
    "audit auxvec capability close_range elf fcntl filter fs futex in in6 io_uring kcmp keyctl landlock limits magic memfd "
    "mount netlink openat2 pidfd prctl ptrace resource rtnetlink sched seccomp signalfd "
    "sockios sock_diag stat tcp udp un unix_diag wait"
)
OTHERS = {
    "BPF_JA": "with the class JMP, as an opcode",
    "O_TMPFILE": "without O_DIRECTORY",
    "O_PATH": "with O_DIRECTORY or O_CLOEXEC",
}
"""Names that have another value than in the headers, and why."""


def constants() -> Iterator[tuple[str, str, int]]:
    """The integers at the top of each module: module, name in the headers, value.  A comment on the same line may have the
    beginning of the names: `_LINK = 8  # KEYCTL_*`."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            lines, named = text.splitlines(), {}
            for node in ast.parse(text).body:
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    start = next(iter(re.findall(r"#.*\b([A-Z_]+_)\*", lines[node.lineno - 1])), "")
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    words = (word for target in targets for word in ast.walk(target) if isinstance(word, ast.Name))
                    named |= {word.id: f"{start}{word.id.lstrip('_')}" for word in words}
            if named := {own: name for own, name in named.items() if NAME.fullmatch(name)}:
                place = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("callfence.")
                values = vars(import_module(f"callfence.{place}".removesuffix(".__init__")))
                yield from ((place, name, values[own]) for own, name in named.items() if type(values.get(own)) is int)


def test_constants_are_those_of_the_headers(compile_c: Callable[..., Path], tmp_path: Path) -> None:
    found = list(constants())
    lines = ["#include <stdio.h>", "#include <sys/socket.h>", *(f"#include <linux/{header}.h>" for header in HEADERS.split())]
    lines += ["int main(void) {", *(f"#ifdef {name}\nprintf(\"{name} %lld\\n\", (long long)({name}));\n#endif"
                                    for name in sorted({name for _, name, _ in found})), "}\n"]  # fmt: skip
    (tmp_path / "headers.c").write_text("\n".join(lines))
    printed = subprocess.run([compile_c(tmp_path / "headers.c", "-w")], capture_output=True, text=True, check=True).stdout
    of_headers = {name: int(value) for name, value in map(str.split, printed.splitlines())}
    compared = {name for _, name, _ in found if name in of_headers}
    assert len(compared) > 80
    wrong = [
        (place, name, value)
        for place, name, value in found
        if name in compared and name not in OTHERS
        and value & 0xFFFFFFFF != (1 << of_headers[name] if name.startswith("CAP_") else of_headers[name]) & 0xFFFFFFFF
    ]  # fmt: skip
    assert wrong == []
